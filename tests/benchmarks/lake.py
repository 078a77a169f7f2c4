"""`make bench-lake`: the figures of the embedded lake, in a fresh folder under OKRUH_HOME; six minutes.

Ratios come from rounds in which the lake and what it is compared with take turns; their median counts. DVC is measured
in the same rounds (see `tests.benchmarks.peers.dvc`); it flushes nothing to the disk, the lake everything.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.lake.embedded.store import EmbeddedLake
from infra.lake.lakefs.server import Server
from infra.lake.lakefs.store import LakeFSLake
from infra.lake.protocol import MAIN, Lake
from infra.settings import load_settings
from tests.benchmarks.figures import Figure, Growth, publish
from tests.benchmarks.peers import dvc
from tests.benchmarks.peers.dvc import DvcRepository
from tests.benchmarks.sync import Synced, no_change
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer, running

FILES, FILE_BYTES = 9, 213_000_000 // 9
ROUNDS = 7
ROWS = 3_000_000
LARGE_BYTES = 2 * 2**30
SIZES = (1_000, 10_000, 100_000)
PROGRAM = "from tests.benchmarks.lake import move_large; move_large()"
STORE = """
import sys
from pathlib import Path
from infra.lake.embedded.store import EmbeddedLake

lake = EmbeddedLake(Path(sys.argv[1]))
lake.put_all("main", {file.name: file for file in Path(sys.argv[2]).iterdir()})
lake.commit("main", "put", {})
"""
"""A command that does what `dvc add` and `git commit` do, so that both pay for their start."""


def main() -> int:
    """Measure everything and publish it."""
    home = load_settings().home
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-lake-", dir=home) as scratch:
        place, peer = Path(scratch), dvc.install(home)
        commits, commits_grown = _commits(place)
        syncs, syncs_grown = _syncs(place, peer)
        figures = [*_put_and_commit(place, peer), *commits, *syncs, _one_column(place), *_memory(place)]
    return publish("lake", figures, home, [*commits_grown, *syncs_grown])


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _put_and_commit(place: Path, peer: Path) -> list[Figure]:
    source = place / "source"
    source.mkdir()
    for number in range(FILES):
        (source / str(number)).write_bytes(secrets.token_bytes(FILE_BYTES))
    files = sorted(source.iterdir())
    copying, ours, our_command, theirs = [], [], [], []
    for _ in range(ROUNDS):
        copying.append(_seconds(lambda: _copy_and_flush(files, place / "copy")))
        shutil.rmtree(place / "copy")
        lake = EmbeddedLake(place / "lake")
        ours.append(_seconds(partial(_put, lake, files)))
        lake.close()
        shutil.rmtree(place / "lake")
        command = [sys.executable, "-c", STORE, str(place / "lake"), str(source)]
        our_command.append(_seconds(partial(subprocess.run, command, check=True)))
        shutil.rmtree(place / "lake")
        repository = DvcRepository(peer, place / "dvc")
        shutil.copytree(source, repository.root / source.name)
        os.sync()
        theirs.append(_seconds(partial(repository.add_and_commit, source.name)))
        shutil.rmtree(repository.root)
        os.sync()
    shutil.rmtree(source)
    return [
        Figure(
            name="put + commit of 213 MB in 9 files / copy + fsync",
            value=_ratio(ours, copying),
            unit="ratio",
            bound="<= 1.6",
            compared_with={"lake, s": median(ours), "copy + fsync, s": median(copying)},
        ),
        Figure(
            name="dvc add + git commit of 213 MB in 9 files / put + commit as a command",
            value=_ratio(theirs, our_command),
            unit="ratio",
            bound=">= 2.5",
            compared_with={"dvc + git, s": median(theirs), "lake, s": median(our_command)},
        ),
    ]


def _ratio(some: list[float], others: list[float]) -> float:
    return median(one / other for one, other in zip(some, others, strict=True))


def _put(lake: EmbeddedLake, files: list[Path]) -> None:
    lake.put_all(MAIN, {file.name: file for file in files})
    lake.commit(MAIN, "put", {})


def _copy_and_flush(files: list[Path], target: Path) -> None:
    target.mkdir()
    for file in files:
        copied = shutil.copyfile(file, target / file.name)
        with copied.open("rb") as opened:
            os.fsync(opened.fileno())


def _commits(place: Path) -> tuple[list[Figure], list[Growth]]:
    commits, branches = {}, {}
    for size in SIZES:
        lake = EmbeddedLake(place / f"lake-{size}")
        commits[size], branches[size] = _commit_again_and_again(lake, size)
        lake.close()
        shutil.rmtree(place / f"lake-{size}")
    largest = SIZES[-1]
    figures = [
        Figure(
            name=f"commit of 20 changed files in a repository of {largest:,}",
            value=commits[largest],
            unit="ms",
            bound="<= 5",
            compared_with={f"of {size:,}": commits[size] for size in SIZES[:-1]},
        ),
        Figure(
            name=f"branch of a repository of {largest:,}",
            value=branches[largest],
            unit="ms",
            bound="<= 2",
            compared_with={f"of {size:,}": branches[size] for size in SIZES[:-1]},
        ),
    ]
    return figures, [
        Growth(name="commit of 20 changed files", seconds={size: ms / 1000 for size, ms in commits.items()}),
        Growth(name="branch", seconds={size: ms / 1000 for size, ms in branches.items()}),
    ]


def _syncs(place: Path, peer: Path) -> tuple[list[Figure], list[Growth]]:
    found: dict[int, Synced] = {}
    for size in SIZES:
        found[size] = no_change(place / f"sync-{size}", size, peer)
        shutil.rmtree(place / f"sync-{size}")
    largest = found[SIZES[-1]]
    figure = Figure(
        name=f"no-change sync of {SIZES[-1]:,} files, okruh ingest",
        value=largest.okruh,
        unit="s",
        bound="<= 10",
        compared_with={
            **{f"of {size:,}": found[size].okruh for size in SIZES[:-1]},
            "its flow alone": largest.flow,
            "dvc status": largest.dvc_status,
            "dvc add": largest.dvc_add,
            "dvc's faster / okruh": min(largest.dvc_status, largest.dvc_add) / largest.okruh,
        },
    )
    return [figure], [
        Growth(name="no-change sync, okruh ingest", seconds={size: one.okruh for size, one in found.items()}),
        Growth(
            name="no-change sync, DVC's faster of status and add",
            seconds={size: min(one.dvc_status, one.dvc_add) for size, one in found.items()},
            is_peer=True,
        ),
    ]


def _commit_again_and_again(lake: EmbeddedLake, size: int) -> tuple[float, float]:
    """Give the milliseconds of a commit and of a branch in a repository of a size."""
    paths = [f"data/part-{number // 1000:03}/file-{number:06}.parquet" for number in range(size)]
    for start in range(0, size, 10_000):
        lake.put_all(MAIN, dict.fromkeys(paths[start : start + 10_000], b"the same"))
    lake.commit(MAIN, "start", {})
    chosen = np.random.default_rng(0)
    commits, branches = [], []
    for number in range(31):
        changed = chosen.choice(size, 20, replace=False)
        lake.put_all(MAIN, {paths[place]: secrets.token_bytes(8) for place in changed})
        commits.append(_seconds(lambda: lake.commit(MAIN, "change", {})))
        branches.append(_seconds(partial(lake.create_branch, f"work-{number}", MAIN)))
    return median(commits) * 1000, median(branches) * 1000


def _one_column(place: Path) -> Figure:
    chosen = np.random.default_rng(0)
    table = pa.table(
        {
            "at": pa.array(np.sort(chosen.integers(0, 31 * 86_400, ROWS)) * 1_000_000, pa.timestamp("us")),
            "pickup_zone": chosen.integers(1, 266, ROWS),
            "dropoff_zone": chosen.integers(1, 266, ROWS),
            "miles": np.round(chosen.gamma(2, 1.5, ROWS), 2),
            "minutes": chosen.gamma(3, 4, ROWS),
            "passengers": chosen.integers(1, 6, ROWS).astype(np.float64),
        }
    )
    file, lake = place / "rides.parquet", EmbeddedLake(place / "lake")
    pq.write_table(table, file, compression="zstd")
    lake.put(MAIN, "rides.parquet", file)
    bare, ours = [], []
    for _ in range(3 * ROUNDS):
        bare.append(_seconds(lambda: pq.read_table(file, columns=["minutes"])))
        ours.append(_seconds(lambda: _read_column(lake, "minutes")))
    lake.close()
    shutil.rmtree(place / "lake")
    return Figure(
        name="reading one column of 3,000,000 rows, verified / pyarrow on the bare file",
        value=_ratio(ours, bare),
        unit="ratio",
        bound="<= 1.2",
        compared_with={"lake, ms": median(ours) * 1000, "pyarrow, ms": median(bare) * 1000},
    )


def _read_column(lake: EmbeddedLake, column: str) -> pa.Table:
    with lake.open(MAIN, "rides.parquet") as opened:
        return pq.read_table(pa.PythonFile(opened, mode="r"), columns=[column])


def _memory(place: Path) -> list[Figure]:
    with (place / "large").open("wb") as large:
        for _ in range(LARGE_BYTES // 2**26):
            large.write(secrets.token_bytes(2**26))
    figures = _moved(place, "embedded", "")
    for signing in (False, True):
        server = LakeFSServer(place / f"lakefs-{signing}")
        server.presign = server.multipart = signing
        with closing(server), running(server.app) as server.address:
            figures += _moved(place, "lakeFS, signed URLs" if signing else "lakeFS, through the server", server.address)
        shutil.rmtree(server.root)
    return figures


def _moved(place: Path, store: str, address: str) -> list[Figure]:
    program = [sys.executable, "-c", PROGRAM, str(place), address]
    put, fetched = map(float, subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout.split())
    return [
        Figure(name=f"extra memory for put of 2 GiB, {store}", value=put, unit="MB", bound="< 64"),
        Figure(name=f"extra memory for fetch of 2 GiB, {store}", value=fetched, unit="MB", bound="< 64"),
    ]


def move_large() -> None:
    """Put and fetch a large file, in a process of its own, and print by how many MB its memory's peak rose."""
    place, address = Path(sys.argv[1]), sys.argv[2]
    lake: Lake
    if address:
        lake = LakeFSLake(Server(address, KEY_ID, SECRET), "large")
        lake.create()
    else:
        lake = EmbeddedLake(place / "lake")
    lake.put(MAIN, "small", b"1")
    lake.fetch(MAIN, "small", place / "fetched")
    peaks = [_peak_mb()]
    lake.put(MAIN, "large", place / "large")
    peaks.append(_peak_mb())
    lake.fetch(MAIN, "large", place / "fetched")
    peaks.append(_peak_mb())
    print(peaks[1] - peaks[0], peaks[2] - peaks[0])  # noqa: T201


def _peak_mb() -> float:
    """Read the peak of this program; `getrusage` would give its parent's as well."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
