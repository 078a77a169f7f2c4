"""What tests of flows share: a Prefect server, a state folder a test, small real months, a trained model.

Flows take their products' folders from the environment when they are first imported. That is done here, in a folder of
the session's own and with nothing inherited, before any test imports them; other tests see the environment unchanged.
"""

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import helper, numpy_helper

from infra import registry
from infra.assembly import assemble
from infra.journal.answers import Answers as Recorded
from infra.journal.ids import Ids
from infra.journal.index import Label
from infra.journal.journal import Journal
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.settings import load_settings
from models.catalog.taxi_eta import MODEL
from models.contract.rows import RowDecoder
from models.deciding import rollout
from models.deciding.rollout import Rollout
from models.model import MonthlySample
from tests.flows.drafting import MODULE, rides
from tests.infra.journal.answers import milliseconds

_STATE = tempfile.mkdtemp(prefix="okruh-flows-")
atexit.register(shutil.rmtree, _STATE, ignore_errors=True)  # before Prefect's own, so that its server has ended then
_INHERITED = {name: value for name, value in os.environ.items() if not name.startswith(("OKRUH_", "PREFECT_"))}

with patch.object(tempfile, "tempdir"), patch.dict(os.environ, _INHERITED | {"OKRUH_HOME": _STATE}, clear=True):
    from flows.ingest import ingest
    from flows.new import new
    from flows.orchestration import on_a_laptop
    from flows.promote import promote
    from flows.train import register, train

HISTORY = ("2019-12", "2020-01", "2020-02")
AS_OF = datetime(2020, 3, 1, 5, tzinfo=UTC)
"""When these months have ended in New York."""
EVERY = 5
"""Of a month's 10,000 trips every fifth is taken: enough for the contract, and fast."""
EPOCHS: dict[str, int | float] = {"epochs": 2}
FIRST_MONDAY = datetime(2020, 3, 2, 5, tzinfo=UTC)
SECOND_MONDAY = datetime(2020, 3, 9, 4, tzinfo=UTC)  # New York's clocks changed on 8 March
THIRD_MONDAY = datetime(2020, 3, 16, 4, tzinfo=UTC)
FOURTH_MONDAY = datetime(2020, 3, 23, 4, tzinfo=UTC)
"""Midnights in New York, between which windows lie."""
A_WEEK_OF_HOURS = 167

MonthMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def orchestrated() -> Iterator[None]:
    """Prefect's temporary server, for the session."""
    with on_a_laptop():
        yield


@pytest.fixture(scope="session")
def make_month(tmp_path_factory: pytest.TempPathFactory) -> MonthMaker:
    """Write a raw file of a real month; `change` may spoil its rows."""

    def make(month: str, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows) -> Path:
        assert isinstance(MODEL.sample, MonthlySample)
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
    monkeypatch.setenv("OKRUH_TRACKING", "disabled")
    return folder


