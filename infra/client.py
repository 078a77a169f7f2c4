"""Ask a service for predictions, from Python: whole tables, as Arrow, in parts, in order.

A table goes in parts of at most 10,000 rows and 16 MiB, a few at a time, so that one is predicted while the next is on
its way; what is held is these parts, and of `predict_iter` no more. The service's own contract, asked for once, says
what columns there are: text, as from a CSV file, is read by it.

**Exactly once.** A row without an id is given one before it is sent. Whatever is asked again then, because a connection
broke or a service was busy, is answered again and recorded once. What is asked by another call is another row, unless
it brings the same id. With `name_rows=False` the service names the rows, which costs it less: a repeat is answered as
well, and what was lost on its way back is recorded twice.

urllib3 carries it, which takes half of the processor time that httpx does, and is thread-safe. Cost: a quarter of a
microsecond a row. The service takes two for a row that it names, and ten and more for one that has a name.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.connection import MAXIMUM_BODY_BYTES, Connection, Reply
from infra.errors import Conflict, InfraError
from infra.journal.ids import KEY_BYTES, Ids, Mint
from models.contract import arrow, reading
from models.contract.columns import Category, Contract, Input, Number, Time
from models.contract.rows import ID, MAXIMUM_ROWS, SHOWN, RowDecoder, broken_contract
from models.errors import ContractError, OkruhError, Violation

if TYPE_CHECKING:
    import pandas as pd

PROBABILITIES = "probabilities"
"""The column of answers that has, of each value of the target, how probable it is."""

Places = npt.NDArray[np.int64]
"""Where rows are in the caller's table."""

Row = Mapping[str, object]
"""Values by column; times as text or `datetime`."""


class IdsTaken(Conflict):
    """Ids stand for other rows than the ones that came with them."""

    def __init__(self, message: str, violations: Sequence[Violation], ids: Sequence[str]) -> None:
        super().__init__(message)
        self.violations = tuple(violations)
        self.ids = tuple(ids)


class Served(msgspec.Struct, frozen=True):
    """What a service answers with now."""

    model: str
    version: str
    digest: str
    """sha256 of the ONNX graph."""
    inputs: tuple[Input, ...]
    target: Number | Category
    metrics: dict[str, float]

    @property
    def contract(self) -> Contract:
        """The part of the model's contract that requests keep."""
        time = next((one for one in self.inputs if isinstance(one, Time)), None)
        features = tuple(one for one in self.inputs if not isinstance(one, Time))
        return Contract(time=time, features=features, target=self.target)


class Label(NamedTuple):
    """What turned out to be true for one prediction."""

    id: str
    value: float | int | str
    at: datetime | None = None
    """When it became known, aware; None: now."""


@dataclass(frozen=True)
class Feedback:
    """What became of labels."""

    kept: int
    """Kept now, or the same as one that was."""
    unknown: tuple[str, ...] = ()
    """Ids that no prediction bears; nothing was recorded."""
    conflicting: tuple[str, ...] = ()
    """Ids that have another label, which stays."""


