"""Ids prove by themselves that they were given out, and when."""

import os
import time
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.journal.ids import Ids, Mint, given_out_at, moment, put_together

KEY = bytes(range(16))


def test_are_unique_uuids_of_version_7_in_order_of_time() -> None:
    mint = Mint(KEY, 3)

    given_out = [name for count in (1, 2, 5000) for name in Ids(mint.mint(count)[0]).texts()]

    assert len(set(given_out)) == 5003
    assert {(uuid.UUID(name).version, uuid.UUID(name).variant) for name in given_out} == {(7, uuid.RFC_4122)}
    assert [name[:13] for name in given_out] == sorted(name[:13] for name in given_out)


def test_of_two_processes_at_the_same_moment_are_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: b"\1" * count)
    monkeypatch.setattr(time, "time_ns", lambda: 1_600_000_000_000_000_000)

    first, second = (Ids(Mint(KEY, slot).mint(100)[0]).texts() for slot in (0, 1))

    assert not {*first} & {*second}


def test_do_not_go_back_where_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    mint, clock = Mint(KEY, 0), iter([1_600_000_000_000_000_000, 1_500_000_000_000_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))

    (_, before), (_, after) = mint.mint(1), mint.mint(1)

    assert before == after == 1_600_000_000_000


def test_are_known_with_their_moment_by_the_key_that_made_them() -> None:
    minted, at_ms = Mint(KEY, 4095).mint(3)

    assert [given_out_at(KEY, name) for name in Ids(minted).texts()] == [moment(at_ms)] * 3
    assert [given_out_at(KEY[::-1], name) for name in Ids(minted).texts()] == [None, None, None]


@given(place=st.integers(0, 35), digit=st.sampled_from("0123456789abcdef"))
def test_one_wrong_digit_is_no_id(place: int, digit: str) -> None:
    (name,) = Ids(Mint(KEY, 7).mint(1)[0]).texts()
    wrong = name[:place] + digit + name[place + 1 :]

    assert (given_out_at(KEY, wrong) is None) == (wrong != name)


@pytest.mark.parametrize("name", ["", "trip-1", "67e55044-10b1-426f-9247-bb680e5fe0c8", "0" * 36, "ü" * 36])
def test_foreign_names_are_no_ids(name: str) -> None:
    assert given_out_at(KEY, name) is None


@pytest.mark.parametrize("given", [{}, {1: "trip-ü"}])
def test_ids_of_several_batches_stand_one_behind_the_other(given: dict[int, str]) -> None:
    mint = Mint(KEY, 0)
    some = [Ids(mint.mint(count)[0], given if count == 3 else None) for count in (1, 3, 0, 2)]

    together, names = put_together(some), [name for one in some for name in one.texts()]

    assert together.texts() == together.arrow().to_pylist() == names
    assert [together.take(np.arange(*part)).texts() for part in ((0, 6), (1, 3), (3, 6))] == [
        names,
        names[1:3],
        names[3:],
    ]


def test_given_names_take_the_place_of_minted_ones() -> None:
    named = Ids(Mint(KEY, 0).mint(4)[0], {1: "trip-ü", 3: "b"})
    minted = named.texts()

    assert (minted[1], minted[3], len(named)) == ("trip-ü", "b", 4)
    assert named.texts(1, 3) == minted[1:3]
    assert named.arrow().to_pylist() == minted
    assert all(given_out_at(KEY, minted[place]) for place in (0, 2))
