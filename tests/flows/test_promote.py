"""Promote: only what wins on rows it was not trained on serves; verdict and rollout are one commit, one at a time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import msgspec
import numpy as np
import pytest

from flows.promote import NAIVE, promote
from flows.train import register
from infra import registry
from infra.dataset import known_rows
from infra.errors import Conflict, NotFound
from infra.lake.transaction import transaction
from models.catalog.taxi_eta import MODEL
from models.contract.columns import Number
from models.deciding import promotion, rollout
from models.deciding.rollout import Rollout
from models.deciding.verdict import PromotionReport
from models.errors import BundleError, DefinitionError
from tests.flows.conftest import AS_OF, add_scaled, champion, enthrone, lake

LATER = datetime(2020, 3, 2, 5, tzinfo=UTC)


def verdicts() -> list[PromotionReport]:
    return registry.read_reports(lake(), "main", registry.VERDICTS, PromotionReport)


def newest_change() -> tuple[str, list[str]]:
    """Say of what kind the newest commit is and what it changed."""
    commit = next(lake().log("main"))
    return commit.metadata["kind"], [change.path for change in lake().diff(commit.parents[0], commit.id)]


def withdraw_rollout() -> None:
    with transaction(lake(), "main", "withdraw", {}) as work:
        work.delete(rollout.PATH)


def test_a_first_champion_has_beaten_the_naive_prediction_in_one_commit(trained: Path) -> None:
    (verdict,) = verdicts()

    assert (verdict.allowed, verdict.incumbent, verdict.version) == (True, NAIVE, champion())
    assert verdict.candidate_loss.mean < verdict.incumbent_loss.mean
    said = registry.load_card(lake(), "main", champion()).evaluation
    assert said is not None
    assert said.naive_loss == pytest.approx(verdict.incumbent_loss.mean), "a card says what the gate measures"
    assert newest_change() == (
        "promotion",
        [f"{registry.VERDICTS}20200301T050000Z-{champion()}.json", rollout.PATH],
    )
    assert registry.read_rollout(lake(), "main") == Rollout(champion=champion(), since=AS_OF, previous=None)


@pytest.mark.parametrize("wrong", [lambda _, rows: np.full(len(rows), np.nan), lambda _, rows: np.zeros(len(rows) - 1)])
def test_refuses_a_naive_prediction_that_is_none(
    trained: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Any]
) -> None:
    withdraw_rollout()
    monkeypatch.setattr("models.catalog.taxi_eta.MODEL", replace(MODEL, naive=wrong))

    with pytest.raises(DefinitionError, match="`naive` must give finite numbers of shape"):
        promote("taxi_eta")


def test_a_first_candidate_that_is_worse_than_the_naive_prediction_does_not_serve(trained: Path) -> None:
    add_scaled("worse", 3.0)
    withdraw_rollout()

    report = promote("taxi_eta", "worse", LATER)

    assert (report.allowed, report.incumbent) == (False, NAIVE)
    assert registry.read_rollout(lake(), "main") is None


def test_promoting_the_champion_again_changes_nothing(trained: Path) -> None:
    before = lake().resolve("main")

    report = promote("taxi_eta", champion(), LATER)

    assert (report.allowed, report.at, report.serves_already) == (True, AS_OF, True)
    assert not verdicts()[0].serves_already
    assert lake().resolve("main") == before


def test_a_worse_candidate_does_not_serve_and_its_verdict_is_kept(trained: Path) -> None:
    before = registry.read_rollout(lake(), "main")
    add_scaled("worse", 1.5)

    report = promote("taxi_eta", "worse", LATER)

    assert (report.allowed, report.incumbent) == (False, champion())
    assert "larger" in report.reasons[0]
    assert registry.read_rollout(lake(), "main") == before
    assert newest_change() == ("verdict", [f"{registry.VERDICTS}20200302T050000Z-worse.json"])
    assert verdicts()[1] == report


def test_a_candidate_that_is_the_same_is_not_better(trained: Path) -> None:
    add_scaled("same", 1.0)

    assert not promote("taxi_eta", "same", LATER).allowed


def test_a_better_candidate_takes_over(trained: Path) -> None:
    better = champion()
    enthrone(add_scaled("weak", 1.5), AS_OF)

    report = promote("taxi_eta", better, LATER)

    assert (report.allowed, report.incumbent) == (True, "weak")
    assert registry.read_rollout(lake(), "main") == Rollout(champion=better, since=LATER, previous="weak")


def test_without_a_version_the_newest_bundle_is_judged(trained: Path) -> None:
    add_scaled("00000101-registered-last", 1.5)

    assert promote("taxi_eta", as_of=LATER).version == "00000101-registered-last"


def test_judges_on_every_row_since_the_training_that_is_known(trained: Path) -> None:
    card = registry.load_card(lake(), "main", champion())
    assert card.data.test_from is not None
    between = card.data.test_from + (AS_OF - card.data.test_from) / 2
    add_scaled("worse", 1.5)

    all_of_it = promote("taxi_eta", "worse", LATER)
    half = promote("taxi_eta", "worse", between)

    known_at = known_rows(MODEL, lake(), lake().resolve("main"), LATER).whole()["known_at"]
    assert all_of_it.test_rows == (known_at >= card.data.test_from).sum() == card.data.rows_test
    assert half.test_rows == ((known_at >= card.data.test_from) & (known_at <= between)).sum() < all_of_it.test_rows


def test_of_two_promotions_at_once_one_is_a_conflict(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    better = champion()
    add_scaled("less-weak", 1.4)
    enthrone(add_scaled("weak", 2.0), AS_OF)
    both_have_judged = Barrier(2)
    judge = promotion.judge

    def judge_together(*arguments: object) -> object:
        both_have_judged.wait(60)
        return judge(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(promotion, "judge", judge_together)

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(promote.fn, "taxi_eta", version, LATER) for version in (better, "less-weak")]
        failures = [one.exception() for one in asked]

    (failure,) = filter(None, failures)
    (report,) = [one.result() for one in asked if one.exception() is None]
    assert isinstance(failure, Conflict)
    assert registry.read_rollout(lake(), "main") == Rollout(champion=report.version, since=LATER, previous="weak")
    assert [verdict.version for verdict in verdicts() if verdict.at == LATER] == [report.version]


def test_a_candidate_judged_against_a_former_champion_does_not_take_over(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = promotion.judge
    best = champion()
    add_scaled("less-weak", 1.4)
    enthrone(add_scaled("weak", 2.0), AS_OF)

    def judge_and_let_another_win(*arguments: object) -> object:
        monkeypatch.setattr(promotion, "judge", judge)
        promote.fn("taxi_eta", best, LATER)
        return judge(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(promotion, "judge", judge_and_let_another_win)

    with pytest.raises(Conflict, match="the rollout changed while less-weak was judged"):
        promote("taxi_eta", "less-weak", LATER)

    assert champion() == best


def needs_another_column() -> None:
    made = registry.load_bundle(lake(), "main", champion())
    contract = msgspec.structs.replace(
        made.card.contract,
        features=(*made.card.contract.features, Number(name="tip", unit="USD", minimum=0, maximum=9)),
    )
    register(
        lake(),
        "main",
        msgspec.structs.replace(made, card=msgspec.structs.replace(made.card, version="other", contract=contract)),
    )


@pytest.mark.parametrize(
    ("arrange", "version", "at", "error", "reason"),
    [
        (
            None,
            "20010101-none",
            LATER,
            NotFound,
            "no bundle '20010101-none' here; the newest registered",
        ),
        (None, "worse", datetime(2020, 1, 1, tzinfo=UTC), NotFound, "no row to judge worse on was known at 2020-01-01"),
        (needs_another_column, "other", LATER, BundleError, r"needs columns \['tip'\], which the data has no more"),
    ],
)
def test_says_why_nothing_can_be_judged_and_keeps_nothing(
    trained: Path, arrange: Callable[[], None] | None, version: str, at: datetime, error: type[Exception], reason: str
) -> None:
    add_scaled("worse", 1.5)
    if arrange is not None:
        arrange()
    before = lake().resolve("main")

    with pytest.raises(error, match=reason):
        promote("taxi_eta", version, at)

    assert lake().resolve("main") == before


def test_says_when_there_is_no_candidate(home: Path) -> None:
    with pytest.raises(NotFound, match="run `okruh train taxi_eta` first"):
        promote("taxi_eta")
