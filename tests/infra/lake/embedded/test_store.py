"""What the embedded store promises beyond the contract: damage is named, faults of the machine are one clear line."""

import os
import pickle
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import infra
from infra.errors import Conflict, Corrupt, Misconfigured, NotFound, Unavailable
from infra.lake.blocks import CHUNK_BYTES
from infra.lake.embedded import database
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import MAIN
from infra.lake.transaction import transaction


def content_file(lake: EmbeddedLake, path: str) -> Path:
    digest = lake.stat(MAIN, path).digest
    return lake.root / "objects" / digest[:2] / digest[2:]


def overwrite(file: Path, content: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(content)


def sql(lake: EmbeddedLake, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(lake.root / "metadata" / "lake.sqlite", isolation_level=None)) as connection:
        connection.execute(statement, values)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_finds_a_flipped_byte_and_names_it(embedded: EmbeddedLake) -> None:
    embedded.put(MAIN, "data/a", b"content")
    embedded.commit(MAIN, "change", {})
    assert embedded.verify() == []
    overwrite(content_file(embedded, "data/a"), b"cOntent")

    digest = embedded.stat(MAIN, "data/a").digest
    with pytest.raises(Corrupt, match=f"data/a.*{digest}"):
        embedded.get(MAIN, "data/a")
    (problem,) = embedded.verify()
    assert "data/a" in problem
    assert digest in problem


def test_finds_missing_content(embedded: EmbeddedLake) -> None:
    embedded.put(MAIN, "data/a", b"content")
    content_file(embedded, "data/a").unlink()
    with pytest.raises(Corrupt, match="data/a"):
        embedded.get(MAIN, "data/a")
    (problem,) = embedded.verify()
    assert "missing" in problem


def test_finds_a_flipped_byte_in_a_late_block(embedded: EmbeddedLake, tmp_path: Path) -> None:
    content = bytearray(2 * CHUNK_BYTES + 1)
    embedded.put(MAIN, "large", bytes(content))
    content[-1] = 1
    overwrite(content_file(embedded, "large"), bytes(content))
    assert len(embedded.verify()) == 1


def test_finds_a_flipped_byte_in_the_part_that_is_read(embedded: EmbeddedLake) -> None:
    content = bytearray(2 * CHUNK_BYTES)
    embedded.put(MAIN, "large", bytes(content))
    content[CHUNK_BYTES + 7] = 1
    overwrite(content_file(embedded, "large"), bytes(content))

    file = embedded.open(MAIN, "large")

    assert bytes(file.read(CHUNK_BYTES)) == bytes(CHUNK_BYTES)
    with pytest.raises(Corrupt, match=f"^large at main: bytes {CHUNK_BYTES} and after differ from their digest$"):
        file.read(1)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: overwrite(file, b"Xontent")])
def test_copies_nothing_that_is_damaged(embedded: EmbeddedLake, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    embedded.put(MAIN, "a", b"content")
    damage(content_file(embedded, "a"))
    (tmp_path / "out").mkdir()

    with pytest.raises(Corrupt, match="a at main is missing or differs from its digest"):
        embedded.fetch(MAIN, "a", tmp_path / "out" / "a")

    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: overwrite(file, b"short")])
def test_opens_nothing_that_is_missing_or_cut(embedded: EmbeddedLake, damage: Callable[[Path], None]) -> None:
    embedded.put(MAIN, "a", b"content")
    damage(content_file(embedded, "a"))

    with pytest.raises(Corrupt, match="a at main is missing or differs from its digest"):
        embedded.open(MAIN, "a")


@pytest.mark.parametrize("size", [7, CHUNK_BYTES + 1])
def test_repairs_damage_when_the_same_content_is_stored_again(
    embedded: EmbeddedLake, tmp_path: Path, size: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(size))
    embedded.put(MAIN, "a", source)
    overwrite(content_file(embedded, "a"), b"damaged")
    embedded.put(MAIN, "b", source)
    assert embedded.get(MAIN, "a") == bytes(size)
    assert embedded.verify() == []


def test_stores_equal_content_once(embedded: EmbeddedLake) -> None:
    for path in ("a", "b", "c/d"):
        embedded.put(MAIN, path, b"same")
    assert len([file for file in (embedded.root / "objects").rglob("*") if file.is_file()]) == 1


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE commits SET record = replace(CAST(record AS TEXT), 'change', 'forged')", "differs from its id"),
        ("UPDATE commits SET record = x'00'", "cannot be read"),
        ("UPDATE commits SET changed = x'00'", "changed paths"),
        ("UPDATE manifests SET content = x'00'", "differs from its digest"),
        ("DELETE FROM manifests", "is missing"),
        ("DELETE FROM commits", "is missing"),
        ("DELETE FROM objects", "not recorded"),
        ("UPDATE objects SET size = 1", "not recorded"),
        ("INSERT INTO staged VALUES ('gone', 'a', NULL, NULL)", "does not exist"),
    ],
)
def test_verify_names_what_is_wrong_with_the_metadata(embedded: EmbeddedLake, statement: str, problem: str) -> None:
    embedded.put(MAIN, "data/a", b"content")
    embedded.commit(MAIN, "change", {})
    assert embedded.verify() == []
    sql(embedded, statement)
    found = embedded.verify()
    assert found
    assert all(problem in line for line in found)


def test_verify_reads_a_damaged_database(embedded: EmbeddedLake) -> None:
    embedded.close()
    (embedded.root / "metadata" / "lake.sqlite").write_bytes(b"not a database" * 1000)
    (problem,) = embedded.verify()
    assert "damaged" in problem
    with pytest.raises(Corrupt, match="backup"):
        embedded.resolve(MAIN)


