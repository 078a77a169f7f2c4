"""What a store must do to be a lake.

A `Lake` is one model's repository. It is exactly as wide as what flows and services need and as both stores (embedded,
lakeFS) can keep: branches with uncommitted changes, commits, three-way merges by path, tags, history, differences.

Refs. A ref is a branch, a tag or a commit id. Through a branch name one sees its uncommitted changes as well (as in
lakeFS); whoever needs a fixed state resolves the branch to a commit id first and reads by that.

Writing. There is no compare-and-swap commit, so that lakeFS can keep the promise too: a writer works on a private
branch and merges it; a clash with somebody else's change to the same path is a `Conflict`. `infra.lake.transaction`
is that pattern, and the only writer to `main`.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from infra.lake.blocks import VerifiedFile

MAIN = "main"
"""The branch that is the truth; every repository has it from the start."""


class Entry(msgspec.Struct, frozen=True):
    """One object under a ref."""

    path: str
    digest: str
    """sha256 of the content, hexadecimal."""
    size: int
    """Bytes."""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable state of the lake."""

    id: str
    parents: tuple[str, ...]
    message: str
    created_at: datetime
    """Aware, UTC."""
    metadata: dict[str, str]


class Change(msgspec.Struct, frozen=True):
    """How one path differs between two refs."""

    path: str
    kind: Literal["added", "removed", "changed"]


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a garbage collection removed."""

    commits: int
    objects: int
    """Pieces of content."""
    bytes: int
    """Their size in all."""


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """Content that shall be gone from every commit."""

    ref: str
    """A ref that shows it."""
    path: str
    """Where."""
    digest: str
    """Of what shall be gone."""
    replacement: Path | None
    """A file with what is read instead of it; None where nothing is."""


class Lake(Protocol):
    """One model's repository.

    Raises, all methods: `infra.errors.NotFound` for a ref or path that does not exist, `Misconfigured` for a name or
    path that is not allowed and for a write to a protected branch that is no merge, `Unavailable` when the store does
    not answer, `Corrupt` when content and digest differ.
    """

    def resolve(self, ref: str) -> str:
        """Give the commit id that a branch, tag or commit id stands for now."""
        ...

    def branches(self) -> dict[str, str]:
        """Give each branch's head commit id, by name."""
        ...

    def create_branch(self, name: str, source: str) -> str:
        """Start a branch at the commit of `source`, without its uncommitted changes, and give that commit's id.

        Raises: `Conflict` if a branch or tag has the name.
        """
        ...

    def delete_branch(self, name: str) -> None:
        """Drop a branch and its uncommitted changes; its commits stay. Raises: `Misconfigured` for `main`."""
        ...

    def protect(self, branch: str) -> None:
        """Have a branch changed by merges alone: no uncommitted changes, commits or reverts.

        Raises: `Conflict` where it has uncommitted changes.
        """
        ...

    def protected(self) -> set[str]:
        """Name the protected branches."""
        ...

    def put(self, branch: str, path: str, content: bytes | Path) -> Entry:
        """Store content under a path of a branch, uncommitted; durable when it returns.

        A `Path` is read in constant memory; `NotFound` if it is no file. Storing what the head has is no change.
        Raises: `Misconfigured` for content that was erased from the lake.
        """
        ...

    def put_all(self, branch: str, contents: Mapping[str, bytes | Path]) -> Sequence[Entry]:
        """Store several contents by path, as `put` does, several at a time."""
        ...

    def delete(self, branch: str, path: str) -> None:
        """Remove a path from a branch, uncommitted. Raises: `NotFound` if the branch does not show the path."""
        ...

    def get(self, ref: str, path: str) -> bytes:
        """Read an object; its digest is verified."""
        ...

    def open(self, ref: str, path: str) -> VerifiedFile:
        """Open an object for reading in parts; each block is verified when it is first touched."""
        ...

    def fetch(self, ref: str, path: str, target: Path) -> Entry:
        """Copy an object into a file, in constant memory; its digest is verified before the file has its name.

        Raises: `Unavailable` where the file cannot be written.
        """
        ...

    def stat(self, ref: str, path: str) -> Entry:
        """Describe an object without reading it."""
        ...

    def commit(self, branch: str, message: str, metadata: Mapping[str, str]) -> Commit:
        """Make a branch's uncommitted changes a commit. Raises: `Conflict` when there is nothing to commit."""
        ...

    def reset(self, branch: str) -> None:
        """Drop a branch's uncommitted changes."""
        ...

    def revert(self, branch: str, ref: str, message: str, metadata: Mapping[str, str]) -> Commit:
        """Undo on a branch, by a new commit, what a commit changed relative to its first parent.

        Raises: `Conflict` naming at most five of the paths that were changed again since, when the branch has
        uncommitted changes, or when there is nothing to undo (the branch has it undone, or the commit has no parent).
        """
        ...

    def merge(self, source: str, into: str, message: str, metadata: Mapping[str, str]) -> Commit:
        """Merge a ref's commits into a branch, path by path, against their best common ancestor.

        Always a merge commit, with both heads as parents, so that it can carry `metadata`; uncommitted changes of
        `source` stay out. Raises: `Conflict` naming at most five of the paths that both sides changed differently, when
        `into` has uncommitted changes, or when there is nothing to merge (`source` has the content of the ancestor).
        """
        ...

    def tag(self, name: str, ref: str) -> None:
        """Name a commit for good. Raises: `Conflict` if the name is a branch, or a tag of another commit."""
        ...

    def tags(self) -> dict[str, str]:
        """Give each tag's commit id, by name."""
        ...

    def log(self, ref: str, prefix: str | None = None) -> Iterator[Commit]:
        """Walk history from newest to oldest, each commit once and after all its descendants.

        With `prefix`: only commits that changed a path under it relative to their first parent.
        """
        ...

    def diff(self, before: str, after: str, prefix: str = "") -> list[Change]:
        """Compare two refs path by path, sorted by path."""
        ...

    def verify(self) -> list[str]:
        """Check everything that refs and uncommitted changes reach. Reads all content.

        Gives one line for each problem, naming paths and digests.
        """
        ...

    def erase(self, erasures: Sequence[Erasure]) -> Sequence[str]:
        """Remove content for good, wherever it is named; ids of commits stay.

        Where the store can: reading any ref gives the replacement or, without one, has no such path. Where it cannot
        remove what commits name, nothing changes, and it gives the addresses of the content: branches are then to be
        changed by commits, and the store's own garbage collection removes what no branch shows. Either store refuses
        the same content from then on, by what it has erased or by the records in `erasures/` on main.
        """
        ...

    @property
    def collects(self) -> bool:
        """Whether the store's garbage is collected by `collect`, and not by rules of its own."""
        ...

    def collect(self, grace: timedelta) -> Collected:
        """Remove commits and content that nothing reaches and that are older than the grace.

        The grace must be longer than a write takes from its first object to its commit, and than a reader needs a
        commit whose branch is dropped. Raises: `Misconfigured` unless `collects`.
        """
        ...

    # Last, because below it `list` would name this method and not the type.
    def list(self, ref: str, prefix: str = "") -> list[Entry]:
        """List objects by path prefix, sorted by path."""
        ...
