"""The flights: what counts as late, what is set apart, and how they are fetched or why not."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.catalog.flight_delay import AIRPORTS, CONTRACT, MODEL, source
from models.contract.table import validate
from models.errors import SourceUnavailable


def flights(rows: int, month: str = "2001-03") -> pd.DataFrame:
    """Give raw rows whose delays rise from -20 to 59 minutes within each day."""
    minutes = np.arange(rows) * (27 * 1440 // rows)
    at = pd.Timestamp(month) + pd.to_timedelta(minutes, unit="min")
    return pd.DataFrame(
        {
            "date": pd.Series(at).dt.as_unit("us"),
            "delay": minutes % 1440 // 18 - 20,
            "distance": 300,
            "origin": "JFK",
            "destination": [("BOS", "ORD")[row % 2] for row in range(rows)],
        }
    )


def test_a_flight_is_late_from_15_minutes_on() -> None:
    raw = flights(12_000)

    table = MODEL.prepared(raw)

    assert table["late"].tolist() == [int(delay >= 15) for delay in raw["delay"]]
    assert 0 < table["late"].mean() < 1


def test_unknown_airports_and_odd_delays_are_set_apart() -> None:
    raw = flights(12_000)
    raw.loc[3, "origin"] = "XXX"
    raw.loc[4, "delay"] = -1_116

    checked = validate(CONTRACT, MODEL.prepared(raw), "flights_2001-03.parquet")

    assert checked.partition == "2001-03"
    assert len(checked.accepted) == 11_998
    assert set(checked.reasons) == {
        "origin: unknown category",
        "delay_minutes: outside -180 to 1800 minutes",
    }


def test_the_airports_are_codes_each_once() -> None:
    assert len(AIRPORTS) == len(set(AIRPORTS)) == 229
    assert all(len(code) == 3 and code.isupper() for code in AIRPORTS)


def test_naive_answers_how_many_of_an_hour_were_late() -> None:
    table = MODEL.prepared(flights(12_000))

    answers = MODEL.naive_answers(table, table)

    by_hour = table["late"].groupby(table["departed_at"].dt.hour).mean()
    np.testing.assert_allclose(answers[:, 1], table["departed_at"].dt.hour.map(by_hour), rtol=1e-6)
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-6)


def test_without_npm_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SourceUnavailable, match=r"there is no npm: install Node\.js, or name a folder"):
        source.fetch(tmp_path)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'npm error code E404' >&2; exit 1",
            r"npm cannot fetch vega-datasets@3\.2\.1 \(npm error code E404\)",
        ),
        (
            'mkdir -p package/data; echo other > package/data/flights-3m.parquet; tar czf "$5/other.tgz" package',
            r"came with other flights \(sha256 [0-9a-f]{12}, not dbeb920c90f5\)",
        ),
        ('mkdir package; echo > package/else; tar czf "$5/other.tgz" package', "came without flights-3m.parquet"),
    ],
)
def test_a_package_that_cannot_be_had_or_is_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "raw").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    with pytest.raises(SourceUnavailable, match=said):
        source.fetch(tmp_path / "raw")

    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.proof
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_fetches_all_months_and_writes_nothing_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, home = tmp_path / "raw", tmp_path / "home"
    raw.mkdir()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))

    source.fetch(raw)

    rows = {file.stem: len(pd.read_parquet(file)) for file in raw.iterdir()}
    assert sorted(rows) == [f"flights_2001-0{month}" for month in range(1, 7)]
    assert sum(rows.values()) == 2_999_994  # six left on 1 July
    assert list(home.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "raw"]
