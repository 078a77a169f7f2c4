"""The journal: acknowledged means durable, once, and readable by others."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.errors import NotFound, Unavailable
from infra.journal import Journal, Label, LabelOutcome, Position, Prediction

AT = datetime(2020, 3, 1, 13, 15, tzinfo=UTC)
WAIT_S = 30.0


def prediction(name: str, value: float = 1.5, version: str = "v1") -> Prediction:
    return Prediction(id=name, version=version, event_at=AT, row=b'{"distance":3.5}', value=value)


def label(name: str, value: float = 2.0) -> Label:
    return Label(id=name, value=value, known_at=AT)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal" / "tiny" / "main.sqlite")
    yield journal
    journal.close()


def test_gives_back_what_was_acknowledged(journal: Journal) -> None:
    journal.append([prediction("a"), prediction("b", 0.1)]).result(WAIT_S)
    journal.append_labels([label("b")]).result(WAIT_S)

    assert journal.find("b") == (prediction("b", 0.1), label("b"))
    assert journal.find("a") == (prediction("a"), None)


def test_is_empty_before_its_first_write_and_makes_no_file(journal: Journal) -> None:
    assert journal.last() == journal.counts() == Position(0, 0)
    assert journal.predictions() == []
    assert not journal.path.exists()
    with pytest.raises(NotFound, match="'a'"):
        journal.find("a")


def test_reads_between_two_positions(journal: Journal) -> None:
    journal.append([prediction(name) for name in "abc"]).result(WAIT_S)
    journal.append_labels([label(name) for name in "ab"]).result(WAIT_S)
    first = journal.last()
    journal.append([prediction("d")]).result(WAIT_S)

    assert first == Position(3, 2)
    assert [one.id for one in journal.predictions(after=1, until=first.predictions)] == ["b", "c"]
    assert [one.id for one in journal.predictions(after=first.predictions)] == ["d"]
    assert [one.id for one in journal.labels(after=1)] == ["b"]


def test_the_first_of_a_repeated_id_stays(journal: Journal) -> None:
    first = journal.append([prediction("a", 1.0)]).result(WAIT_S)
    again = journal.append([prediction("b"), prediction("a", 9.0), prediction("c")]).result(WAIT_S)

    assert first == {}
    assert again["a"] == prediction("a").row
    assert [(one.id, one.value) for one in journal.predictions()] == [("a", 1.0), ("b", 1.5), ("c", 1.5)]
    assert journal.last() == Position(3, 0)


def test_says_what_became_of_each_label(journal: Journal) -> None:
    journal.append([prediction("a"), prediction("b")]).result(WAIT_S)

    first = journal.append_labels([label("a", 2.0), label("nobody"), label("b"), label("b", 3.0)]).result(WAIT_S)
    again = journal.append_labels([label("a", 2.0), label("a", 5.0)]).result(WAIT_S)

    assert first == [LabelOutcome.KEPT, LabelOutcome.UNKNOWN, LabelOutcome.KEPT, LabelOutcome.CONFLICTING]
    assert again == [LabelOutcome.REPEATED, LabelOutcome.CONFLICTING]
    assert [(one.id, one.value) for one in journal.labels()] == [("a", 2.0), ("b", 2.0)]


def test_records_more_rows_than_one_statement_holds(journal: Journal) -> None:
    names = [f"p{index}" for index in range(10_000)]

    journal.append([prediction(name) for name in names]).result(WAIT_S)
    outcomes = journal.append_labels([label(name) for name in names]).result(WAIT_S)

    assert [one.id for one in journal.predictions()] == names
    assert set(outcomes) == {LabelOutcome.KEPT}


def test_nothing_asked_is_nothing_written(journal: Journal) -> None:
    journal.append([]).result(WAIT_S)

    assert journal.append_labels([]).result(WAIT_S) == []
    assert journal.last() == Position(0, 0)


def test_writes_what_waits_when_it_closes_and_refuses_afterwards(journal: Journal) -> None:
    waiting = [journal.append([prediction(f"p{index}")]) for index in range(100)]

    journal.close()

    assert all(future.done() for future in waiting)
    assert journal.counts().predictions == 100
    with pytest.raises(Unavailable, match="closed"):
        journal.append([prediction("late")])


def test_fails_while_it_cannot_write_and_recovers(tmp_path: Path) -> None:
    in_the_way = tmp_path / "tiny"
    in_the_way.write_text("a file where the folder belongs")
    journal = Journal(in_the_way / "main.sqlite")

    with pytest.raises(Unavailable, match="cannot be written"):
        journal.append([prediction("a")]).result(WAIT_S)
    assert journal.failure is not None
    in_the_way.unlink()
    journal.append([prediction("b")]).result(WAIT_S)

    assert journal.failure is None
    assert [one.id for one in journal.predictions()] == ["b"]
    journal.close()


CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from infra.errors import Unavailable
from infra.journal import Journal, Prediction
journal = Journal(Path(sys.argv[1]))
def write(name, size=1):
    row = b'"' + b"x" * size + b'"'
    at = datetime(2020, 3, 1, tzinfo=UTC)
    journal.append([Prediction(id=name, version="v1", event_at=at, row=row, value=1.0)]).result(30)
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("acknowledged", [1, 40])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(journal: Journal, acknowledged: int) -> None:
    endless = "number = 0\nwhile True:\n    write(f'p{number}'); print(f'p{number}', flush=True); number += 1"
    with child(endless, journal.path) as writer:
        assert writer.stdout is not None
        seen = [writer.stdout.readline().strip() for _ in range(acknowledged)]
        writer.send_signal(signal.SIGKILL)
        seen += writer.stdout.read().split()

    kept = [one.id for one in journal.predictions()]
    assert kept[: len(seen)] == seen
    journal.append([prediction("next")]).result(WAIT_S)
    assert journal.find("next") == (prediction("next"), None)


def test_a_full_disk_fails_what_waits_and_is_overcome(journal: Journal) -> None:
    code = """
import resource
write("before")
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
try:
    write("too large", 1_000_000)
except Unavailable as error:
    print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
write("after", 1_000_000)
journal.close()
"""
    with child(code, journal.path) as writer:
        output, errors = writer.communicate(timeout=60)

    assert (output.split(), errors) == (["refused"], "")
    assert [one.id for one in journal.predictions()] == ["before", "after"]


def test_several_processes_share_one_journal(journal: Journal) -> None:
    code = "for number in range(20):\n    write(f'{sys.argv[2]}-{number}'); write(f'shared-{number}')"
    writers = [child(code, journal.path, name) for name in "abcd"]

    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")

    expected = {f"{name}-{number}" for name in [*"abcd", "shared"] for number in range(20)}
    assert {one.id for one in journal.predictions()} == expected
    assert journal.last().predictions == journal.counts().predictions == len(expected)
