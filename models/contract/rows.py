"""Request rows: decoded straight from bytes, checked against the contract, turned into columns.

The types that decode are generated from the contract once, so that nothing is checked in Python on the way of a good
request: one row costs a few microseconds. A bad request is looked at a second time, value by value with the same
types, to name field, row and rule; nothing of it is kept.

A row is an object with every input column and nothing else, besides an optional `id`. Null is said, not left out. A
local time is written without an offset, an instant with one; fractions of a second are dropped.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Meta, UnsetType

from models.contract import images
from models.contract.clock import EARLIEST, EPOCH, LATEST, SECOND, microseconds
from models.contract.columns import MISSING_CODE, Category, Contract, Image, Input, Lag, Number, Time, described
from models.errors import ContractError, DefinitionError, Violation

MAXIMUM_ROWS = 10_000
"""A request carries at most this many rows."""

ID = "id"
"""What a caller may name a row by; no column may be called so."""

LONGEST_ID = 200
"""Characters."""

Id = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID, description="The caller's name of a prediction.")]

SHOWN = 5
"""Violations that a refusal names at most."""

_EXPLAINED_BYTES = 1 << 20  # a larger bad request is not decoded untyped: that can take thirty times its size
_LOCAL = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?$"
"""A time without an offset, as schemas say it; what there is no such day or hour of is refused beyond it."""

_PATH = re.compile(r" - at `\$\.\w+\[(\d+)\](?:\.(.+?)((?:\[\d+\])+)?)?`$")
"""A row, its column, and the place in an image."""

Array = npt.NDArray[np.generic]

Columns = Mapping[str, Array]
"""One array a column of the contract's inputs, all of length N: numbers float64 (NaN for null), integer categories
int64 (`MISSING_CODE` for null), text categories `str` objects (empty for null), times int64 microseconds since 1970, of
the wall clock that the column names or of UTC, images [N, D] uint8 or float32 (`models.contract.images`)."""


class NotJSON(ContractError):
    """The body is not JSON."""


class TooManyRows(ContractError):
    """The body carries more than `MAXIMUM_ROWS` rows."""


class Rows(msgspec.Struct, frozen=True, gc=False):
    """N accepted rows, as they came: one by one, or as columns. `RowDecoder.together` makes columns of either."""

    count: int
    """N."""
    ids: Sequence[str | None] | None = None
    """What the caller named each row; None where it did not. None for all: it named none."""
    one_by_one: list[Any] | None = None
    columns: Columns | None = None


class RowDecoder:
    """Decodes the requests of one contract. Thread-safe."""

    def __init__(self, contract: Contract) -> None:
        """Generate the types. Raises: `DefinitionError` for a column called `id`."""
        if any(column.name == ID for column in contract.inputs):
            raise DefinitionError(f"contract: {ID!r} names a row in requests; call the column otherwise")
        self.contract = contract
        row = _row_type(contract)
        self.request = _request_type(row)
        """The type of a whole request, `{"rows": [...]}`; its JSON Schema describes the contract."""
        self._decoder = msgspec.json.Decoder(self.request)
        self._line_decoder = msgspec.json.Decoder(row)
        self._fields = [
            (column.name, attrgetter(f"c{index}"), column_maker(column)) for index, column in enumerate(contract.inputs)
        ]
        self._has_image = contract.image is not None
        self._time: Callable[[Any], datetime] | None = None
        if contract.time is not None:
            self._time, epoch = self._fields[0][1], _epoch(contract.time)
            self._first, self._last = (epoch + timedelta(microseconds=at) for at in (EARLIEST, LATEST))

    def decode(self, body: bytes) -> Rows:
        """Decode a request body.

        Raises: `NotJSON`, `TooManyRows`, and otherwise `ContractError` with at most five violations.
        """
        try:
            return self._accepted(self._decoder.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            raise self._explain(body, error) from error

    def decode_lines(self, lines: Sequence[bytes]) -> Rows:
        """Decode rows of which each is a line. Raises: `NotJSON`, `ContractError`, which say more of a single line."""
        content = b"\n".join(lines)
        try:
            rows = self._line_decoder.decode_lines(content)
            if len(rows) != len(lines):
                raise NotJSON("a line is not one row")
            return self._kept(rows)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            if len(lines) > 1:
                raise ContractError(f"some line is wrong: {error}") from error
            raise self._explain(b'{"rows":[%s]}' % content, error) from error

    def convert(self, rows: Sequence[Mapping[str, object]]) -> Rows:
        """Take rows that were decoded otherwise, as values by column; times as text or `datetime`.

        Raises: `TooManyRows`, and otherwise `ContractError` with at most five violations.
        """
        request = {"rows": rows}
        try:
            return self._accepted(msgspec.convert(request, self.request))
        except (msgspec.ValidationError, OverflowError) as error:
            raise broken_contract(_first(self._request_violations(request)) or [violation_of(error, "rows")]) from error

    def _accepted(self, request: Any) -> Rows:
        rows: list[Any] = request.rows
        if len(rows) > MAXIMUM_ROWS:
            raise TooManyRows(f"a request carries at most {MAXIMUM_ROWS} rows, this one {len(rows)}; send it in parts")
        return self._kept(rows)

    def _kept(self, rows: list[Any]) -> Rows:
        if self._time is not None:
            for time in map(self._time, rows):
                if not self._first <= time <= self._last:
                    raise OverflowError
        if self._has_image:  # as lists of numbers it takes thirty times its memory
            return Rows(len(rows), _take_ids(rows), columns=self._columns(rows))
        return Rows(len(rows), _take_ids(rows), one_by_one=rows)

    def together(self, parts: Sequence[Rows], least: int = 0) -> Columns:
        """Put rows of several requests one below the other, as columns; repeat the last until there are `least`."""
        if all(part.one_by_one for part in parts):
            rows = [row for part in parts for row in part.one_by_one or ()]
            rows += rows[-1:] * (least - len(rows))
            return self._columns(rows)
        columns = [self._columns(part.one_by_one) if part.columns is None else part.columns for part in parts]
        return {name: _stacked([one[name] for one in columns], least) for name, _, _ in self._fields}

    def _columns(self, rows: Sequence[Any] | None) -> Columns:
        return {name: make(list(map(get, rows or ()))) for name, get, make in self._fields}

    def _explain(self, body: bytes, error: Exception) -> ContractError:
        if not isinstance(error, msgspec.ValidationError | OverflowError):
            return NotJSON(f"the body is not JSON: {error}")
        found: list[Violation] = []
        if len(body) <= _EXPLAINED_BYTES:
            try:
                request = msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
                if not isinstance(broken, msgspec.ValidationError):
                    return NotJSON(f"the body is not JSON: {broken}")
            else:
                found = _first(self._request_violations(request))
        return broken_contract(found or [violation_of(error, "rows")])

    def _request_violations(self, request: object) -> Iterator[Violation]:
        if not isinstance(request, dict):
            yield Violation("rows", f'expected an object {{"rows": [...]}}, got {_shown(request)}')
            return
        for name in request.keys() - {"rows"}:
            yield Violation(str(name), "unknown field: a request carries only `rows`")
        if "rows" not in request:
            yield Violation("rows", "missing")
        elif not isinstance(rows := request["rows"], list) or not rows:
            yield Violation("rows", f"expected a list of 1 to {MAXIMUM_ROWS} rows, got {_shown(request['rows'])}")
        else:
            for index, row in enumerate(rows):
                yield from self._row_violations(index, row)

    def _row_violations(self, index: int, row: object) -> Iterator[Violation]:
        if not isinstance(row, dict):
            yield Violation("rows", f"expected an object with a value a column, got {_shown(row)}", index)
            return
        names = [column.name for column in self.contract.inputs]
        for name in sorted(row.keys() - {*names, ID}):
            yield Violation(name, f"unknown column: the model takes {', '.join(names)}", index)
        if ID in row and not _accepts(Id, row[ID]):
            yield Violation(ID, f"expected a string of 1 to 200 characters, got {_shown(row[ID])}", index)
        for column in self.contract.inputs:
            if column.name not in row:
                yield Violation(column.name, f"missing column: expected {expected(column)}", index)
            elif not _keeps(column, row[column.name]):
                yield Violation(column.name, broken_rule(column, row[column.name]), index)


def broken_contract(violations: Sequence[Violation]) -> ContractError:
    """Make the error whose message says each violation."""
    return ContractError("; ".join(str(violation) for violation in violations), violations)


def violation_of(error: Exception, field: str) -> Violation:
    """Name the place that msgspec's error says; `field` where it says none."""
    message = str(error)
    if match := _PATH.search(message):
        within = f" at {match[3]}" if match[3] else ""
        return Violation(match[2] or field, message[: match.start()] + within, int(match[1]))
    return Violation(field, message)


