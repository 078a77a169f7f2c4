"""Promote: only what wins on rows it was not trained on serves; verdict and rollout are one commit."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.promote import NAIVE, promote
from flows.rollback import rollback
from flows.train import train
from infra import registry
from infra.errors import NotFound
from models.deciding import rollout
from models.deciding.verdict import PromotionReport
from tests.flows.conftest import AS_OF, champion, lake

LATER = datetime(2020, 3, 2, 5, tzinfo=UTC)
WORSE: dict[str, int | float] = {"epochs": 1, "learning_rate": 1e-7}


def verdicts() -> list[PromotionReport]:
    return registry.read_reports(lake(), "main", registry.VERDICTS, PromotionReport)


def test_a_first_champion_has_beaten_the_naive_prediction_in_one_commit(trained: Path) -> None:
    (verdict,) = verdicts()

    commit = next(lake().log("main", rollout.PATH))
    changed = {change.path for change in lake().diff(commit.parents[0], commit.id)}
    assert (verdict.allowed, verdict.incumbent, verdict.version) == (True, NAIVE, champion())
    assert verdict.candidate_loss.mean < verdict.incumbent_loss.mean
    assert rollout.PATH in changed
    assert all(path == rollout.PATH or path.startswith(registry.VERDICTS) for path in changed)


def test_promoting_the_champion_again_changes_nothing(trained: Path) -> None:
    before = lake().resolve("main")

    report = promote("taxi_eta", champion(), LATER)

    assert (report.allowed, report.at) == (True, AS_OF)
    assert lake().resolve("main") == before


def test_a_worse_candidate_does_not_serve_and_its_verdict_is_kept(trained: Path) -> None:
    before = registry.read_rollout(lake(), "main")
    worse = train("taxi_eta", AS_OF, overrides=WORSE).version

    report = promote("taxi_eta", worse, LATER)

    assert not report.allowed
    assert "larger" in report.reasons[0]
    assert registry.read_rollout(lake(), "main") == before
    assert [(one.version, one.allowed) for one in verdicts()] == [(champion(), True), (worse, False)]


def test_a_better_candidate_serves_and_can_be_rolled_back(trained: Path) -> None:
    first = champion()
    better = train("taxi_eta", AS_OF, overrides={"epochs": 6}).version

    report = promote("taxi_eta", as_of=LATER)

    assert (report.version, report.incumbent, report.allowed) == (better, first, True)
    assert registry.read_rollout(lake(), "main") == rollout.Rollout(champion=better, since=LATER, previous=first)

    restored = rollback("taxi_eta", as_of=LATER)
    assert (restored.champion, restored.previous) == (first, better)
    assert champion() == first
    assert [found.champion for _, found in registry.rollout_history(lake(), "main")][::2] == [first, better, first]

    assert rollback("taxi_eta", version=better).champion == better


def test_only_a_former_champion_is_rolled_back_to(trained: Path) -> None:
    before = lake().resolve("main")

    with pytest.raises(NotFound, match="no version was champion"):
        rollback("taxi_eta")
    with pytest.raises(NotFound, match="20010101-none was champion"):
        rollback("taxi_eta", version="20010101-none")

    assert lake().resolve("main") == before


def test_says_when_nothing_can_be_judged(trained: Path) -> None:
    with pytest.raises(NotFound, match=r"no bundle '20010101-none' here; the newest registered versions: 2020"):
        promote("taxi_eta", "20010101-none")
    unjudged = train("taxi_eta", AS_OF, overrides=WORSE).version
    with pytest.raises(NotFound, match="no row to judge"):
        promote("taxi_eta", unjudged, datetime(2020, 1, 1, tzinfo=UTC))
