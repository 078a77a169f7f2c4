"""The one way to change a lake: a private branch, merged whole or dropped.

Nothing is visible before the merge; a process killed at any moment leaves at most a private branch, which the next
transaction on the same lake sweeps once it is a day old.
"""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from infra.errors import InfraError
from infra.lake.protocol import Commit, Entry, Lake

_PREFIX, _MOMENT = "tx-", "%Y%m%d%H%M%S"
_PRIVATE = re.compile(rf"{_PREFIX}(\d{{14}})-[0-9a-f]{{8}}[-\w]*")
_ABANDONED_AFTER = timedelta(days=1)


class Transaction:
    """Changes that become one merge commit, or none."""

    def __init__(self, lake: Lake, base: str, branch: str) -> None:
        self._lake = lake
        self.base = base
        """The commit id that this transaction started from."""
        self._branch = branch
        self.committed: Commit | None = None
        """The merge commit, once the `with` block has ended; None where nothing changed."""

    def put(self, path: str, content: bytes | Path) -> Entry:
        """Store content under a path."""
        return self._lake.put(self._branch, path, content)

    def put_all(self, contents: Mapping[str, bytes | Path]) -> Sequence[Entry]:
        """Store several contents by path, several at a time."""
        return self._lake.put_all(self._branch, contents)

    def delete(self, path: str) -> None:
        """Remove a path."""
        self._lake.delete(self._branch, path)


@contextmanager
def transaction(lake: Lake, into: str, message: str, metadata: Mapping[str, str]) -> Iterator[Transaction]:
    """Collect changes on a private branch and merge them into `into` as one commit when the block ends well.

    Raises: `Conflict` when somebody changed the same paths meanwhile; nothing is visible then.
    """
    sweep(lake)
    base = lake.resolve(into)
    branch = private_name()
    lake.create_branch(branch, base)
    work = Transaction(lake, base, branch)
    try:
        yield work
        if lake.diff(base, branch):
            lake.commit(branch, message, metadata)
            work.committed = lake.merge(branch, into, message, metadata)
    finally:
        # By now the merge is done, or an error says why not; a branch that cannot be dropped is left to the sweep.
        with suppress(InfraError):
            lake.delete_branch(branch)


def private_name(purpose: str = "") -> str:
    """Name a new private branch, by the moment and so that no other has the name."""
    return f"{_PREFIX}{datetime.now(UTC):{_MOMENT}}-{secrets.token_hex(4)}{purpose}"


def is_private(branch: str) -> bool:
    """Say whether a branch is a writer's own, for as long as it writes."""
    return _PRIVATE.fullmatch(branch) is not None


def sweep(lake: Lake) -> None:
    """Drop the private branches that killed processes left more than a day ago."""
    oldest = f"{datetime.now(UTC) - _ABANDONED_AFTER:{_MOMENT}}"
    for name in lake.branches():
        if (private := _PRIVATE.fullmatch(name)) and private[1] < oldest:
            with suppress(InfraError):  # somebody else was quicker, or may and will
                lake.delete_branch(name)
