"""How a network is trained. Apart from the loop, so that reading a definition does not import torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from models.errors import DefinitionError

Setting = float | int | str | bool | None

_LARGEST = 2**63 - 1
"""Whole numbers beyond it are none to torch, nor to most that read JSON."""
_CENTURY_DAYS = 36_525
"""No longer span is held out."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that, with the rows and the seed, determines the weights."""

    epochs: int = 6
    """Passes over the training rows, at most."""
    batch_rows: int = 1024
    """Rows a step, of all processes together."""
    learning_rate: float = 8e-3
    """The largest that a step has."""
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    """How the rate goes from step to step (`models.learning.schedule`)."""
    warm_up: float = 0.2
    """Share of all steps in which the rate rises."""
    embedding_rate: float = 2.0
    """Learning rate of embedding tables relative to `learning_rate`; their rows get gradients less often."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay."""
    clip_norm: float | None = None
    """Gradients that are longer together are shortened to this; None: they are taken as they are."""
    loss: Literal["absolute", "squared", "cross_entropy"] | None = None
    """What is made small: for numbers the first, which aims at the median of what may come, or the second, at its mean;
    for categories the last. None: the first or the last."""
    class_weights: Literal["none", "balanced"] = "none"
    """Whether the values of a category weigh the same together, however rare each is; probabilities are then those of
    a world where all are as frequent."""
    patience: int = 3
    """Epochs without a better validation error after which training stops; the best epoch is kept."""
    seed: int = 0
    """Seed of the first weights and of the row order."""
    precision: Literal["float32", "bf16"] = "float32"
    """What the network computes in while it learns; weights and sums are kept in float32."""
    compiled: Literal["no", "yes", "cuda_graphs"] = "no"
    """Whether `torch.compile` makes kernels of the network, and whether CUDA replays them as graphs."""
    memory_mb: float = 2048.0
    """Rows that are learned from are kept in memory where they take no more, once prepared, in 10^6 bytes; of more,
    parts are read again in each epoch, some of which are shuffled together."""
    validation_days: float = 31.0
    """Span before the test span that stops the training; of models with a time column."""
    test_days: float = 29.0
    """Newest span; judges the network, never seen in training; of models with a time column."""
    validation_share: float = 0.1
    """Share of the rows that stops the training; of models without a time column."""
    test_share: float = 0.2
    """Share of the rows that judges the network, never seen in training; of models without a time column."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot train. Raises: `DefinitionError` naming the option."""
        for name, value in self.flat().items():
            _check_number(name, _convert(name, _KINDS[name], value))
        if not (self.validation_share >= 0 and self.test_share > 0 and self.validation_share + self.test_share < 1):
            raise DefinitionError(
                "training.test_share must be greater than 0, and with training.validation_share together less than 1"
            )
        if not 0 < self.warm_up < 1:
            raise DefinitionError(f"training.warm_up must lie between 0 and 1, not {self.warm_up!r}")

    def flat(self) -> dict[str, Setting]:
        """Give the settings as one plain mapping."""
        return {name: getattr(self, name) for name in _KINDS}

    def with_changes(self, changes: Mapping[str, Setting]) -> "TrainingSettings":
        """Give a copy with some settings changed; text is taken for what it says. Raises: `DefinitionError`."""
        if unknown := sorted(changes.keys() - _KINDS.keys()):
            where = "; where networks are trained, OKRUH_DEVICE says" if "device" in unknown else ""
            raise DefinitionError(
                f"no training setting is called {', '.join(unknown)}; there are {', '.join(_KINDS)}{where}"
            )
        meant = {name: _convert(name, _KINDS[name], value, strict=False) for name, value in changes.items()}
        return replace(self, **meant)


_KINDS: dict[str, Any] = get_type_hints(TrainingSettings)
_DAYS = ("validation_days", "test_days")
_ABOVE_0 = (
    *("epochs", "batch_rows", "patience", "learning_rate", "embedding_rate", "clip_norm", "memory_mb"),
    *_DAYS,
)
_FROM_0 = ("weight_decay", "seed")


def _check_number(name: str, value: Setting) -> None:
    if not isinstance(value, int | float):
        return
    if name in _ABOVE_0 and not value > 0:
        raise DefinitionError(f"training.{name} must be greater than 0, not {value!r}")
    if name in _FROM_0 and not value >= 0:
        raise DefinitionError(f"training.{name} must be 0 or greater, not {value!r}")
    if not math.isfinite(value):
        raise DefinitionError(f"training.{name} must be finite, not {value!r}")
    if isinstance(value, int) and value > _LARGEST:
        raise DefinitionError(f"training.{name} must be at most {_LARGEST}, not {value!r}")
    if name in _DAYS and value > _CENTURY_DAYS:
        raise DefinitionError(f"training.{name} must be at most {_CENTURY_DAYS}, a century, not {value!r}")


def changed(owner: str, usual: Mapping[str, Setting], changes: Mapping[str, Setting]) -> dict[str, Setting]:
    """Give settings with some changed, each of the kind that its usual value has. Raises: `DefinitionError`."""
    if unknown := sorted(changes.keys() - usual.keys()):
        there = f"there are {', '.join(usual)}" if usual else "the definition declares none"
        raise DefinitionError(f"no {owner} setting is called {', '.join(unknown)}; {there}")
    meant = {
        name: _convert(name, type(usual[name]), value, strict=False, owner=owner) for name, value in changes.items()
    }
    if infinite := [name for name, value in meant.items() if isinstance(value, float) and not math.isfinite(value)]:
        raise DefinitionError(f"{owner}.{infinite[0]} must be finite, not {meant[infinite[0]]!r}")
    return {**usual, **meant}


_WHAT: dict[Any, str] = {int: "a whole number", bool: "true or false", str: "text"}


def _choices(kind: Any) -> list[str]:
    found: list[str] = []
    for one in get_args(kind):
        if get_origin(one) is Literal:
            found += _choices(one)
        elif one not in (float, NoneType):
            found.append(str(one))
    return found


def _convert(name: str, kind: Any, value: object, *, strict: bool = True, owner: str = "training") -> Any:
    if not strict and value == "none" and NoneType in get_args(kind):
        return None
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        choices = _choices(kind)
        what = f"one of {', '.join(choices)}" if choices else _WHAT.get(kind, "a number")
        what += " or none" if NoneType in get_args(kind) else ""
        raise DefinitionError(f"{owner}.{name} must be {what}, not {value!r}") from error