def column_maker(column: Input) -> Callable[[Sequence[Any]], Array]:
    """Give the function that turns a column's values (decoded, None for null) into its array in `Columns`."""
    if isinstance(column, Number):
        return lambda values: np.array(values, dtype=np.float64)
    if isinstance(column, Time):
        epoch = _epoch(column)
        return lambda values: np.array([microseconds(value - epoch) for value in values], dtype=np.int64)
    if isinstance(column, Image):
        return partial(images.from_lists, column)
    kind, null = np.object_ if column.is_text else np.int64, _null(column)
    if column.nullable:
        return lambda values: np.array([null if value is None else value for value in values], dtype=kind)
    return lambda values: np.array(values, dtype=kind)


def graph_inputs(contract: Contract) -> Callable[[Columns], dict[str, Array]]:
    """Give the function that turns columns into what the graph takes (`models.inference`)."""
    casts = {
        column.name: partial(images.in_rows, column) if isinstance(column, Image) else _GRAPH[type(column)]
        for column in contract.inputs
    }
    return lambda columns: {name: cast(columns[name]) for name, cast in casts.items()}


_GRAPH: Mapping[type, Callable[[Array], Array]] = {
    Number: lambda values: values.astype(np.float32),
    Lag: lambda values: values.astype(np.float32),
    Time: lambda values: values // SECOND,
    Category: lambda values: values,
}


