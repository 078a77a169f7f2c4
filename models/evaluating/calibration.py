"""Does what a classifier tells with a probability come as often?

Of a category with two values, the probabilities are those of the second one; of one with more, those of the likeliest
value (Guo et al., "On calibration of modern neural networks", 2017), each of a single event that comes or does not.
Rows are binned by them, equally full bins (Nixon et al., "Measuring calibration in deep learning", 2019): the expected
calibration error is the mean over the rows of |mean probability - share in which it came| of their bins. Few rows make
it large by chance, and how large is said beside it: came would then lie about told as shares of independent rows do.

The three parts of the Brier score, reliability - resolution + uncertainty, are those of the binned probabilities
(Murphy, "A new vector partition of the probability score", 1973).
"""

import numpy as np
import numpy.typing as npt

from models.contract.answers import Answers
from models.contract.columns import Category
from models.evaluating.bootstrap import Floats, Places, Resamples
from models.figures import Calibration, ReliabilityBin

_BINS = 15
_ROWS_A_BIN = 50
"""Fewer bins are made of rows that fill no more."""


def calibration(target: Category, answers_NK: Answers, place_N: Places, resamples: Resamples) -> Calibration:
    """Judge probabilities.

    Args:
        answers_NK: of each of K values.
        place_N: the 0-based place of the value that came.
    """
    if len(target.values) == 2:
        return _of_event(f"{target.name} is {target.values[1]}", answers_NK[:, 1], place_N == 1, resamples)
    likeliest_N = answers_NK.argmax(axis=1)
    told_N = np.take_along_axis(answers_NK, likeliest_N[:, None], axis=1)[:, 0]
    return _of_event(f"the likeliest {target.name} is right", told_N, likeliest_N == place_N, resamples)


def _of_event(event: str, told_N: Answers, came_N: npt.NDArray[np.bool_], resamples: Resamples) -> Calibration:
    told_N = told_N.astype(np.float64)
    bin_N = _binned(told_N)
    rows_B = np.bincount(bin_N)
    bins, share_B = len(rows_B), rows_B / len(told_N)
    told_B = np.bincount(bin_N, told_N, bins) / rows_B
    came_B = np.bincount(bin_N, came_N, bins) / rows_B
    overall = float(came_N.mean())
    # The mean of the absolute value of what is normal is its deviation times sqrt(2 / pi)
    deviation_B = np.sqrt(np.bincount(bin_N, told_N * (1 - told_N), bins).clip(0)) / rows_B
    return Calibration(
        event=event,
        bins=tuple(
            ReliabilityBin(rows=int(rows), told=float(told), came=float(came), interval=interval)
            for rows, told, came, interval in zip(
                rows_B, told_B, came_B, resamples.shares(came_N, bin_N, bins), strict=True
            )
        ),
        expected_error=float((share_B * np.abs(told_B - came_B)).sum()),
        error_by_chance=float((share_B * deviation_B).sum() * np.sqrt(2 / np.pi)),
        reliability=float((share_B * (told_B - came_B) ** 2).sum()),
        resolution=float((share_B * (came_B - overall) ** 2).sum()),
        uncertainty=overall * (1 - overall),
    )


def _binned(told_N: Floats) -> Places:
    """Give each row's bin; none is empty. Rows with equal probabilities are in one."""
    bins = min(_BINS, max(1, len(told_N) // _ROWS_A_BIN))
    edges = np.unique(np.quantile(told_N, np.linspace(0, 1, bins + 1)[1:-1]))
    found: Places = np.unique(np.searchsorted(edges, told_N, side="right"), return_inverse=True)[1].astype(np.int64)
    return found
