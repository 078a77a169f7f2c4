"""Text and floats as columns of a contract."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from models.contract.columns import Category, Contract, Number, Time
from models.contract.reading import read

CONTRACT = Contract(
    time=Time(name="at", zone=None, parts=()),
    features=(
        Number(name="size", unit="m", minimum=0, maximum=10, nullable=True),
        Category(name="code", values=(1, 20, -3), nullable=True),
        Category(name="kind", values=("bike", "car"), nullable=True),
    ),
    target=Number(name="cost", unit="EUR", minimum=0, maximum=10),
)
WALL = Contract(time=Time(name="at", zone="Europe/Prague", parts=()), features=(), target=CONTRACT.target)


def values(name: str, given: Any, contract: Contract = CONTRACT) -> list[Any]:
    read_table, unread = read(contract, pa.table({name: given}))
    assert unread == []
    found: list[Any] = read_table[name].to_pylist()
    return found


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("size", ["1.5", "-2", "1e3", "", None], [1.5, -2.0, 1000.0, None, None]),
        ("code", ["1", "20.0", "+1.", "-3", ""], [1, 20, 1, -3, None]),
        ("code", ["1", "20"], [1, 20]),
        ("kind", ["bike", ""], ["bike", None]),
        ("at", ["2020-03-01T08:15:00Z", "2020-03-01 09:15:00+01:00"], [datetime(2020, 3, 1, 8, 15, tzinfo=UTC)] * 2),
    ],
)
def test_reads_text_in_the_types_of_the_contract(name: str, text: list[str | None], wanted: list[Any]) -> None:
    assert values(name, pa.array(text, pa.string())) == wanted
    assert values(name, pa.array(text, pa.large_string())) == wanted
    assert values(name, pa.array(text).dictionary_encode()) == wanted


def test_reads_wall_times_of_a_zone() -> None:
    assert values("at", ["2020-03-01 08:15:00.5", "2020-03-01"], WALL) == [
        datetime(2020, 3, 1, 8, 15, 0, 500_000),
        datetime(2020, 3, 1),
    ]


def test_takes_floats_for_whole_numbers_where_gaps_made_them_so() -> None:
    assert values("code", pa.array([1.0, None, float("nan")])) == [1, None, None]


def test_takes_whole_numbers_for_ids() -> None:
    assert values("id", [7, None]) == ["7", None]


def test_leaves_other_columns_as_they_are() -> None:
    table = pa.table({"size": pa.array([1], pa.int8()), "else": ["1"], "id": pa.array([0.5])})

    assert read(CONTRACT, table).table.schema == table.schema


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("size", ["1", "wide", "2", "3", "x"]),
        ("code", ["1", "1.5", "1", "1", "0x10"]),
        ("code", [1.0, 1.5, 1.0, 1.0, 1e300]),
        ("at", ["2020-03-01T08:15:00Z", "2020-03-01T08:15:00", "2020-03-01T08:15:00Z", "", "soon"]),
    ],
)
def test_names_the_rows_of_what_cannot_be_read(name: str, given: list[Any]) -> None:
    table, unread = read(CONTRACT, pa.table({name: given}))

    assert [(one.row, one.field) for one in unread] == [(1, name), (4, name)]
    assert repr(given[4]) in unread[1].rule
    assert table[name][1].as_py() is None
    assert table[name][0].as_py() is not None


def test_refuses_an_offset_in_a_wall_time() -> None:
    (one,) = read(WALL, pa.table({"at": ["2020-03-01T08:15:00Z"]})).unread

    assert "without an offset" in one.rule
