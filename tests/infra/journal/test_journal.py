"""The journal: acknowledged means durable, once, and readable by others."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import msgspec
import pytest

from infra.errors import Misconfigured, NotFound, Unavailable
from infra.journal import journal as module
from infra.journal.answers import row_digest
from infra.journal.index import Index, Label, LabelOutcome
from infra.journal.journal import Counts, Journal
from infra.journal.segments import Writer
from models.contract.columns import Number
from tests.infra.journal.answers import AT, CONTRACT, ROW, answers, milliseconds

WAIT_S = 30.0


def label(name: str, value: float = 2.0) -> Label:
    return Label(id=name, value=value, known_at=AT)


def names(journal: Journal) -> list[str]:
    return [one.id for one in journal.predictions()]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal" / "tiny" / "main", keep_days=36_500)
    yield journal
    journal.close()


def test_gives_back_what_was_acknowledged(journal: Journal) -> None:
    journal.append([answers("a", "b", value=0.5, kind=None, zone=None)]).result(WAIT_S)
    journal.append_labels([label("b")]).result(WAIT_S)

    found = journal.find("b")
    assert (found.id, found.version, found.value, found.event_at, found.answered_at) == ("b", "v1", 0.5, AT, AT)
    assert msgspec.to_builtins(found.row) == {**ROW, "kind": None, "zone": None}
    assert (journal.label("b"), journal.label("a")) == (label("b"), None)


def test_finds_ids_of_its_own_before_and_after_sealing(journal: Journal) -> None:
    batch = answers(None, None, journal=journal)
    journal.append([batch, answers("x")]).result(WAIT_S)
    first, second = batch.ids.texts()

    assert journal.append_labels([label(first)]).result(WAIT_S) == [LabelOutcome.KEPT]
    assert journal.find(second).id == second
    journal.seal()
    assert (journal.find(first).id, journal.find("x").id) == (first, "x")
    assert journal.answered_at(first) == batch.answered_at(0)


def test_is_empty_before_its_first_write_and_makes_no_file(journal: Journal) -> None:
    assert (journal.counts(), journal.last_label(), journal.seal(), names(journal)) == (Counts(0, 0), 0, [], [])
    assert not journal.folder.exists()
    with pytest.raises(NotFound, match="'a'"):
        journal.find("a")


def test_reads_labels_between_two_positions(journal: Journal) -> None:
    journal.append([answers(*"abc")]).result(WAIT_S)
    journal.append_labels([label(name) for name in "ab"]).result(WAIT_S)
    first = journal.last_label()
    journal.append_labels([label("c")]).result(WAIT_S)

    assert first == 2
    assert [one.id for one in journal.labels(after=1, until=first)] == ["b"]
    assert [one.id for one in journal.labels(after=first)] == ["c"]


def test_the_first_of_a_repeated_name_stays(journal: Journal) -> None:
    same, other = answers("a", value=9.0), answers("b", "a", "c", value=9.0, distance=4.0)

    first = journal.append([answers("a", value=1.0)]).result(WAIT_S)
    again = journal.append([same, other]).result(WAIT_S)

    assert first == {}
    assert again == {"a": row_digest(same.columns, 0)} != {"a": row_digest(other.columns, 1)}
    assert [(one.id, one.value) for one in journal.predictions()] == [("a", 1.0), ("b", 9.0), ("c", 9.0)]


def test_one_name_in_one_write_is_recorded_once(journal: Journal) -> None:
    first, second = answers("a", value=1.0), answers("a", value=2.0, distance=4.0)

    repeated = journal.append([first, second]).result(WAIT_S)

    assert repeated == {"a": row_digest(first.columns, 0)}
    assert [(one.id, one.value) for one in journal.predictions()] == [("a", 1.0)]


def test_says_what_became_of_each_label(journal: Journal) -> None:
    journal.append([answers("a", "b")]).result(WAIT_S)

    first = journal.append_labels([label("a", 2.0), label("nobody"), label("b"), label("b", 3.0)]).result(WAIT_S)
    again = journal.append_labels([label("a", 2.0), label("a", 5.0)]).result(WAIT_S)

    assert first == [LabelOutcome.KEPT, LabelOutcome.UNKNOWN, LabelOutcome.KEPT, LabelOutcome.CONFLICTING]
    assert again == [LabelOutcome.REPEATED, LabelOutcome.CONFLICTING]
    assert [(one.id, one.value) for one in journal.labels()] == [("a", 2.0), ("b", 2.0)]


def test_takes_no_label_of_an_answer_that_is_too_old(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "main", keep_days=1e-9)
    batch = answers(None, journal=journal)
    journal.append([batch]).result(WAIT_S)

    assert journal.append_labels([label(batch.ids.texts()[0])]).result(WAIT_S) == [LabelOutcome.UNKNOWN]
    journal.close()


def test_records_ten_thousand_named_rows(journal: Journal) -> None:
    wanted = [f"p{index}" for index in range(10_000)]

    journal.append([answers(*wanted)]).result(WAIT_S)
    outcomes = journal.append_labels([label(name) for name in wanted]).result(WAIT_S)

    assert names(journal) == wanted
    assert set(outcomes) == {LabelOutcome.KEPT}
    assert journal.counts() == Counts(10_000, 10_000)


def test_rows_of_two_contracts_are_kept_apart(journal: Journal) -> None:
    other = msgspec.structs.replace(CONTRACT, features=(Number(name="distance", unit="m", minimum=0, maximum=9),))
    row = dict.fromkeys(ROW.keys() - {"starts_at", "distance"})
    decoded = answers("a")
    small = decoded._replace(contract=other, ids=answers("b").ids)

    journal.append([decoded, small, answers("c")]).result(WAIT_S)

    found = {one.id: one.row.keys() for one in journal.predictions()}
    assert found == {"a": ROW.keys(), "b": ROW.keys() - row.keys(), "c": ROW.keys()}


def test_nothing_asked_is_nothing_written(journal: Journal) -> None:
    journal.append([]).result(WAIT_S)

    assert journal.append_labels([]).result(WAIT_S) == []
    assert journal.counts() == Counts(0, 0)


def test_writes_what_waits_when_it_closes_and_refuses_afterwards(journal: Journal) -> None:
    waiting = [journal.append([answers(f"p{index}")]) for index in range(100)]

    journal.close()

    assert all(future.done() for future in waiting)
    assert journal.counts().predictions == 100
    with pytest.raises(Unavailable, match="closed"):
        journal.append([answers("late")])


def test_fails_while_it_cannot_write_and_recovers(tmp_path: Path) -> None:
    in_the_way = tmp_path / "tiny"
    in_the_way.write_text("a file where the folder belongs")
    journal = Journal(in_the_way / "main")

    with pytest.raises(Unavailable, match="cannot be written"):
        journal.append([answers("a")]).result(WAIT_S)
    assert journal.failure is not None
    in_the_way.unlink()
    journal.append([answers("b")]).result(WAIT_S)

    assert names(journal) == ["b"]
    assert not journal.failure
    journal.close()


def test_is_full_with_more_than_it_may_hold_until_it_is_archived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MEASURE_S", 0.0)
    journal = Journal(tmp_path / "main", keep_days=36_500, maximum_bytes=1)
    journal.append([answers("a")]).result(WAIT_S)

    with pytest.raises(Unavailable, match="0 MiB wait to be archived"):
        journal.append([answers("b")]).result(WAIT_S)
    refused, labelled = journal.append([answers("b")]), journal.append_labels([label("a")]).result(WAIT_S)
    with pytest.raises(Unavailable, match="wait to be archived"):
        refused.result(WAIT_S)
    assert journal.failure
    journal.archived({one: journal.table(one).num_rows for one in journal.seal()}, 0)
    journal.append([answers("c")]).result(WAIT_S)

    assert labelled == [LabelOutcome.KEPT]
    assert names(journal) == ["c"]
    journal.close()


def test_a_full_disk_leaves_no_file_for_each_write_that_fails(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, parts: Sequence[memoryview], place: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        for _ in range(20):
            with pytest.raises(Unavailable, match="No space"):
                journal.append([answers(None, journal=journal)]).result(WAIT_S)
    journal.append([answers("a")]).result(WAIT_S)

    assert len(list((journal.folder / "segments").iterdir())) == 1
    assert names(journal) == ["a"]


def test_what_is_archived_counts_and_keeps_its_name(journal: Journal) -> None:
    journal.append([answers("a", "b")]).result(WAIT_S)

    journal.archived({one: journal.table(one).num_rows for one in journal.seal()}, 0)

    assert (journal.counts(), names(journal)) == (Counts(2, 0), [])
    assert journal.append([answers("a")]).result(WAIT_S).keys() == {"a"}
    assert journal.append_labels([label("b")]).result(WAIT_S) == [LabelOutcome.KEPT]


def test_forgets_names_and_archived_labels_of_old_answers(tmp_path: Path) -> None:
    long, short = Journal(tmp_path / "main", keep_days=36_500), Journal(tmp_path / "main", keep_days=1.0)
    long.append([answers("old", "older")._replace(answered_ms=milliseconds(AT - timedelta(days=900), 2))]).result(
        WAIT_S
    )
    batch = answers("new", journal=long)
    long.append([batch]).result(WAIT_S)
    with long._open_index() as opened, opened.transaction():
        opened.label([label("old"), label("older"), label("new")], AT - timedelta(days=999))

    short.archived({}, labels_until=1)

    assert [short.answered_at(name) for name in ("old", "older", "new")] == [None, None, batch.answered_at(0)]
    assert [one.id for one in short.labels()] == ["older", "new"]
    long.close()


def failing(message: str) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(message)

    return fail


def test_what_an_index_refuses_is_taken_back_and_nothing_before_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append([answers("kept")]).result(WAIT_S)
    more = Number(name="more", unit="m", minimum=0, maximum=1)
    other = msgspec.structs.replace(CONTRACT, features=(*CONTRACT.features, more))

    with monkeypatch.context() as patch:
        patch.setattr(Index, "label", failing("disk full"))
        with journal._wake:  # all is one write
            rows = journal.append([answers("a"), answers(None, journal=journal), answers("b", contract=other, more=1)])
            labels = journal.append_labels([label("kept")])
        for refused in (rows, labels):
            with pytest.raises(Unavailable, match="disk full"):
                refused.result(WAIT_S)

    assert names(journal) == ["kept"]
    assert journal.append([answers("a")]).result(WAIT_S) == {}
    assert sorted(names(journal)) == ["a", "kept"]


def test_what_was_sealed_meanwhile_is_not_taken_back(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def sealed_first(*_: object) -> None:
        journal.seal()
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Index, "label", sealed_first)
        with journal._wake:
            refused = journal.append([answers("a")])
            journal.append_labels([label("a")])
        with pytest.raises(Unavailable, match="disk full"):
            refused.result(WAIT_S)
    journal.append([answers("b")]).result(WAIT_S)

    assert sorted(names(journal)) == ["a", "b"]


@pytest.mark.parametrize("again", [False, True])
def test_a_row_whose_name_a_kill_has_left_unsaid_is_archived_once(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Index, "name", failing("killed here"))
        patch.setattr(Writer, "take_back", Writer.close)  # nobody was there to do it
        with pytest.raises(Unavailable, match="killed here"):
            journal.append([answers("a", "b")]).result(WAIT_S)
    if again:
        journal.append([answers("a")]).result(WAIT_S)

    archived = [journal.table(one)["id"].to_pylist() for one in journal.seal()]

    assert sorted(name for one in archived for name in one) == ["a", "b"]
    assert journal.append([answers("a")]).result(WAIT_S).keys() == {"a"}


def test_many_may_open_a_new_index_at_once(tmp_path: Path) -> None:
    def opened(number: int) -> None:
        ready.wait(WAIT_S)
        Index(tmp_path / f"{number}.sqlite", b"key").close()

    ready = Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        for number in range(40):  # without a turn for each, two of these fail
            list(pool.map(opened, [number] * 8))


def test_refuses_a_journal_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / "main.sqlite").touch()

    with pytest.raises(Misconfigured, match="earlier version"):
        Journal(tmp_path / "main").mint()


CHILD = """
import sys
from pathlib import Path
from infra.errors import Unavailable
from infra.journal.journal import Journal
from tests.infra.journal.answers import answers
journal = Journal(Path(sys.argv[1]))
def write(*names, **changes):
    journal.append([answers(*names, **changes)]).result(30)
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("acknowledged", [1, 40])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(journal: Journal, acknowledged: int) -> None:
    endless = "number = 0\nwhile True:\n    write(f'p{number}'); print(f'p{number}', flush=True); number += 1"
    with child(endless, journal.folder) as writer:
        assert writer.stdout is not None
        seen = [writer.stdout.readline().strip() for _ in range(acknowledged)]
        writer.send_signal(signal.SIGKILL)
        seen += writer.stdout.read().split()

    kept = names(journal)
    assert kept[: len(seen)] == seen
    journal.append([answers("next")]).result(WAIT_S)
    assert journal.find("next").id == "next"


def test_a_full_disk_fails_what_waits_and_is_overcome(journal: Journal) -> None:
    code = """
import resource
write("before")
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
try:
    write("too large", version="x" * 1_000_000)
except Unavailable as error:
    print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
write("after", version="x" * 1_000_000)
journal.close()
"""
    with child(code, journal.folder) as writer:
        output, errors = writer.communicate(timeout=60)

    assert (output.split(), errors) == (["refused"], "")
    assert sorted(names(journal)) == ["after", "before"]


def test_several_processes_share_one_journal(journal: Journal) -> None:
    code = "for number in range(20):\n    write(f'{sys.argv[2]}-{number}'); write(f'shared-{number}')"
    writers = [child(code, journal.folder, name) for name in "abcd"]

    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")

    expected = {f"{name}-{number}" for name in [*"abcd", "shared"] for number in range(20)}
    assert {*names(journal)} == expected
    assert journal.counts().predictions == len(expected)
