"""Which rows of tables are meant: those that equal a line of a selection in all its columns.

A selection is text, as people write it; a line is compared in the types that a table's columns have. What a column
cannot have is not bent until it can: such a line names nothing there.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import Misconfigured

_WHOLE = re.compile(r"([+-]?\d+)\.0*")


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
        typed = [self._in_type(name, column.type) for name, column in zip(self.columns, columns, strict=True)]
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
    if pa.types.is_string_view(kind):
        return column.cast(pa.string())
    return column.cast(pa.float32()) if pa.types.is_float16(kind) else column


def _as_in(kind: pa.DataType, value: str) -> Any:
    """Read text as a value of a type; None where it cannot be one."""
    try:
        if pa.types.is_timestamp(kind):
            moment = pd.to_datetime(value, format="ISO8601")
            if kind.tz is None and moment.tzinfo is not None:
                return None  # a wall time, of a place that the column does not tell
            moment = moment.tz_localize("UTC") if kind.tz and moment.tzinfo is None else moment
            return pa.array([moment], pa.timestamp(moment.unit, kind.tz)).cast(kind)[0].as_py()
        if pa.types.is_integer(kind) and (whole := _WHOLE.fullmatch(value)):
            value = whole[1]  # as tables that have gaps are exported
        return pa.array([value], pa.string()).cast(kind)[0].as_py()
    except (ValueError, TypeError, pa.ArrowNotImplementedError):
        return None
