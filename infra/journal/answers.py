"""Answers as columns: a batch of rows, what was answered, and the journal's own columns beside them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.journal import segments
from infra.journal.ids import Ids, moment, put_together
from infra.journal.index import Named
from infra.journal.segments import ANSWERED_AT, runs
from models.contract import arrow
from models.contract.answers import shape
from models.contract.clock import EPOCH, microseconds
from models.contract.columns import MISSING_CODE, Contract
from models.contract.rows import Array, Columns

_TIME, _ZONE = b"time", b"zone"
"""Under these a schema's metadata name the column that says when the event was, and its wall clock's zone."""

_SHEET_ROWS = 2048

_Scalar = TypeVar("_Scalar", bound=np.generic)

NAMED = "named"
"""The column that says whether its caller named a row."""


class Answers(NamedTuple):
    """N answered rows, columns and all; see `Journal.append`."""

    contract: Contract
    version: str
    ids: Ids
    columns: Columns
    values: Array
    """See `models.contract.answers`."""
    answered_ms: npt.NDArray[np.int64]
    """[N], since 1970."""

    def answered_at(self, place: int) -> datetime:
        """Say when a row was answered; aware, UTC."""
        return moment(int(self.answered_ms[place]))


class Sheet:
    """Answers of one model that come one after the other, put together as they come.

    Whoever records them, or has another model answer them, has an array a column to handle and not hundreds, while
    others wait for the interpreter. A batch that nothing is put to stays what it is.
    """

    def __init__(self, contract: Contract, version: str) -> None:
        self._contract = contract
        self._version = version
        self._ids: list[Ids] = []
        self._columns: Columns = {}
        self._values: Array = np.empty(shape(contract.target, 0), np.float32)
        self._answered_ms: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def has_room(self, count: int) -> bool:
        """Say whether so many more rows have a place here."""
        return self._rows + count <= _SHEET_ROWS

    def add(self, ids: Ids, columns: Columns, values: Array, answered_ms: int) -> None:
        """Put rows below the others, for which there is room; the first ones however many they are."""
        start, stop = self._rows, self._rows + len(ids)
        if not start:
            self._columns, self._values, self._answered_ms = columns, values, np.full(stop, answered_ms)
        else:
            if stop > len(self._values):
                self._make_room()
            for name, array in self._columns.items():
                array[start:stop] = columns[name]
            self._values[start:stop] = values
            self._answered_ms[start:stop] = answered_ms
        self._ids.append(ids)
        self._rows = stop

    def answers(self, parts: Sequence[tuple[int, int]] | None = None) -> Answers:
        """Give what was put here: all of it, or the rows from one place to another, of each part."""
        ids, rows = put_together(self._ids), slice(self._rows)
        self._ids = [ids]
        if parts is None or list(parts) == [(0, self._rows)]:
            return self._taken(ids, rows)
        mask = np.zeros(self._rows, bool)
        for start, stop in parts:
            mask[start:stop] = True
        places = np.flatnonzero(mask)
        return self._taken(ids.take(places), places)

    def _taken(self, ids: Ids, rows: "slice | npt.NDArray[np.intp]") -> Answers:
        columns = {name: array[rows] for name, array in self._columns.items()}
        return Answers(self._contract, self._version, ids, columns, self._values[rows], self._answered_ms[rows])

    def _make_room(self) -> None:
        self._columns = {name: _with_room(array) for name, array in self._columns.items()}
        self._values, self._answered_ms = _with_room(self._values), _with_room(self._answered_ms)


class Kept(NamedTuple):
    """What is recorded of answers."""

    answers: Answers
    mask: npt.NDArray[np.bool_] | None = None
    """Which rows; None for all."""
    names: Sequence[Named] = ()


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One answered row."""

    id: str
    version: str
    event_at: datetime
    """What the row is about (the contract's time column; without one, when it was answered), aware, UTC."""
    answered_at: datetime
    row: dict[str, Any]
    """Its columns."""
    value: float | list[float]
    """See `models.contract.answers`."""


