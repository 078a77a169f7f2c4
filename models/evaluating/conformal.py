"""Intervals about single predictions that hold the truth of a stated share of the rows, whatever errors look like.

Split conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic learning in a random world", 2005): on rows that the
network did not learn from, the k-th smallest absolute error of n, k = ceil((n + 1) share), is the half width. It holds
the truth of a further row with at least that probability if this one could as well have been among them. A Mondrian
one: rows are binned by the size of what is predicted, and each bin has its own half width, so that a long trip has a
wider interval than a short one (Boström, Johansson, "Mondrian conformal regressors", 2020).

Made from the validation rows, later than those learned from where there is a time; what they promise for the test rows,
later still, is measured there, for a world that has changed keeps no promise. The validation rows also choose the epoch
that is kept, which makes their errors a little too small. Of a training that nothing stops (a retraining, which has few
rows) they are made from the earlier half of the test rows, and measured on the later one.
"""

import math
from collections.abc import Sequence

import numpy as np

from models.contract.columns import Number
from models.evaluating.bootstrap import Floats, Resamples
from models.figures import Level, PredictionIntervals

SHARES = (0.8, 0.9, 0.95)
_BINS = 10
_ROWS_A_BIN = 100


def least_rows(share: float) -> int:
    """Say how many rows an interval of a share needs."""
    return next(rows for rows in range(1, 1000) if _rank(rows, share) <= rows)


def prediction_intervals(
    target: Number, predicted_V: Floats, truth_V: Floats, predicted_N: Floats, truth_N: Floats, resamples: Resamples
) -> PredictionIntervals | None:
    """Make intervals from V validation rows and measure them on N test rows; None where V is too few for any."""
    shares = [share for share in SHARES if len(predicted_V) >= least_rows(share)]
    if not shares:
        return None
    edges = _edges(predicted_V)
    error_V, bin_V = np.abs(truth_V - predicted_V), np.searchsorted(edges, predicted_V, side="right")
    errors = [np.sort(error_V[bin_V == one]) for one in range(len(edges) + 1)]
    bin_N = np.searchsorted(edges, predicted_N, side="right")
    levels = []
    for share in shares:
        half_B = np.array([one[_rank(len(one), share) - 1] for one in errors])
        low_N, high_N = predicted_N - half_B[bin_N], predicted_N + half_B[bin_N]
        held_N = (low_N <= truth_N) & (truth_N <= high_N)
        width_N = high_N.clip(target.minimum, target.maximum) - low_N.clip(target.minimum, target.maximum)
        levels.append(
            Level(
                share=share,
                half_widths=tuple(half_B.tolist()),
                coverage=float(held_N.mean()),
                interval=resamples.share(held_N),
                mean_width=float(width_N.mean()),
            )
        )
    return PredictionIntervals(rows=len(predicted_V), edges=tuple(edges.tolist()), levels=tuple(levels))


def _rank(rows: int, share: float) -> int:
    return math.ceil(round((rows + 1) * share, 9))  # 20 x 0.95 is not quite 19 in floats


def _edges(predicted_V: Floats) -> Floats:
    """Cut predictions into bins of equally many rows, none of too few for the largest share."""
    bins = min(_BINS, max(1, len(predicted_V) // _ROWS_A_BIN))
    edges = np.unique(np.quantile(predicted_V, np.linspace(0, 1, bins + 1)[1:-1])).tolist()
    while edges and (least := _fullness(edges, predicted_V)).min() < least_rows(SHARES[-1]):
        edges.pop(min(int(least.argmin()), len(edges) - 1))
    found: Floats = np.array(edges, np.float64)
    return found


def _fullness(edges: Sequence[float], predicted_V: Floats) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    bin_V = np.searchsorted(np.array(edges), predicted_V, side="right")
    return np.bincount(bin_V, minlength=len(edges) + 1)