def _stacked(arrays: list[Array], least: int) -> Array:
    if (missing := least - sum(map(len, arrays))) > 0:
        arrays.append(arrays[-1][-1:].repeat(missing, axis=0))
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def from_array(column: Input, values: Sequence[Any]) -> list[Any]:
    """Turn a column's values as they are in the graph's input into those of decoded rows.

    Times may be text instead, which is left to be decoded. Raises: `ContractError` for no moment of the calendar.
    """
    if isinstance(column, Number):
        return [None if value != value else value for value in values]  # NaN
    if isinstance(column, Image):
        return list(values)
    if isinstance(column, Category):
        null = _null(column) if column.nullable else None
        return [None if value == null else value for value in values]
    epoch = _epoch(column)
    try:
        return [epoch + timedelta(seconds=value) if type(value) is int else value for value in values]
    except OverflowError as error:
        raise broken_contract([Violation(column.name, "no moment of the calendar")]) from error


def _null(category: Category) -> str | int:
    return "" if category.is_text else MISSING_CODE


def _epoch(time: Time) -> datetime:
    return EPOCH if time.zone is None else EPOCH.replace(tzinfo=None)


def example_row(contract: Contract) -> dict[str, object]:
    """Give a row that the contract accepts, as JSON values."""
    return {column.name: _example(column) for column in contract.inputs}


