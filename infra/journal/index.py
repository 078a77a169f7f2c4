"""What the journal must find by id: ids that callers gave, labels, and which segments were archived. One SQLite file.

Ids of the journal's own are not in it (`infra.journal.ids`). A name stands for one row for as long as it is kept, a
label is recorded once; the first one stays.
"""

import fcntl
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from infra.errors import Unavailable
from infra.journal.ids import given_out_at

_LOCK_WAIT_S = 10.0
_IDS_A_STATEMENT = 500
_MAXIMUM_SEQ = 2**63 - 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS names (id TEXT PRIMARY KEY, row BLOB NOT NULL, segment TEXT NOT NULL,"
    " answered_at TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS labels (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
    " value NOT NULL, known_at TEXT NOT NULL, answered_at TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS archived (digest TEXT PRIMARY KEY, rows INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS names_by_age ON names (answered_at)",
)


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What turned out to be true for one prediction."""

    id: str
    value: float | int | str
    """Of the target's kind."""
    known_at: datetime
    """When it became known, aware, UTC."""


class LabelOutcome(StrEnum):
    """What became of a label."""

    KEPT = "kept"
    REPEATED = "repeated"
    """The same value was recorded before."""
    UNKNOWN = "unknown"
    """No prediction that is remembered bears this id; nothing was recorded."""
    CONFLICTING = "conflicting"
    """Another value was recorded before; that one stays."""


class Named(NamedTuple):
    """A row that its caller named."""

    id: str
    row: bytes
    """Digest of its columns."""
    answered_at: datetime


class Index:
    """One open connection, for one thread at a time."""

    def __init__(self, path: Path, key: bytes) -> None:
        """Open an index, made where it does not exist. Raises: `sqlite3.Error`, `OSError`."""
        self._key = key
        self._lock = path.with_suffix(".lock")
        self._connection = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            with self._turn():  # two that open a new file at once find it locked, and SQLite does not wait for that
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                for statement in _SCHEMA:
                    self._connection.execute(statement)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection. Raises: `sqlite3.Error`."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Have everything in the block be durable at its end, or nothing; others wait, and all have their turn.

        SQLite's own waiting is a polling, at which the busiest process wins again and again.
        """
        with self._turn(), self._begun():
            yield

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock.open("wb") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _begun(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def recorded(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Give the rows that names stand for, of those that are known."""
        return dict(self._of(ids, "SELECT id, row FROM names WHERE id IN ({})"))

    def place(self, ids: Sequence[str]) -> dict[str, str]:
        """Give the names of the segments that names are recorded in, of those that are known."""
        return dict(self._of(ids, "SELECT id, segment FROM names WHERE id IN ({})"))

    def name(self, rows: Sequence[Named], segment: str) -> None:
        """Have names stand for rows of a segment."""
        values = [(one.id, one.row, segment, _written(one.answered_at)) for one in rows]
        self._connection.executemany("INSERT INTO names (id, row, segment, answered_at) VALUES (?, ?, ?, ?)", values)

    def label(self, labels: Sequence[Label], since: datetime) -> list[LabelOutcome]:
        """Record labels of predictions that were answered since a moment; give what became of each."""
        ids = [label.id for label in labels]
        answered = dict(self._of(ids, "SELECT id, answered_at FROM names WHERE id IN ({})"))
        known: dict[str, float | int | str] = dict(self._of(ids, "SELECT id, value FROM labels WHERE id IN ({})"))
        outcomes = []
        for label in labels:
            own = None if label.id in answered else given_out_at(self._key, label.id)
            answered_at = _written(own) if own is not None and own >= since else answered.get(label.id)
            if answered_at is None:
                outcomes.append(LabelOutcome.UNKNOWN)
            elif label.id in known:
                same = known[label.id] == label.value
                outcomes.append(LabelOutcome.REPEATED if same else LabelOutcome.CONFLICTING)
            else:
                known[label.id] = label.value
                values = (label.id, label.value, _written(label.known_at), answered_at)
                statement = "INSERT INTO labels (id, value, known_at, answered_at) VALUES (?, ?, ?, ?)"
                self._connection.execute(statement, values)
                outcomes.append(LabelOutcome.KEPT)
        return outcomes

    def archived(self, rows: Mapping[str, int]) -> None:
        """Remember segments as archived, with how many rows each had."""
        statement = "INSERT OR IGNORE INTO archived (digest, rows) VALUES (?, ?)"
        self._connection.executemany(statement, rows.items())

    def forget(self, before: datetime, labels_until: int) -> None:
        """Forget names, and labels with at most this sequence number, of predictions answered before a moment."""
        self._connection.execute("DELETE FROM names WHERE answered_at < ?", (_written(before),))
        statement = "DELETE FROM labels WHERE answered_at < ? AND seq <= ?"
        self._connection.execute(statement, (_written(before), labels_until))

    def _of(self, ids: Sequence[str], query: str) -> Iterator[tuple[str, Any]]:
        for start in range(0, len(ids), _IDS_A_STATEMENT):
            some = ids[start : start + _IDS_A_STATEMENT]
            yield from self._connection.execute(query.format(",".join("?" * len(some))), some)


def labels(path: Path, after: int = 0, until: int | None = None) -> list[Label]:
    """Read the labels with sequence numbers in (after, until], in order. Raises: `Unavailable`."""
    query = "SELECT id, value, known_at FROM labels WHERE seq > ? AND seq <= ? ORDER BY seq"
    rows = look(path, query, after, _MAXIMUM_SEQ if until is None else until)
    return [Label(id=name, value=value, known_at=datetime.fromisoformat(at)) for name, value, at in rows]


def look(path: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Run a query that only reads; an index that was never written is empty. Raises: `Unavailable`."""
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(path, timeout=_LOCK_WAIT_S)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise Unavailable(f"journal {path} cannot be read: {error}") from error


def remembered_since(days: float) -> datetime:
    """Give the moment before which nothing is remembered; aware, UTC."""
    return datetime.now(UTC) - timedelta(days=days)


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")
