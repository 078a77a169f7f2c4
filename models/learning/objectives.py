"""What a training makes small."""

from collections.abc import Callable

from torch import Tensor

from models.learning.settings import TrainingSettings

Objective = Callable[[Tensor, Tensor], Tensor]
"""Takes a network's answers and the targets of some rows; gives the mean of their losses."""


def objective(settings: TrainingSettings) -> Objective:
    """Choose by the settings."""
    return _absolute if settings.loss == "absolute" else _squared


def _absolute(answer_N: Tensor, target_N: Tensor) -> Tensor:
    return (answer_N.float() - target_N).abs().mean()


def _squared(answer_N: Tensor, target_N: Tensor) -> Tensor:
    return (answer_N.float() - target_N).square().mean()
