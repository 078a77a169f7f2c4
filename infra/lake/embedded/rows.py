"""The rows of the embedded lake: refs, commits, uncommitted changes, recorded content.

Plain functions on a connection; the caller holds the transaction. SQL about these tables stands here and nowhere else.
"""

import sqlite3
import zlib
from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from infra.errors import Conflict, Corrupt, Misconfigured, NotFound
from infra.lake.blocks import Content
from infra.lake.embedded import history
from infra.lake.names import check_name, is_commit_id
from infra.lake.protocol import Entry

_paths_decoder = msgspec.msgpack.Decoder(list[str])


def locate(connection: sqlite3.Connection, ref: str) -> tuple[str, str | None]:
    """Give a ref's commit id, and its branch if it is one. Raises: `NotFound`, `Misconfigured`."""
    if is_commit_id(ref):
        found = connection.execute("SELECT id FROM commits WHERE id = ?", (ref,)).fetchone()
        branch = None
    else:
        check_name(ref)
        found = connection.execute("SELECT head FROM branches WHERE name = ?", (ref,)).fetchone()
        branch = ref if found else None
        if found is None:
            found = connection.execute("SELECT commit_id FROM tags WHERE name = ?", (ref,)).fetchone()
    if found is None:
        raise NotFound(f"no branch, tag or commit {ref!r}")
    return found[0], branch


def head_of(connection: sqlite3.Connection, branch: str) -> str:
    """Give a branch's head commit id. Raises: `NotFound`, `Misconfigured`."""
    check_name(branch)
    found = connection.execute("SELECT head FROM branches WHERE name = ?", (branch,)).fetchone()
    if found is None:
        raise NotFound(f"no branch {branch!r}")
    return str(found[0])


def branches(connection: sqlite3.Connection) -> dict[str, str]:
    """Give head commit ids by branch."""
    return dict(connection.execute("SELECT name, head FROM branches ORDER BY name"))


def tags(connection: sqlite3.Connection) -> dict[str, str]:
    """Give commit ids by tag."""
    return dict(connection.execute("SELECT name, commit_id FROM tags ORDER BY name"))


def protected(connection: sqlite3.Connection) -> set[str]:
    """Name the protected branches."""
    return {name for (name,) in connection.execute("SELECT branch FROM protected")}


def protect(connection: sqlite3.Connection, branch: str) -> None:
    """Note that a branch is changed by merges alone."""
    connection.execute("INSERT OR IGNORE INTO protected VALUES (?)", (branch,))


def writable_head_of(connection: sqlite3.Connection, branch: str) -> str:
    """Give the head commit id of a branch that may be written to. Raises: `NotFound`, `Misconfigured`."""
    head = head_of(connection, branch)
    if connection.execute("SELECT 1 FROM protected WHERE branch = ?", (branch,)).fetchone():
        raise Misconfigured(f"branch {branch!r} is protected: write to a branch of your own and merge it")
    return head


def add_branch(connection: sqlite3.Connection, name: str, head: str) -> None:
    """Start a branch. Raises: `Conflict`."""
    if connection.execute("SELECT 1 FROM tags WHERE name = ?", (name,)).fetchone():
        raise Conflict(f"{name!r} is a tag already")
    if not connection.execute("INSERT OR IGNORE INTO branches VALUES (?, ?)", (name, head)).rowcount:
        raise Conflict(f"branch {name!r} exists already")


def add_tag(connection: sqlite3.Connection, name: str, commit_id: str) -> None:
    """Name a commit. Raises: `Conflict`."""
    if connection.execute("SELECT 1 FROM branches WHERE name = ?", (name,)).fetchone():
        raise Conflict(f"{name!r} is a branch already")
    connection.execute("INSERT OR IGNORE INTO tags VALUES (?, ?)", (name, commit_id))
    (present,) = connection.execute("SELECT commit_id FROM tags WHERE name = ?", (name,)).fetchone()
    if present != commit_id:
        raise Conflict(f"tag {name!r} names commit {present} already")


def advance(connection: sqlite3.Connection, branch: str, expected: str, head: str) -> None:
    """Move a branch from one commit to the next. Raises: `Conflict` if it is no longer there."""
    swapped = connection.execute("UPDATE branches SET head = ? WHERE name = ? AND head = ?", (head, branch, expected))
    if swapped.rowcount != 1:
        raise Conflict(f"branch {branch!r} moved meanwhile: try again")


def drop_branch(connection: sqlite3.Connection, name: str) -> None:
    """Forget a branch and its uncommitted changes."""
    connection.execute("DELETE FROM staged WHERE branch = ?", (name,))
    connection.execute("DELETE FROM branches WHERE name = ?", (name,))
    connection.execute("DELETE FROM protected WHERE branch = ?", (name,))


def staged(connection: sqlite3.Connection, branch: str) -> dict[str, Entry | None]:
    """Give a branch's uncommitted changes by path; None is a removal."""
    rows = connection.execute("SELECT path, digest, size FROM staged WHERE branch = ?", (branch,))
    return {path: None if digest is None else Entry(path, digest, size) for path, digest, size in rows}


def staged_at(connection: sqlite3.Connection, branch: str, path: str) -> tuple[bool, Entry | None]:
    """Tell whether a path of a branch has an uncommitted change, and which."""
    row = connection.execute("SELECT digest, size FROM staged WHERE branch = ? AND path = ?", (branch, path)).fetchone()
    if row is None:
        return False, None
    return True, None if row[0] is None else Entry(path, row[0], row[1])


