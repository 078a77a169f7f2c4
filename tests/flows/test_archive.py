"""Archive: each journalled answer and label is in the lake exactly once, whoever is killed or comes at once."""

import shutil
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flows import archive as module
from flows.archive import archive
from infra import tables
from infra.dataset import LABELS, PREDICTIONS, SHADOWS, labelled_predictions
from infra.errors import Conflict
from infra.journal.answers import Answers
from infra.journal.index import Label
from infra.journal.journal import Counts, Journal
from infra.journal.segments import Sealed
from infra.journal.shadows import Shadows, batch_of
from infra.lake.embedded.store import EmbeddedLake
from models.catalog.taxi_eta import CONTRACT, MODEL
from tests.flows.conftest import answered, journal, lake, trip

AT = datetime(2020, 3, 2, 15, tzinfo=UTC)

archive_now = partial(archive.fn, MODEL.name, "main")


class Killed(BaseException):
    """Stands for a process that ends here."""


def answer(name: str, hours: int = 0, **changes: Any) -> Answers:
    return answered([name], [trip(AT + timedelta(hours=hours), **{"passengers": None, **changes})], 11.0, "v1")


def label(name: str, value: float = 9.0) -> Label:
    return Label(id=name, value=value, known_at=AT + timedelta(minutes=value))


def record(*answers: Answers, labels: tuple[Label, ...] = ()) -> None:
    writing = journal()
    writing.append(answers).result()
    writing.append_labels(labels).result()
    writing.close()


def archived(folder: str = PREDICTIONS) -> pd.DataFrame:
    rows, _ = tables.read_all(lake(), "main", folder)
    return rows


def once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, meanwhile: Callable[[], object]) -> None:
    """Have something happen just before the next call of a method, and never again."""
    method: Any = getattr(owner, name)

    def call(self: object, *arguments: Any) -> Any:
        monkeypatch.setattr(owner, name, method)
        meanwhile()
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, call)


def test_keeps_what_was_asked_answered_and_labelled(home: Path) -> None:
    record(answer("a"), answer("b", passengers=2.0), labels=(label("b", 8.5),))

    added = archive_now()

    assert added == Counts(2, 1)
    rows = archived().to_dict("list")
    assert (rows["id"], rows["version"], rows["predicted"]) == (["a", "b"], ["v1", "v1"], [11.0, 11.0])
    assert (rows["event_at"], rows["pickup_at"]) == ([AT, AT], [datetime(2020, 3, 2, 10)] * 2)
    np.testing.assert_array_equal(rows["passengers"], [np.nan, 2.0])
    (labelled,) = labelled_predictions(CONTRACT, lake(), "main")[0].to_dict("records")
    assert (labelled["id"], labelled["trip_minutes"], labelled["known_at"]) == ("b", 8.5, AT + timedelta(minutes=8.5))


def test_holds_one_segment_at_a_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        record(answer(name))
        journal().seal()
    read, held = module._table, list["weakref.ref[pa.Table]"]()

    def table(journal: Journal, sealed: Sealed) -> pa.Table:
        assert all(one() is None for one in held)
        found = read(journal, sealed)
        held.append(weakref.ref(found))
        return found

    monkeypatch.setattr(module, "_table", table)

    assert archive_now() == Counts(3, 0)
    assert len(held) == 3


def test_data_and_position_are_one_commit(home: Path) -> None:
    record(answer("a"), labels=(label("a"),))

    archive_now()

    (commit, *_) = lake().log("main")
    changed = [change.path for change in lake().diff(commit.parents[0], commit.id)]
    assert [Path(path).parent.name for path in changed] == ["labels", "journal", "predictions"]
    assert (commit.metadata["predictions"], commit.metadata["labels"]) == ("1", "1")


def test_adds_only_what_is_new_and_commits_nothing_where_nothing_is(home: Path) -> None:
    record(answer("a"))
    archive_now()
    before = lake().resolve("main")

    nothing = archive_now()
    unchanged = lake().resolve("main")
    record(answer("b"), labels=(label("a"),))
    more = archive_now()

    assert (nothing, unchanged) == (Counts(0, 0), before)
    assert more == Counts(1, 1)
    assert archived()["id"].tolist() == ["a", "b"]
    assert archived(LABELS)["id"].tolist() == ["a"]


def test_a_table_is_in_the_order_of_moments_and_ids(home: Path) -> None:
    record(answer("a", hours=1), answer("c"), answer("b", hours=1), answer("d"))

    archive_now()

    assert archived()["id"].tolist() == ["c", "d", "a", "b"]


def test_takes_what_a_living_service_has_written_and_lets_it_go_on(home: Path) -> None:
    service = journal()
    service.append([answer("a")]).result()

    archive_now()
    between = list(service.predictions())
    service.append([answer("b", hours=1)]).result()
    archive_now()

    assert between == []
    assert archived()["id"].tolist() == ["a", "b"]
    service.close()


