"""What a card says of how good a model is, beside its metrics: how surely each is known, for whom it is worse, and why.

All of it is measured on the test rows. Intervals are those of `models.evaluating.bootstrap`, at 95 %.
"""

from datetime import datetime
from typing import Literal

import msgspec


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Within which a figure lies with 95 % confidence."""

    low: float
    high: float


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that a slice puts together."""

    loss: float
    """Mean loss (`models.contract.answers`)."""
    rows: int
    interval: Interval | None
    """None where the rows lie in too few blocks to say."""


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that were told about the same probability."""

    rows: int
    told: float
    """Mean of the probabilities."""
    came: float
    """Share of the rows in which what they were told of came true."""
    interval: Interval | None
    """Of `came`."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Whether what is told with a probability comes as often (`models.evaluating.calibration`)."""

    event: str
    """What the probabilities are of."""
    bins: tuple[ReliabilityBin, ...]
    """By rising probability."""
    expected_error: float
    """Expected calibration error: mean over the rows of |told - came| of their bins."""
    error_by_chance: float
    """What it would be on as many rows with these probabilities if each came as often as told."""
    reliability: float
    """Part of the Brier score that better calibration would save (smaller is better)."""
    resolution: float
    """Part of it that telling rows apart has saved (larger is better)."""
    uncertainty: float
    """What it would be if the overall share were told of each row."""


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """Prediction intervals that shall hold the truth of a share of the rows."""

    share: float
    half_widths: tuple[float, ...]
    """Of an interval about a prediction, by bin, in the target's unit."""
    coverage: float
    """Share of the test rows whose truth lay in theirs."""
    interval: Interval | None
    """Of the coverage."""
    mean_width: float
    """Of intervals of the test rows, cut off at the target's range."""


class PredictionIntervals(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals about single predictions (`models.evaluating.conformal`)."""

    rows: int
    """That they were made from."""
    made_from: Literal["validation", "test"] = "validation"
    """Rows that stopped the training; where there were none, the earlier half of those that judge, in which case the
    later half alone measures them."""
    edges: tuple[float, ...]
    """Inner edges of the bins of the predicted value, an edge belonging to the bin above."""
    levels: tuple[Level, ...]


class Importance(msgspec.Struct, frozen=True, kw_only=True):
    """What a model loses without a column (`models.evaluating.importance`)."""

    loss_increase: float
    """By which the mean loss is larger where the column's values are shuffled among the rows."""
    interval: Interval | None


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Test rows about one span of time."""

    start: datetime
    """By the contract's clock: naive where that is a zone's."""
    rows: int
    loss: float
    bias: float | None
    """Mean of predicted - true; None where a category is predicted."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Test rows with about the same prediction, and what turned out to be true of them."""

    rows: int
    predicted: float
    """Mean."""
    low: float
    """10 % quantile of the truth."""
    middle: float
    high: float
    """90 % quantile of the truth."""


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """A pass over the rows that were learned from."""

    train_loss: float
    validation_error: float | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """How good a model is, in figures."""

    blocks: int
    """Blocks of rows that intervals rest on."""
    naive_loss: float
    """Mean loss of what answers without learning."""
    naive_interval: Interval | None
    intervals: dict[str, Interval]
    """By the name of a metric."""
    slices: dict[str, dict[str, Group]]
    """By the name of a slice and of a group."""
    calibration: Calibration | None = None
    """None where a number is predicted."""
    prediction_intervals: PredictionIntervals | None = None
    no_prediction_intervals: str = ""
    """Why there are none where a number is predicted."""
    importance: dict[str, Importance]
    """By input."""
    importance_rows: int
    """Test rows that importance was measured on."""
    over_time: tuple[Span, ...]
    """None without a time."""
    spread: tuple[Spread, ...] = ()
    """By rising prediction; none where a category is predicted."""
    epochs: tuple[Epoch, ...]

    def mean_losses(self) -> dict[str, dict[str, float]]:
        """Give the mean loss of each group of each slice."""
        return {name: {group: one.loss for group, one in groups.items()} for name, groups in self.slices.items()}

    def summary(self) -> dict[str, float]:
        """Give what fits in a line of a list of runs, by name."""
        found = {"naive_loss": self.naive_loss}
        for name, interval in self.intervals.items():
            found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        if self.calibration is not None:
            found["expected_calibration_error"] = self.calibration.expected_error
        if self.prediction_intervals is not None:
            for level in self.prediction_intervals.levels:
                found[f"coverage_{level.share * 100:.0f}"] = level.coverage
                found[f"mean_width_{level.share * 100:.0f}"] = level.mean_width
        return found
