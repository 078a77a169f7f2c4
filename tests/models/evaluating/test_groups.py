"""Groups: every row is in one of each slice, under a name that people know."""

import numpy as np
import pandas as pd
import pytest

from models.contract.columns import MISSING_CODE, Category, Contract, Number, Slice, Time, TimePart
from models.evaluating.groups import FEW, groups
from models.inference import GraphInputs

CONTRACT = Contract(
    time=Time(name="at", zone="Europe/Prague", parts=(TimePart.HOUR,)),
    features=(
        Number(name="size", unit="m", minimum=0, maximum=100, nullable=True),
        Category(name="kind", values=("bike", "car", "foot", "(missing)", "(other values)"), nullable=True),
        Category(name="zone", values=tuple(range(1, 101)), nullable=True),
    ),
    target=Number(name="minutes", unit="min", minimum=0, maximum=100),
)


def told(one: Slice, columns: GraphInputs) -> list[str]:
    """Name each row's group."""
    declared = Contract(time=CONTRACT.time, features=CONTRACT.features, target=CONTRACT.target, slices=(one,))
    (found,) = groups(declared, columns).values()
    assert sorted(set(found.place_N.tolist())) == list(range(len(found.names)))
    return [found.names[place] for place in found.place_N.tolist()]


def test_the_values_of_a_category_are_groups() -> None:
    kinds = np.array(["car", "bike", "", "car", "(missing)", "(other values)", "tram"], object)

    found = told(Slice(column="kind"), {"kind": kinds})

    assert found == ["car", "bike", "(missing)", "car", "'(missing)'", "'(other values)'", "(other values)"]


def test_of_many_values_the_frequent_ones_are_groups() -> None:
    zones = np.array([*np.repeat(np.arange(1, 31), np.arange(30, 0, -1)), MISSING_CODE])

    found = told(Slice(column="zone"), {"zone": zones})

    counts = pd.Series(found).value_counts()
    assert len(counts) == FEW + 2
    assert {str(zone) for zone in range(1, FEW + 1)} <= set(counts.index)
    assert (counts["(other values)"], counts["(missing)"], counts["3"]) == (55, 1, 28)


def test_an_edge_belongs_to_what_is_above_it() -> None:
    sizes = np.array([0.0, 0.7, 2.9999, 3.0, 100.0, np.nan], np.float32)

    found = told(Slice(column="size", edges=(0.7, 3)), {"size": sizes})

    assert found == ["under 0.7", "0.7 to 3", "0.7 to 3", "from 3", "from 3", "(missing)"]


def test_without_edges_numbers_are_cut_at_their_quartiles() -> None:
    sizes = np.arange(1, 101, dtype=np.float32)

    found = pd.Series(told(Slice(column="size"), {"size": sizes}))

    assert found.value_counts().to_dict() == {"under 25.8": 25, "25.8 to 50.5": 25, "50.5 to 75.2": 25, "from 75.2": 25}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1, 1, 1, 1, 1, 1, 1, 6], {"all": 8}),
        ([np.nan] * 3, {"(missing)": 3}),
        ([0, 0, 0, 2, 2], {"under 2": 3, "from 2": 2}),
    ],
)
def test_quartiles_that_part_nothing_are_left_out(sizes: list[float], expected: dict[str, int]) -> None:
    found = told(Slice(column="size"), {"size": np.array(sizes, np.float32)})

    assert pd.Series(found).value_counts().to_dict() == expected


def test_parts_of_a_time_are_read_from_the_clock() -> None:
    moments = ["2020-03-02T00:00", "2020-03-02T05:59", "2020-03-03T06:00", "2020-12-31T23:59"]
    at = np.array(moments, "datetime64[s]").astype(np.int64)

    hours = told(Slice(column="at", part=TimePart.HOUR, edges=(6, 10)), {"at": at})
    weekdays = told(Slice(column="at", part=TimePart.WEEKDAY), {"at": at})
    months = told(Slice(column="at", part=TimePart.MONTH, edges=(4, 7, 10)), {"at": at})
    days = told(Slice(column="at", part=TimePart.DAY_OF_YEAR, edges=(63,)), {"at": at})
    minutes = told(Slice(column="at", part=TimePart.MINUTE_OF_DAY, edges=(359.5, 360.5)), {"at": at})

    assert hours == ["0-5", "0-5", "6-9", "10-23"]
    assert weekdays == ["Mon", "Mon", "Tue", "Thu"]
    assert months == ["Jan-Mar", "Jan-Mar", "Jan-Mar", "Oct-Dec"]
    assert days == ["1-62", "1-62", "63-366", "63-366"]
    assert minutes == ["0-359", "0-359", "360", "361-1439"]


def test_without_a_declaration_categories_of_few_values_are_slices() -> None:
    columns = {"kind": np.array(["car"], object), "zone": np.array([7]), "at": np.array([0]), "size": np.array([1.0])}

    assert list(groups(CONTRACT, columns)) == ["kind"]
    assert groups(Contract(features=CONTRACT.features, target=CONTRACT.target, slices=()), columns) == {}
