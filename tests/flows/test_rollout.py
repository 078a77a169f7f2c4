"""Rollout: a challenger comes, gets other terms, becomes champion or goes, each by one commit; what ends a trial."""

import getpass
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from flows.lineage import lineage
from flows.promote import promote
from flows.retrain import retraining_verdict
from flows.rollback import rollback
from flows.rollout import rollout
from flows.status import standing, status
from flows.train import register
from infra import registry
from infra.errors import Conflict, Misconfigured, NotFound
from infra.lake.protocol import Commit
from infra.lake.transaction import transaction
from models.catalog.taxi_eta import MODEL
from models.deciding.rollout import Act, Challenger, Rollout, Step, challenge
from models.deciding.verdict import PromotionReport
from models.errors import BundleError, DefinitionError
from models.watching.alarms import Alarm
from tests.flows.conftest import AS_OF, add_scaled, champion, enthrone, lake

BEGAN = datetime(2020, 3, 2, 5, tzinfo=UTC)
LATER = BEGAN + timedelta(hours=3)


@pytest.fixture
def candidate(trained: Path) -> str:
    """A registered version that answers a tenth more than the champion."""
    return add_scaled("candidate", 1.1)


def serving() -> Rollout:
    found = registry.read_rollout(lake(), "main")
    assert found is not None
    return found


def newest() -> tuple[Commit, list[str]]:
    """Give the newest commit and what it changed."""
    commit = next(lake().log("main"))
    return commit, [change.path for change in lake().diff(commit.parents[0], commit.id)]


def verdicts() -> list[PromotionReport]:
    return registry.read_reports(lake(), "main", registry.VERDICTS, PromotionReport)


def test_a_shadow_is_one_commit_that_says_who_and_why(candidate: str) -> None:
    before = serving()

    said = rollout("taxi_eta", "shadow", candidate, by="E. Novak", why="a wider network", as_of=BEGAN)

    commit, changed = newest()
    assert serving() == msgspec.structs.replace(before, challenger=challenge("shadow", candidate, BEGAN))
    assert changed == ["rollout.json"]
    assert commit.metadata == commit.metadata | {
        "kind": "shadow",
        "version": candidate,
        "champion": before.champion,
        "by": "E. Novak",
        "why": "a wider network",
    }
    assert (said.champion, said.challenger, said.weight_now) == (before.champion, serving().challenger, 1.0)


def test_a_canary_bears_its_terms(candidate: str) -> None:
    rollout("taxi_eta", "canary", candidate, weight=0.1, ramp="0.5@1h", error_rate=0.02, p99_ms=30, as_of=BEGAN)

    tried = serving().challenger
    assert isinstance(tried, Challenger)
    assert (tried.mode, tried.weight, tried.ramp) == ("canary", 0.1, (Step(after_s=3600, weight=0.5),))
    assert (tried.abort.error_rate, tried.abort.p99_ms) == (0.02, 30)
    assert newest()[0].metadata["by"] == getpass.getuser()


def test_a_shadow_becomes_a_canary_and_a_canary_gets_another_weight(candidate: str) -> None:
    rollout("taxi_eta", "shadow", candidate, as_of=BEGAN)
    rollout("taxi_eta", "canary", candidate, as_of=LATER)
    rollout("taxi_eta", "canary", candidate, weight=0.5, as_of=LATER + timedelta(hours=1))

    assert serving().challenger == challenge("canary", candidate, LATER + timedelta(hours=1), weight=0.5)


def test_an_aborted_challenger_is_gone_and_the_record_says_why(candidate: str) -> None:
    before = serving()
    rollout("taxi_eta", "canary", candidate, as_of=BEGAN)

    said = rollout("taxi_eta", "abort", by="E. Novak", why="answers late", as_of=LATER)

    commit, changed = newest()
    noted = [commit.metadata[name] for name in ("kind", "version", "by", "why")]
    assert noted == ["abort", candidate, "E. Novak", "answers late"]
    assert changed == ["rollout.json"]
    assert (serving(), said.ended_trial, said.challenger) == (before, candidate, None)


