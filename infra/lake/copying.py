"""Copies a lake with its history into another store, commit by commit; killed at any moment, the next copy goes on.

Every commit that a branch or tag reaches is made again, with its content, message, metadata and order of parents. Ids
and times are the other store's own: each copy names in its metadata what it is a copy of; `at` finds it by that, and a
later copy knows what is done. Later commits are brought by copying again. A merge whose outcome is not what the
paths say (of another tool, with a strategy of its own) becomes a commit with one parent that names the other; a commit
that changes nothing is not made again. Uncommitted changes stay behind. What was erased from the
source is erased from the target as well.

While it is at work, the target has private branches which hold what is done. Of two copies into one target at a time,
one fails.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path

import msgspec

from infra.errors import Conflict, Corrupt, NotFound
from infra.lake import erasures
from infra.lake.names import check_name, some
from infra.lake.protocol import MAIN, Change, Commit, Entry, Erasure, Lake
from infra.lake.reach import reachable
from infra.lake.targets import workspace
from infra.lake.transaction import is_private, private_name

ORIGIN, CREATED_AT, MERGED = "copied-from", "copied-created-at", "copied-merge-of"
"""Names in a copied commit's metadata."""

_WORK = "-copy-"
_AT_A_TIME = 500
_IN_MEMORY = 4 * 2**20
_BATCH_BYTES = 32 * 2**20
_THREADS = 8


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy did."""

    commits: int
    """Made now."""
    already: int
    """Made by earlier copies."""
    objects: int
    """Written now."""
    bytes: int
    branches: list[str]
    tags: list[str]
    left_out: list[str]
    """Branches with uncommitted changes, which stay behind."""
    only_there: list[str]
    """Branches and tags that the target has and the source has not, or no more: they are left alone."""


def at(lake: Lake, commit_id: str) -> str:
    """Give the id that a commit has here: its own, or that of its copy, or its copy's. Raises: `NotFound`."""
    with suppress(NotFound):
        return lake.resolve(commit_id)
    for commit in reachable(lake):
        if commit_id in _origins(commit):
            return commit.id
    raise NotFound(f"no commit {commit_id}, nor a copy of it")


def known_as(lake: Lake, commit_id: str) -> str:
    """Give the id that a commit has here, or its own where it is not known, as after a collection."""
    try:
        return at(lake, commit_id)
    except NotFound:
        return commit_id


def copy(source: Lake, target: Lake, scratch: Path, tell: Callable[[int, int], None] | None = None) -> Copied:
    """Copy a lake into another, which is empty or an earlier copy of it.

    Args:
        scratch: a folder for large objects on their way.
        tell: is told, after each commit, how many of how many are done.

    Raises: `Conflict` where the target has history of its own, `Corrupt` where a branch or tag differs afterwards.
    """
    return _Copying(source, target, scratch).run(tell)


