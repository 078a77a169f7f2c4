"""The lake's SQLite file: schema, connections, transactions.

Guarantees: a `writing` block is one atomic, durable transaction (WAL, synchronous=FULL, BEGIN IMMEDIATE); a `reading`
block sees one state; neither waits for the other. The file appears whole or not at all: it is built aside and renamed,
so creating is safe in many processes at once and may be killed at any moment. Safe in threads (each use takes a
connection of its own from the idle ones), after spawn, and after fork (a child leaves inherited connections alone).

Costs: one fsync a writing transaction; writers queue for at most `BUSY_TIMEOUT_S`.
"""

import os
import secrets
import shutil
import sqlite3
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from infra.errors import Corrupt, InfraError, Misconfigured
from infra.folders import sync_folder
from infra.lake.embedded.faults import translated

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for the others before the lake counts as locked."""

SCHEMA_VERSION = 3

_SCHEMA = """
CREATE TABLE branches (name TEXT PRIMARY KEY, head TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tags (name TEXT PRIMARY KEY, commit_id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE protected (branch TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE staged (
    branch TEXT NOT NULL, path TEXT NOT NULL, digest TEXT, size INTEGER, PRIMARY KEY (branch, path)
) WITHOUT ROWID;
CREATE TABLE commits (id TEXT PRIMARY KEY, record BLOB NOT NULL, changed BLOB NOT NULL);
CREATE TABLE manifests (digest TEXT PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE erased (digest TEXT PRIMARY KEY, replacement TEXT) WITHOUT ROWID;
CREATE TABLE objects (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, blocks BLOB NOT NULL);
"""

_inherited: list[deque[sqlite3.Connection]] = []
"""Connections opened before a fork: SQLite forbids the child even to close them."""


class Database:
    """The connections to one lake's SQLite file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "metadata"
        self._file = self._folder / "lake.sqlite"
        self._start_pool()

    def prepare(self, fill: Callable[[sqlite3.Connection], None]) -> None:
        """Create the file, filled, unless it exists. Raises: `Misconfigured` for a newer schema."""
        with translated(self._root):
            if not self._file.exists():
                self._check_new()
                self._create(fill)
        with self.reading() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise Misconfigured(
                f"lake {self._root} has format {version}, this version of Okruh reads {SCHEMA_VERSION}: "
                "use the version that wrote it"
            )

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection; each statement is its own transaction."""
        with translated(self._root):
            connection = self._take()
            try:
                yield connection
            except InfraError:
                connection.rollback()
                self._idle.append(connection)
                raise
            except BaseException:
                # Whatever state it is in, closing rolls back.
                connection.close()
                raise
            self._idle.append(connection)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that sees one state throughout."""
        with self.connection() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection whose changes become durable when the block ends, or never if it raises."""
        with self.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close the idle connections; a later use opens new ones."""
        _close_all(self._idle, self._process)

    def _start_pool(self) -> None:
        self._process = os.getpid()
        self._idle: deque[sqlite3.Connection] = deque()
        weakref.finalize(self, _close_all, self._idle, self._process)

    def _take(self) -> sqlite3.Connection:
        if os.getpid() != self._process:
            _inherited.append(self._idle)
            self._start_pool()
        try:
            return self._idle.pop()
        except IndexError:
            return _connect(self._file)

    def _check_new(self) -> None:
        """Make no new lake of one that has lost its database. Raises: `Corrupt`."""
        if any(self._root.glob("objects/*")) and not self._file.exists():
            raise Corrupt(f"lake {self._root} has content and no {self._file}: restore the folder from a backup")

    def _create(self, fill: Callable[[sqlite3.Connection], None]) -> None:
        aside = self._root / "tmp" / secrets.token_hex(16)
        aside.mkdir()
        try:
            with closing(sqlite3.connect(aside / self._file.name, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION}")
                fill(connection)
                connection.execute("COMMIT")
            _publish_folder(aside, self._folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        sync_folder(self._root)


def _connect(file: Path) -> sqlite3.Connection:
    # mode=rw: a lake that was removed meanwhile is an error, not a new empty file.
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _publish_folder(aside: Path, target: Path) -> None:
    for file in aside.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    sync_folder(aside)
    try:
        aside.rename(target)
    except OSError:
        # A folder cannot replace one that is not empty: another process was first, and its lake is this one.
        if not any(target.iterdir()):
            raise


def _close_all(idle: deque[sqlite3.Connection], process: int) -> None:
    if os.getpid() != process:
        _inherited.append(idle)
        return
    while idle:
        idle.pop().close()
