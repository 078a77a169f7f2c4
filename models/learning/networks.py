"""Networks that a definition may take as they are: for any table of a contract, and for small images.

Both are made of the training rows (`Examples`), from which they take scales and bins, and answer as
`models.contract.answers` says, a category by the logarithm of each value's probability but for a constant.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.contract.columns import Category, Contract, Number, TimePart
from models.errors import DefinitionError
from models.learning.blocks import Periodic, PiecewiseLinear, Residual, Standardised, replace_missing, start_small
from models.learning.examples import Examples

Embedded = Literal["piecewise_linear", "periodic", "plain"]

_MOST_CELLS = 50
"""Of an embedding."""

_PART_VALUES = {
    TimePart.MINUTE_OF_DAY: 1440,
    TimePart.HOUR: 24,
    TimePart.WEEKDAY: 7,
    TimePart.MONTH: 13,
    TimePart.DAY_OF_YEAR: 367,
}
"""Beyond the largest value."""


class TabularNetwork(nn.Module):
    """Embeds each column, and puts residual layers on top.

    Gorishniy, Rubachev, Khrulkov, Babenko, "Revisiting deep learning models for tabular data", 2021, section 3.3
    (ResNet); numbers are embedded as in "On embeddings for numerical features in tabular deep learning", 2022.
    """

    def __init__(
        self,
        contract: Contract,
        train: Examples,
        *,
        width: int = 192,
        layers: int = 2,
        dropout: float = 0.1,
        numbers: Embedded = "piecewise_linear",
        bins: int = 16,
    ) -> None:
        """Prepare the layers.

        Args:
            train: of it, bins and scales of the numbers, and the middle of a number that is predicted.
            numbers: how a number is embedded: by the bins of its quantiles, by waves of learned lengths, or not.
            bins: bins, or waves, a number.

        Raises: `DefinitionError` for a table without a feature, and for numbers that are embedded in no such way.
        """
        super().__init__()
        if numbers not in (ways := get_args(Embedded)):
            raise DefinitionError(f"network: numbers are embedded as one of {', '.join(ways)}, not {numbers!r}")
        values_NF = torch.from_numpy(train.inputs.numbers_NF)
        self.standardised = Standardised(values_NF)
        self.bins = PiecewiseLinear(values_NF, bins) if numbers == "piecewise_linear" and contract.numbers else None
        self.waves = Periodic(values_NF.shape[1], bins) if numbers == "periodic" else None
        sizes = [len(column.values) + 1 for column in contract.categories]
        sizes += [_PART_VALUES[part] for part in contract.time_parts]
        self.tables = nn.ModuleList(nn.Embedding(size, _cells(size)) for size in sizes)
        inputs = 2 * values_NF.shape[1] + sum(map(_cells, sizes))
        inputs += sum(block.size for block in (self.bins, self.waves) if block is not None)
        if not inputs:
            raise DefinitionError("network: the contract has no number, category or part of a time to learn from")
        self.first = nn.Linear(inputs, width)
        self.layers = nn.Sequential(*(Residual(width, 2 * width, dropout) for _ in range(layers)))
        self.last = Head(contract, train, width)
        start_small(self)

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        """Give the answers."""
        scaled_NF, missing_NF = self.standardised(numbers), torch.isnan(numbers).to(torch.float32)
        parts = [scaled_NF, missing_NF]
        if self.bins is not None:
            parts.append(replace_missing(self.bins(numbers), 0.0))
        if self.waves is not None:
            parts.append(self.waves(scaled_NF))
        codes_NC = torch.cat([categories, time_parts], dim=1)
        parts += [table(codes_NC[:, place]) for place, table in enumerate(self.tables)]
        answers: Tensor = self.last(self.layers(self.first(torch.cat(parts, dim=1))))
        return answers


class ImageNetwork(nn.Module):
    """A small convolutional network over images whose pixels are the contract's numbers, row by row."""

    def __init__(
        self, contract: Contract, train: Examples, *, height: int, width: int, channels: int = 32, dropout: float = 0.2
    ) -> None:
        """Prepare the layers.

        Args:
            train: of it, the scale of the pixels, and the middle of a number that is predicted.
            height: pixels.
            width: pixels.
            channels: of the first layer; the second has twice as many.

        Raises: `DefinitionError` where there are not as many numbers as pixels, or other columns.
        """
        super().__init__()
        if len(contract.numbers) != height * width or len(contract.inputs) != height * width:
            raise DefinitionError(
                f"network: an image of {height} x {width} pixels has {height * width} numbers and nothing else; the "
                f"contract has {len(contract.numbers)} of {len(contract.inputs)} columns"
            )
        self.size = (1, height, width)
        pixels = torch.from_numpy(train.inputs.numbers_NF)
        self.standardised = Standardised(pixels.reshape(-1, 1))
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.last = Head(contract, train, 2 * channels * (height // 2) * (width // 2))

    def forward(self, numbers: Tensor, _categories: Tensor, _time_parts: Tensor) -> Tensor:
        """Give the answers."""
        pixels = self.standardised(numbers).unflatten(1, self.size)
        answers: Tensor = self.last(self.layers(pixels))
        return answers


class Head(nn.Module):
    """The last layer: of what is predicted, in its unit."""

    middle: Tensor
    scale: Tensor

    def __init__(self, contract: Contract, train: Examples, width: int) -> None:
        super().__init__()
        self._is_number = isinstance(contract.target, Number)
        self.answer = nn.Linear(width, len(contract.target.values) if isinstance(contract.target, Category) else 1)
        if self._is_number:
            target_N = torch.from_numpy(train.target_N)
            self.register_buffer("middle", target_N.median())
            self.register_buffer("scale", (target_N - target_N.median()).abs().mean().clamp_min(1e-6))

    def forward(self, row_ND: Tensor) -> Tensor:
        """Give [N] or [N, K]."""
        answer: Tensor = self.answer(row_ND)
        return self.middle + self.scale * answer.squeeze(1) if self._is_number else answer


def _cells(values: int) -> int:
    """Say how wide an embedding is: fastai's rule of thumb (`fastai.tabular.model.emb_sz_rule`)."""
    return min(_MOST_CELLS, int(1.6 * math.pow(values, 0.56) + 0.5))
