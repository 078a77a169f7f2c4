"""What a training makes small: of numbers an error, of categories the cross entropy of what the network answers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.contract.columns import Category, Number
from models.errors import DefinitionError
from models.learning.settings import TrainingSettings

Objective = Callable[[Tensor, Tensor], Tensor]
"""Takes a network's answers and the targets of N rows; gives the mean of their losses.

A network that learns may give M answers to each row, [M, N] or [M, N, K], of which each is judged by itself.
"""


def objective(
    settings: TrainingSettings, target: Number | Category, count_K: Tensor, device: torch.device
) -> Objective:
    """Choose by the settings and by what is predicted.

    Args:
        count_K: how many rows that are learned from have each of a category's values.

    Raises: `DefinitionError` for settings that do not fit the target.
    """
    if isinstance(target, Number):
        if settings.loss == "cross_entropy" or settings.class_weights != "none":
            raise DefinitionError(
                f"training.loss=cross_entropy and training.class_weights are for categories; {target.name!r} is a "
                "number: use absolute or squared, and no weights"
            )
        return _squared if settings.loss == "squared" else _absolute
    if settings.loss not in (None, "cross_entropy"):
        raise DefinitionError(f"training.loss={settings.loss} is for numbers; {target.name!r} is a category")
    balanced = settings.class_weights == "balanced"
    weight_K = _balanced(count_K).to(device) if balanced else None

    def cross_entropy(answer_NK: Tensor, place_N: Tensor) -> Tensor:
        answer_RK = answer_NK.float().flatten(0, -2)
        place_R = place_N.expand(answer_NK.shape[:-1]).flatten()
        return functional.cross_entropy(answer_RK, place_R, weight_K, reduction="sum") / len(place_R)

    return cross_entropy


class Probabilities(nn.Module):
    """A network whose [N, K] answers are probabilities, of one that answers their logarithms but for a constant."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor, images: Tensor | None = None) -> Tensor:
        """Give [N, K]; each row's sum is 1."""
        given = (numbers, categories, time_parts) if images is None else (numbers, categories, time_parts, images)
        return torch.softmax(self.network(*given), dim=-1)


def answering(network: nn.Module, target: Number | Category) -> nn.Module:
    """Give a network that answers as `models.contract.answers` says, by one that was trained."""
    return Probabilities(network).eval() if isinstance(target, Category) else network


def _absolute(answer_N: Tensor, target_N: Tensor) -> Tensor:
    return (answer_N.float() - target_N).abs().mean()


def _squared(answer_N: Tensor, target_N: Tensor) -> Tensor:
    return (answer_N.float() - target_N).square().mean()


def _balanced(count_K: Tensor) -> Tensor:
    """Weigh each value by how rare it is, so that all have the same weight together; the mean over rows is 1."""
    return count_K.sum() / ((count_K > 0).sum() * count_K.clamp_min(1))
