"""Answers as columns: a batch of rows, what was answered, and the journal's own columns beside them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.journal import segments
from infra.journal.ids import Ids, joined
from infra.journal.index import Named
from infra.journal.segments import ANSWERED_AT, runs
from models.contract import arrow
from models.contract.clock import EPOCH, microseconds
from models.contract.columns import MISSING_CODE, Contract
from models.contract.rows import Array, Columns

_TIME, _ZONE = b"time", b"zone"
"""Under these a schema's metadata name the column that says when the event was, and its wall clock's zone."""

NAMED = "named"
"""The column that says whether its caller named a row."""


class Answers(NamedTuple):
    """N answered rows, columns and all; see `Journal.append`."""

    contract: Contract
    version: str
    ids: Ids
    columns: Columns
    values: Array
    answered_at: datetime
    """Aware, UTC; whole milliseconds."""


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
    """What the row is about (the contract's time column), aware, UTC."""
    answered_at: datetime
    row: dict[str, Any]
    """Its columns."""
    value: float


def batch_of(contract: Contract, kept: Sequence[Kept]) -> pa.RecordBatch:
    """Make one batch of answers: the contract's columns, and those of the journal."""
    answers = [one.answers for one in kept]
    columns = {column.name: _joined([one.columns[column.name] for one in answers]) for column in contract.inputs}
    own = {
        "id": joined([one.ids for one in answers]),
        "predicted": arrow.numbers(pa.float64(), _joined([one.values for one in answers]).astype(np.float64)),
        NAMED: _flags([one.ids for one in answers]),
    }
    names = [*(column.name for column in contract.inputs), *own]
    batch = pa.RecordBatch.from_arrays([*arrow.arrays(contract, columns), *own.values()], names)
    batch = batch.replace_schema_metadata({_TIME: contract.time.name, _ZONE: contract.time.zone or ""})
    counts = np.array([len(one.ids) for one in answers])
    if any(one.mask is not None for one in kept):
        masks = [one.mask if one.mask is not None else np.ones(len(one.answers.ids), bool) for one in kept]
        counts = np.array([np.count_nonzero(mask) for mask in masks])
        batch = batch.filter(arrow.flags(np.concatenate(masks)))
    moments_us = np.array([microseconds(one.answered_at - EPOCH) for one in answers], np.int64)
    versions = pa.array([one.version for one in answers], pa.string())
    batch = batch.append_column("version", runs(versions, counts))
    return batch.append_column(ANSWERED_AT, runs(arrow.numbers(pa.timestamp("us", "UTC"), moments_us), counts))


def read(path: Path) -> Iterator[pa.RecordBatch]:
    """Read what is durable of a segment of answers, and when each row's event was. Raises: `OSError`.

    That is said by the row already; to say it once more while a caller waits would cost a tenth of the record.
    """
    for batch in segments.read(path):
        known = batch.schema.metadata
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


def _flags(ids: list[Ids]) -> pa.Array:
    named = np.zeros(sum(map(len, ids)), bool)
    start = 0
    for one in ids:
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