def staging_branches(connection: sqlite3.Connection) -> list[str]:
    """Name the branches with uncommitted changes."""
    return [name for (name,) in connection.execute("SELECT DISTINCT branch FROM staged")]


def stage(connection: sqlite3.Connection, branch: str, path: str, entry: Entry | None) -> None:
    """Note an uncommitted change; None is a removal."""
    digest, size = (entry.digest, entry.size) if entry else (None, None)
    connection.execute("INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?)", (branch, path, digest, size))


def unstage(connection: sqlite3.Connection, branch: str, path: str | None = None) -> None:
    """Forget one uncommitted change of a branch, or all."""
    if path is None:
        connection.execute("DELETE FROM staged WHERE branch = ?", (branch,))
    else:
        connection.execute("DELETE FROM staged WHERE branch = ? AND path = ?", (branch, path))


def add_commit(connection: sqlite3.Connection, record: history.Record, changed: Iterable[str]) -> str:
    """Store a commit with the paths that it changed relative to its first parent, and give its id."""
    commit_id, content = history.encode(record)
    paths = zlib.compress(msgspec.msgpack.encode(sorted(changed)), 1)
    connection.execute("INSERT OR IGNORE INTO commits VALUES (?, ?, ?)", (commit_id, content, paths))
    return commit_id


def record_of(connection: sqlite3.Connection, commit_id: str) -> history.Record:
    """Read a commit. Raises: `Corrupt` when a commit that something points at is missing or unreadable."""
    found = connection.execute("SELECT record FROM commits WHERE id = ?", (commit_id,)).fetchone()
    if found is None:
        raise Corrupt(f"commit {commit_id} is missing: restore the lake from a backup")
    try:
        return history.decode(found[0])
    except msgspec.DecodeError as error:
        raise Corrupt(f"commit {commit_id} cannot be read: restore the lake from a backup") from error


def checked_record(connection: sqlite3.Connection, commit_id: str) -> history.Record:
    """Read a commit and compare it with its id. Raises: `Corrupt`."""
    record = record_of(connection, commit_id)
    if history.encode(record)[0] != commit_id:
        raise Corrupt(f"commit {commit_id} differs from its id: restore the lake from a backup")
    return record


def changed_paths(connection: sqlite3.Connection, commit_id: str) -> list[str]:
    """List what a commit changed relative to its first parent, without reading manifests. Raises: `Corrupt`."""
    (content,) = connection.execute("SELECT changed FROM commits WHERE id = ?", (commit_id,)).fetchone()
    try:
        return _paths_decoder.decode(zlib.decompress(content))
    except (zlib.error, msgspec.DecodeError) as error:
        raise Corrupt(
            f"the changed paths of commit {commit_id} cannot be read: restore the lake from a backup"
        ) from error


def changed_under(connection: sqlite3.Connection, commit_id: str, prefix: str) -> bool:
    """Tell whether a commit changed a path under a prefix. Raises: `Corrupt`."""
    paths = changed_paths(connection, commit_id)
    first = bisect_left(paths, prefix)
    return first < len(paths) and paths[first].startswith(prefix)


def commits_since(connection: sqlite3.Connection, moment: datetime) -> list[str]:
    """Name the commits made at or after a moment. Reads every commit."""
    found = connection.execute("SELECT id, record FROM commits")
    return [commit_id for commit_id, record in found if history.decode(record).created_at >= moment]


def keep(connection: sqlite3.Connection, table: Literal["commits", "manifests", "objects"], keys: Iterable[str]) -> int:
    """Remove all rows but those of the given ids or digests, and give how many were removed."""
    connection.execute("CREATE TEMP TABLE kept (key TEXT PRIMARY KEY) WITHOUT ROWID")
    connection.executemany("INSERT INTO kept VALUES (?)", ((key,) for key in keys))
    column = "id" if table == "commits" else "digest"
    removed = connection.execute(f"DELETE FROM {table} WHERE {column} NOT IN (SELECT key FROM kept)").rowcount  # noqa: S608
    connection.execute("DROP TABLE kept")
    return removed


def erased(connection: sqlite3.Connection) -> dict[str, str | None]:
    """Give the digest of what is read instead of each erased content; None is nothing."""
    return dict(connection.execute("SELECT digest, replacement FROM erased"))


def erase(connection: sqlite3.Connection, digest: str, replacement: str | None) -> None:
    """Note that content is gone, and what is read instead; also instead of what it replaced itself."""
    connection.execute("UPDATE erased SET replacement = ? WHERE replacement = ?", (replacement, digest))
    connection.execute("INSERT OR REPLACE INTO erased VALUES (?, ?)", (digest, replacement))
    connection.execute("DELETE FROM objects WHERE digest = ?", (digest,))


def add_content(connection: sqlite3.Connection, content: Content) -> None:
    """Record stored content."""
    connection.execute("INSERT OR IGNORE INTO objects VALUES (?, ?, ?)", (content.digest, content.size, content.blocks))


def content_of(connection: sqlite3.Connection, digest: str) -> Content | None:
    """Give what was recorded of stored content."""
    row = connection.execute("SELECT digest, size, blocks FROM objects WHERE digest = ?", (digest,)).fetchone()
    return Content(*row) if row else None
