"""Removes from an embedded lake what no ref reaches: old commits, their manifests, content that only they named.

Everything that a branch, a tag or an uncommitted change reaches stays, and so does everything younger than a grace:
commits by their time, content by when it was last stored (a writer stores content before it names it). Marking reads
every block of every manifest once, while others go on writing; removing is one transaction, which marks what they
have added meanwhile, and writers wait for it. A kill at any moment leaves a whole lake.
"""

import sqlite3
from datetime import UTC, datetime, timedelta

from infra.lake.embedded import rows
from infra.lake.embedded.content import ContentFiles
from infra.lake.embedded.database import Database
from infra.lake.embedded.manifests import Manifests
from infra.lake.protocol import Collected


def collect(database: Database, manifests: Manifests, files: ContentFiles, grace: timedelta) -> Collected:
    """Remove what nothing reaches and what is older than the grace. Raises: `Corrupt` for a damaged lake."""
    oldest = datetime.now(UTC) - grace
    marked = _Marked(manifests, oldest)
    with database.reading() as connection:
        marked.update(connection)
    candidates = [digest for digest in files.stored() if digest not in marked.content]
    with database.writing() as connection:
        marked.update(connection)
        dropped = rows.keep(connection, "commits", marked.commits)
        rows.keep(connection, "manifests", marked.blocks)
        rows.keep(connection, "objects", marked.content)
        asked = (files.remove(digest, oldest.timestamp()) for digest in candidates if digest not in marked.content)
        removed = [size for size in asked if size is not None]
    return Collected(commits=dropped, objects=len(removed), bytes=sum(removed))


class _Marked:
    """What must stay; grows by what a look finds that no look has found before."""

    def __init__(self, manifests: Manifests, oldest: datetime) -> None:
        self._manifests = manifests
        self._oldest = oldest
        self.commits: set[str] = set()
        self.blocks: set[str] = set()
        self.content: set[str] = set()

    def update(self, connection: sqlite3.Connection) -> None:
        """Mark from the refs, and from commits that are young."""
        branches = rows.branches(connection)
        waiting = [*branches.values(), *rows.tags(connection).values(), *rows.commits_since(connection, self._oldest)]
        while waiting:
            commit_id = waiting.pop()
            if commit_id not in self.commits:
                self.commits.add(commit_id)
                record = rows.record_of(connection, commit_id)
                self._mark_manifest(connection, record.manifest)
                waiting += record.parents
        erased = rows.erased(connection)
        self.content |= {replacement for replacement in erased.values() if replacement}
        self.content -= erased.keys()
        for branch in branches:
            self.content |= {entry.digest for entry in rows.staged(connection, branch).values() if entry}

    def _mark_manifest(self, connection: sqlite3.Connection, root: str) -> None:
        if root in self.blocks:
            return
        self.blocks.add(root)
        for listed in self._manifests.read(connection, root).entries:
            if listed.digest not in self.blocks:
                self.blocks.add(listed.digest)
                self.content |= {entry.digest for entry in self._manifests.read(connection, listed.digest).entries}
