"""Blocks that networks for tables are built from. All of them export to ONNX and take missing values."""

import math

import torch
from torch import Tensor, nn

_ENOUGH_VALUES = 100_000
"""Their quantiles are within a fiftieth of a deviation of those of any more."""

_SIXTHS = 7
"""Quantiles that cut values into six equal parts; the outer ones are about a deviation away from the middle."""


class PiecewiseLinear(nn.Module):
    """Encodes each number by how far it has come through each of B bins that held equally many training values.

    Gorishniy, Rubachev, Babenko, "On embeddings for numerical features in tabular deep learning", 2022, section 3.2.
    """

    low_FB: Tensor
    width_FB: Tensor

    def __init__(self, values_NF: Tensor, bins: int) -> None:
        """Take the bins from N values of each of F numbers, NaN where there is none."""
        super().__init__()
        edges_FB = torch.stack([_quantiles(values_N, bins + 1) for values_N in values_NF.unbind(1)])
        self.register_buffer("low_FB", edges_FB[:, :-1].clone())
        self.register_buffer("width_FB", edges_FB.diff(dim=1).clamp_min(1e-6))

    @property
    def size(self) -> int:
        """F times B."""
        return self.low_FB.numel()

    def forward(self, values_NF: Tensor) -> Tensor:
        """Give [N, F * B] shares in 0..1; NaN stays NaN."""
        shares_NFB = ((values_NF.unsqueeze(2) - self.low_FB) / self.width_FB).clamp(0.0, 1.0)
        return shares_NFB.flatten(1)


class Periodic(nn.Module):
    """Encodes each number by waves of B lengths, which are learned.

    Gorishniy, Rubachev, Babenko, "On embeddings for numerical features in tabular deep learning", 2022, section 3.3.
    """

    def __init__(self, numbers: int, waves: int, deviation: float = 0.1) -> None:
        super().__init__()
        self.frequency_FB = nn.Parameter(torch.randn(numbers, waves) * deviation)

    @property
    def size(self) -> int:
        """2 times F times B."""
        return 2 * self.frequency_FB.numel()

    def forward(self, values_NF: Tensor) -> Tensor:
        """Give [N, 2 * F * B] in -1..1; of values whose deviation is about 1."""
        phase_NFB = 2 * math.pi * values_NF.unsqueeze(2) * self.frequency_FB
        return torch.cat([phase_NFB.sin(), phase_NFB.cos()], dim=2).flatten(1)


class Standardised(nn.Module):
    """Shifts and stretches each number so that most training values lie within -1 and 1; 0 where there is none.

    By quantiles, which a few values far off do not move; what lies beyond ten times that counts as ten.
    """

    middle_F: Tensor
    spread_F: Tensor

    def __init__(self, values_NF: Tensor) -> None:
        super().__init__()
        found_FQ = torch.stack(
            [_quantiles(values_N, _SIXTHS) for values_N in values_NF.unbind(1)] or [torch.zeros(_SIXTHS)]
        )
        found_FQ = found_FQ[: values_NF.shape[1]]
        low_F, high_F, whole_F = found_FQ[:, 1], found_FQ[:, -2], found_FQ[:, -1] - found_FQ[:, 0]
        spread_F = torch.where(high_F > low_F, (high_F - low_F) / 2, whole_F)
        self.register_buffer("middle_F", found_FQ[:, _SIXTHS // 2].clone())
        self.register_buffer("spread_F", torch.where(spread_F > 0, spread_F, 1.0))

    def forward(self, values_NF: Tensor) -> Tensor:
        """Give [N, F]."""
        return replace_missing(((values_NF - self.middle_F) / self.spread_F).clamp(-10.0, 10.0), 0.0)


class Residual(nn.Module):
    """Adds what two layers make of a row to the row.

    Gorishniy, Rubachev, Khrulkov, Babenko, "Revisiting deep learning models for tabular data", 2021, section 3.3, with
    the normalisation over a row instead of a batch, so that a row's answer depends on no other.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )

    def forward(self, row_ND: Tensor) -> Tensor:
        """Give [N, D]."""
        changed: Tensor = row_ND + self.change(row_ND)
        return changed


class HourOfWeek(nn.Module):
    """Embeds a moment of the week, gliding from one hour's vector to the next."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(168, size)

    def forward(self, weekday_N: Tensor, minute_of_day_N: Tensor) -> Tensor:
        """Give [N, size]."""
        minute = weekday_N * 1440 + minute_of_day_N
        hour = minute // 60
        past_N1 = ((minute - hour * 60).to(torch.float32) / 60.0).unsqueeze(1)
        following = torch.where(hour == 167, 0, hour + 1)
        embedded: Tensor = self.table(hour) * (1.0 - past_N1) + self.table(following) * past_N1
        return embedded


def replace_missing(values: Tensor, by: float) -> Tensor:
    """Put `by` where a value is NaN."""
    return torch.where(torch.isnan(values), by, values)


def start_small(network: nn.Module, deviation: float = 0.1) -> None:
    """Draw the embedding tables of a network from a narrow normal distribution."""
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=deviation)


def _quantiles(values_N: Tensor, count: int) -> Tensor:
    """Give evenly spaced quantiles, of a hundred thousand values at most; of none, zeros."""
    present_N = values_N[~torch.isnan(values_N)]
    if not len(present_N):
        return torch.zeros(count)
    some = present_N[:: -(-len(present_N) // _ENOUGH_VALUES)]
    return torch.quantile(some, torch.linspace(0, 1, count))
