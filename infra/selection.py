"""Which rows of tables are meant: those that equal a line of a selection in all its columns.

A selection is text, as people write it; a line is compared in the types that a table's columns have.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import Misconfigured


class Selection:
    """Lines of values, by column."""

    def __init__(self, lines: pd.DataFrame) -> None:
        self._lines = lines

    @classmethod
    def read(cls, where: Sequence[str], rows: Path | None) -> "Selection | None":
        """Read one line of `COLUMN=VALUE`, or the lines of a CSV file; None for neither. Raises: `Misconfigured`."""
        if where and rows:
            raise Misconfigured("name rows by --where or by --rows, not by both")
        if rows:
            return cls(_read(rows))
        pairs = [one.partition("=") for one in where]
        if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
            raise Misconfigured(f"--where {wrong[0]}: rows are named by COLUMN=VALUE")
        if twice := [name for place, (name, *_) in enumerate(pairs) if name in [one[0] for one in pairs[:place]]]:
            raise Misconfigured(f"--where {twice[0]}: one row has one value of it; name several rows by --rows FILE")
        return cls(pd.DataFrame({name: [value] for name, _, value in pairs})) if pairs else None

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are compared."""
        return tuple(self._lines.columns)

    def fits(self, schema: pa.Schema) -> bool:
        """Say whether a table can have any of the lines. Its columns must be among the schema's."""
        return any(self._typed(schema).values())

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Say of each row of a table whether it is meant: boolean, without nulls."""
        typed = self._typed(table.schema)
        mask = pa.chunked_array([pa.array([True] * len(table), pa.bool_())])
        for name, values in typed.items():
            column = _plain(table[name])
            mask = pc.and_(mask, pc.is_in(column, value_set=pa.array(values, column.type)))
        if len(typed) == 1:
            return mask
        wanted = set(zip(*typed.values(), strict=True))
        columns = [_plain(table[name]).to_pylist() for name in typed]
        exact = pa.array([line in wanted for line in zip(*columns, strict=True)], pa.bool_())
        return pc.and_(mask, pa.chunked_array([exact]))

    def _typed(self, schema: pa.Schema) -> dict[str, list[Any]]:
        """Give, by column and in its type, the lines of which the columns can have every value."""
        values = {name: _as_in(schema.field(name).type, self._lines[name].tolist()) for name in self.columns}
        fit = [place for place in range(len(self)) if all(column[place] is not None for column in values.values())]
        return {name: [column[place] for place in fit] for name, column in values.items()}


def _read(rows: Path) -> pd.DataFrame:
    try:
        found = pd.read_csv(rows, dtype=str, keep_default_na=False)
    except OSError as error:
        raise Misconfigured(f"{rows} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Misconfigured(f"{rows} cannot be read as CSV: {error}") from error
    if found.empty or found.isna().any(axis=None):
        raise Misconfigured(f"{rows} names no rows, or a line of it has too few values: a head of columns, then lines")
    return found


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _as_in(kind: pa.DataType, values: list[str]) -> list[Any]:
    """Read text as values of a type; None where it cannot be one."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    try:
        if pa.types.is_timestamp(kind):
            moments = pd.to_datetime(pd.Series(values), utc=kind.tz is not None, format="ISO8601")
            return pa.array(moments, kind).to_pylist()  # type: ignore[no-any-return]
        return pa.array(values, pa.string()).cast(kind).to_pylist()  # type: ignore[no-any-return]
    except (ValueError, TypeError, pa.ArrowNotImplementedError):
        return [None] if len(values) == 1 else [one for value in values for one in _as_in(kind, [value])]
