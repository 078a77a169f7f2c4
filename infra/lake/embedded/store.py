"""The lake on one machine: a folder with SQLite for what is known and sha256-named files for content.

Guarantees: everything that `infra.lake.protocol` promises, to any number of threads and processes on one machine; what
was acknowledged survives a kill or a power cut at any moment (content is durable before the metadata that names it, and
every change of metadata is one transaction); content is compared with its digest on every read. `resolve` sees other
processes' commits at once.

Costs: `put` one write with fsync and one small transaction; `commit` and `merge` one transaction and work in proportion
to the number of changed paths (see `manifests`), while other writers of the same lake wait. Content stays until
`collect` finds that nothing names it, or until it is erased; a lake from which something was erased goes through whole
manifests where others do not. The folder must be on a local file system: SQLite's log does not work over a network.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from infra.errors import Conflict, Corrupt, Misconfigured, NotFound
from infra.lake.blocks import Content, VerifiedFile
from infra.lake.embedded import history, rows
from infra.lake.embedded.collection import collect
from infra.lake.embedded.content import ContentFiles
from infra.lake.embedded.database import Database
from infra.lake.embedded.manifests import Manifest, Manifests
from infra.lake.embedded.merge import ancestor_manifest, compare, three_way
from infra.lake.embedded.verification import problems
from infra.lake.erasures import refused
from infra.lake.names import check_name, check_note, check_path, check_prefix, some
from infra.lake.protocol import MAIN, Change, Collected, Commit, Entry, Erasure


class EmbeddedLake:
    """A `Lake` in a folder, which is made where it is missing. Raises as the protocol says."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._files = ContentFiles(self.root)
        self._database = Database(self.root)
        self._manifests = Manifests()
        self._files.prepare()
        self._database.prepare(self._begin)

    def __reduce__(self) -> tuple[type["EmbeddedLake"], tuple[Path]]:
        return EmbeddedLake, (self.root,)

    def close(self) -> None:
        """Close the database files; using the lake again opens them again."""
        self._database.close()

    def verify(self) -> list[str]:
        """Check every commit that a branch or tag reaches, every object it names, and uncommitted changes.

        Reads all content. Gives one line for each problem, naming paths and digests; nothing where all is well.
        Temporary files and content that nothing names are no problem: killed writers leave them, and they do no harm.
        """
        try:
            with self._database.reading() as connection:
                return problems(connection, self._manifests, self._files)
        except Corrupt as error:
            return [str(error)]

    @property
    def collects(self) -> bool:
        """Yes."""
        return True

    def collect(self, grace: timedelta) -> Collected:
        """Remove old commits and content that nothing reaches any more. Raises: `Corrupt`."""
        return collect(self._database, self._manifests, self._files, grace)

    def erase(self, erasures: Sequence[Erasure]) -> Sequence[str]:
        """Remove content for good, wherever it is named; what is read instead is kept beside the commits."""
        erasures = list({one.digest: one for one in erasures}.values())
        replaced = [one for one in erasures if one.replacement is not None]
        while True:
            stored = self._files.store_all([one.replacement for one in replaced if one.replacement is not None])
            with self._database.writing() as connection:
                if not all(self._files.holds(one.digest) for one in stored):
                    continue  # a collection was quicker
                gone = rows.erased(connection).keys() | {one.digest for one in erasures}
                if lost := [one.path for one, content in zip(replaced, stored, strict=True) if content.digest in gone]:
                    raise Conflict(f"what would be read instead of {some(lost)} is erased itself")
                instead = {one.digest: content for one, content in zip(replaced, stored, strict=True)}
                for content in stored:
                    rows.add_content(connection, content)
                for one in erasures:
                    content_instead = instead.get(one.digest)
                    rows.erase(connection, one.digest, content_instead.digest if content_instead else None)
                noted = list(rows.erased(connection))
            break
        # With those that a process noted, and was killed before it removed them
        for digest in noted:
            self._files.erase(digest)
        return []

    def resolve(self, ref: str) -> str:
        """Give the commit id that a branch, tag or commit id stands for now."""
        with self._database.connection() as connection:
            return rows.locate(connection, ref)[0]

    def branches(self) -> dict[str, str]:
        """Give each branch's head commit id, by name."""
        with self._database.connection() as connection:
            return rows.branches(connection)

    def create_branch(self, name: str, source: str) -> str:
        """Start a branch at `source`, without its uncommitted changes. Raises: `Conflict` if the name is taken."""
        check_name(name)
        with self._database.writing() as connection:
            head, _ = rows.locate(connection, source)
            rows.add_branch(connection, name, head)
        return head

    def delete_branch(self, name: str) -> None:
        """Drop a branch and its uncommitted changes. Raises: `Misconfigured` for `main`."""
        if name == MAIN:
            raise Misconfigured(f"branch {MAIN!r} is the truth and cannot be deleted")
        with self._database.writing() as connection:
            rows.head_of(connection, name)
            rows.drop_branch(connection, name)

    def protect(self, branch: str) -> None:
        """Have a branch changed by merges alone. Raises: `Conflict` where it has uncommitted changes."""
        with self._database.writing() as connection:
            rows.head_of(connection, branch)
            _check_clean(connection, branch)
            rows.protect(connection, branch)

    def protected(self) -> set[str]:
        """Name the protected branches."""
        with self._database.connection() as connection:
            return rows.protected(connection)

    def put(self, branch: str, path: str, content: bytes | Path) -> Entry:
        """Store content under a path of a branch, uncommitted; a `Path` is streamed."""
        return self.put_all(branch, {path: content})[0]

    def put_all(self, branch: str, contents: Mapping[str, bytes | Path]) -> Sequence[Entry]:
        """Store several contents by path, several at a time; what names them is one transaction."""
        for path in contents:
            check_path(path)
        with self._database.connection() as connection:
            rows.writable_head_of(connection, branch)
        while True:
            stored = self._files.store_all(list(contents.values()))
            with self._database.writing() as connection:
                # A collection removes within such a transaction, too: what is there now stays
                if all(self._files.holds(one.digest) for one in stored):
                    return self._stage(connection, branch, dict(zip(contents, stored, strict=True)))

    def delete(self, branch: str, path: str) -> None:
        """Remove a path from a branch, uncommitted."""
        check_path(path)
        with self._database.writing() as connection:
            head = rows.writable_head_of(connection, branch)
            self._entry(connection, branch, path)
            if self._committed(connection, head).get(path):
                rows.stage(connection, branch, path, None)
            else:
                rows.unstage(connection, branch, path)

    def get(self, ref: str, path: str) -> bytes:
        """Read an object; its digest is verified."""
        entry = self.stat(ref, path)
        content = self._files.read(entry.digest)
        if content is None:
            raise self._damaged(entry, ref)
        return content

    def open(self, ref: str, path: str) -> VerifiedFile:
        """Open an object for reading in parts; it is mapped into memory."""
        check_path(path)
        with self._database.reading() as connection:
            entry = self._entry(connection, ref, path)
            recorded = rows.content_of(connection, entry.digest)
        file = self._files.open(recorded, f"{path} at {ref}") if recorded else None
        if file is None:
            raise self._damaged(entry, ref)
        return file

    def fetch(self, ref: str, path: str, target: Path) -> Entry:
        """Copy an object into a file, in constant memory."""
        entry = self.stat(ref, path)
        if not self._files.fetch(entry.digest, entry.size, target):
            raise self._damaged(entry, ref)
        return entry

    def stat(self, ref: str, path: str) -> Entry:
        """Describe an object without reading it."""
        check_path(path)
        with self._database.reading() as connection:
            return self._entry(connection, ref, path)

    def commit(self, branch: str, message: str, metadata: Mapping[str, str]) -> Commit:
        """Make a branch's uncommitted changes a commit. Raises: `Conflict` when there is nothing to commit."""
        note = check_note(message, metadata)
        with self._database.writing() as connection:
            head = rows.writable_head_of(connection, branch)
            changes = rows.staged(connection, branch)
            if not changes:
                raise Conflict(f"nothing to commit on branch {branch!r}")
            manifest = self._committed(connection, head).with_changes(changes)
            commit = self._append(connection, branch, (head,), manifest, changes, message, note)
            rows.unstage(connection, branch)
        return commit

    def reset(self, branch: str) -> None:
        """Drop a branch's uncommitted changes."""
        with self._database.writing() as connection:
            rows.writable_head_of(connection, branch)
            rows.unstage(connection, branch)

    def revert(self, branch: str, ref: str, message: str, metadata: Mapping[str, str]) -> Commit:
        """Undo on a branch, by a new commit, what a commit changed relative to its first parent."""
        note = check_note(message, metadata)
        with self._database.writing() as connection:
            head = rows.writable_head_of(connection, branch)
            undone, _ = rows.locate(connection, ref)
            _check_clean(connection, branch)
            parents = rows.record_of(connection, undone).parents
            if not parents:
                raise Conflict(f"nothing to undo: {ref!r} is the start of the lake")
            after, before = self._shown(connection, undone), self._shown(connection, parents[0])
            reverted = three_way(after, self._shown(connection, head), before)
            if reverted.clashes:
                raise Conflict(f"{branch!r} has changed since {ref!r}: {some(reverted.clashes)}")
            if not reverted.taken:
                raise Conflict(f"nothing to undo: {branch!r} has no change of {ref!r}")
            return self._append(connection, branch, (head,), reverted.manifest, reverted.taken, message, note)

    def merge(self, source: str, into: str, message: str, metadata: Mapping[str, str]) -> Commit:
        """Merge a ref's commits into a branch, path by path; always by a merge commit."""
        note = check_note(message, metadata)
        with self._database.writing() as connection:
            head = rows.head_of(connection, into)
            theirs, _ = rows.locate(connection, source)
            _check_clean(connection, into)
            lookup, manifest_of = partial(rows.record_of, connection), partial(self._shown, connection)
            base = ancestor_manifest([head], [theirs], lookup, manifest_of)
            if manifest_of(theirs) == base:
                raise Conflict(f"nothing to merge: {source!r} has no changes that {into!r} lacks")
            merged = three_way(base, manifest_of(head), manifest_of(theirs))
            if merged.clashes:
                raise Conflict(f"{source!r} and {into!r} both changed {some(merged.clashes)}")
            return self._append(connection, into, (head, theirs), merged.manifest, merged.taken, message, note)

    def tag(self, name: str, ref: str) -> None:
        """Name a commit for good. Raises: `Conflict` if the name is taken by another commit."""
        check_name(name)
        with self._database.writing() as connection:
            rows.add_tag(connection, name, rows.locate(connection, ref)[0])

    def tags(self) -> dict[str, str]:
        """Give each tag's commit id, by name."""
        with self._database.connection() as connection:
            return rows.tags(connection)

    def log(self, ref: str, prefix: str | None = None) -> Iterator[Commit]:
        """Walk history from newest to oldest, each commit once."""
        check_prefix(prefix or "")
        return self._walk(self.resolve(ref), prefix)

    def diff(self, before: str, after: str, prefix: str = "") -> list[Change]:
        """Compare two refs path by path, sorted by path."""
        check_prefix(prefix)
        with self._database.reading() as connection:
            return compare(self._visible(connection, before), self._visible(connection, after), prefix)

    # Last of the public ones, because below it `list` would name this method and not the type.
    def list(self, ref: str, prefix: str = "") -> list[Entry]:
        """List objects by path prefix, sorted by path."""
        check_prefix(prefix)
        with self._database.reading() as connection:
            return [*self._visible(connection, ref).entries(prefix)]

    def _begin(self, connection: sqlite3.Connection) -> None:
        empty = self._manifests.store(connection, Manifest.of({}))
        record = history.Record(
            created_at=datetime.now(UTC), manifest=empty, message="Start of the lake", metadata={}, parents=()
        )
        rows.add_branch(connection, MAIN, rows.add_commit(connection, record, ()))

    def _stage(self, connection: sqlite3.Connection, branch: str, stored: Mapping[str, Content]) -> Sequence[Entry]:
        erased = rows.erased(connection)
        if refused_paths := [path for path, content in stored.items() if content.digest in erased]:
            for path in refused_paths:
                self._files.erase(stored[path].digest)
            raise refused(refused_paths[0])
        committed = self._committed(connection, rows.writable_head_of(connection, branch))
        entries = [Entry(path, content.digest, content.size) for path, content in stored.items()]
        for entry in entries:
            rows.add_content(connection, stored[entry.path])
            if committed.get(entry.path) == entry:
                rows.unstage(connection, branch, entry.path)
            else:
                rows.stage(connection, branch, entry.path, entry)
        return entries

    def _append(
        self,
        connection: sqlite3.Connection,
        branch: str,
        parents: tuple[str, ...],
        manifest: Manifest,
        changed: Sequence[str] | Mapping[str, Entry | None],
        message: str,
        metadata: dict[str, str],
    ) -> Commit:
        record = history.Record(
            created_at=history.next_moment(rows.record_of(connection, parent) for parent in parents),
            manifest=self._manifests.store(connection, manifest),
            message=message,
            metadata=metadata,
            parents=parents,
        )
        commit_id = rows.add_commit(connection, record, changed)
        rows.advance(connection, branch, parents[0], commit_id)
        return history.describe(commit_id, record)

    def _committed(self, connection: sqlite3.Connection, commit_id: str) -> Manifest:
        return self._manifests.load(connection, rows.record_of(connection, commit_id).manifest)

    def _shown(self, connection: sqlite3.Connection, commit_id: str) -> Manifest:
        return self._without_erased(connection, self._committed(connection, commit_id))

    def _visible(self, connection: sqlite3.Connection, ref: str) -> Manifest:
        commit_id, branch = rows.locate(connection, ref)
        changes = rows.staged(connection, branch) if branch else {}
        committed = self._committed(connection, commit_id)
        return self._without_erased(connection, committed.with_changes(changes) if changes else committed)

    def _without_erased(self, connection: sqlite3.Connection, manifest: Manifest) -> Manifest:
        """Give what is read of a manifest."""
        if not (erased := rows.erased(connection)):
            return manifest
        gone = (entry for entry in manifest.entries() if entry.digest in erased)
        return manifest.with_changes({entry.path: self._instead(connection, entry, erased) for entry in gone})

    def _instead(self, connection: sqlite3.Connection, entry: Entry, erased: Mapping[str, str | None]) -> Entry | None:
        """Give what is read instead of content that may have been erased."""
        if entry.digest not in erased:
            return entry
        replacement = erased[entry.digest]
        content = rows.content_of(connection, replacement) if replacement else None
        return Entry(entry.path, content.digest, content.size) if content else None

    def _damaged(self, entry: Entry, ref: str) -> Corrupt:
        return Corrupt(
            f"{entry.path} at {ref} is missing or differs from its digest {entry.digest}: "
            f"restore {self._files.path(entry.digest)} from a backup, or store the same content again"
        )

    def _entry(self, connection: sqlite3.Connection, ref: str, path: str) -> Entry:
        commit_id, branch = rows.locate(connection, ref)
        is_staged, entry = rows.staged_at(connection, branch, path) if branch else (False, None)
        if not is_staged:
            entry = self._committed(connection, commit_id).get(path)
        erased = rows.erased(connection)
        if entry and erased and (entry := self._instead(connection, entry, erased)) is None:
            raise NotFound(f"no {path} at {ref}: it was erased, see erasures/")
        if entry is None:
            raise NotFound(f"no {path} at {ref}")
        return entry

    def _walk(self, tip: str, prefix: str | None) -> Iterator[Commit]:
        for commit_id, record in history.walk([tip], self._record):
            if prefix is None or self._touches(commit_id, prefix):
                yield history.describe(commit_id, record)

    def _record(self, commit_id: str) -> history.Record:
        with self._database.connection() as connection:
            return rows.record_of(connection, commit_id)

    def _touches(self, commit_id: str, prefix: str) -> bool:
        with self._database.connection() as connection:
            return rows.changed_under(connection, commit_id, prefix)


def _check_clean(connection: sqlite3.Connection, branch: str) -> None:
    if pending := rows.staged(connection, branch):
        raise Conflict(f"branch {branch!r} has uncommitted changes: {some(sorted(pending))}")
