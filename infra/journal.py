"""The durable record of answered predictions and of labels that came later.

One SQLite file a model and branch. What `append` was given is on disk (WAL, synchronous=FULL) before its future
resolves, so that whoever waits for it before answering never answers what is not recorded. One thread writes: whatever
arrives during a commit becomes the next one, so that a disk's flush is paid once for all requests that wait for it.
A prediction id is recorded once, a label once; the first one stays, and whoever brings another is told.

A write that fails (disk full, folder not writable) fails the futures that waited for it and nothing else: the next one
starts afresh. Several processes may write and read one journal at a time.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from infra.errors import NotFound, Unavailable

_LOCK_WAIT_S = 10.0
_ROWS_A_STATEMENT = 64  # each statement lets go of the interpreter and must win it back from the event loop
_IDS_A_STATEMENT = 500
_MAXIMUM_SEQ = 2**63 - 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS predictions (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, version TEXT NOT NULL,"
    " event_at TEXT NOT NULL, row BLOB NOT NULL, value REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS labels (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, value REAL NOT NULL,"
    " known_at TEXT NOT NULL)",
)
_INSERT_PREDICTIONS = "INSERT INTO predictions (id, version, event_at, row, value) VALUES "
_FIRST_STAYS = " ON CONFLICT (id) DO NOTHING"
_RECORDED_ROWS = "SELECT id, row FROM predictions WHERE id IN ({})"
_RECORDED_LABELS = (
    "SELECT predictions.id, labels.value FROM predictions LEFT JOIN labels ON labels.id = predictions.id"
    " WHERE predictions.id IN ({})"
)


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One answered row."""

    id: str
    version: str
    event_at: datetime
    """What the row is about (the contract's time column), aware, UTC."""
    row: bytes
    """The row as JSON, raw columns, as decoded."""
    value: float


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What turned out to be true for one prediction."""

    id: str
    value: float
    known_at: datetime
    """When it became known, aware, UTC."""


class LabelOutcome(StrEnum):
    """What became of a label."""

    KEPT = "kept"
    REPEATED = "repeated"
    """The same value was recorded before."""
    UNKNOWN = "unknown"
    """No prediction bears this id; nothing was recorded."""
    CONFLICTING = "conflicting"
    """Another value was recorded before; that one stays."""


class Position(NamedTuple):
    """The last sequence number of each table; 0 where it is empty."""

    predictions: int
    labels: int


Recorded = Mapping[str, bytes]
"""Rows that ids which came again were first recorded with, by id."""


class _Group:
    """What the next transaction writes, and who waits for it."""

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []
        self.labels: list[tuple[Sequence[Label], Future[list[LabelOutcome]]]] = []
        self.done: Future[Recorded] = _uncancellable()
        self.awaited = False
        """Whether somebody waits for it."""

    def fail(self, error: Unavailable) -> None:
        """Tell everybody who waits."""
        self.done.set_exception(error)
        for _, outcomes in self.labels:
            outcomes.set_exception(error)


class Journal:
    """One model's record on one branch. Thread-safe; opened at the first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: str | None = None
        """Why the last write failed; None when it did not."""
        self._wake = threading.Condition()
        self._group = _Group()
        self._closing = False
        self._thread: threading.Thread | None = None

    def append(self, predictions: Sequence[Prediction]) -> Future[Recorded]:
        """Record predictions; the future resolves when they are durable, or with `Unavailable`.

        Everything that one commit makes durable shares one future; it cannot be cancelled. It gives the recorded row of
        every id that was there before: where that is another row, the new one was not recorded.
        """
        with self._next_group() as group:
            group.predictions.extend(predictions)
            return group.done

    def append_labels(self, labels: Sequence[Label]) -> Future[list[LabelOutcome]]:
        """Record labels; the future gives each one's outcome when the kept ones are durable, or `Unavailable`."""
        outcomes: Future[list[LabelOutcome]] = _uncancellable()
        with self._next_group() as group:
            group.labels.append((labels, outcomes))
        return outcomes

    def close(self) -> None:
        """Write what waits and stop; later appends are `Unavailable`."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def last(self) -> Position:
        """Say how far the journal reaches; what lies up to there never changes."""
        return self._position("SELECT (SELECT max(seq) FROM predictions), (SELECT max(seq) FROM labels)")

    def counts(self) -> Position:
        """Count predictions and labels."""
        return self._position("SELECT (SELECT count(*) FROM predictions), (SELECT count(*) FROM labels)")

    def predictions(self, after: int = 0, until: int | None = None) -> list[Prediction]:
        """Read the predictions with sequence numbers in (after, until], in order."""
        query = "SELECT id, version, event_at, row, value FROM predictions WHERE seq > ? AND seq <= ? ORDER BY seq"
        return [_prediction(row) for row in self._read(query, after, _MAXIMUM_SEQ if until is None else until)]

    def labels(self, after: int = 0, until: int | None = None) -> list[Label]:
        """Read the labels with sequence numbers in (after, until], in order."""
        query = "SELECT id, value, known_at FROM labels WHERE seq > ? AND seq <= ? ORDER BY seq"
        return [_label(row) for row in self._read(query, after, _MAXIMUM_SEQ if until is None else until)]

    def find(self, prediction_id: str) -> tuple[Prediction, Label | None]:
        """Read one prediction and its label. Raises: `NotFound`."""
        found = self._read("SELECT id, version, event_at, row, value FROM predictions WHERE id = ?", prediction_id)
        if not found:
            raise NotFound(f"no prediction has the id {prediction_id!r} in journal {self.path.name}")
        labels = self._read("SELECT id, value, known_at FROM labels WHERE id = ?", prediction_id)
        return _prediction(found[0]), _label(labels[0]) if labels else None

    def _position(self, query: str) -> Position:
        rows = self._read(query)
        return Position(*(number or 0 for number in rows[0])) if rows else Position(0, 0)

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query; a journal that was never written is empty."""
        if not self.path.exists():
            return []
        try:
            with closing(_connect(self.path)) as connection:
                return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(f"journal {self.path} cannot be read: {error}") from error

    @contextmanager
    def _next_group(self) -> Iterator[_Group]:
        with self._wake:
            if self._closing:
                raise Unavailable(f"journal {self.path} is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_groups, name="journal", daemon=True)
                self._thread.start()
            self._group.awaited = True
            yield self._group
            self._wake.notify()

    def _write_groups(self) -> None:
        connection: sqlite3.Connection | None = None
        while group := self._take_group():
            try:
                connection = connection or _connect(self.path)
                recorded, outcomes = _write(connection, group)
            except Exception as error:  # noqa: BLE001 (whoever waits must be told, or waits for ever)
                self.failure = str(error)
                group.fail(_unwritable(self.path, error))
                _close(connection)
                connection = None
                continue
            self.failure = None
            group.done.set_result(recorded)
            for (_, waiting), outcome in zip(group.labels, outcomes, strict=True):
                waiting.set_result(outcome)
        _close(connection)

    def _take_group(self) -> _Group | None:
        """Wait for something to write; None when there is nothing left and the journal closes."""
        with self._wake:
            while not self._group.awaited:
                if self._closing:
                    return None
                self._wake.wait()
            group, self._group = self._group, _Group()
            return group


def _write(connection: sqlite3.Connection, group: _Group) -> tuple[Recorded, list[list[LabelOutcome]]]:
    """Make a group durable; give what its repeated ids were recorded with, and the outcomes of its labels."""
    if not group.labels and 0 < len(group.predictions) <= _ROWS_A_STATEMENT:
        return _insert_predictions(connection, group.predictions), []  # a statement alone is a transaction
    connection.execute("BEGIN IMMEDIATE")
    try:
        recorded: dict[str, bytes] = {}
        for start in range(0, len(group.predictions), _ROWS_A_STATEMENT):
            recorded |= _insert_predictions(connection, group.predictions[start : start + _ROWS_A_STATEMENT])
        outcomes = [_insert_labels(connection, labels) for labels, _ in group.labels]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return recorded, outcomes


def _insert_predictions(connection: sqlite3.Connection, predictions: Sequence[Prediction]) -> dict[str, bytes]:
    """Insert those whose id is new; when some are not, give all their rows as recorded."""
    values: list[object] = []
    for one in predictions:
        values += (one.id, one.version, one.event_at.isoformat(), one.row, one.value)
    statement = _INSERT_PREDICTIONS + ",".join(["(?,?,?,?,?)"] * len(predictions)) + _FIRST_STAYS
    if connection.execute(statement, values).rowcount == len(predictions):
        return {}
    ids = [one.id for one in predictions]
    return dict(connection.execute(_RECORDED_ROWS.format(",".join("?" * len(ids))), ids).fetchall())


def _insert_labels(connection: sqlite3.Connection, labels: Sequence[Label]) -> list[LabelOutcome]:
    known: dict[str, float | None] = {}
    for start in range(0, len(labels), _IDS_A_STATEMENT):
        ids = [label.id for label in labels[start : start + _IDS_A_STATEMENT]]
        known.update(connection.execute(_RECORDED_LABELS.format(",".join("?" * len(ids))), ids).fetchall())
    outcomes = []
    for label in labels:
        recorded = known.get(label.id)
        if label.id not in known:
            outcomes.append(LabelOutcome.UNKNOWN)
        elif recorded is None:
            known[label.id] = label.value
            values = (label.id, label.value, label.known_at.astimezone(UTC).isoformat())
            connection.execute("INSERT INTO labels (id, value, known_at) VALUES (?, ?, ?)", values)
            outcomes.append(LabelOutcome.KEPT)
        else:
            outcomes.append(LabelOutcome.REPEATED if recorded == label.value else LabelOutcome.CONFLICTING)
    return outcomes


def _connect(path: Path) -> sqlite3.Connection:
    """Open a journal, made where it does not exist. Raises: `sqlite3.Error`, `OSError`."""
    _make_folder(path.parent)
    connection = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        for statement in _SCHEMA:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_folder(folder: Path) -> None:
    """Make a folder that outlives a power cut; SQLite sees to the files in it."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        descriptor = os.open(one.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _close(connection: sqlite3.Connection | None) -> None:
    """Close what may be broken; the next write opens another."""
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()


def _unwritable(path: Path, error: Exception) -> Unavailable:
    failure = Unavailable(f"journal {path} cannot be written ({error}): free space or check its permissions")
    failure.__cause__ = error
    return failure


def _uncancellable() -> Future[Any]:
    """Make a future that many may wait for, so that none of them may cancel it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _prediction(row: tuple[Any, ...]) -> Prediction:
    name, version, event_at, content, value = row
    return Prediction(id=name, version=version, event_at=datetime.fromisoformat(event_at), row=content, value=value)


def _label(row: tuple[Any, ...]) -> Label:
    name, value, known_at = row
    return Label(id=name, value=value, known_at=datetime.fromisoformat(known_at))
