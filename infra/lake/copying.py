"""Copies a lake with its history into another store, commit by commit; killed at any moment, the next copy goes on.

Every commit that a branch or tag reaches is made again, with its content, message, metadata and order of parents. Ids
and times are the other store's own: each copy names in its metadata what it is a copy of; `at` finds it by that, and a
later copy knows what is done. Later commits are brought by copying again. A merge whose outcome is not what the
paths say (of another tool, with a strategy of its own) becomes a commit with one parent that names the other; a commit
that changes nothing is not made again. Uncommitted changes stay behind.

While it is at work, the target has private branches which hold what is done.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from infra.errors import Conflict, Corrupt, NotFound
from infra.lake.names import some
from infra.lake.protocol import MAIN, Change, Commit, Lake
from infra.lake.transaction import PRIVATE

ORIGIN, CREATED_AT, MERGED = "copied-from", "copied-created-at", "copied-merge-of"
"""Names in a copied commit's metadata."""

_WORK = f"{PRIVATE}copy-"
_AT_A_TIME = 500
_IN_MEMORY = 4 * 2**20


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


def at(lake: Lake, commit_id: str) -> str:
    """Give the id that a commit has here: its own, or that of its copy. Raises: `NotFound`."""
    with suppress(NotFound):
        return lake.resolve(commit_id)
    for head in {*lake.branches().values(), *lake.tags().values()}:
        for commit in lake.log(head):
            if commit.metadata.get(ORIGIN) == commit_id:
                return commit.id
    raise NotFound(f"no commit {commit_id}, nor a copy of it")


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
        self._branches = {name: head for name, head in source.branches().items() if not name.startswith(PRIVATE)}
        self._tags = source.tags()
        self._commits = _oldest_first(source, [*self._branches.values(), *self._tags.values()])
        self._copies: dict[str, str] = {}
        """The id of each copy, by what it is a copy of."""
        self._made = self._objects = self._bytes = 0

    def run(self, tell: Callable[[int, int], None] | None) -> Copied:
        self._find_copies()
        already = len(self._copies)
        main_line = set(_first_parents(self._commits, self._branches[MAIN]))
        for done, commit in enumerate(self._commits.values(), start=1):
            if commit.id not in self._copies:
                self._copies[commit.id] = self._make(commit, on_main=commit.id in main_line)
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
            left_out=[name for name, head in self._branches.items() if self._source.diff(head, name)],
        )

    def _find_copies(self) -> None:
        heads = self._target.branches()
        for head in {*heads.values(), *self._target.tags().values()}:
            for commit in self._target.log(head):
                if origin := commit.metadata.get(ORIGIN):
                    self._copies[origin] = commit.id
        copies = {*self._copies.values(), self._start()}
        if own := [name for name in self._branches if name in heads and heads[name] not in copies]:
            raise Conflict(f"the target has a history of its own, on {some(own)}: copy into an empty repository")
        if self._target.diff(heads[MAIN], MAIN):
            self._target.reset(MAIN)

    def _start(self) -> str:
        *_, start = self._target.log(MAIN)
        return start.id

    def _make(self, commit: Commit, on_main: bool) -> str:
        parent = self._copies[commit.parents[0]] if commit.parents else self._start()
        note = {**commit.metadata, ORIGIN: commit.id, CREATED_AT: commit.created_at.isoformat()}
        branch, made = self._work_branch(commit, parent), None
        if len(commit.parents) > 1:
            # On a branch beside main first, and then not as the copy: what it comes to is known afterwards only
            made = self._merge(commit, branch, commit.metadata if on_main else note)
            if made is None:
                branch, note = self._work_branch(commit, parent), {**note, MERGED: commit.parents[1]}
            elif on_main:
                made = self._target.merge(self._copies[commit.parents[1]], MAIN, commit.message, note).id
        if made is None:
            made = self._commit(commit, parent, MAIN if on_main else branch, note)
        for done in [*commit.parents, *([commit.id] if on_main else [])]:
            with suppress(NotFound):
                self._target.delete_branch(_work_name(done))
        self._made += made != parent
        return made

    def _work_branch(self, commit: Commit, parent: str) -> str:
        name = _work_name(commit.id)
        with suppress(NotFound):
            self._target.delete_branch(name)
        self._target.create_branch(name, parent)
        return name

    def _merge(self, commit: Commit, branch: str, note: Mapping[str, str]) -> str | None:
        """Make a merge; None where the paths do not merge, or to something else."""
        ours, theirs = commit.parents[:2]
        try:
            made = self._target.merge(self._copies[theirs], branch, commit.message, note).id
        except Conflict:
            return None
        wanted, found = (
            self._states(self._source, ours, commit.id),
            self._states(self._target, self._copies[ours], made),
        )
        return made if wanted == found else None

    def _states(self, lake: Lake, before: str, after: str) -> list[tuple[str, str | None]]:
        changes = lake.diff(before, after)
        return [(one.path, None if one.kind == "removed" else lake.stat(after, one.path).digest) for one in changes]

    def _commit(self, commit: Commit, parent: str, branch: str, note: dict[str, str]) -> str:
        if commit.parents:
            changes = self._source.diff(commit.parents[0], commit.id)
        else:
            changes = [Change(entry.path, "added") for entry in self._source.list(commit.id)]
        if not changes:
            return parent
        for change in changes:
            if change.kind == "removed":
                self._target.delete(branch, change.path)
        brought = [change.path for change in changes if change.kind != "removed"]
        for start in range(0, len(brought), _AT_A_TIME):
            self._bring(commit.id, brought[start : start + _AT_A_TIME], branch)
        return self._target.commit(branch, commit.message, note).id

    def _bring(self, commit_id: str, paths: list[str], branch: str) -> None:
        with tempfile.TemporaryDirectory(prefix="copy-", dir=self._scratch) as folder:
            contents: dict[str, bytes | Path] = {}
            for number, path in enumerate(paths):
                entry = self._source.stat(commit_id, path)
                if entry.size <= _IN_MEMORY:
                    contents[path] = self._source.get(commit_id, path)
                else:
                    contents[path] = Path(folder) / str(number)
                    self._source.fetch(commit_id, path, Path(folder) / str(number))
            stored = self._target.put_all(branch, contents)
        self._objects += len(stored)
        self._bytes += sum(entry.size for entry in stored)

    def _set_refs(self) -> None:
        present, tagged = self._target.branches(), self._target.tags()
        for name, head in self._branches.items():
            copied = self._copies[head]
            if present.get(name) == copied:
                continue
            if name in present:
                self._target.delete_branch(name)  # it is behind: its commits have been made beside it
            self._target.create_branch(name, copied)
        for name, commit_id in self._tags.items():
            if tagged.get(name) != self._copies[commit_id]:
                self._target.tag(name, self._copies[commit_id])
        for name in present:
            if name.startswith(_WORK):
                self._target.delete_branch(name)

    def _compare(self) -> None:
        for name in [*self._branches, *self._tags]:
            ref = self._branches.get(name) or self._tags[name]
            if self._source.list(ref) != self._target.list(self._copies[ref]):
                raise Corrupt(f"{name} differs from what it was copied from: verify both lakes and copy again")


def _work_name(commit_id: str) -> str:
    return f"{_WORK}{commit_id[:40]}"


def _oldest_first(lake: Lake, heads: Iterable[str]) -> dict[str, Commit]:
    """Give all commits that heads reach, each after its parents, by id."""
    found: dict[str, Commit] = {}
    for head in dict.fromkeys(heads):
        found.update((commit.id, commit) for commit in lake.log(head) if commit.id not in found)
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
