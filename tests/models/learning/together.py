"""What several processes train together, and one trains alone."""

import numpy as np
import torch
from torch import Tensor, nn

from models.contract.columns import Number
from models.learning.examples import Examples
from models.learning.objectives import objective
from models.learning.preprocessing import Prepared
from models.learning.settings import TrainingSettings

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(epochs=3, batch_rows=32, learning_rate=0.05)


NUMBER = Number(name="answer", unit="", minimum=-9, maximum=9)
AIM = objective(SETTINGS, NUMBER, torch.zeros(0), CPU)


class Small(nn.Module):
    """A table and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.hidden = nn.Linear(7, 16)
        self.answer = nn.Linear(16, 1)

    def forward(self, numbers: Tensor, categories: Tensor, parts: Tensor) -> Tensor:
        row = torch.cat([numbers, self.table(categories[:, 0])], dim=1)
        answer: Tensor = self.answer(torch.relu(self.hidden(row))).squeeze(1)
        return answer


def network() -> nn.Module:
    """Give the same untrained network in every process."""
    torch.manual_seed(7)
    return Small()


def examples() -> Examples:
    """320 rows: ten steps an epoch."""
    draw = np.random.default_rng(1)
    numbers_NF = draw.normal(size=(320, 4)).astype(np.float32)
    categories_N1 = draw.integers(1, 5, (320, 1)).astype(np.int16)
    target_N = (numbers_NF[:, 0] + categories_N1[:, 0]).astype(np.float32)
    return Examples(Prepared(numbers_NF, categories_N1, np.empty((320, 0), np.int16)), target_N)
