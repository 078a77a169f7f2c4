"""The preprocessing graph: exact against pandas and against the contract, for every kind of column."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract.columns import MISSING_CODE, Category, Contract, Number, Time, TimePart
from models.contract.table import time_part
from models.inference import GraphInputs
from models.learning.preprocessing import prepare

TARGET = Number(name="minutes", unit="min", minimum=0, maximum=60)
PARTS = tuple(TimePart)
FIRST, LAST = -62_135_596_800, 253_402_300_799
"""0001-01-01 00:00:00 and 9999-12-31 23:59:59."""


def contract(*features: Number | Category, parts: tuple[TimePart, ...] = ()) -> Contract:
    return Contract(time=Time(name="at", zone=None, parts=parts), features=features, target=TARGET)


def assert_parts_equal_those_of_pandas(seconds: "list[int] | np.ndarray[tuple[int], np.dtype[np.int64]]") -> None:
    seconds_N = np.asarray(seconds, dtype=np.int64)
    found_NP = prepare(contract(parts=PARTS), {"at": seconds_N}).time_parts_NP
    times = pd.Series(seconds_N.astype("datetime64[s]"))
    for place, part in enumerate(PARTS):
        np.testing.assert_array_equal(found_NP[:, place], time_part(times, part), err_msg=part)


@settings(max_examples=50)
@given(st.lists(st.integers(FIRST, LAST), min_size=1, max_size=50))
def test_every_time_part_equals_that_of_pandas(seconds: list[int]) -> None:
    assert_parts_equal_those_of_pandas(seconds)


def test_every_time_part_equals_that_of_pandas_on_many_seconds() -> None:
    draw = np.random.default_rng(0)
    assert_parts_equal_those_of_pandas(draw.integers(FIRST, LAST, 100_000))
    assert_parts_equal_those_of_pandas(draw.integers(0, 4_102_444_800, 100_000))


@pytest.mark.parametrize("year", [4, 1600, 1700, 1900, 1968, 1969, 1970, 2000, 2020, 2100, 2400, 9999])
def test_every_time_part_is_right_around_leap_days_and_new_year(year: int) -> None:
    midnights = [f"{year:04}-{day}" for day in ("01-01", "02-28", "03-01", "12-31")]
    seconds = np.array(midnights, dtype="datetime64[s]").astype(np.int64)
    around = np.array([-86_401, -86_400, -1, 0, 1, 59, 60, 3_599, 3_600, 86_399])
    assert_parts_equal_those_of_pandas((seconds[:, None] + around[None, :]).ravel())


def test_text_categories_become_their_place_and_null_or_unknown_0() -> None:
    kind = Category(name="kind", values=("bike", "car", "Zug nach Přerov"), nullable=True)
    values = np.array(["car", "bike", "", "boat", "Zug nach Přerov", "CAR"], dtype=object)

    prepared = prepare(contract(kind), {"at": np.zeros(6, np.int64), "kind": values})

    assert prepared.categories_NC[:, 0].tolist() == [2, 1, 0, 0, 3, 0]


def test_integer_categories_become_their_place_and_null_or_unknown_0() -> None:
    zone = Category(name="zone", values=(7, -3, 0), nullable=True)
    values = np.array([0, -3, 7, MISSING_CODE, 8], dtype=np.int64)

    prepared = prepare(contract(zone), {"at": np.zeros(5, np.int64), "zone": values})

    assert prepared.categories_NC[:, 0].tolist() == [3, 2, 1, 0, 0]


def test_numbers_stay_as_they_are_and_null_stays_nan() -> None:
    size = Number(name="size", unit="m", minimum=0, maximum=9, nullable=True)
    values = np.array([0.1, np.nan, -0.0], dtype=np.float32)

    prepared = prepare(contract(size), {"at": np.zeros(3, np.int64), "size": values})

    np.testing.assert_array_equal(prepared.numbers_NF[:, 0], values)
    assert prepared.numbers_NF.dtype == np.float32


def test_columns_of_a_group_keep_the_order_of_the_contract() -> None:
    features = [Number(name=name, unit="m", minimum=0, maximum=9) for name in ("b", "a")]
    columns: GraphInputs = {"at": np.zeros(1, np.int64), "a": np.ones(1, np.float32), "b": np.full(1, 2, np.float32)}

    assert prepare(contract(*features), columns).numbers_NF.tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_group_without_columns_has_width_0(rows: int) -> None:
    prepared = prepare(contract(), {"at": np.zeros(rows, np.int64)})

    assert prepared.numbers_NF.shape == prepared.categories_NC.shape == prepared.time_parts_NP.shape == (rows, 0)
    assert [prepared.numbers_NF.dtype, prepared.categories_NC.dtype] == [np.float32, np.int16]
    assert len(prepared[:3]) == min(rows, 3)
