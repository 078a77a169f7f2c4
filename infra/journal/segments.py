"""Segments: files of Arrow record batches, appended to by one process at a time, and sealed by anyone.

A file is a row of frames: length, digest, and an Arrow IPC message; first the schema, then a batch a write, last an
empty frame where it is sealed. Whatever a kill or a power cut leaves at the end breaks a length or a checksum, and ends
the file there for every reader. A sealed segment is named by its digest and never changes any more.

Appending and sealing hold the file's lock, so that a flow can seal what a living service writes: the next write sees
that the file is not as long as it left it, and begins another.

A sealed segment is mapped where it is read, and nothing of it is copied. One that is open is read into memory, for its
end may be taken back at any time, and whoever maps what is then gone is killed.

Cost: a write is one `pwritev` and one `fdatasync`.
"""

import fcntl
import os
import re
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from infra.folders import sync_folder
from infra.journal.ids import moment
from models.contract import arrow

SEGMENT_BYTES = 64 << 20
SEGMENT_S = 3600.0
"""What a segment of the journal has at most, and how old it becomes."""

NAME = b"segment"
"""Under this a schema's metadata hold the segment's own name, which its rows are found by once it is sealed, too."""
ANSWERED_AT = "answered_at"
"""The column that says when a row was answered; aware, UTC, whole milliseconds."""

_FRAME = struct.Struct("<I4s")
_END = _FRAME.pack(0, bytes(4))
_SUFFIX = ".segment"
_OPEN = re.compile(r"open-([0-9a-f]{32})\.segment")
_SEALED = re.compile(r"(\d{13})-(\d{13})-([0-9a-f]{64})\.segment")


class Sealed(NamedTuple):
    """A segment that is complete."""

    path: Path
    first: datetime
    last: datetime
    """When its first and its last row were answered; aware, UTC."""
    digest: str


class _Written(NamedTuple):
    """Bytes of a segment, from where to where."""

    path: Path
    start: int
    end: int


class _Overtaken(Exception):
    """Somebody has sealed the file."""