@dataclass(frozen=True)
class Predictions:
    """Answers in the order of the rows."""

    table: pa.Table
    """See `answered_columns`."""
    refused: tuple[Violation, ...] = ()
    """With `skip_refused`: each broken rule; their rows have no answer."""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def ids(self) -> list[str]:
        """What labels refer to."""
        ids: list[str] = self.table["id"].to_pylist()
        return ids

    @property
    def values(self) -> npt.NDArray[Any]:
        """The predictions: numbers (float32) in the target's unit, or the most likely of its values."""
        values: npt.NDArray[Any] = self.table["value"].to_numpy()
        return values

    @property
    def probabilities(self) -> npt.NDArray[np.float32] | None:
        """Of each value in the contract's order, [N, K]; None where the target is a number."""
        if PROBABILITIES not in self.table.column_names:
            return None
        found = self.table[PROBABILITIES].combine_chunks()
        flat: npt.NDArray[np.float32] = found.flatten().to_numpy()
        return flat.reshape(len(found), found.type.list_size)

    @property
    def versions(self) -> dict[str, int]:
        """How many rows each version answered; several where a champion was replaced meanwhile."""
        counted = pc.value_counts(self.table["version"])
        return {one["values"]: one["counts"] for one in counted.to_pylist()}

    def to_pandas(self) -> "pd.DataFrame":
        """Give the table to pandas."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame


def answered_columns(target: Number | Category) -> pa.Schema:
    """Give the columns of answers: the row's place in the caller's table, its id, what is predicted, and by whom."""
    if isinstance(target, Number):
        predicted = [("value", pa.float32())]
    else:
        probabilities = pa.list_(pa.float32(), len(target.values))
        predicted = [("value", arrow.label_type(target)), (PROBABILITIES, probabilities)]
    return pa.schema([("row", pa.int64()), ("id", pa.string()), *predicted, ("version", pa.string())])


class _Part(NamedTuple):
    """What one request carries."""

    table: pa.Table
    places: Places
    refused: tuple[Violation, ...] = ()
    """Of rows before these."""


class _Accepted(NamedTuple):
    """Rows that keep the contract, as far as that was looked at."""

    table: pa.Table
    places: Places
    found: list[Violation]
    """Of the others."""


class Client:
    """Asks one service. Thread-safe; a context manager that closes its connections."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: int = 5,
        in_flight: int = 2,
        name_rows: bool = True,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: of the service, such as `http://127.0.0.1:3000`.
            key: what the service knows its caller by; None where it asks for none.
            timeout_s: within which a part is answered, repeats and pauses included.
            retries: how often a part is asked again, at most.
            in_flight: parts that are under way at a time.
            name_rows: give rows without an id one, see above.

        Raises: `Misconfigured`.
        """
        self._connection = Connection(url, key, timeout_s, retries, in_flight)
        self._in_flight = in_flight
        self._threads = ThreadPoolExecutor(in_flight, thread_name_prefix="okruh-client")
        self._name_rows = name_rows

    def predict(self, rows: "pa.Table | pd.DataFrame | Iterable[Row]", *, skip_refused: bool = False) -> Predictions:
        """Predict each row of a table, or of rows that come one by one.

        Columns are the contract's inputs and, if wanted, `id`. Where an error ends it, parts before may be recorded.

        Args:
            rows: what has columns and can be Arrow (pyarrow, pandas), or mappings.
            skip_refused: answer the other rows where some break the contract, and name those.

        Raises: `ContractError`, `IdsTaken`, both with the caller's row numbers, from 0; `Unavailable`, `Misconfigured`.
        """
        batches = [rows] if _is_table(rows) else _batched(rows)  # type: ignore[arg-type]
        found = list(self.predict_iter(batches, skip_refused=skip_refused))
        tables = [one.table for one in found] or [answered_columns(self._decoder.contract.target).empty_table()]
        table = pa.concat_tables(tables)
        return Predictions(table, tuple(violation for one in found for violation in one.refused))

    def predict_iter(
        self,
        batches: "Iterable[pa.Table | pa.RecordBatch | pd.DataFrame | Sequence[Row]]",
        *,
        skip_refused: bool = False,
    ) -> Iterator[Predictions]:
        """Predict tables one after the other, as `predict` does; give parts of the answer as they come, in order.

        Rows are counted through all of them. What is read ahead is what is under way.
        """
        waiting: deque[Future[Predictions]] = deque()
        try:
            for part in self._parts(batches, skip_refused):
                if len(waiting) == self._in_flight:
                    yield waiting.popleft().result()
                waiting.append(self._threads.submit(self._answer, part))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()

    def feedback(self, labels: Iterable[Label]) -> Feedback:
        """Tell what turned out to be true; the same label again changes nothing. Labels that cannot be kept are named.

        Raises: `ContractError` for what is no label, by its place; `Unavailable`, `Misconfigured`.
        """
        kept, first, now = 0, 0, datetime.now(UTC)
        unknown: list[str] = []
        conflicting: list[str] = []
        while some := list(islice(labels := iter(labels), MAXIMUM_ROWS)):
            told = [{"id": one.id, "value": one.value, "at": one.at or now} for one in some]
            reply = self._connection.ask("POST", "/v1/feedback", msgspec.json.encode({"labels": told}))
            fault = reply.fault if reply.status in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT} else None
            if fault and (fault.unknown or fault.conflicting):
                kept += fault.kept
                unknown += fault.unknown
                conflicting += fault.conflicting
            elif reply.status == HTTPStatus.OK:
                kept += len(some)
            else:
                raise self._error(reply, np.arange(first, first + len(some)))
            first += len(some)
        return Feedback(kept, tuple(unknown), tuple(conflicting))

    def model(self) -> Served:
        """Say what the service answers with now. Raises: `Unavailable`, `Misconfigured`, `NotFound`."""
        reply = self._connection.ask("GET", "/v1/model")
        if reply.status != HTTPStatus.OK:
            raise self._connection.error(reply)
        try:
            return msgspec.json.decode(reply.body, type=Served)
        except msgspec.DecodeError as error:
            raise InfraError(f"{self._connection.url} says of its model what is not understood: {error}") from error

    def close(self) -> None:
        """Close the connections; what is under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _decoder(self) -> RowDecoder:
        return RowDecoder(self.model().contract)

    def _parts(self, batches: Iterable[Any], skip_refused: bool) -> Iterator[_Part]:
        """Cut tables into what requests carry."""
        mint = Mint(os.urandom(KEY_BYTES), 0) if self._name_rows else None
        first = 0
        for batch in batches:
            for rows in [_arrow(batch)] if _is_table(batch) else _batched(batch):
                table, places, refused = self._accepted(rows, first, skip_refused)
                first += len(rows)
                count = -(-len(table) // MAXIMUM_ROWS) or 1
                for number in range(count):
                    start, stop = (len(table) * one // count for one in (number, number + 1))
                    part = table.slice(start, stop - start)
                    named = _named(part, mint) if mint and len(part) else part
                    yield _Part(named, places[start:stop], refused if number == 0 else ())

    def _accepted(self, rows: "pa.Table | Sequence[Row]", first: int, skip_refused: bool) -> _Part:
        """Give rows in the contract's types, without those that break it where they shall be skipped."""
        read = self._read if isinstance(rows, pa.Table) else self._decoded
        try:
            table, places, found = read(rows, skip_refused)
        except ContractError as error:
            raise _counted_from(first, error) from error
        refused = tuple(_moved(one, first) for one in found)
        if refused and not skip_refused:
            raise broken_contract(refused[:SHOWN])
        return _Part(table, places + first, refused)

    def _read(self, rows: pa.Table, check: bool) -> _Accepted:
        """Read a table by the contract; find each row that breaks it, where that is asked for."""
        table, found = reading.read(self._decoder.contract, rows)
        if check:
            unread = {one.row for one in found}
            found += [one for one in arrow.refused(self._decoder.contract, table) if one.row not in unread]
            found.sort(key=lambda one: one.row or 0)
        places = _others(len(table), found)
        return _Accepted(table.take(arrow.numbers(pa.int64(), places)) if found else table, places, found)

    def _decoded(self, rows: Sequence[Row], _: bool) -> _Accepted:
        """Make a table of the rows that keep the contract. Raises: `ContractError` for what is wrong with all."""
        try:
            return _Accepted(self._columns(rows), np.arange(len(rows)), [])
        except ContractError:
            found = [_moved(one, place) for place, row in enumerate(rows) for one in self._broken(row)]
            if not found:
                raise
        places = _others(len(rows), found)
        return _Accepted(self._columns([rows[place] for place in places.tolist()]), places, found)

    def _columns(self, rows: Sequence[Row]) -> pa.Table:
        contract = self._decoder.contract
        if not rows:
            return arrow.schema(contract).empty_table()
        accepted = self._decoder.convert(rows)
        columns = arrow.arrays(contract, self._decoder.together([accepted]))
        table = pa.Table.from_arrays(columns, schema=arrow.schema(contract))
        if accepted.ids is None:
            return table
        return table.append_column(ID, arrow.without_empty(arrow.text([name or "" for name in accepted.ids])))

    def _broken(self, row: Row) -> Sequence[Violation]:
        try:
            self._decoder.convert([row])
        except ContractError as error:
            return error.violations
        return ()

    def _answer(self, part: _Part) -> Predictions:
        """Have a part answered, in two where its body is too large."""
        table, places, refused = part
        schema = answered_columns(self._decoder.contract.target)
        if not len(table):
            return Predictions(schema.empty_table(), refused)
        body = _stream(table)
        if len(body) > MAXIMUM_BODY_BYTES and len(table) > 1:
            half = len(table) // 2
            one = self._answer(_Part(table.slice(0, half), places[:half], refused))
            other = self._answer(_Part(table.slice(half), places[half:]))
            return Predictions(pa.concat_tables([one.table, other.table]), refused)
        reply = self._connection.ask("POST", "/v1/predict", body, arrow.MEDIA_TYPE)
        if reply.status != HTTPStatus.OK:
            raise self._error(reply, places)
        try:
            answered = pa.ipc.open_stream(reply.body).read_all()
            version = answered.schema.metadata[b"version"].decode()
            own = {"row": arrow.numbers(pa.int64(), places), "version": pa.repeat(version, len(table))}
            columns = [own[name] if name in own else answered[name] for name in schema.names]
            return Predictions(pa.Table.from_arrays(columns, schema=schema), refused)
        except (pa.ArrowException, KeyError, TypeError) as error:
            raise InfraError(f"{self._connection.url} answers what is not understood: {error}") from error

    def _error(self, reply: Reply, places: Places) -> OkruhError:
        """Say what is wrong with a part, by the caller's rows."""
        fault = reply.fault
        found = [one if one.row is None else _moved(one, int(places[one.row]) - one.row) for one in reply.violations]
        match reply.status:
            case HTTPStatus.BAD_REQUEST | HTTPStatus.REQUEST_ENTITY_TOO_LARGE | HTTPStatus.UNPROCESSABLE_ENTITY:
                return broken_contract(found) if found else ContractError(fault.message)
            case HTTPStatus.CONFLICT if found:
                return IdsTaken("; ".join(map(str, found[:SHOWN])), found, fault.conflicting)
            case _:
                return self._connection.error(reply)


def _is_table(rows: object) -> bool:
    return hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__")


def _arrow(table: Any) -> pa.Table:
    """Give a table as Arrow; an index of pandas is no column. Raises: `ContractError`."""
    try:
        if type(table).__module__.partition(".")[0] == "pandas":
            return pa.Table.from_pandas(table, preserve_index=False)
        return pa.table(table)
    except pa.ArrowException as error:
        raise ContractError(f"the table cannot be read: {' '.join(str(error).split())}") from error


def _moved(violation: Violation, by: int) -> Violation:
    return Violation(violation.field, violation.rule, None if violation.row is None else violation.row + by)


def _counted_from(first: int, error: ContractError) -> ContractError:
    return broken_contract([_moved(one, first) for one in error.violations]) if error.violations else error


def _others(count: int, found: Iterable[Violation]) -> Places:
    """Give the places in which nothing was found."""
    return np.delete(np.arange(count), [one.row for one in found if one.row is not None])


def _batched(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while some := list(islice(left, MAXIMUM_ROWS)):
        yield some


def _named(table: pa.Table, mint: Mint) -> pa.Table:
    """Give rows that have no id one."""
    ids = Ids(mint.mint(len(table))[0]).arrow()
    place = table.schema.get_field_index(ID)
    if place < 0:
        return table.append_column(ID, ids)
    given = table.column(place)
    if not given.null_count or not pa.types.is_string(given.type):
        return table
    return table.set_column(place, ID, pc.coalesce(given, ids))


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content
