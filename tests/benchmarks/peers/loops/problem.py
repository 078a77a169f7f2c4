"""What every loop trains: the same rows, the same network and the same optimizer, in float32 on the CPU.

The programs beside it run in environments of their own, of which all have this torch and NumPy. Each stays alive, reads
a number of epochs a line, trains anew for so many, and answers with a line of JSON. What a fit costs at its start is
left out: seconds are those from the end of the first epoch to the end of the last.
"""

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

ROWS, FEATURES, WIDTH = 200_000, 16, 128
BATCH = 1024
RATE = 1e-3
DECAY = 0.01
SEED = 0


def arrays() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Give numbers [N, F], and targets [N] that a network can learn from them."""
    draw = np.random.default_rng(SEED)
    numbers_NF = draw.standard_normal((ROWS, FEATURES), np.float32)
    target_N = np.abs(numbers_NF[:, :4]).sum(axis=1) + numbers_NF[:, 4] * numbers_NF[:, 5]
    return numbers_NF, target_N.astype(np.float32)


class Perceptron(nn.Module):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        layers = [nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, numbers: Tensor) -> Tensor:
        """Answer N rows."""
        answer: Tensor = self.layers(numbers).squeeze(1)
        return answer


class EpochEnds:
    """When epochs ended, how many rows each learned from, and the mean loss of the last one."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.rows = 0
        self.loss = float("nan")

    def add(self, rows: int, loss: float) -> None:
        """Note that an epoch has ended now."""
        self.at.append(time.perf_counter())
        self.rows, self.loss = rows, loss


def answer(train: Callable[[int, EpochEnds], object]) -> None:
    """Train as often as is asked, with as many threads as THREADS says."""
    torch.set_num_threads(int(os.environ["THREADS"]))
    for line in sys.stdin:
        ends = EpochEnds()
        train(int(line), ends)
        rows = ends.rows * (len(ends.at) - 1)
        told = {"rows": rows, "seconds": ends.at[-1] - ends.at[0], "loss": ends.loss}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
