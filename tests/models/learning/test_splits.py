"""Splits: three spans, each later than the one before, or three shares by what rows hold; none loses a row."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import Bundle, Card
from models.contract.columns import Category, Contract, Number
from models.learning.splits import Split, learned_from, split_by_content, split_in_time, unseen

START = pd.Timestamp("2020-01-01", tz=UTC)


def split(days: list[int], validation_day: int, test_day: int) -> tuple[Split, pd.Series]:
    at = START + pd.Series(pd.to_timedelta(days, unit="D"))
    table = pd.DataFrame({"day": days})
    cuts = (START + timedelta(days=day) for day in (validation_day, test_day))
    return split_in_time(table, at, *cuts), at


def test_a_row_at_a_border_belongs_to_the_later_span() -> None:
    spans, _ = split([4, 1, 2, 3], validation_day=2, test_day=3)

    assert [spans.train["day"].tolist(), spans.validation["day"].tolist(), spans.test["day"].tolist()] == [
        [1],
        [2],
        [4, 3],
    ]


def test_one_border_leaves_no_validation_rows() -> None:
    spans, _ = split([1, 2, 3], validation_day=2, test_day=2)

    assert spans.validation.empty
    assert spans.test["day"].tolist() == [2, 3]


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 50), st.integers(0, 50))
def test_nothing_is_lost_and_nothing_later_is_learned_from(days: list[int], validation: int, more: int) -> None:
    spans, _ = split(days, validation, validation + more)

    parts = [spans.train, spans.validation, spans.test]
    assert sorted(row for part in parts for row in part.index) == list(range(len(days)))
    assert (spans.train["day"] < validation).all()
    assert (spans.validation["day"] < validation + more).all()
    assert (spans.test["day"] >= validation + more).all()


def test_takes_plain_moments() -> None:
    at = pd.Series(pd.to_datetime(["2020-01-01", "2020-02-01"], utc=True))
    cut = pd.Timestamp(datetime(2020, 1, 15, tzinfo=UTC))

    assert len(split_in_time(at.to_frame(), at, cut, cut).test) == 1


PARCELS = Contract(
    features=(
        Number(name="weight", unit="kg", minimum=0, maximum=100, nullable=True),
        Category(name="kind", values=("box", "tube"), nullable=True),
        Category(name="zone", values=(1, 2, 3), nullable=True),
    ),
    target=Category(name="late", values=(0, 1)),
)


def parcels(rows: int = 4000) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    weight = draw.uniform(0, 100, rows)
    weight[::7] = np.nan
    return pd.DataFrame(
        {
            "weight": weight,
            "kind": pd.Series(draw.choice(["box", "tube", ""], rows)).astype("object").replace("", None),
            "zone": pd.array(draw.choice([1, 2, 3], rows), dtype="Int64"),
            "late": draw.integers(0, 2, rows),
            "known_at": pd.Timestamp("2020-01-01", tz=UTC),
        }
    )


def test_without_a_time_the_shares_that_are_asked_for_are_held_out_and_nothing_is_lost() -> None:
    parts = split_by_content(PARCELS, parcels(), validation_share=0.1, test_share=0.3)

    shares = [len(part) / 4000 for part in (parts.train, parts.validation, parts.test)]
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.03)
    assert sorted(row for part in (parts.train, parts.validation, parts.test) for row in part.index) == list(
        range(4000)
    )


def test_a_row_is_on_the_same_side_wherever_and_in_whatever_types_it_comes_again() -> None:
    table = parcels()
    before = split_by_content(PARCELS, table, 0.1, 0.3).test

    moved = table.sample(frac=0.5, random_state=1)
    moved["zone"] = moved["zone"].astype("int64")
    moved["late"] = moved["late"].astype("Int64")
    moved["kind"] = moved["kind"].astype("str")
    after = split_by_content(PARCELS, moved, 0.1, 0.3).test

    assert set(after.index) == set(before.index) & set(moved.index)


def card_of(make_bundle: Callable[..., Bundle], **data: datetime | None) -> Card:
    card = make_bundle().card
    settings: dict[str, float | int | str | bool | None] = {"validation_share": 0.1, "test_share": 0.3}
    about = msgspec.structs.replace(card.data, **data)
    return msgspec.structs.replace(
        card, contract=PARCELS, settings=settings, data=about, as_of=START + timedelta(days=9)
    )


def test_without_a_time_a_bundle_is_judged_on_what_is_held_out_and_never_on_what_came_again_since(
    make_bundle: Callable[..., Bundle],
) -> None:
    card, table = card_of(make_bundle, validation_from=None, test_from=None), parcels()
    parts = split_by_content(PARCELS, table, 0.1, 0.3)
    again = table.assign(known_at=START + timedelta(days=10))

    for rows in (table, again):
        assert set(rows.index[unseen(card, rows)]) == set(parts.test.index)
        assert set(rows.index[learned_from(card, rows)]) == set(parts.train.index)


def test_without_a_time_new_rows_judge_as_far_as_they_are_held_out(make_bundle: Callable[..., Bundle]) -> None:
    card = card_of(make_bundle, validation_from=None, test_from=None)
    came_since = parcels(5000).tail(1000).assign(known_at=START + timedelta(days=10))

    judging = came_since[unseen(card, came_since)]

    assert len(judging) == pytest.approx(300, abs=50)
    assert not learned_from(card, judging).any()


def test_a_share_may_have_been_written_as_a_whole_number(make_bundle: Callable[..., Bundle]) -> None:
    card, table = card_of(make_bundle, validation_from=None, test_from=None), parcels()
    card = msgspec.structs.replace(card, settings=card.settings | {"validation_share": 0})

    assert (learned_from(card, table) == ~unseen(card, table)).all()


def test_a_bundle_that_was_cut_in_time_is_judged_on_what_came_later(make_bundle: Callable[..., Bundle]) -> None:
    cut = START + timedelta(days=1)
    card, table = card_of(make_bundle, validation_from=START, test_from=cut), parcels(4)
    table["known_at"] = [START - timedelta(days=1), START, cut, cut + timedelta(days=1)]

    assert unseen(card, table).tolist() == [False, False, True, True]
    assert learned_from(card, table).tolist() == [True, False, False, False]
