"""What a commit is, and walking the graph of commits.

A commit's id is the sha256 of its record in canonical JSON, so that a record cannot change unnoticed. A commit is
always newer than its parents (where the clock went backwards: by a microsecond), so walking by time visits children
before parents and reads no more commits than it visits.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import msgspec

from infra.lake.protocol import Commit

_TICK = timedelta(microseconds=1)
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit id digests."""

    created_at: datetime
    manifest: str
    """Digest of the commit's manifest."""
    message: str
    metadata: dict[str, str]
    parents: tuple[str, ...]


Lookup = Callable[[str], Record]
"""Gives the record of a commit id."""

_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> tuple[str, bytes]:
    """Give a record's commit id and canonical JSON."""
    content = msgspec.json.encode(record, order="sorted")
    return sha256(content).hexdigest(), content


def decode(content: bytes) -> Record:
    """Read canonical JSON. Raises: `msgspec.DecodeError` for anything else."""
    return _decoder.decode(content)


def describe(commit_id: str, record: Record) -> Commit:
    """Give a commit as the protocol shows it."""
    return Commit(
        id=commit_id,
        parents=record.parents,
        message=record.message,
        created_at=record.created_at,
        metadata=record.metadata,
    )


def next_moment(parents: Iterable[Record]) -> datetime:
    """Give the time of a new commit: now, or just after its youngest parent."""
    return max(datetime.now(UTC), *(parent.created_at + _TICK for parent in parents))


def walk(tips: Iterable[str], lookup: Lookup) -> Iterator[tuple[str, Record]]:
    """Visit the tips and all their ancestors, newest first, each once."""
    queue = _Queue(lookup)
    queue.push(tips)
    while queue:
        commit_id, record = queue.pop()
        queue.push(record.parents)
        yield commit_id, record


def best_common_ancestors(left: Iterable[str], right: Iterable[str], lookup: Lookup) -> list[str]:
    """Find the commits that both sides descend from and that no other such commit descends from.

    One in a plain history; several after criss-cross merges.
    """
    from_left, from_right, settled = set(left), set(right), set[str]()
    queue = _Queue(lookup)
    queue.push(from_left | from_right)
    best = []
    while queue and queue.waiting - settled:
        commit_id, record = queue.pop()
        common = commit_id in from_left and commit_id in from_right
        if common and commit_id not in settled:
            best.append(commit_id)
        for side in (from_left, from_right):
            if commit_id in side:
                side.update(record.parents)
        if common:
            settled.update(record.parents)
        queue.push(record.parents)
    return best


class _Queue:
    """Commits to visit, newest first; each is let in once."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._heap: list[tuple[timedelta, str, Record]] = []
        self._seen: set[str] = set()
        self.waiting: set[str] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, commit_ids: Iterable[str]) -> None:
        for commit_id in commit_ids:
            if commit_id not in self._seen:
                self._seen.add(commit_id)
                self.waiting.add(commit_id)
                record = self._lookup(commit_id)
                heapq.heappush(self._heap, (_LAST_MOMENT - record.created_at, commit_id, record))

    def pop(self) -> tuple[str, Record]:
        _, commit_id, record = heapq.heappop(self._heap)
        self.waiting.remove(commit_id)
        return commit_id, record
