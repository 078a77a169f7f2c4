"""A no-change sync: `okruh ingest` of a folder that is in the lake already, beside DVC's look at the same folder.

Validating a hundred thousand months would take hours and is not the point. The folder's files are small and hold no
table; the lake has the objects that ingesting them would have left, and the index of seen files is filled through its
own API. What is timed is the real thing on them: the whole command, and the flow on a Prefect server that runs.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import median

import msgspec

from flows.sync import Ingested, Sync
from infra.assembly import repository
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import MAIN
from infra.seen_files import look_at
from models import definitions
from tests.benchmarks.peers.dvc import DvcRepository

MODEL = "taxi_eta"
AT_A_TIME = 10_000
RUNS = 3
ROWS, REFUSED = b"rows", b"refused rows"
PROGRAM = "from tests.benchmarks.sync import {0}; {0}()"


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that a no-change sync takes, median of three; commands from their start to their end."""

    okruh: float
    """`okruh ingest`."""
    flow: float
    """The flow of it alone."""
    dvc_status: float
    dvc_add: float


def no_change(place: Path, count: int, dvc: Path) -> Synced:
    """Measure it on a number of files, in a new folder."""
    repository, home = DvcRepository(dvc, place), place.with_name(f"{place.name}-home")
    folder = _make_folder(place / "raw", count)
    _fill_lake(home, sorted(file.stem for file in folder.iterdir()))
    _okruh(home, "-c", PROGRAM.format("remember"), str(folder))
    okruh = _median_s(lambda: _ingest(home, folder, count))
    flow = _okruh(home, "-c", PROGRAM.format("sync_again"), str(folder))
    shutil.rmtree(home)
    # Only now, for DVC puts other files, with other times, in their place
    repository.add_and_commit(folder.name)
    return Synced(
        okruh=okruh,
        flow=median(map(float, flow.split())),
        dvc_status=_median_s(repository.check),
        dvc_add=_median_s(lambda: repository.add(folder.name)),
    )


def _median_s(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return median(taken)


def _make_folder(folder: Path, count: int) -> Path:
    """Write small files, each another, an hour old."""
    folder.mkdir()
    an_hour_ago_ns = time.time_ns() - 3600 * 10**9
    for number in range(count):
        file = folder / f"{number:06}.parquet"
        file.write_bytes(f"file {number}".encode())
        os.utime(file, ns=(an_hour_ago_ns, an_hour_ago_ns))
    return folder


def _fill_lake(home: Path, names: list[str]) -> None:
    lake = EmbeddedLake(home / "lake" / repository(MODEL))
    for start in range(0, len(names), AT_A_TIME):
        some = names[start : start + AT_A_TIME]
        lake.put_all(MAIN, {f"data/trips/{name}.parquet": ROWS for name in some})
        lake.put_all(MAIN, {f"quarantine/trips/{name}.parquet": REFUSED for name in some})
    lake.commit(MAIN, "ingest", {})
    lake.close()


def _ingest(home: Path, folder: Path, count: int) -> None:
    said = _okruh(home, "-m", "flows.cli", "ingest", MODEL, str(folder))
    if said.splitlines()[0] != f"{count:,} files are in the lake already":
        raise RuntimeError(f"not a no-change sync: {said[:1000]}")


def _okruh(home: Path, *words: str) -> str:
    environment = {**os.environ, "OKRUH_HOME": str(home), "OKRUH_BRANCH": MAIN}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def remember() -> None:
    """Fill the index of seen files, in a process of its own, as ingesting them would have."""
    rows, refused = (sha256(content).hexdigest() for content in (ROWS, REFUSED))
    with Sync(definitions.load(MODEL), MAIN) as sync:
        for file in Path(sys.argv[1]).iterdir():
            ingested = Ingested(
                file=file.name,
                partition=file.stem,
                rows=1_000,
                refused=1,
                reasons={"trip_miles: outside 0.1 to 50.0": 1},
                quarantine=f"quarantine/trips/{file.stem}.parquet",
                commit=rows,
                digest=rows,
                refused_digest=refused,
                cached=True,
            )
            sync.remember(file, look_at(file), ingested)


def sync_again() -> None:
    """Time the flow, in a process of its own, and print its seconds."""
    from flows.ingest import ingest
    from flows.orchestration import on_a_laptop

    with on_a_laptop():
        for _ in range(RUNS):
            began = time.perf_counter()
            done = ingest(MODEL, sys.argv[1])
            print(time.perf_counter() - began)  # noqa: T201
            assert all(one.cached for one in done)
