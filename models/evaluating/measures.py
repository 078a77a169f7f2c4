"""How wrong answers are, and how surely that is known. Losses are those of `models.contract.answers`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.contract.answers import Answers, losses, places
from models.contract.columns import Category, Number
from models.evaluating.bootstrap import Resamples
from models.figures import Interval

_LEAST = float(np.finfo(np.float32).tiny)


def measure(target: Number | Category, answers: Answers, truth: Sequence[object]) -> dict[str, float]:
    """Measure answers to N rows whose truth the contract allows.

    Of numbers: mean and median absolute error, its 90 % quantile, bias (predicted - true). Of categories: Brier score,
    logarithmic loss (nats), accuracy; where there are two values, also the area under the ROC curve of the second
    one's probability, if both are there. And the number of rows.
    """
    loss_N = losses(target, answers, truth)
    if isinstance(target, Category):
        found = _of_probabilities(answers, places(target, truth), loss_N)
    else:
        found = {
            "mae": float(loss_N.mean()),
            "median_absolute_error": float(np.median(loss_N)),
            "absolute_error_90": float(np.quantile(loss_N, 0.9)),
            "bias": float((answers.astype(np.float64) - np.asarray(truth, np.float64)).mean()),
        }
    return {**found, "rows": float(len(loss_N))}


def intervals(
    target: Number | Category, answers: Answers, truth: Sequence[object], resamples: Resamples
) -> dict[str, Interval]:
    """Give the interval of each measure but the number of rows, by its name; none where nothing can be said."""
    loss_N = losses(target, answers, truth)
    if isinstance(target, Category):
        place_N = places(target, truth)
        found = {
            "brier": resamples.mean(loss_N),
            "log_loss": resamples.mean(_surprise(answers, place_N)),
            "accuracy": resamples.share(answers.argmax(axis=1) == place_N),
        }
        if _has_area(answers, place_N):
            found["roc_auc"] = resamples.area(answers[:, 1].astype(np.float64), place_N == 1)
    else:
        median, upper = resamples.quantiles(loss_N, (0.5, 0.9))
        found = {
            "mae": resamples.mean(loss_N),
            "median_absolute_error": median,
            "absolute_error_90": upper,
            "bias": resamples.mean(answers.astype(np.float64) - np.asarray(truth, np.float64)),
        }
    return {name: interval for name, interval in found.items() if interval is not None}


def _of_probabilities(
    answers_NK: Answers, place_N: npt.NDArray[np.int64], loss_N: npt.NDArray[np.float64]
) -> dict[str, float]:
    found = {
        "brier": float(loss_N.mean()),
        "log_loss": float(_surprise(answers_NK, place_N).mean()),
        "accuracy": float((answers_NK.argmax(axis=1) == place_N).mean()),
    }
    if _has_area(answers_NK, place_N):
        found["roc_auc"] = _area(answers_NK[:, 1], place_N == 1)
    return found


def _surprise(answers_NK: Answers, place_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    given_N = answers_NK.astype(np.float64)[np.arange(len(place_N)), place_N]
    nats_N: npt.NDArray[np.float64] = -np.log(np.maximum(given_N, _LEAST))
    return nats_N


def _has_area(answers_NK: Answers, place_N: npt.NDArray[np.int64]) -> bool:
    return answers_NK.shape[1] == 2 and 0 < int(place_N.sum()) < len(place_N)


def _area(score_N: Answers, positive_N: npt.NDArray[np.bool_]) -> float:
    """Give the share of pairs of a positive and a negative in which the positive has the higher score; ties are half.

    Hanley, McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve", 1982.
    """
    _, place_N, count = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(count) - (count - 1) / 2)[place_N]
    positives = int(positive_N.sum())
    above = rank_N[positive_N].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(score_N) - positives)))
