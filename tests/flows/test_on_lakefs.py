"""The flows on a lakeFS server: settings alone are different."""

import secrets
from datetime import timedelta
from pathlib import Path

import pytest

from flows.data_diff import data_diff
from flows.ingest import ingest
from flows.lineage import lineage
from flows.monitor import monitor
from flows.promote import promote
from flows.rollback import rollback
from flows.rollout import rollout
from flows.status import status
from flows.train import train
from flows.upkeep import collect, verify
from infra.errors import Misconfigured, NotFound
from models.catalog.taxi_eta import MODEL
from tests.flows.conftest import AS_OF, EPOCHS, HISTORY, MonthMaker, add_scaled, champion, enthrone, lake
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer


@pytest.fixture
def on_lakefs(lakefs: LakeFSServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder, and a place of its own on the server."""
    monkeypatch.setenv("OKRUH_LAKE", f"lakefs+{lakefs.address}/team-{secrets.token_hex(4)}")
    monkeypatch.setenv("OKRUH_LAKEFS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("OKRUH_LAKEFS_SECRET_ACCESS_KEY", SECRET)
    return home


def test_the_circuit_runs_on_a_lakefs_server(on_lakefs: Path, make_month: MonthMaker) -> None:
    assert status(MODEL.name).bundles == 0
    with pytest.raises(NotFound, match="okruh ingest"):
        verify(MODEL.name)
    for month in HISTORY:
        ingest(MODEL.name, str(make_month(month)))
    before = lake().resolve("main")

    version = train(MODEL.name, AS_OF, overrides=EPOCHS).version
    assert promote(MODEL.name, version, AS_OF).allowed
    enthrone(add_scaled("scaled", 1.5), AS_OF + timedelta(days=1))
    rollback(MODEL.name)
    rollout(MODEL.name, "canary", "scaled")
    rollout(MODEL.name, "abort")

    assert [line.champion for line in status(MODEL.name).lines] == [champion()] == [version]
    assert lineage(MODEL.name, version).version == version
    assert monitor(MODEL.name, AS_OF).windows == []
    assert data_diff(MODEL.name, before, "main").partitions == []
    assert ingest(MODEL.name, str(make_month(HISTORY[0])))[0].cached
    assert lake().protected() == {"main"}
    assert list(lake().branches()) == ["main"]
    assert verify(MODEL.name).problems == []
    with pytest.raises(Misconfigured, match="collects garbage itself"):
        collect(MODEL.name, timedelta(days=1))
    assert not (on_lakefs / "lake").exists()
