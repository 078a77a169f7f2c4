"""A selection names rows by what people wrote, in the types of a table, and refuses what it cannot mean."""

import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import Misconfigured
from infra.selection import Selection


def of_file(folder: Path, text: str) -> Selection:
    (folder / "people.csv").write_text(text, encoding="utf-8")
    found = Selection.read([], folder / "people.csv")
    assert found is not None
    return found


def where(*pairs: str) -> Selection:
    found = Selection.read(pairs, None)
    assert found is not None
    return found


def test_names_rows_by_whole_lines(tmp_path: Path) -> None:
    table = pa.table({"name": ["olga", "olga", "eva", None], "age": [30, 31, 30, 30]})

    match = of_file(tmp_path, "name,age\nolga,31\n\neva,30\njan,30\n").match(table)

    assert match.rows.to_pylist() == [False, True, True, False]
    assert match.possible == {0, 1, 2}
    assert match.found == {0, 1}


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        (pa.int64(), 30, "30.0"),
        (pa.int8(), -3, "-3"),
        (pa.large_string(), "olga", "olga"),
        (pa.string_view(), "olga", "olga"),
        (pa.dictionary(pa.int8(), pa.string()), "olga", "olga"),
        (pa.bool_(), True, "true"),
        (pa.float32(), 0.1, "0.1"),
        (pa.float16(), 1.5, "1.5"),
        (pa.float16(), np.float16(0.1), "0.1"),
        (pa.float32(), 0.1, "0.10000000149011612"),
        (pa.float64(), 0.1, "0.10000000000000001"),
        (pa.float64(), 4711.0, "4711"),
        (pa.binary_view(), b"olga", "olga"),
        (pa.time64("us"), time(5), "05:00:00"),
        (pa.date32(), date(2020, 3, 1), "2020-03-01"),
        (pa.decimal128(5, 2), Decimal("1.50"), "1.5"),
        (pa.timestamp("us"), datetime(2020, 3, 1, 8), "2020-03-01 08:00:00"),
        (pa.timestamp("ms", "UTC"), datetime(2020, 3, 1, 8, tzinfo=UTC), "2020-03-01T09:00:00+01:00"),
        (pa.timestamp("s", "Nowhere/Atlantis"), 0, "1970-01-01"),
    ],
)
def test_reads_text_in_the_type_of_a_column(kind: pa.DataType, value: object, written: str) -> None:
    table = pa.table({"x": pa.array([None, value], kind)})

    assert where(f"x={written}").match(table).rows.to_pylist() == [False, True]


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        (pa.int64(), 30, "30.5"),
        (pa.int64(), 30, ""),
        (pa.int64(), 16, "0x10"),
        (pa.int64(), 7, "007"),
        (pa.int8(), 44, "300"),
        (pa.float64(), 9007199254740992.0, "9007199254740993"),
        (pa.float32(), 16777216.0, "16777217"),
        (pa.float32(), math.inf, "1e400"),
        (pa.float64(), math.nan, "nan"),
        (pa.timestamp("us", "UTC"), 0, ""),
        (pa.timestamp("us"), 0, "NaT"),
        (pa.timestamp("us"), 0, "now"),
        (pa.timestamp("us"), 0, "1970-01-01T25:00:00"),
        (pa.list_(pa.string()), ["olga"], "olga"),
        (pa.struct([("a", pa.string())]), {"a": "olga"}, "olga"),
        (pa.map_(pa.string(), pa.string()), [("a", "olga")], "olga"),
        (pa.timestamp("us"), 0, "1970-01-01T00:00:00+00:00"),
        (pa.timestamp("us"), 0, "1970-01-01T00:00:00.0000001"),
    ],
)
def test_what_a_column_cannot_have_names_nothing(kind: pa.DataType, value: object, written: str) -> None:
    match = where(f"x={written}").match(pa.table({"x": pa.array([None, value], kind)}))

    assert match.rows.to_pylist() == [False, False]
    assert match.possible == frozenset()


def test_looks_into_tables_without_rows() -> None:
    match = where("x=1").match(pa.table({"x": pa.array([], pa.int64())}))

    assert (len(match.rows), list(match.possible)) == (0, [0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name\nolga,30\n", "line 2: 2 values for 1 columns"),
        ("name,age\nolga,30,\n", "line 2: 3 values for 2 columns"),
        ("name,age\nolga,30\neva\n", "line 3: 1 values for 2 columns"),
        ("name,name\nolga,eva\n", "names column 'name' twice"),
        ("name\n", "names no rows"),
        ("", "names no rows"),
        ('name\n"olga\n', "cannot be read as CSV: unexpected end of data"),
    ],
)
def test_refuses_files_that_name_no_rows_for_sure(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason):
        of_file(tmp_path, text)


def test_refuses_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_bytes(b"name\n\xff\n")
    with pytest.raises(Misconfigured, match="cannot be read as CSV"):
        Selection.read([], tmp_path / "people.csv")
    with pytest.raises(Misconfigured, match="cannot be read: No such file"):
        Selection.read([], tmp_path / "nothing.csv")


def test_reads_what_spreadsheets_write(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_bytes("\ufeffname\r\nžofie\r\n".encode())
    found = Selection.read([], tmp_path / "people.csv")

    assert found is not None
    assert found.match(pa.table({"name": ["žofie"]})).rows.to_pylist() == [True]


def test_a_row_has_one_value_of_a_column() -> None:
    with pytest.raises(Misconfigured, match="--where customer: one row has one value of it"):
        where("customer=olga", "customer=eva")
