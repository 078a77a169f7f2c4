"""`make bench-loop`: the figures of the loop, in fresh state folders; about ten minutes on two cores."""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor

from infra.settings import load_settings
from models import definitions
from models.contract.table import to_columns
from models.inference import Predictor
from models.learning.material import gather
from models.learning.splits import Split
from models.learning.training import Trained, train
from models.model import Model
from tests.benchmarks import sample_rows
from tests.benchmarks.figures import Figure, publish
from tests.benchmarks.sample_rows import sample_of

MODEL = "taxi_eta"


def main() -> int:
    """Measure everything and publish it."""
    results = load_settings().home
    with tempfile.TemporaryDirectory(prefix="okruh-bench-") as scratch:
        homes = Path(scratch)
        figures = [
            *_loop_figures(homes / "2020"),
            _quiet_year(homes / "2019"),
            *_learning_figures(),
            _ingest(homes / "one"),
        ]
    return publish("loop", figures, results)


def _okruh_loop(home: Path, *options: str) -> tuple[dict[str, Any], float]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "loop", MODEL, "--json", *options]
    done = subprocess.run(command, env={**os.environ, "OKRUH_HOME": str(home)}, stdout=subprocess.PIPE, check=True)
    story: dict[str, Any] = json.loads(done.stdout)
    return story, time.perf_counter() - began


def _loop_figures(home: Path) -> list[Figure]:
    story, seconds = _okruh_loop(home)
    again, seconds_again = _okruh_loop(home)
    months = [month for month in story["months"] if month["month"] >= "2020-04"]
    left_alone = float(np.mean([month["error_first_model"] for month in months]))
    followed = [line for line in story["promotions"] if line["error_previous_champion"] is not None]
    worst = max(line["error_next_month"] / line["error_previous_champion"] for line in followed)
    alarm = datetime.fromisoformat(story["alarms"][0]["at"])
    same = ("months", "alarms", "verdicts", "versions", "labels")
    differing = sum(story[key] != again[key] for key in same)
    requests = story["requests"]
    return [
        Figure(
            name="error served, mean of April to December 2020",
            value=float(np.mean([m["error_served"] for m in months])),
            unit="minutes",
            bound="<= 3.30",
            compared_with={"first model left alone": left_alone},
        ),
        Figure(name="worst month after a promotion / champion before", value=worst, unit="ratio", bound="<= 1.02"),
        Figure(
            name="first alarm, days after 2020-03-16",
            unit="days",
            bound="0 to 15",
            value=(alarm - datetime(2020, 3, 16, tzinfo=UTC)).total_seconds() / 86_400,
        ),
        Figure(
            name="failed requests",
            value=requests["failed"],
            unit="requests",
            bound="== 0",
            compared_with={
                "sent": requests["sent"],
                "refused by the contract": requests["refused"],
                "sent during swaps": requests["during_swaps"],
            },
        ),
        Figure(
            name="labels sent but not joined",
            value=story["labels"]["sent"] - story["labels"]["joined"],
            unit="labels",
            bound="== 0",
            compared_with={"sent": story["labels"]["sent"]},
        ),
        Figure(
            name="journalled prediction against batch scoring, largest difference",
            unit="minutes",
            bound="<= 0.001",
            value=story["journal"]["largest_difference"],
            compared_with={"rows": story["journal"]["rows"]},
        ),
        Figure(
            name="promotion to first answer, slowest",
            unit="s",
            bound="< 3",
            value=max(line["seconds_to_first_answer"] for line in followed),
        ),
        Figure(name="okruh loop, first run", value=seconds, unit="s", bound="< 300"),
        Figure(name="okruh loop, second run", value=seconds_again, unit="s", bound="< 300"),
        Figure(name="parts of the second run that differ", value=differing, unit="parts", bound="== 0"),
    ]


def _quiet_year(home: Path) -> Figure:
    story, _ = _okruh_loop(home, "--history-from", "2018-01", "--play-from", "2019-01", "--play-to", "2019-12")
    served = float(np.mean([month["error_served"] for month in story["months"]]))
    return Figure(
        name="alarms in 2019, trained on 2018",
        value=len(story["alarms"]),
        unit="alarms",
        bound="<= 1",
        compared_with={"error served": served},
    )


def _learning_figures() -> list[Figure]:
    definition = definitions.load(MODEL)
    split = sample_rows.split(definition, "2019-01", "2019-12", "2020-01")
    trained, seconds = _trained(definition, split)
    _, seconds_of_all = _trained(definition, sample_rows.split(definition, "2018-01", "2020-01", "2020-02"))
    answered_N = Predictor(trained.onnx, definition.contract).predict(to_columns(definition.contract, split.test))
    network = _mean_error(answered_N, split.test)
    trees = _trees_error(split.train, split.test)
    return [
        Figure(
            name="network / HistGradientBoosting, error on 2020-01 and 2020-02",
            value=network / trees,
            unit="ratio",
            bound="<= 1.02",
            compared_with={"network": network, "trees": trees},
        ),
        Figure(
            name="slowest training, with export and parity",
            value=max(seconds, seconds_of_all),
            unit="s",
            bound="< 20",
            compared_with={"of 11 months": seconds, "of 24 months": seconds_of_all},
        ),
    ]


def _trained(definition: Model, split: Split) -> tuple[Trained, float]:
    began = time.perf_counter()
    material = gather(definition.contract, [split], definition.training.memory_mb)
    trained = train(definition, material, definition.training, device="cpu", threads=load_settings().train_threads)
    return trained, time.perf_counter() - began


def _trees_error(train_rows: pd.DataFrame, test_rows: pd.DataFrame) -> float:
    def features(rows: pd.DataFrame) -> pd.DataFrame:
        clock = rows["pickup_at"].dt
        times = {
            "hour": clock.hour,
            "minute": clock.hour * 60 + clock.minute,
            "weekday": clock.day_of_week,
            "month": clock.month,
        }
        return rows[["pickup_zone", "dropoff_zone", "trip_miles", "passengers"]].assign(**times)

    trees = HistGradientBoostingRegressor(loss="absolute_error", max_iter=150, random_state=0)
    trees.fit(features(train_rows), train_rows["trip_minutes"])
    return _mean_error(trees.predict(features(test_rows)), test_rows)


def _mean_error(answered_N: npt.NDArray[np.floating], rows: pd.DataFrame) -> float:
    return float(np.abs(answered_N - rows["trip_minutes"].to_numpy()).mean())


def _ingest(home: Path) -> Figure:
    """Validate and commit each month, as the step of the ingest flow does."""
    os.environ["OKRUH_HOME"] = str(home)
    from flows.ingest import ingest_file

    sample = sample_of(definitions.load(MODEL))
    seconds = []
    for month in pd.period_range("2018-01", "2020-12", freq="M"):
        began = time.perf_counter()
        file = sample.file(str(month))
        digest = sha256(file.read_bytes()).hexdigest()
        ingest_file.fn(MODEL, str(file), digest, "main", key="")
        seconds.append(time.perf_counter() - began)
    return Figure(
        name="ingest of a month, slowest of 36",
        value=max(seconds),
        unit="s",
        bound="< 1",
        compared_with={"median": float(np.median(seconds))},
    )


if __name__ == "__main__":
    sys.exit(main())
