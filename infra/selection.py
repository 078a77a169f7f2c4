"""Which rows of tables are meant: those that equal a line of a selection in all its columns.

A selection is text, as people write it; a line is compared in the types that a table's columns have. What a column
cannot have is not bent until it can: such a line names nothing there.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import Misconfigured

_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d*))(?:\.0*)?")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d")


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """What a selection names in one table. Lines are counted from 0."""

    rows: pa.Array
    """Boolean, one for each row, without nulls."""
    possible: frozenset[int]
    """Lines whose values the columns of the table can have."""
    found: frozenset[int]
    """Lines that name a row."""


class Selection:
    """Lines of values, by column.

    Args:
        lines: as many values each as there are columns.
        names: what to call each line in messages.
    """

    def __init__(self, columns: Sequence[str], lines: Sequence[Sequence[str]], names: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.names = tuple(names)
        self._values = dict(zip(columns, zip(*lines, strict=True), strict=True))
        self._typed: dict[tuple[str, pa.DataType], list[Any]] = {}

    @classmethod
    def read(cls, where: Sequence[str], rows: Path | None) -> "Selection | None":
        """Read one line of `COLUMN=VALUE`, or the lines of a CSV file; None for neither. Raises: `Misconfigured`."""
        if where and rows:
            raise Misconfigured("name rows by --where or by --rows, not by both")
        if rows:
            return _read(rows)
        pairs = [one.partition("=") for one in where]
        if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
            raise Misconfigured(f"--where {wrong[0]}: rows are named by COLUMN=VALUE")
        columns = [name for name, *_ in pairs]
        if twice := _repeated(columns):
            raise Misconfigured(f"--where {twice}: one row has one value of it; name several rows by --rows FILE")
        return cls(columns, [[value for *_, value in pairs]], ["--where"]) if pairs else None

    def __len__(self) -> int:
        return len(self.names)

    def match(self, table: pa.Table) -> Match:
        """Find the rows of a table that has the columns."""
        columns = [_plain(table[name]) for name in self.columns]
        typed = [self._in_type(name, table.schema.field(name).type) for name in self.columns]
        wanted = defaultdict[tuple[Any, ...], list[int]](list)
        for number, line in enumerate(zip(*typed, strict=True)):
            if None not in line:
                wanted[line].append(number)
        rows, found = np.zeros(len(table), bool), set[int]()
        if wanted:
            # Each column alone first, which leaves few rows to be compared as a whole
            candidates = np.ones(len(table), bool)
            for place, column in enumerate(columns):
                values = pa.array({line[place] for line in wanted}, column.type)
                candidates &= pc.is_in(column, value_set=values).to_numpy()
            (places,) = candidates.nonzero()
            lines = zip(*(column.take(pa.array(places)).to_pylist() for column in columns), strict=True)
            for row, line in zip(places, lines, strict=True):
                if line in wanted:
                    rows[row] = True
                    found |= set(wanted[line])
        possible = frozenset(number for numbers in wanted.values() for number in numbers)
        return Match(rows=pa.array(rows), possible=possible, found=frozenset(found))

    def _in_type(self, name: str, kind: pa.DataType) -> list[Any]:
        if (name, kind) not in self._typed:
            self._typed[name, kind] = [_as_in(kind, value) for value in self._values[name]]
        return self._typed[name, kind]


def _read(rows: Path) -> Selection:
    try:
        with rows.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = {f"line {reader.line_num}": line for line in reader if line}
    except OSError as error:
        raise Misconfigured(f"{rows} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise Misconfigured(f"{rows} cannot be read as CSV: {error}") from error
    if len(lines) < 2:
        raise Misconfigured(f"{rows} names no rows: a head of columns, then lines")
    columns, *values = lines.values()
    if twice := _repeated(columns):
        raise Misconfigured(f"{rows} names column {twice!r} twice")
    for name, line in lines.items():
        if len(line) != len(columns):
            raise Misconfigured(f"{rows}, {name}: {len(line)} values for {len(columns)} columns")
    return Selection(columns, values, list(lines)[1:])


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for place, name in enumerate(names) if name in names[:place]), None)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a column in a type that values can be looked up in."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind):
        return column.cast(pa.int64())  # which asks for no zone's rules
    if pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_binary_view(kind):
        return column.cast(pa.binary())
    return column.cast(pa.float32()) if pa.types.is_float16(kind) else column


def _as_in(kind: pa.DataType, value: str) -> Any:
    """Read text as a value of a type, as `_plain` gives it; None where the type has no such value."""
    if pa.types.is_dictionary(kind):
        return _as_in(kind.value_type, value)
    try:
        if pa.types.is_timestamp(kind):
            return _moment(kind, value)
        if pa.types.is_time(kind):
            return pa.array([time.fromisoformat(value)], kind)[0].as_py()
        if pa.types.is_floating(kind):
            return _float(kind, value)
        if pa.types.is_integer(kind):
            whole = _WHOLE.fullmatch(value)  # also as tables that have gaps are exported
            return pa.array([int(whole[1])], kind)[0].as_py() if whole else None
        return pa.array([value], pa.string()).cast(kind)[0].as_py()
    except (ValueError, ArithmeticError, pa.ArrowNotImplementedError):
        return None


def _moment(kind: pa.DataType, value: str) -> int | None:
    if not _MOMENT.match(value):
        return None
    moment = pd.Timestamp(value)
    if kind.tz is None and moment.tzinfo is not None:
        return None  # an offset says nothing of a wall time, whose place the column does not tell
    naive = moment.tz_convert("UTC").tz_localize(None) if moment.tzinfo else moment
    counted: int = pa.array([naive], pa.timestamp(naive.unit)).cast(pa.timestamp(kind.unit)).cast(pa.int64())[0].as_py()
    return counted


def _float(kind: pa.DataType, value: str) -> float | None:
    """Read a number that is one of the type's, as digits show it: no neighbour of what was meant."""
    number = kind.to_pandas_dtype()(value)
    shown = {str(number), str(float(number)), f"{float(number):.17g}"}
    return float(number) if np.isfinite(number) and Decimal(value) in map(Decimal, shown) else None