@pytest.fixture(scope="session")
def trained_home(orchestrated: None, make_month: MonthMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with three months, a tracked bundle and a first champion; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("trained") / ".okruh"
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OKRUH_HOME", str(folder))
        for month in HISTORY:
            ingest(MODEL.name, str(make_month(month)))
        report = promote(MODEL.name, train(MODEL.name, AS_OF, overrides=EPOCHS).version, AS_OF)
        assert report.allowed
    return folder


@pytest.fixture
def trained(trained_home: Path, home: Path) -> Path:
    """A copy of `trained_home`."""
    shutil.copytree(trained_home, home)
    return home


@pytest.fixture
def file(tmp_path: Path) -> Callable[[pd.DataFrame], str]:
    """Write a table as CSV."""

    def write(table: pd.DataFrame) -> str:
        path = tmp_path / "rides.csv"
        table.to_csv(path, index=False)
        return str(path)

    return write


@pytest.fixture
def own(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog of one's own, where nothing is yet."""
    folder = tmp_path / "catalog"
    monkeypatch.setenv("OKRUH_CATALOG", str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which would be taken for that of what is edited at once
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return folder


@pytest.fixture
def drafted(own: Path, file: Callable[[pd.DataFrame], str]) -> Path:
    """The definition of `rides`, whose file is there and not ingested yet."""
    return Path(new("rides", file(rides()), "y", "at").file)


def lake() -> Lake:
    """Give the lake of the state folder that is set now."""
    return assemble(load_settings()).lake(MODEL.name)


def champion() -> str:
    """Name the champion of the state folder that is set now."""
    serving = registry.read_rollout(lake(), "main")
    assert serving is not None
    return serving.champion


def add_scaled(version: str, factor: float) -> str:
    """Register a candidate without a training: it answers `factor` times what the champion does."""
    made = registry.load_bundle(lake(), "main", champion())
    graph = _scaled(made.onnx, factor)
    card = msgspec.structs.replace(
        made.card, version=version, onnx_digest=_sha256(graph), created_at=made.card.created_at + timedelta(hours=1)
    )
    register(lake(), "main", msgspec.structs.replace(made, card=card, onnx=graph))
    return version


def enthrone(version: str, at: datetime) -> None:
    """Let a version serve, whatever it is worth."""
    serving = Rollout(champion=version, since=at, previous=champion())
    with transaction(lake(), "main", f"promotion: {version}", {}) as work:
        work.put(rollout.PATH, rollout.encode(serving))


def journal_a_week(start: datetime, wrong_by: float) -> None:
    """Have the champion answer a trip of 9 minutes each hour of a week."""
    Answers(start, A_WEEK_OF_HOURS, minutes=9.0, wrong_by=wrong_by, version=champion()).journal()


def journal(branch: str = "main") -> Journal:
    """Give the journal of the state folder that is set now."""
    return assemble(load_settings()).journal(MODEL.name, branch)


@dataclass(frozen=True)
class Answers:
    """Trips that were answered and later labelled, as a service journals them."""

    first_at: datetime
    """The first starts then."""
    count: int
    minutes: float
    """What each really took."""
    wrong_by: float
    """Predicted minus true minutes."""
    version: str
    apart: timedelta = timedelta(hours=1)
    known_at: datetime | None = None
    """When all labels came; None: each when its trip ended."""

    def journal(self, branch: str = "main") -> None:
        """Write them into the journal of the state folder that is set now."""
        starts = [self.first_at + place * self.apart for place in range(self.count)]
        ids = [f"{self.first_at:%Y%m%d}-{place:05d}" for place in range(self.count)]
        rows = [trip(at, 1 + place % 250, 1 + place % 99) for place, at in enumerate(starts)]
        labels = [
            Label(id=name, value=self.minutes, known_at=self.known_at or at + timedelta(minutes=self.minutes))
            for name, at in zip(ids, starts, strict=True)
        ]
        writing = journal(branch)
        writing.append([answered(ids, rows, self.minutes + self.wrong_by, self.version)]).result()
        writing.append_labels(labels).result()
        writing.close()


def trip(at: datetime, pickup_zone: int = 7, dropoff_zone: int = 9, **changes: Any) -> dict[str, object]:
    """A request's row about a trip that starts at a moment."""
    local = at.astimezone(ZoneInfo("America/New_York")).replace(tzinfo=None)
    zones = {"pickup_zone": pickup_zone, "dropoff_zone": dropoff_zone}
    return {"pickup_at": local, **zones, "trip_miles": 2.5, "passengers": 1} | changes


def answered(ids: Sequence[str], rows: Sequence[Mapping[str, object]], value: float, version: str) -> Recorded:
    """What a service hands to its journal."""
    decoder = RowDecoder(MODEL.contract)
    names = Ids(b"-" * 36 * len(ids), dict(enumerate(ids)))
    values, now = np.full(len(ids), value), datetime.now(UTC)
    columns = decoder.together([decoder.convert(rows)])
    return Recorded(MODEL.contract, version, names, columns, values, milliseconds(now, len(ids)))


def _scaled(content: bytes, factor: float) -> bytes:
    model = onnx.load_from_string(content)
    (answer,) = model.graph.output
    unscaled, scale = (f"{name}_{len(model.graph.node)}" for name in ("unscaled", "scale"))
    for node in model.graph.node:
        node.output[:] = [unscaled if name == answer.name else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, dtype=np.float32), scale))
    model.graph.node.append(helper.make_node("Mul", [unscaled, scale], [answer.name]))
    scaled: bytes = model.SerializeToString()
    return scaled


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