class Writer:
    """Appends to one segment at a time. Not thread-safe."""

    def __init__(self, folder: Path, maximum_bytes: int, maximum_s: float) -> None:
        """Begin another segment where one has so many bytes or is so old."""
        self._folder = folder
        self._maximum_bytes = maximum_bytes
        self._maximum_s = maximum_s
        self._schema: pa.Schema | None = None
        self._file: int | None = None
        self._path = folder
        self._length = 0
        self._began_s = 0.0
        self.name = ""
        """The name of the segment that `append` writes to."""
        self._tentative: list[_Written] = []

    def prepare(self, schema: pa.Schema) -> None:
        """Have a segment for batches of a schema; `name` is its name. Raises: `OSError`."""
        old = time.monotonic() - self._began_s > self._maximum_s
        other = self._schema is None or not schema.equals(self._schema, check_metadata=True)
        if self._file is None or old or other or self._length > self._maximum_bytes:
            self._begin(schema)

    def append(self, batch: pa.RecordBatch) -> bool:
        """Make a batch durable; False where the segment was sealed meanwhile, and nothing is written.

        Raises: `OSError`; what comes next begins another segment.
        """
        assert self._schema is not None
        frames = [] if self._length else _framed(_named(self._schema, self.name).serialize())
        try:
            self._write([*frames, *_framed(batch.serialize())])
        except _Overtaken:
            self.close()
            return False
        except OSError:
            if not self._length:
                self._path.unlink(missing_ok=True)  # or a full disk leaves one for each write that failed
            self.close()
            raise
        return True

    def keep(self) -> None:
        """Have what was appended since the last time stay."""
        self._tentative.clear()

    def take_back(self) -> None:
        """Remove what was appended since `keep`, less what was sealed meanwhile; the next batch begins another segment.

        Raises: `OSError`.
        """
        self.close()
        while self._tentative:
            path, start, end = self._tentative.pop()
            with suppress(FileNotFoundError), path.open("r+b") as file, _locked(file.fileno()):
                if os.fstat(file.fileno()).st_size == end and _is_at(file.fileno(), path):
                    if start:
                        file.truncate(start)
                    else:
                        path.unlink()

    def close(self) -> None:
        """Leave the segment to whoever seals it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin(self, schema: pa.Schema) -> None:
        self.close()
        name = uuid4().hex
        self._path = self._folder / f"open-{name}{_SUFFIX}"
        self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        sync_folder(self._folder)
        self._schema, self._length, self._began_s, self.name = schema, 0, time.monotonic(), name

    def _write(self, frames: Sequence[Any]) -> None:
        assert self._file is not None
        with _locked(self._file):
            found = os.fstat(self._file)
            if found.st_size != self._length or found.st_nlink == 0:
                raise _Overtaken
            try:
                end = _write_at(self._file, frames, self._length)
                os.fdatasync(self._file)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._file, self._length)  # otherwise what is torn ends the file for every reader
                raise
            self._tentative.append(_Written(self._path, self._length, end))
            self._length = end


def _named(schema: pa.Schema, name: str) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), NAME: name})


def runs(values: pa.Array, ends: npt.NDArray[np.int32]) -> pa.Array:
    """Say each value up to its end in a column, in little place; whoever reads a segment gets an ordinary column."""
    return pa.RunEndEncodedArray.from_arrays(arrow.numbers(pa.int32(), ends), values)


def seal(path: Path) -> Sealed | None:
    """Complete an open segment; None where it has no rows, or somebody else has sealed it. Raises: `OSError`.

    Whoever writes waits for the end of it alone: what is there already is read before the file is locked.
    """
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        seen = _Seen()
        seen.go_on(file)
        with _locked(file):
            if not _is_at(file, path):
                return None
            if os.fstat(file).st_size < seen.end:
                seen = _Seen()  # what was read last has been taken back
            seen.go_on(file)
            return _seal(file, path, seen)
    finally:
        os.close(file)


class _Seen:
    """The whole frames of a segment, as far as they were read."""

    def __init__(self) -> None:
        self.end = 0
        self.moments_us: list[int] = []
        """When the first and the last row of each batch was answered."""
        self.digest = blake3()
        self._schema: pa.Schema | None = None

    def go_on(self, file: int) -> None:
        """Read what has come since. Raises: `OSError`."""
        content = pa.py_buffer(os.pread(file, os.fstat(file).st_size - self.end, self.end))
        end = 0
        for payload, end in _frames(content):  # noqa: B007 (the last one is wanted)
            if self._schema is None:
                self._schema = pa.ipc.read_schema(payload)
                continue
            answered = pa.ipc.read_record_batch(pa.ipc.read_message(payload), self._schema)[ANSWERED_AT]
            if pa.types.is_run_end_encoded(answered.type):
                answered = answered.values
            found = pc.min_max(answered.cast(pa.int64()))
            self.moments_us += [found["min"].as_py(), found["max"].as_py()]
        self.digest.update(memoryview(content)[:end])
        self.end += end


def _seal(file: int, path: Path, seen: _Seen) -> Sealed | None:
    if not seen.moments_us:
        path.unlink()
        return None
    os.ftruncate(file, seen.end)
    _write_at(file, [_END], seen.end)
    os.fsync(file)
    first_ms, last_ms = min(seen.moments_us) // 1000, max(seen.moments_us) // 1000
    digest = seen.digest.hexdigest()
    sealed = path.with_name(f"{first_ms:013}-{last_ms:013}-{digest}{_SUFFIX}")
    path.rename(sealed)
    sync_folder(path.parent)
    return Sealed(sealed, moment(first_ms), moment(last_ms), digest)


def open_segments(folder: Path) -> list[Path]:
    """List what may still be written to."""
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if _OPEN.fullmatch(path.name))


def sealed_segments(folder: Path) -> list[Sealed]:
    """List what is complete, oldest first."""
    found = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        if match := _SEALED.fullmatch(path.name):
            first, last, digest = match.groups()
            found.append(Sealed(path, moment(int(first)), moment(int(last)), digest))
    return found


def size_of(folder: Path) -> int:
    """Give the bytes of all segments. Raises: `OSError`."""
    used = 0
    for one in os.scandir(folder):
        with suppress(FileNotFoundError):  # it was sealed or archived meanwhile
            used += one.stat().st_size
    return used


def read(path: Path) -> Iterator[pa.RecordBatch]:
    """Read what is durable of a segment, open or sealed; nothing where it is gone by now. Raises: `OSError`."""
    try:
        content = _mapped(path) if _SEALED.fullmatch(path.name) else pa.py_buffer(path.read_bytes())
    except FileNotFoundError:
        return
    yield from _batches(content)


def name_of(batch: pa.RecordBatch) -> str:
    """Give the name of the segment that a batch was read from."""
    return str(batch.schema.metadata[NAME], "ascii")


def _batches(content: pa.Buffer) -> Iterator[pa.RecordBatch]:
    """Give each whole batch."""
    frames = _frames(content)
    first = next(frames, None)
    if first is None:
        return
    schema = pa.ipc.read_schema(first[0])
    for payload, _ in frames:
        yield _in_full(pa.ipc.read_record_batch(pa.ipc.read_message(payload), schema))


def _in_full(batch: pa.RecordBatch) -> pa.RecordBatch:
    for place, field in enumerate(batch.schema):
        if pa.types.is_run_end_encoded(field.type):
            batch = batch.set_column(place, field.name, pc.run_end_decode(batch[place]))
    return batch


def _frames(content: pa.Buffer) -> Iterator[tuple[pa.Buffer, int]]:
    place = 0
    while place + _FRAME.size <= content.size:
        length, digest = _FRAME.unpack(content[place : place + _FRAME.size])
        start, end = place + _FRAME.size, place + _FRAME.size + length
        if not length or end > content.size:
            return
        payload = content.slice(start, length)
        if _digest(payload) != digest:
            return
        yield payload, end
        place = end


def _framed(payload: pa.Buffer) -> list[Any]:
    return [_FRAME.pack(payload.size, _digest(payload)), payload]


def _digest(payload: pa.Buffer) -> bytes:
    """Give what a payload that is torn or spoilt has otherwise; of large ones in a third of the time of a CRC-32."""
    return blake3(payload).digest(length=4)


def _mapped(path: Path) -> pa.Buffer:
    if path.stat().st_size == 0:
        return pa.py_buffer(b"")
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


def _write_at(file: int, parts: Sequence[Any], place: int) -> int:
    """Write parts one behind the other; give where they end."""
    left = [memoryview(part) for part in parts]
    while left:
        written = os.pwritev(file, left, place)
        place += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
    return place


def _is_at(file: int, path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file).st_ino
    except FileNotFoundError:
        return False


@contextmanager
def _locked(file: int) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
