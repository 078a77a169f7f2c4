"""Rollback: a former champion serves again by a new commit, and nothing else can."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.rollback import RolledBack, rollback
from infra import registry
from infra.errors import Conflict, NotFound
from infra.lake.transaction import transaction
from models.deciding.rollout import Rollout
from tests.flows.conftest import AS_OF, add_scaled, champion, enthrone, lake

LATER = datetime(2020, 3, 2, 5, tzinfo=UTC)
LATEST = datetime(2020, 3, 3, 5, tzinfo=UTC)


def serving() -> Rollout | None:
    return registry.read_rollout(lake(), "main")


def test_without_a_version_the_one_before_serves_again(trained: Path) -> None:
    first = champion()
    enthrone(add_scaled("second", 1.1), LATER)

    restored = rollback("taxi_eta", as_of=LATEST)

    assert restored == RolledBack(champion=first, since=LATEST, previous="second", ended_trial=None)
    assert serving() == Rollout(champion=first, since=LATEST, previous="second")
    commit = next(lake().log("main"))
    assert (commit.metadata["kind"], commit.metadata["from"]) == ("rollback", "second")


def test_twice_is_forth_and_back(trained: Path) -> None:
    first = champion()
    enthrone(add_scaled("second", 1.1), LATER)

    champions = [rollback("taxi_eta").champion for _ in range(3)]

    assert champions == [first, "second", first]


def test_any_former_champion_can_be_named(trained: Path) -> None:
    first = champion()
    for version in ("second", "third"):
        enthrone(add_scaled(version, 1.1), LATER)

    assert rollback("taxi_eta", version=first).champion == champion() == first


def test_history_is_kept(trained: Path) -> None:
    first = champion()
    enthrone(add_scaled("second", 1.1), LATER)
    before = [commit.id for commit in lake().log("main")]

    rollback("taxi_eta")

    after = [commit.id for commit in lake().log("main")]
    assert after[-len(before) :] == before
    assert [found.champion for _, found in registry.rollout_history(lake(), "main")][::2] == [first, "second", first]


def test_changes_the_rollout_and_nothing_else(trained: Path) -> None:
    enthrone(add_scaled("second", 1.1), LATER)
    before = lake().resolve("main")

    rollback("taxi_eta")

    assert [change.path for change in lake().diff(before, "main")] == ["rollout.json"]


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (None, "no version was ever champion"),
        ("20010101-none", "20010101-none was never champion.*; former champions: none"),
        ("registered", "registered was never champion.*; former champions: none"),
    ],
)
def test_what_was_never_champion_is_refused(trained: Path, version: str | None, reason: str) -> None:
    add_scaled("registered", 1.1)
    before = lake().resolve("main")

    with pytest.raises(NotFound, match=reason):
        rollback("taxi_eta", version=version)

    assert lake().resolve("main") == before


def test_the_present_champion_is_refused(trained: Path) -> None:
    with pytest.raises(NotFound, match=f"{champion()} was .*; former champions: none"):
        rollback("taxi_eta", version=champion())


def test_without_a_champion_there_is_nothing_to_roll_back(home: Path) -> None:
    with pytest.raises(NotFound, match="no champion on branch 'main'"):
        rollback("taxi_eta")


def test_a_promotion_meanwhile_is_a_conflict(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enthrone(add_scaled("second", 1.1), AS_OF)
    add_scaled("third", 1.2)

    def promote_first(*arguments: object) -> object:
        enthrone("third", LATER)
        return transaction(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "transaction", promote_first)

    with pytest.raises(Conflict, match="has changed meanwhile"):
        rollback("taxi_eta")

    assert champion() == "third"
