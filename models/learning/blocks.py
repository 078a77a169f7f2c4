"""Blocks that networks for tables are built from. All of them export to ONNX and take missing values."""

import torch
from torch import Tensor, nn


class PiecewiseLinear(nn.Module):
    """Encodes a number by how far it has come through each of B bins that held equally many training values.

    Gorishniy, Rubachev, Babenko, "On embeddings for numerical features in tabular deep learning", 2022, section 3.2.
    """

    low_B: Tensor
    width_B: Tensor

    def __init__(self, values_N: Tensor, bins: int) -> None:
        super().__init__()
        edges = torch.quantile(values_N, torch.linspace(0, 1, bins + 1))
        self.register_buffer("low_B", edges[:-1].clone())
        self.register_buffer("width_B", edges.diff().clamp_min(1e-6))

    @property
    def size(self) -> int:
        """B."""
        return self.low_B.numel()

    def forward(self, values_N1: Tensor) -> Tensor:
        """Give [N, B] shares in 0..1."""
        return ((values_N1 - self.low_B) / self.width_B).clamp(0.0, 1.0)


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