def batch_of(contract: Contract, kept: Sequence[Kept]) -> pa.RecordBatch:
    """Make one batch of answers: the contract's columns, and those of the journal."""
    answers = [one.answers for one in kept]
    columns = {column.name: _joined([one.columns[column.name] for one in answers]) for column in contract.inputs}
    own = {
        "id": put_together([one.ids for one in answers]).arrow(),
        "predicted": arrow.answers(_joined([one.values for one in answers])),
        NAMED: _flags([one.ids for one in answers]),
    }
    names = [*(column.name for column in contract.inputs), *own]
    batch = pa.RecordBatch.from_arrays([*arrow.arrays(contract, columns), *own.values()], names)
    if contract.time is not None:
        batch = batch.replace_schema_metadata({_TIME: contract.time.name, _ZONE: contract.time.zone or ""})
    answered_ms = _joined([one.answered_ms for one in answers])
    counts = [len(one.ids) for one in answers]
    if any(one.mask is not None for one in kept):
        masks = [one.mask if one.mask is not None else np.ones(len(one.answers.ids), bool) for one in kept]
        counts = [int(np.count_nonzero(mask)) for mask in masks]
        mask = np.concatenate(masks)
        batch, answered_ms = batch.filter(arrow.flags(mask)), answered_ms[mask]
    versions = arrow.text([one.version for one, count in zip(answers, counts, strict=True) if count])
    batch = batch.append_column("version", runs(versions, np.cumsum(list(filter(None, counts)), dtype=np.int32)))
    last = np.flatnonzero(np.append(answered_ms[1:] != answered_ms[:-1], len(answered_ms) > 0))
    moments = arrow.numbers(pa.timestamp("us", "UTC"), answered_ms[last] * 1000)
    return batch.append_column(ANSWERED_AT, runs(moments, (last + 1).astype(np.int32)))


def read(path: Path) -> Iterator[pa.RecordBatch]:
    """Read what is durable of a segment of answers, and when each row's event was. Raises: `OSError`.

    That is said by the row already, or it is when the row was answered; to say it once more while a caller waits would
    cost a tenth of the record.
    """
    for batch in segments.read(path):
        known = batch.schema.metadata
        if _TIME not in known:
            yield batch.append_column("event_at", batch[ANSWERED_AT])
            continue
        times, zone = batch[known[_TIME].decode()], known[_ZONE].decode()
        yield batch.append_column("event_at", arrow.event_at(zone or None, times.cast(pa.int64()).to_numpy()))


def prediction(row: dict[str, Any]) -> Prediction:
    """Take a prediction out of a row of a segment or of an archived table."""
    known = {name: row.pop(name) for name in ("id", "version", "event_at", ANSWERED_AT, "predicted")}
    value = known.pop("predicted")
    return Prediction(**known, row=row, value=value)


def row_digest(columns: Columns, place: int) -> bytes:
    """Give what two rows have in common when they are the same."""
    return _digest([array[place : place + 1].tolist()[0] for array in columns.values()])


def named_in(table: pa.Table, place: int) -> Named:
    """Say again what a name stands for, where a kill came before it was said."""
    row = prediction(table.slice(place, 1).drop_columns([NAMED]).to_pylist()[0])
    return Named(row.id, _digest(row.row.values()), row.answered_at)


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _with_room(array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    larger = np.empty((_SHEET_ROWS, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _flags(ids: list[Ids]) -> pa.Array:
    named = np.zeros(sum(map(len, ids)), bool)
    start = 0
    for one in ids:
        if one.given:
            named[[start + place for place in one.given]] = True
        start += len(one)
    return arrow.flags(named)


def _digest(values: Iterable[object]) -> bytes:
    content = msgspec.json.encode([_plain(value) for value in values])
    return hashlib.blake2b(content, digest_size=16).digest()


def _plain(value: object) -> object:
    """Give a value of `Columns` or of a table in one form: null is null, and a time microseconds."""
    if isinstance(value, datetime):
        return microseconds(value - EPOCH.replace(tzinfo=EPOCH.tzinfo if value.tzinfo else None))
    return None if value in ("", MISSING_CODE) else value
