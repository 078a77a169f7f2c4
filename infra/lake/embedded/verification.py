"""Checks a whole embedded lake: refs, commits, manifests, content. Reads everything, changes nothing."""

import sqlite3
from collections.abc import Iterable, Iterator

from infra.errors import Corrupt
from infra.lake.embedded import rows
from infra.lake.embedded.content import ContentFiles
from infra.lake.embedded.manifests import Manifests
from infra.lake.protocol import Entry


def problems(connection: sqlite3.Connection, manifests: Manifests, files: ContentFiles) -> list[str]:
    """Give one line for each problem, in the order: database, commits and manifests, content."""
    found = [f"database: {line}" for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
    entries: dict[tuple[str, int], str] = {}
    for digest in _ranges_reached(connection, manifests, found):
        try:
            _collect(manifests.read(connection, digest).entries, entries)
        except Corrupt as error:
            found.append(str(error))
    for branch in rows.branches(connection):
        _collect((entry for entry in rows.staged(connection, branch).values() if entry), entries)
    erased = rows.erased(connection)
    entries = {(digest, size): path for (digest, size), path in entries.items() if digest not in erased}
    for digest, replacement in erased.items():
        if files.holds(digest):
            found.append(f"content {digest} was erased and is still there ({files.path(digest)})")
        recorded = rows.content_of(connection, replacement) if replacement else None
        if recorded:
            entries.setdefault((recorded.digest, recorded.size), f"what is read instead of {digest}")
        elif replacement:
            found.append(f"content {replacement}, which is read instead of {digest}, is not recorded")
    found += _orphans(connection)
    return found + list(_content_problems(connection, files, entries))


def _ranges_reached(connection: sqlite3.Connection, manifests: Manifests, found: list[str]) -> list[str]:
    ranges: dict[str, None] = {}
    for digest in _manifests_reached(connection, found):
        try:
            ranges.update(dict.fromkeys(one.digest for one in manifests.read(connection, digest).entries))
        except Corrupt as error:
            found.append(str(error))
    return list(ranges)


def _manifests_reached(connection: sqlite3.Connection, found: list[str]) -> list[str]:
    waiting = [*rows.branches(connection).values(), *rows.tags(connection).values()]
    seen: set[str] = set()
    digests: dict[str, None] = {}
    while waiting:
        commit_id = waiting.pop()
        if commit_id in seen:
            continue
        seen.add(commit_id)
        try:
            record = rows.checked_record(connection, commit_id)
            rows.changed_paths(connection, commit_id)
        except Corrupt as error:
            found.append(str(error))
            continue
        digests[record.manifest] = None
        waiting += record.parents
    return list(digests)


def _collect(entries: Iterable[Entry], into: dict[tuple[str, int], str]) -> None:
    for entry in entries:
        into.setdefault((entry.digest, entry.size), entry.path)


def _orphans(connection: sqlite3.Connection) -> list[str]:
    lost = set(rows.staging_branches(connection)) - rows.branches(connection).keys()
    return [f"uncommitted changes of branch {name!r}, which does not exist" for name in sorted(lost)]


def _content_problems(
    connection: sqlite3.Connection, files: ContentFiles, entries: dict[tuple[str, int], str]
) -> Iterator[str]:
    for (digest, size), path in entries.items():
        recorded = rows.content_of(connection, digest)
        if recorded is None or recorded.size != size:
            yield f"{path}: content {digest} of {size} bytes is not recorded"
        elif damage := files.damage(recorded):
            yield f"{path}: {damage} {digest} ({files.path(digest)})"
