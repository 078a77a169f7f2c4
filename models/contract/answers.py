"""What a model answers, how far two answers are apart, and how far one is from the truth.

Of a number the answer is the number itself, float32 [N], in its unit. Of a category it is the probability of each of
its K values, float32 [N, K], in the contract's order.

The loss of an answer is what gates, windows and alarms rest on: of a number its absolute error; of probabilities half
the sum of squared differences from what was true, in 0..1 (Brier, "Verification of forecasts expressed in terms of
probability", 1950), which is smallest on average for who says what he believes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract.columns import Category, Number

Answers = npt.NDArray[Any]
"""Floats: [N] of a number, [N, K] of a category."""

Losses = npt.NDArray[np.float64]
"""[N]."""

UNKNOWN = -1
"""The place of what is none of a category's values."""


def output_name(target: Number | Category) -> str:
    """Say what a graph's output is called."""
    return "probabilities" if isinstance(target, Category) else "value"


def shape(target: Number | Category, rows: int) -> tuple[int, ...]:
    """Give the shape of the answers to N rows."""
    return (rows, len(target.values)) if isinstance(target, Category) else (rows,)


def places(target: Category, values: Sequence[object]) -> npt.NDArray[np.int64]:
    """Give the 0-based place of each value in the contract, [N]; `UNKNOWN` for another."""
    place = {value: number for number, value in enumerate(target.values)}
    return np.fromiter((place.get(value, UNKNOWN) for value in values), np.int64, len(values))  # type: ignore[call-overload]


def told(target: Number | Category, answers: Answers) -> list[float | int | str]:
    """Give the single value that each answer tells: the number, or the most likely category (of equals the first)."""
    if isinstance(target, Number):
        found: list[float | int | str] = answers.tolist()
        return found
    return [target.values[place] for place in answers.argmax(axis=1).tolist()]


def recorded(target: Number | Category, answers: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Give answers that were kept row by row as one array; NaN where there is none."""
    if isinstance(target, Number):
        return np.array(answers, np.float64)
    none = [np.nan] * len(target.values)
    return np.array([none if one is None else one for one in answers], np.float64).reshape(-1, len(none))


def losses(target: Number | Category, answers: Answers, truth: Sequence[object]) -> Losses:
    """Compare answers with what turned out to be true, which the contract allows."""
    if isinstance(target, Number):
        error_N: Losses = np.abs(answers.astype(np.float64) - np.asarray(truth, np.float64))
        return error_N
    missing_NK = answers.astype(np.float64)
    missing_NK[np.arange(len(truth)), places(target, truth)] -= 1.0
    brier_N: Losses = np.square(missing_NK).sum(axis=1) / 2
    return brier_N


def differences(target: Number | Category, one: Answers, other: Answers) -> Losses:
    """Compare two answers to each row: |one - other|, of probabilities the distance in total variation, in 0..1."""
    apart: Losses = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return apart if isinstance(target, Number) else apart.sum(axis=1) / 2


def mean_loss(target: Number | Category) -> str:
    """Say under which name a card's metrics have the mean loss."""
    return "brier" if isinstance(target, Category) else "mae"


def largest_difference(target: Number | Category) -> float:
    """Say how far two allowed answers can be apart."""
    return target.maximum - target.minimum if isinstance(target, Number) else 1.0


def are_finite(answers: Answers) -> npt.NDArray[np.bool_]:
    """Say of each row, [N], whether its answer is made of finite numbers."""
    return np.asarray(np.isfinite(answers.reshape(len(answers), -1)).all(axis=1))


def is_told(target: Number | Category, value: object) -> bool:
    """Say whether a value is of the target's kind, allowed or not."""
    if isinstance(target, Number):
        return isinstance(value, float | int)
    return isinstance(value, str if target.is_text else int)


def allows(target: Number | Category, truth: Sequence[object]) -> npt.NDArray[np.bool_]:
    """Say of each value, [N], whether the target can have it."""
    if isinstance(target, Category):
        return np.asarray(places(target, truth) != UNKNOWN)
    numbers: npt.NDArray[Any] = np.array(truth, np.float64)  # None becomes NaN
    return np.asarray((numbers >= target.minimum) & (numbers <= target.maximum))


def shown(loss: float, unit: str = "") -> str:
    """Write a loss for people: two decimals, three digits where it is below 1."""
    decimals = 2 - math.floor(math.log10(abs(loss))) if 0 < abs(loss) < 1 else 2
    return f"{loss:.{min(decimals, 8)}f} {unit}".rstrip()