def test_a_challenger_becomes_champion_against_the_gate_whose_words_are_kept(candidate: str) -> None:
    first = champion()
    rollout("taxi_eta", "canary", candidate, as_of=BEGAN)

    said = rollout("taxi_eta", "promote", by="E. Novak", why="it is faster", as_of=LATER)

    commit, changed = newest()
    report = verdicts()[-1]
    assert serving() == Rollout(champion=candidate, since=LATER, previous=first)
    assert changed == [f"{registry.VERDICTS}20200302T080000Z-{candidate}.json", "rollout.json"]
    assert (commit.metadata["kind"], commit.metadata["by"], commit.metadata["why"]) == (
        "promotion",
        "E. Novak",
        "it is faster",
    )
    assert said.verdict == report
    assert (report.allowed, report.version, report.incumbent, report.ended_trial) == (True, candidate, first, candidate)
    assert report.reasons[:2] == (
        "E. Novak wanted it, after canary since 2020-03-02 05:00 UTC: it is faster",
        "the gate, which was not needed, says no",
    )
    assert "gain beyond 0.5% at least -" in report.reasons[2]  # the gate's own words
    assert lineage("taxi_eta", candidate).promoted_because == report.reasons
    assert rollback("taxi_eta", as_of=LATER).champion == first


def test_retraining_takes_such_a_champion_for_promoted_and_not_for_rolled_back_to(candidate: str) -> None:
    alarm = Alarm(
        id="20200302T000000Z-one",
        version=champion(),
        at=BEGAN,
        window_start=AS_OF,
        statistic=9.0,
        threshold=5.0,
        changed_at=AS_OF,
        labels=99,
        mean_error=9.0,
        reference_error=3.0,
        detail="changed",
    )
    with transaction(lake(), "main", "alarm", {}) as work:
        work.put(f"{registry.ALARMS}{alarm.id}.json", registry.encode_report(alarm))
    rollout("taxi_eta", "shadow", candidate, as_of=BEGAN)
    rollout("taxi_eta", "promote", as_of=LATER)

    _, promoted = retraining_verdict(MODEL, lake(), lake().resolve("main"), LATER)
    rollback("taxi_eta", as_of=LATER)
    _, rolled_back = retraining_verdict(MODEL, lake(), lake().resolve("main"), LATER)

    assert "rolled back" in str(rolled_back)
    assert str(promoted) == "no: 0 labels since the change, 200 are needed"


def test_the_gate_promotes_a_challenger_too_and_ends_its_trial(trained: Path) -> None:
    better = champion()
    enthrone(add_scaled("weak", 1.5), AS_OF)
    rollout("taxi_eta", "canary", better, as_of=BEGAN)

    report = promote("taxi_eta", better, LATER)

    assert (report.allowed, report.ended_trial) == (True, better)
    assert serving() == Rollout(champion=better, since=LATER, previous="weak")


def test_promotion_of_a_third_version_ends_the_trial_and_says_so(trained: Path) -> None:
    better = champion()
    enthrone(add_scaled("weak", 1.5), AS_OF)
    rollout("taxi_eta", "canary", add_scaled("third", 1.4), as_of=BEGAN)

    report = promote("taxi_eta", better, LATER)

    assert report.ended_trial == verdicts()[-1].ended_trial == newest()[0].metadata["ended-trial"] == "third"
    assert serving() == Rollout(champion=better, since=LATER, previous="weak")


def test_a_candidate_that_loses_leaves_the_trial_alone(candidate: str) -> None:
    rollout("taxi_eta", "canary", candidate, as_of=BEGAN)
    before = serving()

    report = promote("taxi_eta", add_scaled("worse", 1.5), LATER)

    assert (report.allowed, report.ended_trial, serving()) == (False, None, before)


def test_rollback_ends_the_trial_and_says_so(trained: Path) -> None:
    first = champion()
    enthrone(add_scaled("second", 1.1), AS_OF)
    rollout("taxi_eta", "canary", add_scaled("third", 1.2), as_of=BEGAN)

    done = rollback("taxi_eta", as_of=LATER)

    assert (done.champion, done.ended_trial, newest()[0].metadata["ended-trial"]) == (first, "third", "third")
    assert serving() == Rollout(champion=first, since=LATER, previous="second")


