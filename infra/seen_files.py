"""What became of files that were read before, so that a file which did not change is not read again.

A file is known again by its look: size, times and inode. Time alone can deceive, as it can in git: a file that is
written twice within one tick of the clock looks the same both times. So a look counts only where the file was
`SETTLED_AFTER_NS` older than the moment at which it was looked at; whoever looks does so before reading.

The index is one SQLite file a model, and a cache: where it is lost, locked, damaged, cut short by a kill or cannot be
written, files are read again, and nothing else happens. What is remembered holds for one branch of the lake and one
basis (whatever else a result depends on); whether the lake still has the result is the caller's to check.

Costs: some 10 us to recall a file, one small transaction without fsync to remember one.
"""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

SETTLED_AFTER_NS = 2_000_000_000
"""The coarsest clock of a file system in use, FAT's; kernels stamp files some milliseconds late as well."""

_LOCK_WAIT_S = 10.0
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS seen (branch TEXT NOT NULL, path BLOB NOT NULL, basis TEXT NOT NULL,"
    " look TEXT NOT NULL, partition TEXT NOT NULL, result BLOB NOT NULL, PRIMARY KEY (branch, path)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS by_partition ON seen (branch, partition)",
)
_RECALL = "SELECT result FROM seen WHERE branch = ? AND path = ? AND basis = ? AND look = ?"
_REMEMBER = "INSERT OR REPLACE INTO seen (branch, path, basis, look, partition, result) VALUES (?, ?, ?, ?, ?, ?)"
_FORGET = "DELETE FROM seen WHERE branch = ? AND partition = ?"
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}
"""An index of another form, from another version, is a plain error: no such column."""


class Look(NamedTuple):
    """How a file looked at one moment."""

    text: str
    is_settled: bool
    """Whether the file was old enough for a later change to show."""


def look_at(file: Path) -> Look:
    """Look at a file without reading it. Raises: `OSError`."""
    now_ns = time.time_ns()
    found = os.stat(file)  # noqa: PTH116 (a fifth of the cost of a path's own)
    text = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
    return Look(text, found.st_mtime_ns < now_ns - SETTLED_AFTER_NS)


class SeenFiles:
    """What a model's index knows on one branch and basis. For one thread; to be closed."""

    def __init__(self, path: Path, branch: str, basis: str) -> None:
        self.path = path
        self._branch = branch
        self._basis = basis
        self._connection = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the index."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def recall(self, file: Path, look: Look) -> bytes | None:
        """Give what was remembered of a file that looks as it did then; None otherwise."""
        found = self._run(_RECALL, self._branch, _key(file), self._basis, look.text)
        return found[0][0] if found else None

    def remember(self, file: Path, look: Look, partition: str, result: bytes) -> None:
        """Keep what became of a file, in place of what was kept of it; nothing where its look cannot be trusted."""
        if look.is_settled:
            self._run(_REMEMBER, self._branch, _key(file), self._basis, look.text, partition, result)

    def forget(self, partition: str) -> None:
        """Drop what is remembered of every file of a partition, because another file has replaced it."""
        self._run(_FORGET, self._branch, partition)

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            if _code(error) in _DAMAGED:
                self.close()
                _remove(self.path)
                self._connection = _open(self.path)
            return []


def _key(file: Path) -> bytes:
    """Name a file from any working directory; a name need not be UTF-8."""
    return os.fsencode(os.path.abspath(file))  # noqa: PTH100


def _open(path: Path) -> sqlite3.Connection | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connect(path)
        except sqlite3.Error as error:
            if _code(error) not in _DAMAGED:
                return None
            _remove(path)
            return _connect(path)
    except (OSError, sqlite3.Error):
        return None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        for statement in _SCHEMA:
            connection.execute(statement)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _code(error: sqlite3.Error) -> int:
    """Give SQLite's primary error code."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
