"""The lake as registry: bundles, who serves and who served, reports in the order of their moments."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from infra import registry
from infra.errors import Conflict, NotFound
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.transaction import transaction
from models.bundle import bundle_folder
from models.deciding import rollout
from models.deciding.rollout import Rollout
from models.deciding.verdict import PromotionReport
from models.errors import BundleError
from models.watching.profile import LossProfile
from tests.conftest import BundleMaker

START = datetime(2020, 3, 1, tzinfo=UTC)


class Note(msgspec.Struct, frozen=True):
    """A report."""

    number: int


def judged(version: str, *, allowed: bool, at: datetime) -> PromotionReport:
    """A verdict on a version."""
    loss = LossProfile(rows=100, mean=1.0, scaled_mean=0.1, scaled_deviation=0.05)
    return PromotionReport(
        at=at,
        version=version,
        incumbent="naive",
        allowed=allowed,
        reasons=("a reason",),
        test_rows=100,
        incumbent_loss=loss,
        candidate_loss=loss,
        alarm=None,
        labels_since_change=0,
        ends_episode=False,
    )


@pytest.fixture
def lake(tmp_path: Path, make_bundle: BundleMaker) -> Iterator[EmbeddedLake]:
    """Two bundles that served one after the other, and the first again."""
    made = EmbeddedLake(tmp_path)
    for version in ("v1", "v2"):
        with transaction(made, "main", f"register {version}", {}) as work:
            for name, content in make_bundle(version).files().items():
                work.put(f"{bundle_folder(version)}/{name}", content)
    for days, version in enumerate(("v1", "v2", "v1")):
        with transaction(made, "main", f"promote {version}", {}) as work:
            work.put(rollout.PATH, rollout.encode(Rollout(champion=version, since=START + timedelta(days=days))))
    yield made
    made.close()


def test_finds_bundles_and_names_those_it_has(lake: EmbeddedLake) -> None:
    assert registry.versions(lake, "main") == ["v1", "v2"]
    assert registry.load_bundle(lake, "main", "v2").card == registry.load_card(lake, "main", "v2")
    with pytest.raises(NotFound, match="no bundle 'v3' here; the newest registered versions: v1, v2"):
        registry.load_bundle(lake, "main", "v3")


def test_the_newest_is_the_one_that_was_made_last(lake: EmbeddedLake, make_bundle: BundleMaker) -> None:
    made = make_bundle("v0")
    card = msgspec.structs.replace(made.card, created_at=made.card.created_at + timedelta(seconds=1))
    with transaction(lake, "main", "register v0", {}) as work:
        for name, content in msgspec.structs.replace(made, card=card).files().items():
            work.put(f"{bundle_folder('v0')}/{name}", content)

    assert registry.versions(lake, "main") == ["v0", "v1", "v2"]
    assert registry.newest(lake, "main") == "v0"


def test_knows_who_serves_and_who_served(lake: EmbeddedLake) -> None:
    serving = registry.read_rollout(lake, "main")
    history = [found.champion for _, found in registry.rollout_history(lake, "main")]

    assert serving == Rollout(champion="v1", since=START + timedelta(days=2))
    assert list(dict.fromkeys(history)) == ["v1", "v2"]
    assert (history[0], history[-1]) == ("v1", "v1")


def test_nobody_serves_before_the_first_promotion(tmp_path: Path) -> None:
    empty = EmbeddedLake(tmp_path / "empty")

    assert registry.read_rollout(empty, "main") is None
    assert list(registry.rollout_history(empty, "main")) == []
    assert (registry.versions(empty, "main"), registry.newest(empty, "main")) == ([], None)
    with pytest.raises(NotFound, match="no bundle 'v1' here; the newest registered versions: none"):
        registry.load_card(empty, "main", "v1")
    empty.close()


def test_a_branch_that_there_is_not_is_not_one_without_a_champion(lake: EmbeddedLake) -> None:
    with pytest.raises(NotFound, match="'mian'"):
        registry.read_rollout(lake, "mian")
    with pytest.raises(NotFound, match="'mian'"):
        registry.load_bundle(lake, "mian", "v1")


def test_a_rollout_that_cannot_be_read_is_not_one_that_is_missing(lake: EmbeddedLake) -> None:
    with transaction(lake, "main", "spoil", {}) as work:
        work.put(rollout.PATH, b"{}")

    with pytest.raises(BundleError, match=r"rollout\.json is not a rollout"):
        registry.read_rollout(lake, "main")


def test_reads_the_state_of_a_commit_whatever_came_later(lake: EmbeddedLake) -> None:
    with transaction(lake, "main", "promote v2", {}) as work:
        work.put(rollout.PATH, rollout.encode(Rollout(champion="v2", since=START + timedelta(days=9))))
        before = work.base

    then, now = registry.read_rollout(lake, before), registry.read_rollout(lake, "main")

    assert then is not None
    assert now is not None
    assert (then.champion, now.champion) == ("v1", "v2")


def test_finds_the_latest_verdict_that_made_a_version_champion(lake: EmbeddedLake) -> None:
    verdicts = [("v1", True), ("v1", False), ("v2", False), ("v1", True), ("v1", False)]
    with transaction(lake, "main", "judge", {}) as work:
        for days, (version, allowed) in enumerate(verdicts):
            report = judged(version, allowed=allowed, at=START + timedelta(days=days))
            path = f"{registry.VERDICTS}{report.at:%Y%m%dT%H%M%SZ}-{version}.json"
            work.put(path, registry.encode_report(report))

    assert registry.promotion_of(lake, "main", "v1") == judged("v1", allowed=True, at=START + timedelta(days=3))
    assert registry.promotion_of(lake, "main", "v2") is None


def test_reads_reports_in_the_order_of_their_moments(lake: EmbeddedLake) -> None:
    with transaction(lake, "main", "report", {}) as work:
        for number in (3, 1, 2):
            path = f"{registry.WINDOWS}{START + timedelta(weeks=number):%Y%m%dT%H%M%SZ}-v1.json"
            work.put(path, registry.encode_report(Note(number)))

    assert registry.read_reports(lake, "main", registry.WINDOWS, Note) == [Note(1), Note(2), Note(3)]
    assert registry.read_reports(lake, "main", registry.ALARMS, Note) == []


def test_searches_the_settings_branch_and_then_the_newest_replay(lake: EmbeddedLake) -> None:
    for name in ("loop-2", "loop-10", "loop-1", "loop-x", "other"):
        lake.create_branch(name, "main")

    assert registry.branches_to_search(lake, "main") == ["main", "loop-10", "loop-2", "loop-1"]


def test_another_rollout_takes_the_place_of_the_one_that_was_read(lake: EmbeddedLake) -> None:
    present = registry.read_rollout(lake, "main")
    assert present is not None
    wanted = Rollout(champion="v2", since=START + timedelta(days=9), previous="v1")

    registry.change_rollout(lake, "main", present, wanted, "change", {"kind": "test", "by": "E. Novak"})
    with pytest.raises(Conflict, match="the rollout has changed meanwhile"):
        registry.change_rollout(lake, "main", present, present, "change back", {})

    commit = next(lake.log("main"))
    assert registry.read_rollout(lake, "main") == wanted
    assert (commit.message, commit.metadata["by"]) == ("change", "E. Novak")
