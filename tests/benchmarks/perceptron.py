"""Okruh's loop on the rows and the network of `tests.benchmarks.peers.loops`.

    THREADS=2 python -m tests.benchmarks.perceptron

answers as the programs there do.
"""

import numpy as np
import torch
from torch import Tensor

from models.contract.columns import Number
from models.learning.devices import repeatable
from models.learning.examples import Examples, HeldRows
from models.learning.loop import Progress, fit
from models.learning.objectives import Objective, objective
from models.learning.preprocessing import Prepared
from models.learning.settings import TrainingSettings
from tests.benchmarks.peers.loops import problem

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(
    batch_rows=problem.BATCH,
    learning_rate=problem.RATE,
    weight_decay=problem.DECAY,
    schedule="constant",
    warm_up=1e-9,
    seed=problem.SEED,
)


TARGET = Number(name="target", unit="", minimum=-100, maximum=100)


class Network(problem.Perceptron):
    """The network, given no categories and times."""

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:  # type: ignore[override]
        """Answer N rows."""
        return super().forward(numbers)


def examples() -> Examples:
    """Give the rows, without categories and times."""
    numbers_NF, target_N = problem.arrays()
    nothing_N0 = np.empty((len(target_N), 0), np.int16)
    return Examples(Prepared(numbers_NF, nothing_N0, nothing_N0), target_N)


def aim(settings: TrainingSettings) -> Objective:
    """Give what is made small."""
    return objective(settings, TARGET, torch.zeros(0), CPU)


def main() -> None:
    """Train as often as is asked."""
    table = examples()
    rows, loss_of = HeldRows(table, CPU), aim(SETTINGS)

    def train(epochs: int, ends: problem.EpochEnds) -> None:
        def report(progress: Progress) -> None:
            if progress.ends_epoch:
                ends.add(len(rows) // problem.BATCH * problem.BATCH, progress.train_loss)

        with repeatable(SETTINGS.seed, torch.get_num_threads()):
            fit(Network(), rows, None, loss_of, SETTINGS.with_changes({"epochs": epochs}), CPU, report=report)

    problem.answer(train)


if __name__ == "__main__":
    main()
