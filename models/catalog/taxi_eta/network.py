"""The network of `taxi_eta`: typical minutes for the distance, times the exponential of a learned correction."""

import torch
from torch import Tensor, nn

from models.learning.blocks import HourOfWeek, PiecewiseLinear, replace_missing, start_small

ZONES = 265
TYPICAL_MILES_LOG = 0.53
TYPICAL_PASSENGERS = 1.5
DISTANCE_POWER = 0.75
"""Minutes grow about as miles to this power: long trips are faster."""


class EtaNetwork(nn.Module):
    """Trip minutes from (miles, passengers), (pickup zone, dropoff zone) and (minute of day, weekday, month).

    Heads that share the embeddings learn to answer, each by itself; the answer is their mean, which errs less than one
    (Gorishniy, Kotelnikov, Babenko, "TabM: advancing tabular deep learning with parameter-efficient ensembling", 2025).
    """

    base: Tensor

    def __init__(
        self,
        numbers_N2: Tensor,
        minutes_N: Tensor,
        *,
        zone_size: int,
        hour_size: int,
        month_size: int,
        width: int,
        bins: int,
        heads: int,
    ) -> None:
        """Take the training rows for the distance's bins and typical minutes; nothing else is learned from them.

        Args:
            numbers_N2: miles and passengers.
            minutes_N: of the same trips.
            zone_size: of a zone's embedding.
            hour_size: of that of an hour of the week.
            month_size: of that of a month.
            width: of a head's hidden layer.
            bins: of the distance.
            heads: how many answer.
        """
        super().__init__()
        miles_log_N = self._log_miles(numbers_N2[:, 0])
        self.register_buffer("base", (minutes_N.log() - DISTANCE_POWER * miles_log_N).median())
        self.distance = PiecewiseLinear(miles_log_N.unsqueeze(1), bins)
        self.pickup = nn.Embedding(ZONES + 1, zone_size)
        self.dropoff = nn.Embedding(ZONES + 1, zone_size)
        self.hour_of_week = HourOfWeek(hour_size)
        self.month = nn.Embedding(13, month_size)
        self.hidden = nn.Linear(1 + bins + 2 * zone_size + hour_size + month_size + 2, heads * width)
        self.weight = nn.Parameter(torch.zeros(heads, width))
        self.bias = nn.Parameter(torch.zeros(heads))
        start_small(self)

    @staticmethod
    def _log_miles(miles: Tensor) -> Tensor:
        return replace_missing(miles.clamp(0.05, 100.0).log(), TYPICAL_MILES_LOG)

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        """Give minutes [N]; while it learns, those of H heads [H, N]."""
        miles_log_N1 = self._log_miles(numbers[:, 0:1])
        passengers_N1 = numbers[:, 1:2]
        missing_N1 = torch.isnan(passengers_N1).to(torch.float32)
        passengers_N1 = replace_missing(passengers_N1, TYPICAL_PASSENGERS) * 0.3
        row = torch.cat(
            [
                miles_log_N1,
                self.distance(miles_log_N1),
                self.pickup(categories[:, 0]),
                self.dropoff(categories[:, 1]),
                self.hour_of_week(time_parts[:, 1], time_parts[:, 0]),
                self.month(time_parts[:, 2]),
                passengers_N1,
                missing_N1,
            ],
            dim=1,
        )
        hidden_NHW = torch.relu(self.hidden(row)).reshape(-1, *self.weight.shape)
        correction_NH = (hidden_NHW * self.weight).sum(dim=2) + self.bias
        minutes_NH: Tensor = (self.base + DISTANCE_POWER * miles_log_N1 + correction_NH).clamp(-1.0, 5.5).exp()
        return minutes_NH.T if self.training else minutes_NH.mean(dim=1)
