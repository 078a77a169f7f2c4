"""The lake as registry: bundles, who serves and who served, reports in the order of their moments."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from infra import registry
from infra.errors import NotFound
from infra.lake.embedded import EmbeddedLake
from infra.lake.transaction import transaction
from models.bundle import bundle_folder
from models.deciding import rollout
from models.deciding.rollout import Rollout
from tests.conftest import BundleMaker

START = datetime(2020, 3, 1, tzinfo=UTC)


class Note(msgspec.Struct, frozen=True):
    """A report."""

    number: int


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
    empty.close()


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
