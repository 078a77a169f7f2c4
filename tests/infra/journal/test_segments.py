"""Segments: what was appended is there, whatever tears the file's end; what is sealed never changes."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from blake3 import blake3

from infra.journal import segments
from infra.journal.segments import Writer, open_segments, read, seal, sealed_segments

SCHEMA = pa.schema([("number", pa.int64()), ("answered_at", pa.timestamp("us", "UTC"))])


def batch(*numbers: int, second: int = 0) -> pa.RecordBatch:
    at = datetime(2026, 3, 1, 12, 0, second, tzinfo=UTC)
    return pa.RecordBatch.from_arrays(
        [pa.array(numbers, pa.int64()), pa.array([at] * len(numbers), SCHEMA[1].type)], schema=SCHEMA
    )


def numbers(path: Path) -> list[int]:
    return [number for one in read(path) for number in one["number"].to_pylist()]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path, maximum_bytes=1 << 20, maximum_s=3600)
    yield writer
    writer.close()


def append(writer: Writer, *wanted: int, second: int = 0) -> None:
    writer.prepare(SCHEMA)
    while not writer.append(batch(*wanted, second=second)):
        writer.prepare(SCHEMA)


def test_gives_back_what_was_appended_and_whose_it_is(writer: Writer, tmp_path: Path) -> None:
    append(writer, 1, 2)
    append(writer, 3)

    (path,) = open_segments(tmp_path)
    assert numbers(path) == [1, 2, 3]
    assert {segments.name_of(one) for one in read(path)} == {writer.name}


def test_a_sealed_segment_is_named_by_its_moments_and_digest(writer: Writer, tmp_path: Path) -> None:
    append(writer, 1, second=7)
    append(writer, 2, second=5)
    (path,) = open_segments(tmp_path)

    sealed = seal(path)

    assert sealed is not None
    assert [sealed] == sealed_segments(tmp_path)
    assert (sealed.first.second, sealed.last.second) == (5, 7)
    assert (open_segments(tmp_path), numbers(sealed.path)) == ([], [1, 2])


def test_what_comes_after_a_seal_begins_another_segment(writer: Writer, tmp_path: Path) -> None:
    append(writer, 1)
    seal(open_segments(tmp_path)[0])

    append(writer, 2)

    assert [numbers(path) for path in open_segments(tmp_path)] == [[2]]
    assert [numbers(one.path) for one in sealed_segments(tmp_path)] == [[1]]


@pytest.mark.parametrize(("meanwhile", "sealed"), [("more", [1, 2, 3]), ("less", [1])])
def test_what_happens_while_a_segment_is_read_is_sealed_as_well(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str, sealed: list[int]
) -> None:
    append(writer, 1)
    writer.keep()
    append(writer, 2)
    (path,) = open_segments(tmp_path)
    lock = segments._locked

    def late(file: int) -> AbstractContextManager[None]:
        monkeypatch.setattr(segments, "_locked", lock)
        if meanwhile == "more":
            append(writer, 3)
        else:
            writer.take_back()
        return lock(file)

    monkeypatch.setattr(segments, "_locked", late)

    found = seal(path)

    assert found is not None
    assert numbers(found.path) == sealed
    assert found.digest == blake3(found.path.read_bytes()[:-8]).hexdigest()


def test_a_segment_without_rows_is_removed_and_nothing_written_to_it_is_lost(writer: Writer, tmp_path: Path) -> None:
    writer.prepare(SCHEMA)

    assert seal(open_segments(tmp_path)[0]) is None
    append(writer, 1)

    assert [numbers(path) for path in open_segments(tmp_path)] == [[1]]
    assert sealed_segments(tmp_path) == []


def test_begins_another_where_one_is_large_or_old_or_of_another_kind(tmp_path: Path) -> None:
    large, old = Writer(tmp_path, 100, 3600), Writer(tmp_path, 1 << 20, -1)
    other = pa.schema([("text", pa.string()), SCHEMA[1]])
    for one in (large, old):
        append(one, 1)
        append(one, 2)
    large.prepare(other)

    assert len(open_segments(tmp_path)) == 5
    large.close()
    old.close()


@pytest.mark.parametrize("torn", range(1, 120, 7))
def test_a_torn_end_is_left_out_and_sealed_away(writer: Writer, tmp_path: Path, torn: int) -> None:
    append(writer, 1, 2)
    (path,) = open_segments(tmp_path)
    whole = path.stat().st_size
    append(writer, 3)
    writer.close()
    os.truncate(path, path.stat().st_size - torn)

    assert numbers(path) == [1, 2]
    sealed = seal(path)
    assert sealed is not None
    assert numbers(sealed.path) == [1, 2]
    assert sealed.path.stat().st_size == whole + 8


@pytest.mark.parametrize("place", [0, 4, 9, 200, -1])
def test_a_flipped_byte_ends_the_file_there(writer: Writer, tmp_path: Path, place: int) -> None:
    append(writer, 1)
    writer.close()
    (path,) = open_segments(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)

    assert numbers(path) == []


def test_sealing_again_after_a_kill_gives_the_same(writer: Writer, tmp_path: Path) -> None:
    append(writer, 1)
    writer.close()
    (path,) = open_segments(tmp_path)
    first = seal(path)
    assert first is not None
    first.path.rename(path)  # as if killed between the last frame and the new name

    assert seal(path) == first
    assert seal(path) is None


def test_a_write_that_fails_leaves_no_trace(writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(writer, 1)

    def full(file: int, parts: Sequence[memoryview], place: int) -> int:
        os.pwrite(file, parts[0][:5], place)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        with pytest.raises(OSError, match="No space"):
            append(writer, 2)
    append(writer, 3)

    assert sorted(number for path in open_segments(tmp_path) for number in numbers(path)) == [1, 3]


def test_a_write_that_is_done_in_pieces_is_whole(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some(file: int, parts: Sequence[memoryview], place: int) -> int:
        return os.pwrite(file, b"".join(parts)[:11], place)

    monkeypatch.setattr(os, "pwritev", some)

    append(writer, 1, 2)
    append(writer, 3)

    assert [numbers(path) for path in open_segments(tmp_path)] == [[1, 2, 3]]
