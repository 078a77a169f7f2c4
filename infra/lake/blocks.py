"""Content by blocks: a part of it can be read and verified without the rest.

Content is identified by its sha256; its blocks are verified by their BLAKE3, which takes a third of the time and so
lets a column of a table be read, verified, in little more time than without.

A block is the smallest power of two from 128 KiB on of which content has at most 256: small enough that reading a
column of a table verifies little beside it, few enough that a store can keep their digests with the content's own
(8 KiB, which fit into the headers of a request).
"""

import io
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, Protocol

import msgspec
from blake3 import blake3

from infra.errors import Corrupt

CHUNK_BYTES = 4 * 2**20
"""What is read at once."""

_SMALLEST = 128 * 2**10
_MOST = 256
_DIGEST_BYTES = 32


class Content(msgspec.Struct, frozen=True):
    """What identifies stored content."""

    digest: str
    """sha256, hexadecimal."""
    size: int
    """Bytes."""
    blocks: bytes
    """The BLAKE3 of each block, one after the other; empty for content of at most one block: its digest will do."""

    @property
    def block_bytes(self) -> int:
        """The length of a block; the last may be shorter."""
        return block_bytes(self.size)

    def hasher(self) -> Any:
        """Begin the digest of a block."""
        return blake3() if self.blocks else sha256()

    def check(self, number: int, block: memoryview, name: str) -> None:
        """Compare a block with its digest. Raises: `Corrupt`, calling the content by `name`."""
        hasher = self.hasher()
        hasher.update(block)
        if hasher.digest() != self.block_digest(number):
            raise Corrupt(f"{name}: bytes {number * self.block_bytes} and after differ from their digest")

    def block_digest(self, number: int) -> bytes:
        """Say what the digest of a block must be."""
        return self.blocks[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES] or bytes.fromhex(self.digest)


class Source(Protocol):
    """What is read in order, such as a file."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill a buffer, and say how much of it."""
        ...


def block_bytes(size: int) -> int:
    """Give the length of the blocks of content of a size."""
    block = _SMALLEST
    while size > block * _MOST:
        block *= 2
    return block


def digested(source: Source, size: int) -> Content:
    """Digest content in constant memory, its blocks beside the whole.

    Args:
        size: how long it should be; how long it is, is found.
    """
    whole, blocks, found = sha256(), _BlockDigests(block_bytes(size)), 0
    buffer = memoryview(bytearray(min(CHUNK_BYTES, size + 1)))  # more than there is, where there is little
    with ThreadPoolExecutor(1) as thread:
        while count := _fill(source, buffer):
            # Content of one block is digested once, and without a thread
            alone = not found and count < len(buffer) and count <= blocks.length
            digesting = None if alone else thread.submit(blocks.update, buffer[:count])
            whole.update(buffer[:count])
            if digesting:
                digesting.result()
            found += count
    return Content(whole.hexdigest(), found, blocks.finish() if found > blocks.length else b"")


def _fill(source: Source, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer) and (count := source.readinto(buffer[filled:])):
        filled += count
    return filled


class _BlockDigests:
    """Digests of blocks, while their bytes come in pieces of any length."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._digests = bytearray()
        self._begun = blake3()
        self._missing = length

    def update(self, piece: memoryview) -> None:
        while len(piece):
            part = piece[: self._missing]
            self._begun.update(part)
            self._missing -= len(part)
            piece = piece[len(part) :]
            if not self._missing:
                self._end_block()

    def finish(self) -> bytes:
        if self._missing < self.length:
            self._end_block()
        return bytes(self._digests)

    def _end_block(self) -> None:
        self._digests += self._begun.digest()
        self._begun, self._missing = blake3(), self.length


class VerifiedFile(io.RawIOBase):
    """Stored content as a seekable file; each block that is touched has been compared with its digest.

    What `read` gives is a view, so that a store that has the bytes in memory copies nothing.
    """

    def __init__(self, content: Content, name: str) -> None:
        super().__init__()
        self.content = content
        self.name = name
        """What to call it in messages."""
        self._position = 0

    @abstractmethod
    def verified(self, start: int, end: int) -> memoryview:
        """Give bytes, `0 <= start <= end <= size`, verified. Raises: `Corrupt`, `Unavailable`."""
        ...

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def size(self) -> int:
        """Give the length, which pyarrow asks for."""
        return self.content.size

    def tell(self) -> int:
        """Give the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, relative to the start, the position or the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.content.size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def read(self, size: int | None = -1) -> memoryview:
        """Read from the position on. Raises: `Corrupt`, `Unavailable`."""
        start = min(self._position, self.content.size)
        end = self.content.size if size is None or size < 0 else min(start + size, self.content.size)
        found = self.verified(start, end)
        self._position = end
        return found

    def readall(self) -> bytes:
        """Copy what follows the position. Raises: `Corrupt`, `Unavailable`."""
        return bytes(self.read())

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer. Raises: `Corrupt`, `Unavailable`."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def touched(self, start: int, end: int) -> range:
        """Number the blocks that have bytes from `start` to `end`."""
        return range(start // self.content.block_bytes, -(-end // self.content.block_bytes))
