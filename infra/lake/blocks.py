"""Content by blocks: a part of it can be read and verified without the rest.

A block is the smallest power of two from 128 KiB on of which content has at most 512, but never more than 4 MiB: small
enough that reading a column of a table verifies little beside it, few enough to be kept with the content's digest.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from infra.errors import Corrupt

CHUNK_BYTES = 4 * 2**20
"""What is read at once; a whole number of blocks."""

_SMALLEST = 128 * 2**10
_MOST = 512
_DIGEST_BYTES = 32
_WORTH_A_THREAD = 4


class Content(msgspec.Struct, frozen=True):
    """What identifies stored content."""

    digest: str
    """sha256, hexadecimal."""
    size: int
    """Bytes."""
    blocks: bytes
    """The sha256 of each block, one after the other; empty for content of at most one block."""


class Source(Protocol):
    """What is read in order, such as a file."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill a buffer, and say how much of it."""
        ...


def block_bytes(size: int) -> int:
    """Give the length of the blocks of content of a size."""
    block = _SMALLEST
    while block < CHUNK_BYTES and size > block * _MOST:
        block *= 2
    return block


def digested(source: Source, size: int) -> Content:
    """Digest content in constant memory, its blocks beside the whole.

    Args:
        size: how long it should be; how long it is, is found.
    """
    block, whole, found, blocks = block_bytes(size), sha256(), 0, bytearray()
    buffer = memoryview(bytearray(min(CHUNK_BYTES, max(size, 1))))
    with ThreadPoolExecutor(1) as thread:
        while count := _fill(source, buffer):
            alone = count <= block and not found  # content of one block is digested once, and without a thread
            digesting = None if alone else thread.submit(_digests, buffer[:count], block)
            whole.update(buffer[:count])
            blocks += digesting.result() if digesting else b""
            found += count
    return Content(whole.hexdigest(), found, bytes(blocks) if found > block else b"")


def _fill(source: Source, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer) and (count := source.readinto(buffer[filled:])):
        filled += count
    return filled


def _digests(chunk: memoryview, block: int) -> bytes:
    return b"".join(sha256(chunk[start : start + block]).digest() for start in range(0, len(chunk), block))


class VerifiedFile(io.RawIOBase):
    """Stored content as a seekable file; each block is compared with its digest when it is first touched.

    Reading copies nothing: what `read` gives is a view.
    """

    def __init__(self, content: Content, view: memoryview, name: str) -> None:
        super().__init__()
        self._content = content
        self._view = view
        self._name = name
        self._block = block_bytes(content.size) if content.blocks else max(content.size, 1)
        self._blocks = content.blocks or bytes.fromhex(content.digest)
        self._unverified = set(range(len(self._blocks) // _DIGEST_BYTES))
        self._position = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def size(self) -> int:
        """Give the length, which pyarrow asks for."""
        return self._content.size

    def tell(self) -> int:
        """Give the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, relative to the start, the position or the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._content.size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def read(self, size: int | None = -1) -> memoryview:
        """Read from the position on. Raises: `Corrupt`."""
        start = min(self._position, self._content.size)
        end = self._content.size if size is None or size < 0 else min(start + size, self._content.size)
        self._verify(start, end)
        self._position = end
        return self._view[start:end]

    def readall(self) -> bytes:
        """Copy what follows the position. Raises: `Corrupt`."""
        return bytes(self.read())

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer. Raises: `Corrupt`."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def _verify(self, start: int, end: int) -> None:
        touched = range(start // self._block, -(-end // self._block))
        waiting = [number for number in touched if number in self._unverified]
        if len(waiting) < _WORTH_A_THREAD:
            self._compare(waiting)
        else:
            with ThreadPoolExecutor(1) as thread:
                half = thread.submit(self._compare, waiting[::2])
                self._compare(waiting[1::2])
                half.result()

    def _compare(self, numbers: list[int]) -> None:
        for number in numbers:
            expected = self._blocks[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]
            if sha256(self._view[number * self._block : (number + 1) * self._block]).digest() != expected:
                raise Corrupt(f"{self._name}: bytes {number * self._block} and after differ from their digest")
            self._unverified.discard(number)