def test_what_a_kill_has_left_in_the_journal_is_not_added_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill() -> None:
        raise Killed

    record(answer("a"), labels=(label("a"),))
    once(monkeypatch, Journal, "archived", kill)

    with pytest.raises(Killed):
        archive_now()
    left = [one.id for one in journal().predictions()]
    again = archive_now()

    assert (left, again) == (["a"], Counts(0, 0))
    assert archived()["id"].tolist() == archived(LABELS)["id"].tolist() == ["a"]
    assert list(journal().predictions()) == []


def test_takes_times_with_and_without_fractions_of_a_second(home: Path) -> None:
    record(answer("a"), answer("b", hours=1, pickup_at="2020-03-02T11:00:00.250000"))

    archive_now()

    assert archived()["pickup_at"].tolist() == [datetime(2020, 3, 2, 10), datetime(2020, 3, 2, 11, 0, 0, 250_000)]


@pytest.mark.parametrize(("step", "kept"), [("merge", 0), ("delete_branch", 1)])
def test_a_killed_archive_neither_loses_nor_repeats(
    home: Path, monkeypatch: pytest.MonkeyPatch, step: str, kept: int
) -> None:
    def kill() -> None:
        raise Killed

    record(answer("a"), labels=(label("a"),))
    once(monkeypatch, EmbeddedLake, step, kill)

    with pytest.raises(Killed):
        archive_now()
    after_the_kill = len(archived())
    record(answer("b"), labels=(label("b"),))
    archive_now()

    assert after_the_kill == kept
    assert archived()["id"].tolist() == archived(LABELS)["id"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (Journal, "last_label"),
        (Journal, "table"),
        (Journal, "labels"),
        (EmbeddedLake, "create_branch"),
        (EmbeddedLake, "merge"),
    ],
)
@pytest.mark.parametrize("more", [False, True])
def test_two_archives_at_once_add_everything_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, more: bool
) -> None:
    def archive_meanwhile() -> None:
        if more:
            record(answer("b", hours=1), labels=(label("b"),))
        archive_now()

    record(answer("a"), labels=(label("a"),))
    once(monkeypatch, owner, step, archive_meanwhile)

    try:
        archive_now()
    except Conflict:
        archive_now()

    expected = ["a", "b"] if more else ["a"]
    assert archived()["id"].tolist() == archived(LABELS)["id"].tolist() == expected


def show(*answers: Answers, predicted: float = 12.0) -> None:
    """Have a challenger's answers recorded as well."""
    shadows = journal().shadows
    values = np.full(len(answers), predicted, np.float32)
    shadows.append([batch_of("v2", answers, values, [()] * len(answers))])
    shadows.close()


def test_what_a_shadow_answered_is_added_once_and_apart_from_predictions(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        raise Killed

    record(answer("a"), answer("b"))
    show(answer("a"), answer("b"))
    once(monkeypatch, Shadows, "archived", kill)

    with pytest.raises(Killed):
        archive_now()
    left = [batch.num_rows for batch in journal().shadows.batches(lambda _: False)]
    again = archive_now()

    assert (left, again) == ([2], Counts(0, 0))
    assert archived()["version"].tolist() == ["v1", "v1"]
    rows = archived(SHADOWS).to_dict("list")
    assert (rows["id"], rows["version"], rows["champion"]) == (["a", "b"], ["v2"] * 2, ["v1"] * 2)
    assert (rows["served"], rows["predicted"]) == ([11.0] * 2, [12.0] * 2)
    assert list(journal().shadows.batches(lambda _: False)) == []


def test_a_shadow_is_added_where_nothing_else_is_new(home: Path) -> None:
    record(answer("a"))
    archive_now()
    show(answer("a"))

    archive_now()

    assert archived(SHADOWS)["id"].tolist() == ["a"]
    assert next(lake().log("main")).metadata["shadows"] == "1"


def test_labels_of_two_journals_reach_one_branch(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(answer("a"), answer("b"), labels=(label("a"), label("b")))
    archive_now()
    shutil.rmtree(journal().folder)  # as if another machine's, which knows nothing of the first

    record(answer("c"), labels=(label("c"),))
    added = archive_now()

    assert added == Counts(1, 1)
    assert sorted(archived(LABELS)["id"]) == ["a", "b", "c"]
    assert archive_now() == Counts(0, 0)


def test_a_name_that_comes_again_counts_once(home: Path) -> None:
    record(answer("a"), labels=(label("a", 8.5),))
    archive_now()
    shutil.rmtree(journal().folder)  # as if it had been forgotten
    record(answer("a", trip_miles=9.0), labels=(label("a", 7.0),))
    archive_now()

    labelled, _ = labelled_predictions(CONTRACT, lake(), "main")

    assert labelled[["id", "trip_miles", "trip_minutes"]].to_numpy().tolist() == [["a", 2.5, 8.5]]
