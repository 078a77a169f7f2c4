"""Lineage and status: read from the lake and the journal, and change nothing."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from flows.build import build
from flows.lineage import lineage
from flows.status import status
from infra import registry
from infra.errors import NotFound
from models.deciding import rollout
from tests.flows.conftest import AS_OF, Answers, champion, lake

ANSWERS = datetime(2020, 3, 2, 15, tzinfo=UTC)


def test_traces_an_answer_to_data_code_and_runs(trained: Path) -> None:
    Answers(ANSWERS, count=3, minutes=9.0, wrong_by=2.0, version=champion()).journal()
    card = registry.load_card(lake(), "main", champion())

    found = lineage("taxi_eta", "20200302-00001")

    assert found.prediction is not None
    assert (found.prediction.value, found.prediction.label) == (11.0, 9.0)
    assert msgspec.json.decode(found.prediction.row)["pickup_at"] == "2020-03-02T11:00:00"
    assert (found.version, found.onnx_digest) == (champion(), card.onnx_digest)
    assert (found.data_commit, found.partitions) == (card.data.commit, card.data.paths)
    assert (found.code_commit, found.environment_digest) == (card.origin.code_commit, card.origin.environment_digest)
    assert (found.flow_run, found.tracker_run) == (card.origin.flow_run, card.origin.tracker_run)
    assert (found.promoted_at, found.branch) == (AS_OF, "main")
    assert found.promoted_because[0].startswith("error ")
    registered = {change.path for change in lake().diff(lake().resolve(found.data_commit), found.registered_by)}
    assert registered == {
        f"bundles/{champion()}/{name}" for name in ("card.json", "model.onnx", "profile.json", "state.safetensors")
    }


def test_traces_a_version_as_well(trained: Path) -> None:
    found = lineage("taxi_eta", champion())

    assert (found.version, found.prediction, found.promoted_at) == (champion(), None, AS_OF)


def test_says_what_nobody_knows(trained: Path) -> None:
    with pytest.raises(NotFound, match="'unheard' is neither a version nor a prediction of taxi_eta"):
        lineage("taxi_eta", "unheard")


def test_status_tells_champion_data_alarm_and_traffic(trained: Path) -> None:
    Answers(ANSWERS, count=3, minutes=9.0, wrong_by=2.0, version=champion()).journal()
    card = registry.load_card(lake(), "main", champion())

    found = status("taxi_eta")

    (line,) = found.lines
    assert (found.bundles, line.branch, line.champion, line.since) == (1, "main", champion(), AS_OF)
    assert (line.trained_rows, line.trained_on_commit) == (card.data.rows_train, card.data.commit)
    assert (line.predictions, line.labels, line.last_alarm) == (3, 3, None)


def test_reading_makes_no_lake(home: Path) -> None:
    assert status("taxi_eta").lines == []
    with pytest.raises(NotFound, match="'x' is neither"):
        lineage("taxi_eta", "x")

    assert not (home / "lake").exists()


def test_builds_the_champion_once(trained: Path) -> None:
    first, again = build("taxi_eta"), build("taxi_eta")

    assert first.tag.startswith(f"okruh_taxi_eta:{champion()}-")
    assert (first.fresh, again) == (True, first._replace(fresh=False))
    assert lake().get("main", rollout.PATH)