def test_a_former_champion_can_be_tried_again(trained: Path) -> None:
    first = champion()
    enthrone(add_scaled("second", 1.1), AS_OF)

    assert rollout("taxi_eta", "canary", first, as_of=BEGAN).challenger == challenge("canary", first, BEGAN)


def test_status_and_standing_tell_of_the_challenger_and_its_share_of_now(candidate: str) -> None:
    rollout("taxi_eta", "canary", candidate, ramp="0.5@1h", as_of=BEGAN)

    (line,), now = status("taxi_eta").lines, standing("taxi_eta")

    assert (line.challenger, line.weight_now) == (now.challenger, now.weight_now) == (serving().challenger, 0.5)


def takes_other_inputs() -> str:
    made = registry.load_bundle(lake(), "main", champion())
    contract = msgspec.structs.replace(made.card.contract, features=made.card.contract.features[:-1])
    card = msgspec.structs.replace(made.card, version="other", contract=contract)
    register(lake(), "main", msgspec.structs.replace(made, card=card))
    return card.version


def spoilt() -> str:
    version = add_scaled("spoilt", 1.2)
    with transaction(lake(), "main", "spoil", {}) as work:
        work.put(f"bundles/{version}/model.onnx", b"not a graph")
    return version


@pytest.mark.parametrize(
    ("arrange", "error", "said"),
    [
        (lambda: "20010101-none", NotFound, "no bundle '20010101-none' here; the newest registered"),
        (lambda: champion(), DefinitionError, "is champion, and cannot be tried against itself"),
        (takes_other_inputs, BundleError, "other takes other inputs than the champion .*build a Bento for it"),
        (spoilt, BundleError, r"model\.onnx has digest"),
        (lambda: None, DefinitionError, "a shadow needs the version"),
    ],
)
def test_refuses_what_cannot_be_tried_and_changes_nothing(
    trained: Path, arrange: Callable[[], str | None], error: type[Exception], said: str
) -> None:
    version = arrange()
    before = lake().resolve("main")

    with pytest.raises(error, match=said):
        rollout("taxi_eta", "shadow", version)

    assert lake().resolve("main") == before


def test_refuses_a_second_challenger_beside_the_first(candidate: str) -> None:
    second = add_scaled("second", 1.2)
    rollout("taxi_eta", "shadow", candidate)

    with pytest.raises(Conflict, match="candidate is tried at this time; end that with --promote or --abort"):
        rollout("taxi_eta", "canary", second)


@pytest.mark.parametrize("act", ["promote", "abort"])
def test_ends_no_trial_that_is_not_there_and_no_other_than_is_named(candidate: str, act: Act) -> None:
    with pytest.raises(NotFound, match="nobody is tried beside"):
        rollout("taxi_eta", act)
    rollout("taxi_eta", "shadow", candidate)
    with pytest.raises(NotFound, match="other is not tried beside"):
        rollout("taxi_eta", act, "other")
    with pytest.raises(Misconfigured, match="belong to the beginning of a trial"):
        rollout("taxi_eta", act, weight=0.2)


@pytest.mark.parametrize("act", ["canary", "promote", "abort"])
def test_a_change_of_the_rollout_meanwhile_is_a_conflict(
    candidate: str, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout("taxi_eta", "shadow", candidate)
    where = "flows.promote.transaction" if act == "promote" else "infra.registry.transaction"

    def change_first(*arguments: object) -> object:
        enthrone("third", LATER)
        return transaction(*arguments)  # type: ignore[arg-type]

    add_scaled("third", 1.3)
    monkeypatch.setattr(where, change_first)

    with pytest.raises(Conflict, match=r"the rollout (has )?changed"):
        rollout("taxi_eta", act, candidate)

    assert (serving().champion, serving().challenger) == ("third", None)


def test_there_is_nothing_to_try_against_without_a_champion(home: Path) -> None:
    with pytest.raises(NotFound, match="has no champion on branch 'main' yet; run `okruh promote taxi_eta` first"):
        rollout("taxi_eta", "shadow", "v1")
    with pytest.raises(NotFound, match="has no champion on branch 'main' yet"):
        standing("taxi_eta")
