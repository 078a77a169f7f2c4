"""What a search may try: ranges and choices by a setting's whole name, such as `training.learning_rate`.

What decides which rows are compared, or in what the error is measured, cannot be searched: the smallest error would
then say nothing. Nor can the seed: the luckiest of many is no better than the others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import DefinitionError
from models.learning.settings import Setting, TrainingSettings
from models.setting_names import TRAINING


@dataclass(frozen=True)
class Floats:
    """Numbers from `low` to `high`; with `log`, each order of magnitude is as likely."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse what holds nothing. Raises: `DefinitionError`."""
        _check_range(self.low, self.high, log=self.log)

    def ends(self) -> tuple[Setting, ...]:
        """Give what must be possible if all of it is."""
        return self.low, self.high

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Integers:
    """Whole numbers from `low` to `high`, `step` apart; with `log`, each order of magnitude is as likely."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse what holds nothing. Raises: `DefinitionError`."""
        _check_range(self.low, self.high, log=self.log)
        if self.step < 1 or (self.log and self.step > 1):
            raise DefinitionError(f"search: a step is a whole number from 1 on, and 1 with log, not {self.step}")

    def ends(self) -> tuple[Setting, ...]:
        """Give what must be possible if all of it is."""
        return self.low, self.high

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high and (value - self.low) % self.step == 0


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Setting, ...]

    def __post_init__(self) -> None:
        """Refuse what is no choice. Raises: `DefinitionError`."""
        if len(set(self.values)) < 2:
            raise DefinitionError(f"search: a choice is between two values or more, not {self.values}")

    def ends(self) -> tuple[Setting, ...]:
        """Give what must be possible if all of it is."""
        return self.values

    def __contains__(self, value: object) -> bool:
        return value in self.values


Axis = Floats | Integers | Choice
Space = Mapping[str, Axis]

_FIXED = frozenset(
    f"{TRAINING}{name}"
    for name in (
        *("validation_days", "test_days", "validation_share", "test_share"),
        *("loss", "class_weights", "seed", "memory_mb"),
    )
)


def usual(training: TrainingSettings, *, embeds: bool) -> dict[str, Axis]:
    """Give what is searched where a definition does not say: around its own settings of the training.

    Args:
        embeds: whether the network may have embedding tables.
    """
    rate, rows = training.learning_rate, training.batch_rows
    space: dict[str, Axis] = {
        "training.learning_rate": Floats(rate / 10, rate * 5, log=True),
        "training.batch_rows": Choice(tuple(sorted({max(1, rows // 4), max(1, rows // 2), rows, rows * 2}))),
        "training.weight_decay": Floats(1e-4, 0.3, log=True),
        "training.schedule": Choice(("one_cycle", "cosine", "constant")),
    }
    return space | ({"training.embedding_rate": Floats(0.5, 8.0, log=True)} if embeds else {})


def check_names(space: Space) -> None:
    """Refuse what no search may change. Raises: `DefinitionError`."""
    if fixed := sorted(_FIXED & space.keys()):
        raise DefinitionError(
            f"search: {fixed[0]} decides what is compared, and cannot be searched; set it by --set for all trials"
        )


def _check_range(low: float, high: float, *, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise DefinitionError(f"search: a range goes from a number to a larger one, not from {low} to {high}")
    if log and low <= 0:
        raise DefinitionError(f"search: a range with log begins above 0, not at {low}")