def test_refuses_a_format_that_it_does_not_know(embedded: EmbeddedLake) -> None:
    sql(embedded, "PRAGMA user_version = 99")
    with pytest.raises(Misconfigured, match="format 99"):
        EmbeddedLake(embedded.root)


def test_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "lake"):
        with pytest.raises(Unavailable, match="file") as refused:
            EmbeddedLake(root)
        assert "\n" not in str(refused.value)


def test_says_so_when_the_folder_was_removed(embedded: EmbeddedLake) -> None:
    embedded.close()
    (embedded.root / "metadata").rename(embedded.root / "elsewhere")
    with pytest.raises(Unavailable, match="cannot be opened"):
        embedded.resolve(MAIN)


@pytest.mark.parametrize("size", [2**20, CHUNK_BYTES + 1])
def test_stays_intact_when_the_disk_is_full_of_content(embedded: EmbeddedLake, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(size))
    with largest_file(2**19), pytest.raises(Unavailable, match="no space left"):
        embedded.put(MAIN, "large", source)

    assert embedded.list(MAIN) == []
    assert list((embedded.root / "tmp").iterdir()) == []
    embedded.put(MAIN, "large", source)
    assert embedded.verify() == []


def test_stays_intact_when_the_disk_is_full_of_metadata(embedded: EmbeddedLake) -> None:
    embedded.put(MAIN, "a", b"1")
    log = embedded.root / "metadata" / "lake.sqlite-wal"
    with largest_file(log.stat().st_size), pytest.raises(Unavailable, match="lake"):
        embedded.commit(MAIN, "change", {})

    assert embedded.verify() == []
    embedded.commit(MAIN, "change", {})
    assert embedded.get(MAIN, "a") == b"1"


def test_gives_up_on_a_lake_that_stays_locked(embedded: EmbeddedLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.01)
    embedded.close()
    with closing(sqlite3.connect(embedded.root / "metadata" / "lake.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another process"):
            embedded.put(MAIN, "a", b"1")
        assert embedded.list(MAIN) == []


def test_sweeps_leftovers_of_killed_processes_after_an_hour(embedded: EmbeddedLake) -> None:
    folder = embedded.root / "tmp"
    for name in ("old", "young"):
        (folder / name).touch()
        (folder / f"{name}-folder").mkdir()
    for name in ("old", "old-folder"):
        os.utime(folder / name, (0, 0))

    with closing(EmbeddedLake(embedded.root)):
        assert sorted(left.name for left in folder.iterdir()) == ["young", "young-folder"]


def test_opens_what_is_there(embedded: EmbeddedLake) -> None:
    embedded.put(MAIN, "a", b"1")
    head = embedded.commit(MAIN, "change", {}).id
    with closing(EmbeddedLake(embedded.root)) as again:
        assert again.resolve(MAIN) == head
        assert again.get(MAIN, "a") == b"1"


def test_can_be_used_again_after_closing(embedded: EmbeddedLake) -> None:
    embedded.close()
    embedded.close()
    assert embedded.list(MAIN) == []


def test_sees_the_commits_of_others_at_once(embedded: EmbeddedLake) -> None:
    with closing(pickle.loads(pickle.dumps(embedded))) as other:
        for number in range(3):
            other.put(MAIN, "a", str(number).encode())
            head = other.commit(MAIN, "change", {}).id
            assert embedded.resolve(MAIN) == head
            assert embedded.get(MAIN, "a") == str(number).encode()


def test_is_safe_in_threads(embedded: EmbeddedLake) -> None:
    def write(number: int) -> None:
        with transaction(embedded, MAIN, "change", {}) as work:
            work.put(f"data/{number}", b"%d" % number)
            assert embedded.resolve(MAIN)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(24)))

    assert len(embedded.list(MAIN)) == 24
    assert embedded.verify() == []


CHILD_WRITES = """
import multiprocessing, sys
from pathlib import Path
from infra.lake.embedded.store import EmbeddedLake

if __name__ == "__main__":
    lake = EmbeddedLake(Path(sys.argv[1]))
    lake.put("main", "before", b"1")
    child = multiprocessing.get_context(sys.argv[2]).Process(target=lake.put, args=("main", "child", b"2"))
    child.start()
    child.join()
    lake.put("main", "after", b"3")
    print(child.exitcode, *(entry.path for entry in lake.list("main")))
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_is_safe_in_child_processes(tmp_path: Path, method: str) -> None:
    program = tmp_path / "child_writes.py"
    program.write_text(CHILD_WRITES)

    done = subprocess.run(
        [sys.executable, program, tmp_path / "lake", method],
        env={**os.environ, "PYTHONPATH": str(Path(infra.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["0", "after", "before", "child"]


def test_refused_operations_leave_no_transaction_open(embedded: EmbeddedLake) -> None:
    for _ in range(3):
        with pytest.raises(NotFound):
            embedded.delete(MAIN, "absent")
        with pytest.raises(Conflict):
            embedded.commit(MAIN, "nothing", {})
    with closing(EmbeddedLake(embedded.root)) as other:
        other.put(MAIN, "a", b"1")
    assert embedded.get(MAIN, "a") == b"1"


def test_makes_no_new_lake_of_one_that_has_lost_its_database(embedded: EmbeddedLake) -> None:
    embedded.put(MAIN, "a", b"1")
    embedded.close()
    shutil.rmtree(embedded.root / "metadata")

    with pytest.raises(Corrupt, match=r"has content and no .*: restore the folder from a backup"):
        EmbeddedLake(embedded.root)

    assert not (embedded.root / "metadata").exists()
