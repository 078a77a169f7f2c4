"""What tests of flows share: Prefect on a test server, a state folder a test, small real months, a trained model.

Flows take their products' folders from OKRUH_HOME when they are first imported; that is done here, with a folder of
its own, before any test imports them.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pandas as pd
import pytest

from infra import registry
from infra.assembly import assemble
from infra.journal import Label, Prediction
from infra.lake.protocol import Lake
from infra.settings import load_settings
from models.catalog.taxi_eta import MODEL

_STATE = tempfile.TemporaryDirectory(prefix="okruh-flows-")

with pytest.MonkeyPatch.context() as changed:
    for name in ("OKRUH_HOME", "TMPDIR", "BENTOML_HOME"):
        changed.setenv(name, _STATE.name)
    changed.setattr(tempfile, "tempdir", _STATE.name)
    from flows.ingest import ingest
    from flows.promote import promote
    from flows.train import train

HISTORY = ("2019-12", "2020-01", "2020-02")
AS_OF = datetime(2020, 3, 1, 5, tzinfo=UTC)
"""When these months have ended in New York."""
EVERY = 5
"""Of a month's 10,000 trips every fifth is taken: enough for the contract, and fast."""

MonthMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def orchestrated() -> Iterator[None]:
    """Prefect, with a server and a database of the session's own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
    _STATE.cleanup()


@pytest.fixture(scope="session")
def make_month(tmp_path_factory: pytest.TempPathFactory) -> MonthMaker:
    """Write a raw file of a real month; `change` may spoil its rows."""

    def make(month: str, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows) -> Path:
        assert MODEL.sample is not None
        source = MODEL.sample.file(month)
        path = tmp_path_factory.mktemp(month) / source.name
        change(pd.read_parquet(source).iloc[::EVERY].reset_index(drop=True)).to_parquet(path)
        return path

    return make


@pytest.fixture
def home(orchestrated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder."""
    folder = tmp_path / ".okruh"
    monkeypatch.setenv("OKRUH_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def trained_home(orchestrated: None, make_month: MonthMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with three months, a bundle and a first champion; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("trained") / ".okruh"
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OKRUH_HOME", str(folder))
        for month in HISTORY:
            ingest(MODEL.name, str(make_month(month)))
        report = promote(MODEL.name, train(MODEL.name, AS_OF, overrides={"epochs": 2}).version, AS_OF)
        assert report.allowed
    return folder


@pytest.fixture
def trained(trained_home: Path, home: Path) -> Path:
    """A copy of `trained_home`."""
    shutil.copytree(trained_home, home)
    return home


def lake() -> Lake:
    """Give the lake of the state folder that is set now."""
    return assemble(load_settings()).lake(MODEL.name)


@dataclass(frozen=True)
class Answers:
    """Trips that were answered and later labelled, as a service journals them."""

    first_at: datetime
    """The first starts then; the others an hour apart."""
    count: int
    minutes: float
    """What each really took."""
    wrong_by: float
    """Predicted minus true minutes."""
    version: str

    def journal(self, branch: str = "main") -> None:
        """Write them into the journal of the state folder that is set now."""
        starts = [self.first_at + timedelta(hours=place) for place in range(self.count)]
        predictions = [self._prediction(place, at) for place, at in enumerate(starts)]
        labels = [
            Label(id=one.id, value=self.minutes, known_at=one.event_at + timedelta(minutes=self.minutes))
            for one in predictions
        ]
        journal = assemble(load_settings()).journal(MODEL.name, branch)
        journal.append(predictions).result()
        journal.append_labels(labels).result()
        journal.close()

    def _prediction(self, place: int, at: datetime) -> Prediction:
        local = at.astimezone(ZoneInfo("America/New_York")).replace(tzinfo=None)
        row = {"pickup_at": local, "pickup_zone": 1 + place % 250, "dropoff_zone": 1 + place % 99, "trip_miles": 2.5}
        return Prediction(
            id=f"{self.first_at:%Y%m%d}-{place:05d}",
            version=self.version,
            event_at=at,
            row=msgspec.json.encode(row | {"passengers": 1}),
            value=self.minutes + self.wrong_by,
        )


def champion() -> str:
    """Name the champion of the state folder that is set now."""
    serving = registry.read_rollout(lake(), "main")
    assert serving is not None
    return serving.champion
