"""Keeps the manifest of a commit: every path with its digest and size.

A manifest is cut into ranges of about `_RANGE` entries, and a root that lists them; each of these blocks is named by
the sha256 of its canonical form and stored once, so that states which differ in a few paths share all other blocks. A
range ends where a digest of a path says so and nowhere else: equal states have equal blocks, however they came about.
Reading verifies a block's name. Only this module knows the form.

Costs, for a manifest of N paths: a look-up reads the root and one range; k changes write at most k ranges and the root
of N / `_RANGE` lines; comparing two manifests reads the ranges in which they differ. Decoded blocks are cached, up to a
number of entries in all.
"""

import sqlite3
import threading
import zlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b, sha256
from typing import NamedTuple

import msgspec

from infra.errors import Corrupt
from infra.lake.protocol import Entry

_RANGE = 64
"""Entries a range, on average. Smaller ones make cheaper commits and a longer root."""
_CACHED_ENTRIES = 300_000
_FAST = 1
"""zlib's level, for the paths; digests do not compress."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[bytes, bytes, list[int]])


class Block(NamedTuple):
    """Entries in order of path: those of a range, or the ranges themselves, each by its last path and its length."""

    paths: list[str]
    entries: list[Entry]


class _Fresh(NamedTuple):
    block: Block
    content: bytes


Read = Callable[[str], Block]
"""Gives the block of a digest."""


class Manifest:
    """One state's entries. Immutable; reads its ranges when they are needed, as long as its connection is lent."""

    def __init__(self, ranges: Block, read: Read, fresh: Mapping[str, "_Fresh"] | None = None) -> None:
        self._ranges = ranges
        self._read = read
        self._fresh = dict(fresh or {})
        """Ranges that are not stored yet."""

    @classmethod
    def of(cls, entries: Mapping[str, Entry]) -> "Manifest":
        """Make one that is not stored."""
        return cls(Block([], []), _nothing).with_changes(entries)

    def __len__(self) -> int:
        return sum(one.size for one in self._ranges.entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self._ranges == other._ranges

    def __hash__(self) -> int:
        return hash(tuple(self._ranges.entries))

    def get(self, path: str) -> Entry | None:
        """Find one entry."""
        place = bisect_left(self._ranges.paths, path)
        if place == len(self._ranges.paths):
            return None
        block = self._block(self._ranges.entries[place])
        found = bisect_left(block.paths, path)
        return block.entries[found] if found < len(block.paths) and block.paths[found] == path else None

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Go through the entries under a prefix, in order of path."""
        for listed in self._ranges.entries[bisect_left(self._ranges.paths, prefix) :]:
            block = self._block(listed)
            for entry in block.entries[bisect_left(block.paths, prefix) :]:
                if not entry.path.startswith(prefix):
                    return
                yield entry

    def differing(self, other: "Manifest") -> Iterator[tuple[str, Entry | None, Entry | None]]:
        """Go through the paths that differ, in order, each with its entry here and in the other."""
        shared = set(self._ranges.entries) & set(other._ranges.entries)
        mine, others = ({e.path: e for e in one._outside(shared)} for one in (self, other))
        for path in sorted(mine.keys() | others.keys()):
            if mine.get(path) != others.get(path):
                yield path, mine.get(path), others.get(path)

    def with_changes(self, changes: Mapping[str, Entry | None]) -> "Manifest":
        """Give the manifest with some entries replaced, added or, where None, removed."""
        waiting = sorted(changes.items(), reverse=True)
        listed: list[Entry] = []
        fresh = dict(self._fresh)
        growing: dict[str, Entry] = {}

        def end_range() -> None:
            block = Block(list(growing), list(growing.values()))
            digest, content = _encode(block)
            fresh[digest] = _Fresh(block, content)
            listed.append(Entry(block.paths[-1], digest, len(block.paths)))
            growing.clear()

        def add(entries: Iterable[Entry], may_end: Callable[[str], bool]) -> None:
            for entry in entries:
                growing[entry.path] = entry
                if may_end(entry.path) and _ends_range(entry.path):
                    end_range()

        for place, one in enumerate(self._ranges.entries):
            is_last = place == len(self._ranges.entries) - 1
            touched = bool(waiting) and (is_last or waiting[-1][0] <= one.path)
            if not touched and not growing:
                listed.append(one)
                continue
            present = dict(zip(*self._block(one), strict=True))
            changed = False
            while waiting and (is_last or waiting[-1][0] <= one.path):
                path, entry = waiting.pop()
                changed = changed or path not in present
                if entry is None:
                    present.pop(path, None)
                else:
                    present[path] = entry
            ordered = [present[path] for path in sorted(present)] if changed else present.values()
            # Within a range no path but the last one ends it, so that only new paths need be asked
            add(ordered, lambda path, last=one.path: path == last or path in changes)  # type: ignore[misc]
        add((entry for _, entry in reversed(waiting) if entry is not None), lambda _: True)
        if growing:
            end_range()
        return Manifest(Block([one.path for one in listed], listed), self._read, fresh)

    def blocks(self) -> tuple[str, dict[str, bytes]]:
        """Give the root's digest, and every block that is not stored yet by digest."""
        digest, content = _encode(self._ranges)
        used = {one.digest for one in self._ranges.entries}
        return digest, {name: one.content for name, one in self._fresh.items() if name in used} | {digest: content}

    def _block(self, listed: Entry) -> Block:
        fresh = self._fresh.get(listed.digest)
        return fresh.block if fresh else self._read(listed.digest)

    def _outside(self, shared: set[Entry]) -> Iterator[Entry]:
        for one in self._ranges.entries:
            if one not in shared:
                yield from self._block(one).entries


class Manifests:
    """The manifests of one lake, with a cache of the decoded blocks. Safe in threads."""

    def __init__(self) -> None:
        self._cache: OrderedDict[str, Block] = OrderedDict()
        self._cached_entries = 0
        self._lock = threading.Lock()

    def store(self, connection: sqlite3.Connection, manifest: Manifest) -> str:
        """Store a manifest's new blocks and give its digest."""
        digest, blocks = manifest.blocks()
        connection.executemany("INSERT OR IGNORE INTO manifests VALUES (?, ?)", blocks.items())
        return digest

    def load(self, connection: sqlite3.Connection, digest: str) -> Manifest:
        """Read a manifest; its ranges are read while the connection is lent. Raises: `Corrupt`."""

        def read(name: str) -> Block:
            return self._block(connection, name)

        return Manifest(read(digest), read)

    def read(self, connection: sqlite3.Connection, digest: str) -> Block:
        """Read a block past the cache. Raises: `Corrupt`."""
        row = connection.execute("SELECT content FROM manifests WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise Corrupt(f"manifest {digest} is missing: restore the lake from a backup")
        block = _decode(digest, row[0])
        if block is None:
            raise Corrupt(f"manifest {digest} differs from its digest: restore the lake from a backup")
        return block

    def _block(self, connection: sqlite3.Connection, digest: str) -> Block:
        with self._lock:
            if (cached := self._cache.get(digest)) is not None:
                self._cache.move_to_end(digest)
                return cached
        block = self.read(connection, digest)
        with self._lock:
            if digest not in self._cache:
                self._cache[digest] = block
                self._cached_entries += len(block.paths)
            while self._cached_entries > _CACHED_ENTRIES and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._cached_entries -= len(dropped.paths)
        return block


def _encode(block: Block) -> tuple[str, bytes]:
    """Give a block's digest, which does not depend on how well zlib compresses, and what is stored."""
    paths = "\0".join(block.paths).encode()
    digests = bytes.fromhex("".join(entry.digest for entry in block.entries))
    sizes = [entry.size for entry in block.entries]
    name = sha256(_encoder.encode((paths, digests, sizes))).hexdigest()
    return name, _encoder.encode((zlib.compress(paths, _FAST), digests, sizes))


def _decode(digest: str, content: bytes) -> Block | None:
    """Read a block; None where it is not what its digest names."""
    try:
        compressed, digests, sizes = _decoder.decode(content)
        paths = zlib.decompress(compressed)
    except (msgspec.DecodeError, zlib.error):
        return None
    if sha256(_encoder.encode((paths, digests, sizes))).hexdigest() != digest:
        return None
    names, hexadecimal = paths.decode().split("\0") if sizes else [], digests.hex()
    entries = [
        Entry(path, hexadecimal[place : place + 64], size)
        for path, place, size in zip(names, range(0, len(hexadecimal), 64), sizes, strict=True)
    ]
    return Block(names, entries)


def _ends_range(path: str) -> bool:
    return blake2b(path.encode(), digest_size=8).digest()[-1] % _RANGE == 0


def _nothing(digest: str) -> Block:
    raise AssertionError(digest)