class _Copying:
    def __init__(self, source: Lake, target: Lake, scratch: Path) -> None:
        self._source = source
        self._target = target
        self._scratch = scratch
        self._branches = {name: head for name, head in source.branches().items() if not is_private(name)}
        self._left_out = [name for name, head in self._branches.items() if source.diff(head, name)]
        self._tags = source.tags()
        self._commits = _oldest_first(source, [*self._branches.values(), *self._tags.values()])
        self._copies: dict[str, str] = {}
        """The id of each copy, by what it is a copy of."""
        self._work: dict[str, str] = {}
        """The branch that holds a copy until its children are made, by what it is a copy of."""
        self._heads = target.branches()
        """As they were."""
        self._left = [name for name in self._heads if _is_work(name)]
        """Branches of that kind that killed copies left."""
        self._main_line = set(_first_parents(self._commits, self._branches[MAIN]))
        self._made = self._objects = self._bytes = 0
        self._erased = erasures.recorded(source)
        """Path and digest of what is gone from the source, or will be."""

        for name in [*self._branches, *self._tags]:
            check_name(name)  # a server may have others; before anything is written

    def run(self, tell: Callable[[int, int], None] | None) -> Copied:
        self._find_copies()
        already = len(self._copies)
        self._erase()
        for done, commit in enumerate(self._commits.values(), start=1):
            if commit.id not in self._copies:
                self._copies[commit.id] = self._make(commit, on_main=commit.id in self._main_line)
            if tell:
                tell(done, len(self._commits))
        self._set_refs()
        self._compare()
        return Copied(
            commits=self._made,
            already=already,
            objects=self._objects,
            bytes=self._bytes,
            branches=sorted(self._branches),
            tags=sorted(self._tags),
            left_out=self._left_out,
            only_there=self._only_there(),
        )

    def _find_copies(self) -> None:
        there = {one.id: one for one in reachable(self._target)}
        for commit in there.values():
            for origin in _origins(commit):
                if origin in self._commits:
                    self._copies[origin] = commit.id
        for commit in self._commits.values():
            # The way back: what the source has of the target itself
            for origin in _origins(commit):
                if origin in there:
                    self._copies[commit.id] = origin
        self._drop_misplaced(there)
        self._check_target()

    def _drop_misplaced(self, there: Mapping[str, Commit]) -> None:
        """Take as no copy what has another parent: somebody came between the last look and the commit."""
        for commit in self._commits.values():
            copied = there[self._copies[commit.id]] if commit.id in self._copies else None
            if copied and copied.parents and copied.parents[0] != self._copy_below(commit):
                del self._copies[commit.id]

    def _copy_below(self, commit: Commit) -> str:
        """Give the copy of the newest first parent that has one; those that changed nothing have none."""
        parents = (self._copies.get(one) for one in islice(_first_parents(self._commits, commit.id), 1, None))
        return next((one for one in parents if one), self._start)

    def _check_target(self) -> None:
        heads = self._heads
        copies = {*self._copies.values(), self._start}
        if own := [name for name in {MAIN, *self._branches} if name in heads and heads[name] not in copies]:
            raise Conflict(
                f"the target has a history of its own, on {some(sorted(own))}: copy into an empty repository"
            )
        for name, commit_id in self._target.tags().items():
            if name in self._tags and commit_id != self._copies.get(self._tags[name]):
                raise Conflict(f"tag {name!r} of the target names another commit: copy into an empty repository")
        for name in self._branches.keys() & heads.keys():
            if pending := self._target.diff(heads[name], name):
                if name != MAIN or not self._are_of_a_copy(pending):
                    raise Conflict(f"branch {name!r} of the target has uncommitted changes: commit or reset them first")
                self._target.reset(MAIN)

    def _are_of_a_copy(self, pending: Sequence[Change]) -> bool:
        """Say whether changes of the target's main are what a killed copy left, as the next commit has them."""
        line = (one.id for one in self._commits.values() if one.id in self._main_line and one.id not in self._copies)
        states = (self._shown(self._source, commit_id) for commit_id in line)
        committed = self._target.list(self._heads[MAIN])
        following = next((state for state in states if state != committed), [])
        wanted = {entry.path: entry for entry in following}
        found = {entry.path: entry for entry in self._target.list(MAIN)}
        return bool(following) and all(found.get(change.path) == wanted.get(change.path) for change in pending)

    @cached_property
    def _start(self) -> str:
        *_, start = self._target.log(MAIN)
        return start.id

    def _make(self, commit: Commit, on_main: bool) -> str:
        parent = self._copies[commit.parents[0]] if commit.parents else self._start
        if not commit.parents and not self._shown(self._source, commit.id):
            return parent
        known = commit.metadata.get(ORIGIN)
        note = {**commit.metadata, CREATED_AT: commit.metadata.get(CREATED_AT, commit.created_at.isoformat())}
        note[ORIGIN] = f"{commit.id} {known}" if known else commit.id
        branch, made = self._work_branch(commit, parent), None
        if len(commit.parents) > 1:
            # On a branch beside main first, and then not as the copy: what it comes to is known afterwards only
            made = self._merge(commit, branch, commit.metadata if on_main else note)
            if made is None:
                branch, note = self._work_branch(commit, parent), {**note, MERGED: commit.parents[1]}
            elif on_main:
                self._check_main(parent)
                made = self._target.merge(self._copies[commit.parents[1]], MAIN, commit.message, note).id
        if made is None and on_main and MAIN in self._target.protected():
            # Beside main, and merged: the merge is the copy
            own = {name: value for name, value in note.items() if name != ORIGIN}
            beside = self._commit(commit, parent, branch, own)
            if beside != parent:
                self._check_main(parent)
                beside = self._target.merge(beside, MAIN, commit.message, note).id
            made = beside
        elif made is None:
            made = self._commit(commit, parent, MAIN if on_main else branch, note)
        for done in [*commit.parents, *([commit.id] if on_main else [])]:
            self._drop_work_branch(done)
        self._made += made != parent
        return made

    def _check_main(self, parent: str) -> None:
        if self._target.resolve(MAIN) != parent:
            raise _changed_meanwhile(MAIN)

    def _work_branch(self, commit: Commit, parent: str) -> str:
        self._drop_work_branch(commit.id)
        self._work[commit.id] = private_name(f"{_WORK}{commit.id[:12]}")
        self._target.create_branch(self._work[commit.id], parent)
        return self._work[commit.id]

    def _drop_work_branch(self, commit_id: str) -> None:
        if name := self._work.pop(commit_id, None):
            with suppress(NotFound):  # a sweep was quicker, after a day
                self._target.delete_branch(name)

    def _merge(self, commit: Commit, branch: str, note: Mapping[str, str]) -> str | None:
        """Make a merge; None where the paths do not merge, or to something else."""
        ours, theirs = commit.parents[:2]
        try:
            made = self._target.merge(self._copies[theirs], branch, commit.message, note).id
        except Conflict:
            return None
        if self._erased:
            return made if self._shown(self._source, commit.id) == self._shown(self._target, made) else None
        wanted, found = (
            self._states(self._source, ours, commit.id),
            self._states(self._target, self._copies[ours], made),
        )
        return made if wanted == found else None

    def _states(self, lake: Lake, before: str, after: str) -> list[tuple[str, str | None]]:
        changes = lake.diff(before, after)
        return [(one.path, None if one.kind == "removed" else lake.stat(after, one.path).digest) for one in changes]

    def _commit(self, commit: Commit, parent: str, branch: str, note: dict[str, str]) -> str:
        changes = self._changes(commit, parent)
        if not changes:
            return parent
        if branch == MAIN:
            self._check_main(parent)
        for change in changes:
            if change.kind == "removed":
                self._target.delete(branch, change.path)
        brought = [change.path for change in changes if change.kind != "removed"]
        for entries in self._batches(commit.id, brought):
            self._bring(commit.id, entries, branch)
        if branch == MAIN and {one.path for one in self._target.diff(parent, MAIN)} != {one.path for one in changes}:
            raise _changed_meanwhile(MAIN)
        made = self._target.commit(branch, commit.message, note)
        if made.parents[0] != parent:
            raise _changed_meanwhile(branch)
        return made.id

    def _batches(self, commit_id: str, paths: list[str]) -> Iterator[list[Entry]]:
        batch, size = list[Entry](), 0
        with ThreadPoolExecutor(_THREADS) as threads:
            for entry in threads.map(lambda path: self._source.stat(commit_id, path), paths):
                batch.append(entry)
                size += entry.size
                if size >= _BATCH_BYTES or len(batch) == _AT_A_TIME:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch

    def _changes(self, commit: Commit, parent: str) -> list[Change]:
        if commit.parents and not self._erased:
            return self._source.diff(commit.parents[0], commit.id)
        # What was erased since the parent was copied is no difference in the source, and one to the target
        wanted = {entry.path: entry for entry in self._shown(self._source, commit.id)}
        present = {entry.path: entry for entry in self._target.list(parent)}
        gone = [Change(path, "removed") for path in present.keys() - wanted.keys()]
        return gone + [Change(path, "changed") for path, entry in wanted.items() if present.get(path) != entry]

    def _shown(self, lake: Lake, ref: str) -> list[Entry]:
        """List what is to be copied: not what was erased and a server has not removed yet, or has."""
        hidden = self._erased if not self._source.collects else set()
        return [entry for entry in lake.list(ref) if (entry.path, entry.digest) not in hidden]

    def _erase(self) -> None:
        """Erase from the target what was erased from the source since it was copied."""
        with workspace(self._scratch, "copy") as folder:
            wanted = list(self._erasures(folder)) if self._erased else []
            self._target.erase(wanted)

    def _erasures(self, folder: Path) -> Iterator[Erasure]:
        asked = set[str]()
        for origin, copied in self._copies.items():
            shown = {entry.path: entry for entry in self._shown(self._source, origin)}
            for entry in self._target.list(copied):
                instead = shown.get(entry.path)
                if (entry.path, entry.digest) not in self._erased or instead == entry or entry.digest in asked:
                    continue
                if not self._target.collects:
                    raise Conflict(
                        f"{entry.path} was erased from the source since it was copied, and a server cannot erase it "
                        "from its commits: copy into a new repository, and delete this one"
                    )
                asked.add(entry.digest)
                file = folder / entry.digest
                if instead:
                    self._source.fetch(origin, entry.path, file)
                yield Erasure(ref=copied, path=entry.path, digest=entry.digest, replacement=file if instead else None)

    def _bring(self, commit_id: str, entries: list[Entry], branch: str) -> None:
        with workspace(self._scratch, "copy") as folder:

            def read(number: int, entry: Entry) -> bytes | Path:
                if entry.size <= _IN_MEMORY:
                    return self._source.get(commit_id, entry.path)
                self._source.fetch(commit_id, entry.path, folder / str(number))
                return folder / str(number)

            with ThreadPoolExecutor(_THREADS) as threads:
                contents = list(threads.map(read, range(len(entries)), entries))
            stored = self._target.put_all(branch, dict(zip((entry.path for entry in entries), contents, strict=True)))
        self._objects += len(stored)
        self._bytes += sum(entry.size for entry in stored)

    def _set_refs(self) -> None:
        present, tagged, protected = self._target.branches(), self._target.tags(), self._target.protected()
        for name, head in self._branches.items():
            copied = self._copies[head]
            if present.get(name) == copied:
                continue
            if name in present:
                # It is behind: its commits have been made beside it
                if name == MAIN or present[name] != self._heads.get(name) or self._target.diff(present[name], name):
                    raise _changed_meanwhile(name)
                self._target.delete_branch(name)
            self._target.create_branch(name, copied)
            if name in protected:
                self._target.protect(name)
        for name, commit_id in self._tags.items():
            if tagged.get(name) != self._copies[commit_id]:
                self._target.tag(name, self._copies[commit_id])
        for name in [*self._left, *self._work.values()]:
            with suppress(NotFound):  # a sweep was quicker
                self._target.delete_branch(name)

    def _only_there(self) -> list[str]:
        there = {*self._target.branches(), *self._target.tags()} - {*self._branches, *self._tags}
        return sorted(name for name in there if not is_private(name))

    def _compare(self) -> None:
        for name in [*self._branches, *self._tags]:
            ref = self._branches.get(name) or self._tags[name]
            if self._shown(self._source, ref) != self._shown(self._target, self._copies[ref]):
                raise Corrupt(f"{name} differs from what it was copied from: verify both lakes and copy again")


def _origins(commit: Commit) -> list[str]:
    """Name what a commit is a copy of, and that of, and so on."""
    return commit.metadata.get(ORIGIN, "").split()


def _changed_meanwhile(branch: str) -> Conflict:
    return Conflict(f"somebody else changed {branch!r} of the target meanwhile: its history is its own now")


def _is_work(name: str) -> bool:
    return is_private(name) and _WORK in name


def _oldest_first(lake: Lake, heads: Iterable[str]) -> dict[str, Commit]:
    """Give all commits that heads reach, each after its parents, by id."""
    found = {commit.id: commit for commit in reachable(lake, heads)}
    ordered: dict[str, Commit] = {}
    waiting = list(dict.fromkeys(heads))
    while waiting:
        commit = found[waiting[-1]]
        missing = [parent for parent in commit.parents if parent not in ordered]
        if missing:
            waiting += missing
        else:
            ordered[waiting.pop()] = commit
    return ordered


def _first_parents(commits: dict[str, Commit], head: str) -> Iterator[str]:
    commit_id: str | None = head
    while commit_id:
        yield commit_id
        commit_id = next(iter(commits[commit_id].parents), None)
