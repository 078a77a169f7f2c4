"""How wrong answers are, overall and by slice. Losses are those of `models.contract.answers`."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.contract.answers import Answers, losses, places
from models.contract.columns import Category, Number

_LEAST = float(np.finfo(np.float32).tiny)


def measure(target: Number | Category, answers: Answers, truth: pd.Series) -> dict[str, float]:
    """Measure answers to N rows whose truth the contract allows.

    Of numbers: mean and median absolute error, its 90 % quantile, bias (predicted - true). Of categories: Brier score,
    logarithmic loss (nats), accuracy; where there are two values, also the area under the ROC curve of the second
    one's probability, if both are there. And the number of rows.
    """
    loss_N = losses(target, answers, truth.tolist())
    if isinstance(target, Category):
        found = _of_probabilities(answers, places(target, truth.tolist()), loss_N)
    else:
        found = {
            "mae": float(loss_N.mean()),
            "median_absolute_error": float(np.median(loss_N)),
            "absolute_error_90": float(np.quantile(loss_N, 0.9)),
            "bias": float((answers.astype(np.float64) - truth.to_numpy(np.float64)).mean()),
        }
    return {**found, "rows": float(len(loss_N))}


def measure_slices(
    target: Number | Category, answers: Answers, truth: pd.Series, slices: Mapping[str, pd.Series]
) -> dict[str, dict[str, float]]:
    """Give the mean loss for each value of each slice."""
    loss_N = pd.Series(losses(target, answers, truth.tolist()), index=truth.index)
    return {
        name: {str(value): float(mean) for value, mean in loss_N.groupby(values, observed=True).mean().items()}
        for name, values in slices.items()
    }


def _of_probabilities(
    answers_NK: Answers, place_N: npt.NDArray[np.int64], loss_N: npt.NDArray[np.float64]
) -> dict[str, float]:
    given_N = answers_NK.astype(np.float64)[np.arange(len(place_N)), place_N]
    found = {
        "brier": float(loss_N.mean()),
        "log_loss": float(-np.log(np.maximum(given_N, _LEAST)).mean()),
        "accuracy": float((answers_NK.argmax(axis=1) == place_N).mean()),
    }
    if answers_NK.shape[1] == 2 and 0 < place_N.sum() < len(place_N):
        found["roc_auc"] = _area(answers_NK[:, 1], place_N == 1)
    return found


def _area(score_N: Answers, positive_N: npt.NDArray[np.bool_]) -> float:
    """Give the share of pairs of a positive and a negative in which the positive has the higher score; ties are half.

    Hanley, McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve", 1982.
    """
    _, place_N, count = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(count) - (count - 1) / 2)[place_N]
    positives = int(positive_N.sum())
    above = rank_N[positive_N].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(score_N) - positives)))