def _example(column: Input) -> object:
    if isinstance(column, Time):
        return "2020-03-01T08:15:00" if column.zone else "2020-03-01T08:15:00Z"
    if isinstance(column, Number):
        middle = (column.minimum + column.maximum) / 2
        return max(float(column.minimum), middle // 1)  # a whole number, such as of passengers, where there is one
    if isinstance(column, Image):
        return np.full(column.lists, column.minimum, int if column.whole else float).tolist()
    return column.values[0]


def _row_type(contract: Contract) -> type[msgspec.Struct]:
    names = {f"c{index}": column.name for index, column in enumerate(contract.inputs)}
    fields: list[Any] = [(f"c{index}", _value_type(column)) for index, column in enumerate(contract.inputs)]
    return msgspec.defstruct(
        "Row",
        [*fields, (ID, Id | UnsetType, UNSET)],
        rename=names,
        forbid_unknown_fields=True,
        kw_only=True,
    )


def _request_type(row: type[msgspec.Struct]) -> type[msgspec.Struct]:
    rows = Annotated[list[row], Meta(min_length=1, extra_json_schema={"maxItems": MAXIMUM_ROWS})]  # type: ignore[valid-type]
    return msgspec.defstruct("PredictRequest", [("rows", rows)], forbid_unknown_fields=True, kw_only=True)


def _value_type(column: Input) -> Any:
    """Give the type that decodes a column's value and, as JSON Schema, describes it."""
    description = described(column) or None
    if isinstance(column, Time):
        local = {"format": "local-date-time", "x-zone": column.zone, "pattern": _LOCAL}
        form = {"format": "date-time"} if column.zone is None else local
        return Annotated[datetime, Meta(tz=column.zone is None, description=description, extra_json_schema=form)]
    if isinstance(column, Image):
        return _image_type(column, description)
    if isinstance(column, Number):
        unit = {"x-unit": column.unit}
        value: Any = Annotated[
            float, Meta(ge=column.minimum, le=column.maximum, description=description, extra_json_schema=unit)
        ]
    else:
        value = Annotated[Literal[column.values], Meta(description=description)]
    return value | None if column.nullable else value


def _image_type(image: Image, description: str | None) -> Any:
    """Give lists of lists, as long as the image is high and wide."""
    step, unit = (1 if image.whole else None), {"x-unit": image.unit}
    kind: Any = Annotated[float, Meta(ge=image.minimum, le=image.maximum, multiple_of=step, extra_json_schema=unit)]
    for length in reversed(image.lists):
        kind = Annotated[list[kind], Meta(min_length=length, max_length=length)]
    return Annotated[kind, Meta(description=description)]


def _take_ids(rows: list[Any]) -> list[str | None] | None:
    given = [row.id for row in rows if row.id is not UNSET]
    if not given:
        return None
    ids = [None if row.id is UNSET else row.id for row in rows]
    refuse_repeated(ids)
    return ids


def refuse_repeated(ids: Sequence[str | None]) -> None:
    """Refuse ids of which one names two rows. Raises: `ContractError`."""
    seen: set[str | None] = set()
    for index, name in enumerate(ids):
        if name in seen:
            raise broken_contract([Violation(ID, f"{name!r} names an earlier row of this request as well", index)])
        if name is not None:
            seen.add(name)


def _first(violations: Iterator[Violation]) -> list[Violation]:
    return [violation for violation, _ in zip(violations, range(SHOWN), strict=False)]


def _accepts(kind: Any, value: object) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _keeps(column: Input, value: object) -> bool:
    if not _accepts(_value_type(column), value):
        return False
    if isinstance(column, Time):
        return EARLIEST <= microseconds(msgspec.convert(value, datetime) - _epoch(column)) <= LATEST
    return True


def broken_rule(column: Input, value: object) -> str:
    """Say which rule of its column a value breaks."""
    if isinstance(column, Image):
        kind, there = images.fault(column, value) or ("wrong type", _shown(value))
        return f"{kind}: expected {expected(column)}, got {there}"
    return f"{_broken_kind(column, value)}: expected {expected(column)}, got {_shown(value)}"


def _broken_kind(column: Input, value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | list | dict):
        return "wrong type"
    if isinstance(column, Number) and isinstance(value, int | float):
        return "out of range"
    if isinstance(column, Category) and isinstance(value, type(column.values[0])):
        return "unknown category"
    if isinstance(column, Time) and isinstance(value, str):
        return "wrong time"
    return "wrong type"


def expected(column: Input) -> str:
    """Say what a column takes."""
    if isinstance(column, Time):
        if column.zone is None:
            return "an instant with its offset, like 2020-03-01T08:15:00Z"
        return f"the wall time of {column.zone} without an offset, like 2020-03-01T08:15:00"
    if isinstance(column, Image):
        return images.expected(column)
    if isinstance(column, Number):
        what = f"a number from {column.minimum:.12g} to {column.maximum:.12g} ({column.unit})"
    else:
        some = ", ".join(repr(value) for value in column.values[:SHOWN])
        what = f"one of {some}" + (f", ... ({len(column.values)} values)" if len(column.values) > SHOWN else "")
    return f"{what} or null" if column.nullable else what


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
