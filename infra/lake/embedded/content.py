"""Keeps content in immutable files named by their sha256.

Guarantees: a file has its final name only when its bytes are on disk (temporary file, fsync, rename, fsync of the
folder), so whoever records the digest afterwards never points at nothing. Equal content is stored once. A read compares
bytes and digest; storing content again repairs a damaged copy. A process killed half-way leaves a temporary file or
content that nothing names; both are harmless: temporary files are swept, and unnamed content is removed by `remove`,
which spares what was stored, for the first time or again, within a grace.

Costs: one write, one sha256 and two fsyncs for new content, one read for content that is stored already. Content above
one block (`infra.lake.blocks`) is digested by block as well, beside the write. Constant memory for a file of any size.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path

from infra.errors import NotFound
from infra.folders import sync_folder
from infra.lake.blocks import CHUNK_BYTES, Content, VerifiedFile, digested
from infra.lake.embedded.faults import translated
from infra.lake.targets import aside

_ABANDONED_AFTER_S = 3600.0
_AT_A_TIME = 3


class ContentFiles:
    """The folder of content under a lake's root."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._objects = root / "objects"
        self._temporary = root / "tmp"
        self._durable_shards: set[str] | None = None

    def prepare(self) -> None:
        """Make the folders and sweep what killed processes left in the temporary one."""
        with translated(self._root):
            if not self._temporary.is_dir():
                self._objects.mkdir(parents=True, exist_ok=True)
                self._temporary.mkdir(exist_ok=True)
                sync_folder(self._root)
                sync_folder(self._root.parent)
            oldest = time.time() - _ABANDONED_AFTER_S
            for leftover in self._temporary.iterdir():
                _remove_older(leftover, oldest)

    def path(self, digest: str) -> Path:
        """Say where content lies."""
        return self._objects / digest[:2] / digest[2:]

    def store(self, content: bytes | Path) -> Content:
        """Store content, durable when it returns. Raises: `NotFound` for a source that is no readable file."""
        if isinstance(content, Path) and _size(content) > CHUNK_BYTES:
            with translated(self._root):
                return self._store_file(content)
        with translated(self._root):
            return self._store_bytes(content if isinstance(content, bytes) else content.read_bytes())

    def store_all(self, contents: Sequence[bytes | Path]) -> list[Content]:
        """Store several contents, several at a time: some wait for the disk while others are digested."""
        if len(contents) == 1:
            return [self.store(contents[0])]
        with ThreadPoolExecutor(_AT_A_TIME) as threads:
            return list(threads.map(self.store, contents))

    def read(self, digest: str) -> bytes | None:
        """Read content; None where it is missing or differs from its digest."""
        with translated(self._root):
            try:
                content = self.path(digest).read_bytes()
            except FileNotFoundError:
                return None
        return content if sha256(content).hexdigest() == digest else None

    def fetch(self, digest: str, size: int, target: Path) -> bool:
        """Copy content into a file; False, and no file, where it is missing or differs from its digest.

        Raises: `Unavailable` where the file cannot be written.
        """
        source = self.path(digest)
        if not source.exists():
            return False
        with aside(target) as copied:
            shutil.copyfile(source, copied)
            with copied.open("rb") as copy:
                if digested(copy, size).digest != digest:
                    return False
            copied.replace(target)
        return True

    def open(self, content: Content, name: str) -> VerifiedFile | None:
        """Map content into memory; None where it is missing or has another length.

        Args:
            name: what to call it in messages.
        """
        with translated(self._root):
            try:
                with self.path(content.digest).open("rb") as file:
                    if os.fstat(file.fileno()).st_size != content.size:
                        return None
                    mapped = mmap(file.fileno(), 0, access=ACCESS_READ) if content.size else b""
            except FileNotFoundError:
                return None
        return _MappedFile(content, memoryview(mapped), name)

    def damage(self, expected: Content) -> str | None:
        """Compare a stored file with what was recorded; None where all is well."""
        with translated(self._root):
            try:
                with self.path(expected.digest).open("rb") as file:
                    found = digested(file, expected.size)
            except FileNotFoundError:
                return "its content is missing"
        if found.size != expected.size:
            return f"its content has {found.size} bytes instead of {expected.size}"
        return None if found == expected else "its content differs from its digest"

    def stored(self) -> Iterator[str]:
        """Name all content that is there."""
        with translated(self._root):
            for shard in self._objects.iterdir():
                yield from (shard.name + file.name for file in shard.iterdir())

    def holds(self, digest: str) -> bool:
        """Say whether content is there, without reading it."""
        return self.path(digest).exists()

    def erase(self, digest: str) -> None:
        """Remove content, if it is there, and make that durable."""
        with translated(self._root):
            self.path(digest).unlink(missing_ok=True)
            if self.path(digest).parent.is_dir():
                sync_folder(self.path(digest).parent)

    def remove(self, digest: str, before: float) -> int | None:
        """Remove content that was last stored before a moment (seconds since 1970), and give its bytes; else None.

        Whoever records content sees to it that it is there in the very transaction that records it, and so does whoever
        removes: a writer that was overtaken stores it again.
        """
        with translated(self._root):
            try:
                found = self.path(digest).stat()
                if found.st_mtime >= before:
                    return None
                self.path(digest).unlink()
            except FileNotFoundError:
                return None
            return found.st_size

    def _store_bytes(self, content: bytes) -> Content:
        stored = digested(BytesIO(content), len(content))
        if self._touch(stored.digest) and self.damage(stored) is None:
            # Whoever renamed it may have been killed, or may not yet have come, to the folder's fsync.
            self._sync_shard(stored.digest)
            return stored
        with self._temporary_name() as temporary:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._publish(temporary, stored.digest)
        return stored

    def _store_file(self, source: Path) -> Content:
        with self._temporary_name() as temporary:
            shutil.copyfile(source, temporary)
            # The copy is digested, not the source, which may change meanwhile; it is in memory still, so that
            # digesting costs nothing beside the disk's own work.
            with temporary.open("rb") as file, ThreadPoolExecutor(1) as thread:
                flushed = thread.submit(os.fsync, file.fileno())
                stored = digested(file, os.fstat(file.fileno()).st_size)
                flushed.result()
            self._publish(temporary, stored.digest)
        return stored

    def _touch(self, digest: str) -> bool:
        """Have content count as stored now; False where it is not there, or somebody else's."""
        try:
            os.utime(self.path(digest))
        except (FileNotFoundError, PermissionError):
            return False
        return True

    @contextmanager
    def _temporary_name(self) -> Iterator[Path]:
        temporary = self._temporary / secrets.token_hex(16)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path, digest: str) -> None:
        temporary.chmod(0o444)
        target = self.path(digest)
        target.parent.mkdir(exist_ok=True)
        temporary.replace(target)
        self._sync_shard(digest)

    def _sync_shard(self, digest: str) -> None:
        shard = self.path(digest).parent
        sync_folder(shard)
        if self._durable_shards is None or shard.name not in self._durable_shards:
            present = {folder.name for folder in self._objects.iterdir()}
            sync_folder(self._objects)
            self._durable_shards = present


class _MappedFile(VerifiedFile):
    """Content mapped into memory; each block is verified when it is first touched."""

    def __init__(self, content: Content, view: memoryview, name: str) -> None:
        super().__init__(content, name)
        self._view = view
        self._unverified = set(self.touched(0, content.size))

    def verified(self, start: int, end: int) -> memoryview:
        block = self.content.block_bytes
        for number in self.touched(start, end):
            if number in self._unverified:
                self.content.check(number, self._view[number * block : (number + 1) * block], self.name)
                self._unverified.discard(number)
        return self._view[start:end]


def _size(source: Path) -> int:
    try:
        with source.open("rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise NotFound(f"{source} cannot be read as a file to store: {error.strerror}") from error


def _remove_older(leftover: Path, oldest: float) -> None:
    try:
        if leftover.stat().st_mtime >= oldest:
            return
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink()
    except FileNotFoundError:
        return
