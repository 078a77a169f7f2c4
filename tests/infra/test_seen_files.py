"""The index of seen files: recalls what looks the same, trusts no fresh look, and where it fails remembers nothing."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from infra.seen_files import SETTLED_AFTER_NS, SeenFiles, look_at

AN_HOUR_AGO_NS = time.time_ns() - 3600 * 10**9
PARTITION, RESULT = "2020-01", b'{"rows":1}'

REMEMBERS_UNTIL_KILLED = """
import itertools, sys
from pathlib import Path
from infra.seen_files import SeenFiles, look_at

index, file = Path(sys.argv[1]), Path(sys.argv[2])
with SeenFiles(index, "main", "basis") as seen:
    for number in itertools.count():
        seen.remember(file.with_name(f"{number}.parquet"), look_at(file), f"{number}", f"{number}".encode())
        print(number, flush=True)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that was written an hour ago."""
    file = tmp_path / "raw" / "2020-01.parquet"
    file.parent.mkdir()
    write(file, b"first")
    return file


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Where the index is."""
    return tmp_path / "cache" / "tiny.sqlite"


@pytest.fixture
def seen(index: Path) -> Iterator[SeenFiles]:
    """An empty index."""
    with SeenFiles(index, "main", "basis") as seen:
        yield seen


def write(file: Path, content: bytes, at_ns: int = AN_HOUR_AGO_NS) -> None:
    file.write_bytes(content)
    os.utime(file, ns=(at_ns, at_ns))


def recalled(seen: SeenFiles, file: Path) -> bytes | None:
    return seen.recall(file, look_at(file))


def test_recalls_a_file_that_looks_the_same_in_a_later_process_too(seen: SeenFiles, file: Path) -> None:
    seen.remember(file, look_at(file), PARTITION, RESULT)

    assert recalled(seen, file) == RESULT
    with SeenFiles(seen.path, "main", "basis") as later:
        assert recalled(later, file) == RESULT


def test_knows_a_file_from_any_working_directory(seen: SeenFiles, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.remember(file, look_at(file), PARTITION, RESULT)
    monkeypatch.chdir(file.parent)

    assert recalled(seen, Path(file.name)) == RESULT


def test_does_not_know_a_file_of_another_size(seen: SeenFiles, file: Path) -> None:
    seen.remember(file, look_at(file), PARTITION, RESULT)
    write(file, b"longer than first")

    assert recalled(seen, file) is None


def test_does_not_know_a_file_of_another_time(seen: SeenFiles, file: Path) -> None:
    seen.remember(file, look_at(file), PARTITION, RESULT)
    write(file, b"other", AN_HOUR_AGO_NS + 1)

    assert recalled(seen, file) is None


def test_does_not_know_a_file_that_another_of_the_same_size_and_time_has_replaced(seen: SeenFiles, file: Path) -> None:
    seen.remember(file, look_at(file), PARTITION, RESULT)
    write(file.with_name("aside"), b"other")
    file.with_name("aside").replace(file)

    assert recalled(seen, file) is None


@pytest.mark.parametrize("younger_ns", [-1_000_000, 0, SETTLED_AFTER_NS, 3600 * 10**9])
def test_does_not_trust_a_file_that_was_not_older_than_the_moment_of_the_look(
    seen: SeenFiles, file: Path, younger_ns: int
) -> None:
    write(file, b"first", time.time_ns() + younger_ns)

    seen.remember(file, look_at(file), PARTITION, RESULT)

    assert recalled(seen, file) is None


def test_a_look_without_trust_leaves_nothing_of_an_earlier_one_to_be_found(seen: SeenFiles, file: Path) -> None:
    seen.remember(file, look_at(file), PARTITION, RESULT)
    write(file, b"other", time.time_ns())

    seen.remember(file, look_at(file), PARTITION, b"second")

    assert recalled(seen, file) is None


def test_keeps_branches_and_bases_apart(seen: SeenFiles, file: Path) -> None:
    seen.remember(file, look_at(file), PARTITION, RESULT)

    with SeenFiles(seen.path, "trial", "basis") as branch, SeenFiles(seen.path, "main", "changed") as basis:
        assert (recalled(branch, file), recalled(basis, file)) == (None, None)


def test_forgets_every_file_of_a_partition_on_its_branch(seen: SeenFiles, file: Path) -> None:
    copy, other = file.with_name("copy.parquet"), file.with_name("2020-02.parquet")
    for one, partition in ((file, PARTITION), (copy, PARTITION), (other, "2020-02")):
        write(one, b"first")
        seen.remember(one, look_at(one), partition, RESULT)
    with SeenFiles(seen.path, "trial", "basis") as trial:
        trial.remember(file, look_at(file), PARTITION, RESULT)

        seen.forget(PARTITION)

        assert recalled(trial, file) == RESULT
    assert [recalled(seen, one) for one in (file, copy, other)] == [None, None, RESULT]


def test_takes_names_that_are_not_unicode(seen: SeenFiles, file: Path) -> None:
    odd = file.with_name(os.fsdecode(b"\xff.parquet"))
    write(odd, b"first")

    seen.remember(odd, look_at(odd), PARTITION, RESULT)

    assert recalled(seen, odd) == RESULT


@pytest.mark.parametrize("damaged", [b"not a database", b"SQLite format 3\0 and nothing more", b""])
def test_a_damaged_index_is_made_anew(index: Path, file: Path, damaged: bytes) -> None:
    index.parent.mkdir()
    index.write_bytes(damaged)

    with SeenFiles(index, "main", "basis") as seen:
        assert recalled(seen, file) is None
        seen.remember(file, look_at(file), PARTITION, RESULT)
        assert recalled(seen, file) == RESULT


def test_an_index_of_another_form_is_made_anew(index: Path, file: Path) -> None:
    index.parent.mkdir()
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("CREATE TABLE seen (branch TEXT, partition TEXT)")

    with SeenFiles(index, "main", "basis") as seen:
        assert recalled(seen, file) is None
        seen.remember(file, look_at(file), PARTITION, RESULT)
        assert recalled(seen, file) == RESULT


def test_an_index_that_is_removed_while_it_is_used_does_no_harm(seen: SeenFiles, file: Path) -> None:
    seen.remember(file, look_at(file), PARTITION, RESULT)
    for part in list(seen.path.parent.iterdir()):
        part.unlink()

    seen.remember(file, look_at(file), PARTITION, RESULT)

    with SeenFiles(seen.path, "main", "basis") as later:
        assert recalled(later, file) is None


def test_an_index_that_cannot_be_made_remembers_nothing(index: Path, file: Path) -> None:
    index.parent.write_text("a file where the folder belongs")

    with SeenFiles(index, "main", "basis") as seen:
        seen.remember(file, look_at(file), PARTITION, RESULT)
        seen.forget(PARTITION)
        assert recalled(seen, file) is None


def test_a_killed_process_leaves_what_it_remembered(index: Path, file: Path) -> None:
    command = [sys.executable, "-c", REMEMBERS_UNTIL_KILLED, str(index), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while (line := writer.stdout.readline()) != "50\n":
            assert line
        writer.kill()

    with SeenFiles(index, "main", "basis") as seen:
        found = [seen.recall(file.with_name(f"{number}.parquet"), look_at(file)) for number in range(51)]
    assert found == [str(number).encode() for number in range(51)]
