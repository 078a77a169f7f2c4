"""The loss curve of two processes that `torchrun` has started, beside that of one, with the same batches.

Sums are added in another order, which shows in the last digits; how fast these differences grow is the problem's
matter, not that of the processes. So the whole curve is compared where they stay small: the perceptron of
`tests.benchmarks.peers.loops` with a squared loss. `taxi_eta` learns fast from absolute errors, whose gradient jumps:
there the first batches are compared, and what comes later is stated beside what one process gives from first weights
that differ in their last digits.

    [torchrun --nproc-per-node 2] python -m tests.benchmarks.train_together WHAT CURVE SEED CHANGE

trains `perceptron` or `taxi_eta` on the CPU, its first weights changed by a share, and writes down its losses.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn

from infra.provenance import ROOT
from models import definitions
from models.learning import examples
from models.learning.devices import repeatable
from models.learning.examples import HeldRows, to_examples
from models.learning.loop import Progress, fit
from models.learning.objectives import Objective, objective
from models.learning.settings import Setting, TrainingSettings
from models.learning.world import ALONE, joined
from tests.benchmarks import perceptron
from tests.benchmarks.figures import Figure
from tests.benchmarks.perceptron import CPU
from tests.benchmarks.sample_rows import split
from tests.benchmarks.trainings import Bench

PROCESSES = 2

_MODULE = "tests.benchmarks.train_together"
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES))
_FIRST = 40
"""So many batches `taxi_eta` stays together for."""
_LAST_DIGITS = 2e-7
Parts = tuple[TrainingSettings, HeldRows, HeldRows, Objective, Callable[[], nn.Module]]
"""Settings, rows to learn from, held out rows, what is made small, and what makes the network."""


class Curve(msgspec.Struct, frozen=True):
    """How a training went."""

    processes: int
    steps: list[float]
    """Loss of each batch."""
    epochs: list[float]
    """Mean loss of each epoch."""
    validation: list[float]
    """Validation error after each epoch."""


def figures(bench: Bench) -> list[Figure]:
    """Compare two processes with one."""
    return [_perceptron(bench), _taxi_eta(bench)]


def _perceptron(bench: Bench) -> Figure:
    alone, together, rounded, other = _curves(bench, "perceptron")
    return Figure(
        name=f"perceptron, {PROCESSES} processes beside one: loss of each epoch, largest relative difference",
        value=_most(together, alone),
        unit="share",
        bound="<= 0.0005",
        compared_with={
            "of each batch": difference(together.steps, alone.steps),
            "one process, last digits changed": _most(rounded, alone),
            "one process, another seed": _most(other, alone),
            "epochs": float(len(alone.epochs)),
        },
    )


def _taxi_eta(bench: Bench) -> Figure:
    alone, together, rounded, other = _curves(bench, "taxi_eta")
    first = slice(_FIRST)
    return Figure(
        name=f"taxi_eta, {PROCESSES} processes beside one: first {_FIRST} batches, largest relative difference",
        value=difference(together.steps[first], alone.steps[first]),
        unit="share",
        bound="<= 1e-05",
        compared_with={
            "one process, another seed": difference(other.steps[first], alone.steps[first]),
            "error after the last epoch": difference(together.validation[-1:], alone.validation[-1:]),
            "that of last digits changed": difference(rounded.validation[-1:], alone.validation[-1:]),
            "that of another seed": difference(other.validation[-1:], alone.validation[-1:]),
        },
    )


def difference(some: Sequence[float], others: Sequence[float]) -> float:
    """Give the largest difference of two curves, relative to the second."""
    some_N, others_N = np.asarray(some), np.asarray(others)
    return float(np.max(np.abs(some_N - others_N) / np.abs(others_N)))


def _most(some: Curve, others: Curve) -> float:
    return max(difference(some.epochs, others.epochs), difference(some.validation, others.validation))


def _curves(bench: Bench, what: str) -> tuple[Curve, Curve, Curve, Curve]:
    """Give those of one process, of two, of one whose first weights differ in the last digits, and of another seed."""
    alone, together = _curve(bench, what), _curve(bench, what, *_TORCHRUN)
    assert (alone.processes, together.processes) == (1, PROCESSES)
    return alone, together, _curve(bench, what, change=_LAST_DIGITS), _curve(bench, what, seed=1)


def _curve(bench: Bench, what: str, *started_by: str, seed: int = 0, change: float = 0.0) -> Curve:
    file = bench.place / "curve.json"
    words = [what, str(file), str(seed), str(change)]
    subprocess.run([sys.executable, *started_by, "-m", _MODULE, *words], cwd=ROOT, check=True)
    return msgspec.json.decode(file.read_bytes(), type=Curve)


def _train(what: str, file: Path, seed: int, change: float) -> None:
    examples.WINDOW_BYTES = 1  # so that each batch is told of
    settings, rows, held_out, aim, make = perceptron_parts() if what == "perceptron" else taxi_parts()
    settings, steps = settings.with_changes({"seed": seed}), list[float]()

    def report(progress: Progress) -> None:
        if not progress.ends_epoch:
            steps.append(progress.train_loss)

    with joined(CPU) if "WORLD_SIZE" in os.environ else nullcontext(ALONE) as world, repeatable(seed, threads=1):
        network = make()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + change)
        fitted = fit(network, rows, held_out, aim, settings, CPU, report=report, world=world)
        if world.leads:
            losses, errors = ([epoch[name] for epoch in fitted.epochs] for name in ("train_loss", "validation_error"))
            file.write_bytes(msgspec.json.encode(Curve(world.size, steps, losses, errors)))


def perceptron_parts() -> Parts:
    rows = perceptron.examples()
    changes: dict[str, Setting] = {"loss": "squared", "schedule": "one_cycle", "warm_up": 0.2, "epochs": 5}
    settings = perceptron.SETTINGS.with_changes(changes)
    held_out = len(rows) // 10
    parts = HeldRows(rows[held_out:], CPU), HeldRows(rows[:held_out], CPU)
    return settings, *parts, perceptron.aim(settings), perceptron.Network


def taxi_parts() -> Parts:
    definition = definitions.load("taxi_eta")
    cut = split(definition, "2019-01", "2019-12", "2020-01")
    rows, held_out = (to_examples(definition.contract, table) for table in (cut.train, cut.validation))
    aim = objective(definition.training, definition.contract.target, torch.zeros(0), CPU)
    settings = definition.network_settings
    parts = HeldRows(rows, CPU), HeldRows(held_out, CPU)
    return definition.training, *parts, aim, lambda: definition.network(rows, **settings)


if __name__ == "__main__":
    _train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
