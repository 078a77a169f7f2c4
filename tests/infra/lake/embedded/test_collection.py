"""Garbage collection: what something reaches stays, what nothing reaches goes, whoever writes meanwhile."""

import os
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from infra.errors import Corrupt, NotFound
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import MAIN, Collected
from infra.lake.transaction import transaction

NO_GRACE = timedelta(0)
A_DAY = timedelta(days=1)


def commit(lake: EmbeddedLake, branch: str, path: str, content: bytes) -> str:
    lake.put(branch, path, content)
    return lake.commit(branch, "change", {}).id


def content_files(lake: EmbeddedLake) -> list[Path]:
    return [file for file in (lake.root / "objects").rglob("*") if file.is_file()]


def grow_old(lake: EmbeddedLake) -> None:
    """Have all content stored two days ago."""
    then = time.time() - 2 * 86_400
    for file in content_files(lake):
        with suppress(FileNotFoundError):
            os.utime(file, (then, then))


def test_keeps_what_branches_tags_and_uncommitted_changes_reach(embedded: EmbeddedLake) -> None:
    first = commit(embedded, MAIN, "a", b"1")
    commit(embedded, MAIN, "a", b"2")
    embedded.create_branch("tagged", MAIN)
    tagged = commit(embedded, "tagged", "b", b"3")
    embedded.tag("v1", tagged)
    embedded.delete_branch("tagged")
    embedded.put(MAIN, "staged", b"4")

    removed = embedded.collect(NO_GRACE)

    assert removed == Collected(commits=0, objects=0, bytes=0)
    assert [embedded.get(ref, path) for ref, path in ((first, "a"), (MAIN, "a"), ("v1", "b"), (MAIN, "staged"))] == [
        b"1",
        b"2",
        b"3",
        b"4",
    ]
    assert embedded.verify() == []


def test_removes_what_nothing_reaches(embedded: EmbeddedLake) -> None:
    commit(embedded, MAIN, "a", b"kept")
    embedded.create_branch("work", MAIN)
    gone = commit(embedded, "work", "b", b"committed")
    embedded.put("work", "c", b"staged")
    embedded.put(MAIN, "d", b"dropped")
    embedded.put(MAIN, "e", b"")
    embedded.reset(MAIN)
    embedded.delete_branch("work")

    removed = embedded.collect(NO_GRACE)

    assert removed == Collected(commits=1, objects=4, bytes=len(b"committedstageddropped"))
    assert len(content_files(embedded)) == 1
    with pytest.raises(NotFound, match=gone):
        embedded.resolve(gone)
    assert embedded.verify() == []
    assert embedded.collect(NO_GRACE) == Collected(commits=0, objects=0, bytes=0)


def test_stores_again_what_was_removed(embedded: EmbeddedLake) -> None:
    embedded.put(MAIN, "a", b"1")
    embedded.reset(MAIN)
    embedded.collect(NO_GRACE)

    commit(embedded, MAIN, "a", b"1")

    assert embedded.get(MAIN, "a") == b"1"
    assert embedded.verify() == []


def test_spares_what_is_young(embedded: EmbeddedLake) -> None:
    embedded.create_branch("work", MAIN)
    commit(embedded, "work", "a", b"1")
    young = commit(embedded, "work", "a", b"2")
    embedded.delete_branch("work")

    assert embedded.collect(A_DAY) == Collected(commits=0, objects=0, bytes=0)
    assert embedded.get(young, "a") == b"2"


def test_old_content_that_is_stored_again_is_young(embedded: EmbeddedLake) -> None:
    for path in ("a", "b"):
        embedded.put(MAIN, path, path.encode())
    embedded.reset(MAIN)
    grow_old(embedded)

    embedded.put(MAIN, "a", b"a")
    embedded.reset(MAIN)

    assert embedded.collect(A_DAY).objects == 1
    assert [file.read_bytes() for file in content_files(embedded)] == [b"a"]


def test_writers_lose_nothing_meanwhile(embedded: EmbeddedLake) -> None:
    """A grace of a minute, over content that looks two days old and is dropped and committed again all the time."""
    done, failures = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            for number in range(40):
                embedded.create_branch("dropped", MAIN)
                for content in range(3):
                    embedded.put("dropped", f"a/{content}", bytes([content, number % 7]))
                embedded.delete_branch("dropped")
                grow_old(embedded)
                with transaction(embedded, MAIN, "change", {}) as work:
                    work.put(f"b/{number}", bytes([number % 3, number % 7]))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    removed = 0
    while not done.is_set():
        removed += embedded.collect(timedelta(minutes=1)).objects
    writer.join()
    grow_old(embedded)  # what the last round dropped, if nothing was removed between the writer's steps
    removed += embedded.collect(timedelta(minutes=1)).objects

    assert removed > 0
    assert failures == []
    assert embedded.verify() == []
    assert len(embedded.list(MAIN, "b/")) == 40


def test_removes_nothing_from_a_damaged_lake(embedded: EmbeddedLake) -> None:
    embedded.put(MAIN, "dropped", b"1")
    embedded.reset(MAIN)
    with embedded._database.writing() as connection:
        connection.execute("DELETE FROM manifests")

    with pytest.raises(Corrupt):
        embedded.collect(NO_GRACE)

    assert len(content_files(embedded)) == 1
