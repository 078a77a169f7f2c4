"""Networks that a definition may take as they are: for any table of a contract, and for small images.

Both are made of the training rows (`Examples`), from which they take scales and bins, and answer as
`models.contract.answers` says, a category by the logarithm of each value's probability but for a constant.
"""

import math
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.contract.columns import Category, Contract, Number, TimePart
from models.errors import DefinitionError
from models.learning.blocks import Periodic, PiecewiseLinear, Residual, Standardised, replace_missing, start_small
from models.learning.examples import Examples

Embedded = Literal["piecewise_linear", "periodic", "plain"]

_MOST_CELLS = 50
"""Of an embedding."""

_SMALL = 8
"""Height and width of what an image network looks at last, at most."""

_ENOUGH_PIXELS = 100_000
"""From which scales are taken."""

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

        Raises: `DefinitionError` for a table without a feature, for numbers that are embedded in no such way, and for
            sizes that no network has.
        """
        super().__init__()
        if numbers not in (ways := get_args(Embedded)):
            raise DefinitionError(f"network: numbers are embedded as one of {', '.join(ways)}, not {numbers!r}")
        if min(width, layers, bins) < 1 or not 0 <= dropout < 1:
            raise DefinitionError(
                "network: width, layers and bins must be at least 1 and dropout at least 0 and below 1, not "
                f"{width}, {layers}, {bins} and {dropout:g}"
            )
        values_NF = torch.from_numpy(train.inputs.numbers_NF)
        self.standardised = Standardised(values_NF)
        self.bins = PiecewiseLinear(values_NF, bins) if numbers == "piecewise_linear" and contract.numbers else None
        self.waves = Periodic(values_NF.shape[1], bins) if numbers == "periodic" else None
        sizes = _table_sizes(contract)
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
    """A small convolutional network over the contract's image; what else there is joins before the last layer."""

    def __init__(self, contract: Contract, train: Examples, *, channels: int = 32, dropout: float = 0.2) -> None:
        """Prepare the layers.

        Args:
            train: of it, the scales of image and numbers, and the middle of a number that is predicted.
            channels: of the first layer; those after it have twice as many. Each of these halves height and width,
                until no more than `_SMALL` pixels are left either way.

        Raises: `DefinitionError` where there is no image, or no channel.
        """
        if channels < 1:
            raise DefinitionError(f"network.channels must be at least 1, not {channels}")
        super().__init__()
        image, images_NKHW = contract.image, train.inputs.images_NKHW
        if image is None or images_NKHW is None:
            raise DefinitionError("network: the contract has no image; give it one, or use TabularNetwork")
        self.pixels = Standardised(_values_by_channel(images_NKHW))
        layers: list[nn.Module] = [nn.Conv2d(image.channels, channels, 3, padding=1), nn.ReLU()]
        size, width = (image.height, image.width), channels
        while width == channels or max(size) > _SMALL:
            halve = nn.MaxPool2d(2, ceil_mode=True)
            layers += [nn.Conv2d(width, 2 * channels, 3, padding=1), nn.ReLU(), halve]
            size, width = (-(-size[0] // 2), -(-size[1] // 2)), 2 * channels
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout))
        self.numbers = Standardised(torch.from_numpy(train.inputs.numbers_NF)) if contract.numbers else None
        sizes = _table_sizes(contract)
        self.tables = nn.ModuleList(nn.Embedding(size, _cells(size)) for size in sizes)
        beside = 2 * len(contract.numbers) + sum(map(_cells, sizes))
        self.last = Head(contract, train, width * math.prod(size) + beside)
        start_small(self)

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor, images: Tensor) -> Tensor:
        """Give the answers."""
        scaled = self.pixels(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        parts = [self.layers(scaled)]
        if self.numbers is not None:
            parts += [self.numbers(numbers), torch.isnan(numbers).to(torch.float32)]
        codes_NC = torch.cat([categories, time_parts], dim=1)
        parts += [table(codes_NC[:, place]) for place, table in enumerate(self.tables)]
        answers: Tensor = self.last(torch.cat(parts, dim=1))
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


def _table_sizes(contract: Contract) -> list[int]:
    """Say how many rows the embeddings of categories and parts of a time need."""
    return [len(column.values) + 1 for column in contract.categories] + [
        _PART_VALUES[part] for part in contract.time_parts
    ]


def _values_by_channel(images_NKHW: npt.NDArray[Any]) -> Tensor:
    """Give M of the pixels, [M, K]: quantiles of more are about the same."""
    pixels_NKP = images_NKHW.reshape(*images_NKHW.shape[:2], -1)
    rows, _, pixels = pixels_NKP.shape
    places_M = np.arange(rows * pixels)
    if len(places_M) > _ENOUGH_PIXELS:
        places_M = np.random.default_rng(0).integers(0, rows * pixels, _ENOUGH_PIXELS)
    return torch.from_numpy(pixels_NKP[places_M // pixels, :, places_M % pixels].astype(np.float32))


def _cells(values: int) -> int:
    """Say how wide an embedding is: fastai's rule of thumb (`fastai.tabular.model.emb_sz_rule`)."""
    return min(_MOST_CELLS, int(1.6 * math.pow(values, 0.56) + 0.5))
