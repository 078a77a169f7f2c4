"""Rows a second of our loop, beside the shortest loop by hand, Lightning and skorch.

All train the same perceptron on the same rows with the same optimizer, on all cores (`tests.benchmarks.peers.loops`).
Each is a process that stays alive and trains again and again; ratios are medians over pairs, ours first in every other
one, after several starts of all. What a training costs at its start counts for nobody.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median

import msgspec

from infra.provenance import ROOT
from tests.benchmarks.figures import Figure
from tests.benchmarks.peers.environments import install
from tests.benchmarks.trainings import Bench

LOOPS = Path(__file__).parent / "peers" / "loops"
OURS, BARE = "okruh", "bare"

_ASKED = {BARE: 0.97, "lightning": 4.5, "skorch": 4.5}
_CALLED = {BARE: "the shortest by hand", "lightning": "Lightning", "skorch": "skorch"}
_PEERS = {"lightning": "lightning==2.6.6", "skorch": "skorch==1.4.0"}
_PAIRS_BY_HAND = 3
"""As many pairs with the loop by hand in the place of one: they are short, and closest to their bound."""
_EPOCHS, _WARM_EPOCHS = 4, 2
_LIKE = 1.1
"""Losses of loops that train the same differ by the order of rows alone."""


class Trained(msgspec.Struct, frozen=True):
    """What a loop says of one training."""

    rows: int
    """Those learned from after the first epoch."""
    seconds: float
    loss: float
    """Mean of the last epoch."""

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


class Loop:
    """A loop that waits in a process of its own."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    def train(self, epochs: int) -> Trained:
        """Train anew for so many epochs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{epochs}\n".encode())
        self._process.stdin.flush()
        if not (said := self._process.stdout.readline()):
            sys.exit(f"{self.name} does not train: see {self._log}")
        return msgspec.json.decode(said, type=Trained)


@contextmanager
def running(name: str, python: Path, place: Path, threads: int) -> Iterator[Loop]:
    """Start a loop, and end it with the block."""
    log = place / f"{name}.log"
    ours = name == OURS
    program = ["-m", "tests.benchmarks.perceptron"] if ours else [str(LOOPS / f"{name}_loop.py")]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [str(python), *program],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT if ours else LOOPS), "THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        yield Loop(name, process, log)


def figures(bench: Bench) -> list[Figure]:
    """Compare rows a second."""
    ours = Path(sys.executable)
    pythons = {OURS: ours, BARE: ours} | {name: _python(bench, name) for name in _PEERS}
    threads = len(os.sched_getaffinity(0))
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in _ASKED}
    for _ in range(bench.starts):
        with ExitStack() as alive:
            loops = {
                name: alive.enter_context(running(name, python, bench.place, threads))
                for name, python in pythons.items()
            }
            check_alike({name: loop.train(_WARM_EPOCHS).loss for name, loop in loops.items()})
            for _ in range(bench.rounds):
                for name, found in pairs.items():
                    for _ in range(_PAIRS_BY_HAND if name == BARE else 1):
                        found.append(_pair(loops[OURS], loops[name], swapped=len(found) % 2 == 1))
    return [_figure(name, pairs[name], bound, threads) for name, bound in _ASKED.items()]


def _python(bench: Bench, name: str) -> Path:
    same = [f"{package}=={version(package)}" for package in ("torch", "numpy")]
    return install(bench.home, name, [_PEERS[name], *same]) / "python"


def check_alike(losses: dict[str, float]) -> None:
    """End where loops do not train the same."""
    if max(losses.values()) > _LIKE * min(losses.values()):
        sys.exit(f"the loops do not train the same: after {_WARM_EPOCHS} epochs their losses are {losses}")


def _pair(ours: Loop, other: Loop, *, swapped: bool) -> tuple[float, float]:
    if swapped:
        theirs = other.train(_EPOCHS).rate
        return ours.train(_EPOCHS).rate, theirs
    return ours.train(_EPOCHS).rate, other.train(_EPOCHS).rate


def _figure(name: str, pairs: Sequence[tuple[float, float]], bound: float, threads: int) -> Figure:
    return Figure(
        name=f"rows/s of our loop / {_CALLED[name]}",
        value=median(mine / theirs for mine, theirs in pairs),
        unit="ratio",
        bound=f">= {bound}",
        compared_with={
            "ours": median(mine for mine, _ in pairs),
            "theirs": median(theirs for _, theirs in pairs),
            "pairs": float(len(pairs)),
            "threads": float(threads),
        },
    )
