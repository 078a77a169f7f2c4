"""Lineage: from an answer or a version back to data, code and runs, changing nothing."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from flows.archive import archive
from flows.lineage import lineage
from infra import registry
from infra.errors import NotFound
from models.bundle import DEFINITION, FILES, PAGE
from models.errors import DefinitionError
from tests.flows.conftest import AS_OF, Answers, add_scaled, answered, champion, journal, lake, trip

ANSWERS = datetime(2020, 3, 2, 15, tzinfo=UTC)


def answer(count: int, version: str, branch: str = "main") -> None:
    Answers(ANSWERS, count, minutes=9.0, wrong_by=2.0, version=version).journal(branch)


def test_traces_an_answer_to_data_code_and_runs(trained: Path) -> None:
    answer(3, champion())
    card = registry.load_card(lake(), "main", champion())

    found = lineage("taxi_eta", "20200302-00001")

    assert found.prediction is not None
    assert (found.prediction.value, found.prediction.label) == (11.0, 9.0)
    assert found.prediction.label_known_at == datetime(2020, 3, 2, 16, 9, tzinfo=UTC)
    assert msgspec.json.decode(found.prediction.row)["pickup_at"] == "2020-03-02T11:00:00"
    assert (found.version, found.onnx_digest) == (champion(), card.onnx_digest)
    assert (found.data_commit, found.partitions) == (card.data.commit, card.data.paths)
    assert (found.code_commit, found.environment_digest) == (card.origin.code_commit, card.origin.environment_digest)
    assert found.computed == card.origin.computed
    assert (found.flow_run, found.tracker_run) == (card.origin.flow_run, card.origin.tracker_run)
    assert (found.promoted_at, found.branch) == (AS_OF, "main")
    assert found.promoted_because[0].startswith("error ")
    registered = {change.path for change in lake().diff(lake().resolve(found.data_commit), found.registered_by)}
    assert registered == {f"bundles/{champion()}/{name}" for name in (*FILES, DEFINITION, PAGE)} | {
        f"reports/runs/{champion()}.jsonl"
    }


def test_traces_an_answer_that_has_no_label_yet(trained: Path) -> None:
    journal().append([answered(["asked"], [trip(ANSWERS)], 11.0, champion())]).result()

    found = lineage("taxi_eta", "asked")

    assert found.prediction is not None
    assert (found.prediction.label, found.prediction.label_known_at) == (None, None)


def test_traces_an_answer_that_is_archived(trained: Path) -> None:
    answer(3, champion())
    before = lineage("taxi_eta", "20200302-00001")
    archive.fn("taxi_eta", "main")

    assert list(journal().predictions()) == []
    assert lineage("taxi_eta", "20200302-00001") == before


def test_traces_an_archived_answer_that_this_journal_does_not_know(trained: Path) -> None:
    answer(3, champion())
    before = lineage("taxi_eta", "20200302-00001")
    archive.fn("taxi_eta", "main")
    shutil.rmtree(journal().folder)

    assert lineage("taxi_eta", "20200302-00001") == before


def test_traces_a_version(trained: Path) -> None:
    found = lineage("taxi_eta", champion())

    assert (found.version, found.prediction, found.promoted_at) == (champion(), None, AS_OF)


def test_a_version_that_never_served_was_not_promoted(trained: Path) -> None:
    found = lineage("taxi_eta", add_scaled("waiting", 1.1))

    assert (found.version, found.promoted_at, found.promoted_because) == ("waiting", None, ())


def test_finds_an_answer_of_a_replay_the_newest_first(trained: Path) -> None:
    for branch in ("loop-2", "loop-10"):
        lake().create_branch(branch, "main")
        answer(1, champion(), branch)

    newest = lineage("taxi_eta", "20200302-00000")
    named = lineage("taxi_eta", "20200302-00000", branch="loop-2")
    version = lineage("taxi_eta", champion())

    assert [one.branch for one in (newest, named, version)] == ["loop-10", "loop-2", "main"]


def test_says_what_nobody_knows(trained: Path) -> None:
    with pytest.raises(NotFound, match="'unheard' is neither a version nor a prediction of taxi_eta"):
        lineage("taxi_eta", "unheard")
    with pytest.raises(DefinitionError, match="no model 'pizza_eta'"):
        lineage("pizza_eta", champion())


def test_makes_no_lake_where_there_is_none(home: Path) -> None:
    with pytest.raises(NotFound, match="'x' is neither"):
        lineage("taxi_eta", "x")

    assert not (home / "lake").exists()
