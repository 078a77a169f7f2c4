"""What an epoch over 3,000,000 flights costs in time as the table grows, and a training of one in memory.

Tables have a quarter, a half and all of the flights of each month. A table is kept in memory, prepared, or streamed
from the lake in parts, with a quarter of its columns' size in memory. Each training has a process of its own.
"""

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pandas as pd

from flows.sync import files_to_ingest
from infra.settings import load_settings
from models import definitions
from tests.benchmarks.figures import Figure
from tests.benchmarks.flights_epoch import MODEL, Epoch
from tests.benchmarks.homes import OKRUH, environment
from tests.benchmarks.trainings import Bench

_STRIDES = (4, 2, 1)
"""Of all flights every fourth, every second, and every one."""
_KEPT_MB = 2048.0


def figures(bench: Bench) -> list[Figure]:
    """Fetch the flights where they are not there yet, and measure."""
    files = files_to_ingest(definitions.load(MODEL), None)
    homes = [_ingested(bench.place / f"every {stride}", files, stride) for stride in _STRIDES]
    kept = [[_epoch(home, _KEPT_MB) for home in homes] for _ in range(bench.starts)]
    quarter_mb = kept[0][-1].columns / 4 / 1e6
    streamed = [_epoch(homes[-1], quarter_mb) for _ in range(bench.starts)]
    whole = [epochs[-1] for epochs in kept]
    return [growth(kept), memory("kept in memory", whole), memory("streamed", streamed), _slower(streamed, whole)]


def growth(starts: Sequence[Sequence[Epoch]]) -> Figure:
    """Compare the seconds a row of the largest table with those of the smallest; 1 is linear."""
    by_table = [
        statistics.median(epoch.seconds / epoch.rows for epoch in epochs) for epochs in zip(*starts, strict=True)
    ]
    return Figure(
        name="flights: seconds a row, all / a quarter",
        value=by_table[-1] / by_table[0],
        unit="ratio",
        bound="<= 1.1",
        compared_with={
            f"microseconds a row of {epoch.rows:,}": seconds * 1e6
            for epoch, seconds in zip(starts[0], by_table, strict=True)
        },
    )


def memory(name: str, epochs: Sequence[Epoch]) -> Figure:
    """Compare the most memory that a training of one epoch added with the columns that it read."""
    peak = max(epoch.peak for epoch in epochs)
    return Figure(
        name=f"flights, {name}: peak memory / columns used",
        value=peak / epochs[0].columns,
        unit="ratio",
        bound="<= 2",
        compared_with={"peak MB": peak / 1e6, "columns MB": epochs[0].columns / 1e6},
    )


def _slower(streamed: Sequence[Epoch], kept: Sequence[Epoch]) -> Figure:
    medians = {name: statistics.median(one.seconds for one in found) for name, found in (("s", streamed), ("k", kept))}
    return Figure(
        name="flights: seconds of an epoch, streamed / kept in memory",
        value=medians["s"] / medians["k"],
        unit="ratio",
        bound="",
        compared_with={
            "streamed s": medians["s"],
            "kept s": medians["k"],
            "of which reading and preparing s": statistics.median(one.read_seconds for one in kept),
        },
    )


def _ingested(home: Path, files: Sequence[Path], stride: int) -> Path:
    """Make a home whose lake has every `stride`-th flight."""
    raw = home / "raw"
    raw.mkdir(parents=True)
    for file in files:
        pd.read_parquet(file)[::stride].to_parquet(raw / file.name, index=False)
    command = [*OKRUH, "ingest", MODEL, str(raw)]
    subprocess.run(command, env=environment(load_settings(home=home)), stdout=subprocess.DEVNULL, check=True)
    return home


def _epoch(home: Path, memory_mb: float) -> Epoch:
    command = [sys.executable, "-m", "tests.benchmarks.flights_epoch", str(memory_mb)]
    done = subprocess.run(command, env=environment(load_settings(home=home)), stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=Epoch)
