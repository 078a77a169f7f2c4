"""The circuit of a series with declared lags: from CSV files to a champion that beats persistence, and its answers."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from flows import catalog
from flows.cli import DONE, FAILED, WRONG_USE, app
from flows.ingest import ingest
from flows.new import new
from flows.promote import NAIVE, promote
from flows.train import train
from infra import registry, tables
from infra.assembly import assemble
from infra.client import Client
from infra.dataset import known_rows
from infra.settings import Settings, load_settings
from models import definitions
from models.contract.columns import Lag
from models.contract.lags import History
from models.contract.table import to_columns
from models.inference import Predictor
from tests.serving import Service, serving

FAR = datetime(2030, 1, 1, tzinfo=UTC)
NAME, LAGS = "load_mw", ("1h", "24h", "7d")
HOURS = 24 * 110
NEXT = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(hours=HOURS)
"""The first hour that is in no file."""


def series(base: float, swing: float, seed: int) -> "pd.Series[float]":
    """Hourly load of a station: its days and weeks, a level that wanders, and noise."""
    draw = np.random.default_rng(seed)
    hours = np.arange(HOURS)
    daily = swing * np.sin(2 * np.pi * (hours - 7) / 24) + 0.4 * swing * np.sin(4 * np.pi * hours / 24)
    weekend = -0.8 * swing * (hours // 24 % 7 >= 5)  # 2024 began on a Monday
    level = pd.Series(draw.normal(0, 6, HOURS)).ewm(alpha=0.03, adjust=False).mean() / 0.03
    load: pd.Series[float] = (base + daily + weekend + level + draw.normal(0, 3, HOURS)).round(1)
    return load


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file a month, of two stations."""
    folder = tmp_path_factory.mktemp("raw")
    at = pd.Series(pd.date_range("2024-01-01", periods=HOURS, freq="h", tz="UTC"))
    stations = {"north": series(400, 90, seed=1), "south": series(250, 60, seed=2)}
    rows = pd.concat([pd.DataFrame({"at": at, "station": name, "load": load}) for name, load in stations.items()])
    for month, part in rows.groupby(rows["at"].dt.strftime("%Y-%m")):
        part.assign(at=part["at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_csv(folder / f"load_{month}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def circuit(orchestrated: None, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A version that was drafted, trained and promoted, in a state folder of its own, which is set meanwhile."""
    folder = tmp_path_factory.mktemp("lags")
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OKRUH_HOME", str(folder / ".okruh"))
        changed.setenv("OKRUH_CATALOG", str(folder / "catalog"))
        changed.setenv("OKRUH_TRACKING", "disabled")
        new(NAME, str(raw), "load", "at", lags=LAGS, by=["station"])
        ingest(NAME, str(raw))
        version = train(NAME, overrides={"epochs": 8, "validation_days": 10.0, "test_days": 20.0}).version
        assert promote(NAME, version).allowed
        yield version
    definitions.look_in(None)


def test_a_drafted_series_is_learned_and_beats_persistence(circuit: str) -> None:
    lake = assemble(load_settings()).lake(NAME)
    report = registry.promotion_of(lake, "main", circuit)

    assert report is not None
    assert (report.incumbent, report.allowed, report.test_rows) == (NAIVE, True, 2 * 24 * 20)
    rows = known_rows(catalog.load(NAME), lake, "main", FAR).whole().tail(report.test_rows)
    persistence = (rows["load"] - rows["load_1h"]).abs().mean()
    assert report.incumbent_loss.mean == pytest.approx(persistence, rel=1e-5)
    assert report.candidate_loss.mean < 0.6 * persistence
    card = registry.load_card(lake, "main", circuit)
    assert [lag.name for lag in card.contract.lags] == ["load_1h", "load_24h", "load_7d"]
    assert registry.load_bundle(lake, "main", circuit).card == card


def test_a_series_is_learned_from_a_table_that_is_read_in_parts(circuit: str) -> None:
    few = {"epochs": 3, "memory_mb": 0.02, "validation_days": 10.0, "test_days": 20.0}

    registered = train(NAME, overrides=few)

    report = registry.promotion_of(assemble(load_settings()).lake(NAME), "main", circuit)
    assert report is not None
    assert registered.metrics["mae"] < 0.8 * report.incumbent_loss.mean
    assert registered.version != circuit


def test_the_draft_declares_lags_and_says_how_many_rows_have_them(circuit: str, raw: Path) -> None:
    drafted = new("again", str(raw), "load", "at", lags=["24h"], by=["station"])

    contract = catalog.load(NAME).contract
    assert contract.lags[2] == Lag(
        name="load_7d",
        of="load",
        hours=168,
        by=("station",),
        unit="",
        minimum=contract.lags[0].minimum,
        maximum=contract.lags[0].maximum,
    )
    assert drafted.columns["load_24h"] == "load of the same station 24 hours before, 0.9% missing"


@pytest.mark.parametrize("backwards", [False, True])
def test_months_give_the_same_rows_in_whatever_order_they_are_ingested(
    circuit: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, backwards: bool
) -> None:
    expected = known_rows(catalog.load(NAME), assemble(load_settings()).lake(NAME), "main", FAR).whole()
    monkeypatch.setenv("OKRUH_HOME", str(tmp_path / ".okruh"))
    for file in sorted(raw.iterdir(), reverse=backwards):
        ingest(NAME, str(file))

    rows = known_rows(catalog.load(NAME), assemble(load_settings()).lake(NAME), "main", FAR).whole()

    pd.testing.assert_frame_equal(rows, expected)
    assert rows[["load_1h", "load_24h", "load_7d"]].isna().sum().tolist() == [2, 2 * 24, 2 * 24 * 7]


def test_a_raw_files_own_column_of_that_name_is_not_read(
    circuit: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKRUH_HOME", str(tmp_path / ".okruh"))
    pd.read_csv(raw / "load_2024-01.csv").assign(load_24h=1.0).to_csv(tmp_path / "load_2024-01.csv", index=False)
    ingest(NAME, str(tmp_path / "load_2024-01.csv"))

    lake = assemble(load_settings()).lake(NAME)

    assert list(tables.read(lake, "main", "data/rows/load_2024-01.parquet")) == ["at", "station", "load"]
    assert 1.0 not in known_rows(catalog.load(NAME), lake, "main", FAR).whole()["load_24h"].tolist()


@pytest.fixture
def service(circuit: str, tmp_path: Path) -> Iterator[Service]:
    """A service that answers by the champion."""
    bundle = registry.load_bundle(assemble(load_settings()).lake(NAME), "main", circuit)
    with serving(Settings(home=tmp_path / "served", model=NAME), bundle) as service:
        yield service


def rows_to_ask() -> pd.DataFrame:
    """Give rows of the first two hours that are in no file, and of one a day later."""
    wanted = [(NEXT + pd.Timedelta(hours=hour), station) for hour in (0, 1, 30) for station in ("north", "south")]
    at, station = zip(*wanted, strict=True)
    return pd.DataFrame({"at": pd.Series(at).dt.as_unit("us"), "station": list(station)})


def with_lags(rows: pd.DataFrame) -> pd.DataFrame:
    """Give them lags as an application would."""
    lake = assemble(load_settings()).lake(NAME)
    past = pd.concat(tables.read(lake, "main", entry.path) for entry in lake.list("main", "data/rows/"))
    return History(catalog.load(NAME).contract, past).with_lags(rows)


def answers(circuit: str, rows: pd.DataFrame) -> list[float]:
    """Say what the champion answers."""
    bundle = registry.load_bundle(assemble(load_settings()).lake(NAME), "main", circuit)
    found: list[float] = (
        Predictor(bundle.onnx, bundle.card.contract).predict(to_columns(bundle.card.contract, rows)).tolist()
    )
    return found


def okruh(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["predict", NAME, *map(str, words)])


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.ndjson"])
def test_rows_of_a_file_are_given_the_lags_that_they_lack(
    circuit: str, service: Service, tmp_path: Path, name: str
) -> None:
    rows, file = rows_to_ask(), tmp_path / name
    written = rows.assign(at=rows["at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    if file.suffix == ".parquet":
        rows.to_parquet(file)
    elif file.suffix == ".csv":
        written.to_csv(file, index=False)
    else:
        written.to_json(file, orient="records", lines=True)

    ended = okruh("--rows", file, "--url", service.url, "--out", tmp_path / "out.csv", "--json")

    assert ended.exit_code == DONE, ended.output
    assert json.loads(ended.stdout)["unknown_lags"] == {"load_1h": 4, "load_24h": 2, "load_7d": 0}
    assert pd.read_csv(tmp_path / "out.csv")["value"].tolist() == pytest.approx(
        answers(circuit, with_lags(rows)), rel=1e-5
    )


def test_lags_that_rows_have_are_sent_as_they_are(circuit: str, service: Service, tmp_path: Path) -> None:
    rows = rows_to_ask().assign(load_1h=300.0)
    rows.to_parquet(tmp_path / "rows.parquet")

    ended = okruh("--rows", tmp_path / "rows.parquet", "--url", service.url, "--out", tmp_path / "out.csv")

    assert ended.exit_code == DONE, ended.output
    expected = answers(circuit, with_lags(rows))
    assert pd.read_csv(tmp_path / "out.csv")["value"].tolist() == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(answers(circuit, with_lags(rows_to_ask())), rel=1e-5)
    assert "load_1h" not in ended.output
    assert "load_24h was not known for 2 of the rows, and sent as null" in ended.output


def test_without_a_past_rows_have_to_have_their_lags(
    circuit: str, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKRUH_HOME", str(tmp_path / ".okruh"))
    rows = tmp_path / "rows.csv"
    rows.write_text("at,station\n2024-05-01T00:00:00Z,north\n")
    whole = tmp_path / "whole.csv"
    whole.write_text("at,station,load_1h,load_24h,load_7d\n2024-05-01T00:00:00Z,north,300,,310\n")

    lacking, complete = (okruh("--rows", file, "--url", service.url) for file in (rows, whole))

    assert lacking.exit_code == WRONG_USE
    assert "load_mw asks for lags (load_1h, load_24h, load_7d), which the rows lack" in " ".join(lacking.output.split())
    assert complete.exit_code == DONE


def test_rows_that_break_the_contract_are_refused_as_ever(circuit: str, service: Service, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("at,station\n2024-05-01T00:00:00Z,north\nnever,north\n2024-05-01T00:00:00Z,west\n")

    ended = okruh("--rows", rows, "--url", service.url)

    assert ended.exit_code == FAILED
    assert "row 1, field 'at': wrong time" in ended.output


def test_a_service_tells_what_lags_are_and_answers_rows_that_have_them(service: Service) -> None:
    with Client(service.url) as client:
        inputs = {column.name: column for column in client.model().inputs}
        row = {"at": "2024-05-01T00:00:00Z", "station": "north", "load_1h": 300.0, "load_24h": None, "load_7d": 310}
        answered = client.predict([row])
    as_json = httpx.post(f"{service.url}/v1/predict", json={"rows": [row]}).json()

    assert isinstance(lag := inputs["load_24h"], Lag)
    assert (lag.of, lag.hours, lag.by) == ("load", 24, ("station",))
    assert as_json["predictions"][0]["value"] == pytest.approx(answered.values[0], rel=1e-6)
    assert service.recorded == 2


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("--lags", "1w"), WRONG_USE, "--lags 1w: say how long before, in minutes, hours or days: 15m, 24h, 7d"),
        (("--lags", "0h"), WRONG_USE, "--lags 0h: say how long before"),
        (("--lags", "1h", "--by", "place"), FAILED, "there is no column 'place'; the table has at, station, load"),
        (("--lags", "1h", "--by", "at"), FAILED, "series are told apart by other columns than the target and the time"),
        (("--by", "station"), FAILED, "series are told apart by station, and no lag is asked for"),
        (
            ("--lags", "30m", "--by", "station"),
            FAILED,
            "no row has a load of the same station 30 minutes before, to the",
        ),
        (("--lags", "1h", "--task", "multiclass"), FAILED, "target 'load' has"),
    ],
)
def test_lags_that_cannot_be_are_refused(
    home: Path,
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    status: int,
    reason: str,
) -> None:
    monkeypatch.setenv("OKRUH_CATALOG", str(tmp_path / "catalog"))
    table = str(raw / "load_2024-01.csv")

    ended = CliRunner().invoke(app, ["new", "other", table, "--target", "load", "--time", "at", *words])

    assert ended.exit_code == status, ended.output
    assert reason in " ".join(ended.output.split())
    assert not (tmp_path / "catalog" / "other").exists()
