"""What differs between two states of a table: rows by key or as wholes, columns side by side."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract.columns import Category, Contract, Number, Time
from models.contract.difference import RowDifference, compare_columns, compare_rows

CONTRACT = Contract(
    time=Time(name="at", zone="UTC", parts=()),
    features=(
        Number(name="miles", unit="miles", minimum=0, maximum=100, nullable=True),
        Category(name="zone", values=(1, 2, 3)),
        Category(name="kind", values=("bike", "car"), nullable=True),
    ),
    target=Number(name="minutes", unit="minutes", minimum=0, maximum=100),
    unique=("at",),
)
values = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=12)


def rides(count: int = 6) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "at": pd.date_range("2020-01-01", periods=count, freq="h", unit="us"),
            "miles": [None, *[2.0] * (count - 1)],
            "zone": [1] * count,
            "kind": ["car"] * count,
            "minutes": np.arange(count, dtype=np.float64),
        }
    )


def test_names_rows_by_key_and_shows_what_changed() -> None:
    after = pd.concat([rides().iloc[1:], rides(8).iloc[6:]], ignore_index=True)
    after.loc[after["at"] == pd.Timestamp("2020-01-01 02:00"), ["miles", "zone"]] = [None, 3]

    found = compare_rows(rides(), after, ("at",))

    assert found == RowDifference(
        key=("at",),
        added=2,
        removed=1,
        changed=1,
        unchanged=4,
        examples=["at 2020-01-01 02:00:00: miles 2.0 -> nan, zone 1 -> 3"],
    )


@given(values, values)
def test_counts_rows_as_a_dictionary_would(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    old, new = dict(left), dict(right)
    before, after = (pd.DataFrame({"key": list(d), "value": list(d.values())}, dtype="int64") for d in (old, new))

    found = compare_rows(before, after, ("key",))

    both = old.keys() & new.keys()
    assert (found.added, found.removed) == (len(new.keys() - both), len(old.keys() - both))
    assert (found.changed, found.unchanged) == (
        sum(old[key] != new[key] for key in both),
        sum(old[key] == new[key] for key in both),
    )


@given(values, values)
def test_counts_whole_rows_as_often_as_they_come(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    before, after = (pd.DataFrame(rows, columns=["a", "b"], dtype="int64") for rows in (left, right))

    found = compare_rows(before, after, ())

    remaining = list(left)
    for row in right:
        if row in remaining:
            remaining.remove(row)
    unchanged = len(left) - len(remaining)
    assert (found.key, found.changed, found.unchanged) == ((), 0, unchanged)
    assert (found.added, found.removed) == (len(right) - unchanged, len(left) - unchanged)


@pytest.mark.parametrize("key", [("at",), ("nothing",)])
def test_compares_whole_rows_where_the_key_names_none(key: tuple[str, ...]) -> None:
    repeated = pd.concat([rides(), rides().iloc[[0]]], ignore_index=True)

    found = compare_rows(rides(), repeated, key)

    assert (found.key, found.added, found.removed, found.unchanged) == ((), 1, 0, 6)


def test_numbers_of_another_type_are_the_same_rows() -> None:
    found = compare_rows(rides(), rides().astype({"zone": "Int64", "minutes": "float32"}), ("at",))

    assert (found.changed, found.unchanged) == (0, 6)


def test_lays_columns_side_by_side() -> None:
    after = rides().drop(columns="minutes").assign(zone=[1, 1, 1, 2, 2, 3], kind="bike", colour="red")

    found = {column.name: column for column in compare_columns(CONTRACT, rides(), after)}

    assert list(found) == ["at", "miles", "zone", "kind", "colour", "minutes"]
    assert (found["zone"].new_values, found["kind"].new_values, found["kind"].gone_values) == (
        ["2", "3"],
        ["bike"],
        ["car"],
    )
    assert (found["colour"].before, found["minutes"].after) == (None, None)
    miles = found["miles"].before
    assert miles is not None
    assert (miles.kind, miles.distinct, miles.minimum, miles.mean, miles.deviation) == ("float64", 1, 2.0, 2.0, 0.0)
    assert miles.null_share == pytest.approx(1 / 6)
    at = found["at"].after
    assert at is not None
    assert (at.minimum, at.maximum, at.mean) == ("2020-01-01T00:00:00", "2020-01-01T05:00:00", None)


def test_describes_no_rows() -> None:
    found = {column.name: column for column in compare_columns(CONTRACT, rides().iloc[:0], rides())}

    minutes = found["minutes"].before
    assert minutes is not None
    assert (minutes.minimum, minutes.mean, minutes.null_share, minutes.distinct) == (None, None, 0.0, 0)
