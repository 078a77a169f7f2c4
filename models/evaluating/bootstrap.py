"""How surely a figure is known: 95 % intervals from figures of rows that were drawn again, a block at a time.

Rows near in time are alike: in a day of bad traffic many errors are large, and drawn one by one rows would seem to say
more than they do. So blocks are spans of time where rows have one: whole days where there are at least `FEW_DAYS`,
shorter spans where there are not (Carlstein, "The use of subseries values for estimating the variance of a general
statistic from a stationary sequence", 1986). What is alike for longer than a block is not seen by it. Rows without a
time count as independent: each is a block, or, of many, as many random ones as keep the number of blocks bounded.

As many blocks as there are are drawn with replacement, `DRAWS` times; quantiles of the figure over the draws are its
interval, taken further out for few blocks, as Student's t is further out than the normal (the expanded percentile
interval of Hesterberg, "What teachers should know about the bootstrap", 2015). Fewer than `LEAST_BLOCKS` say nothing.

Where all rows are right, or all wrong, so are all draws, and a share would seem to be known for sure: its interval is
then that of as many independent rows as there are blocks (Wilson, "Probable inference, the law of succession, and
statistical inference", 1927), too wide rather than too narrow.

Cost: a pass over the rows a figure and `DRAWS` x blocks multiplications, a quantile `BINS` times these: with 200,000
rows 10 ms a mean and 100 ms a quantile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from models.figures import Interval

CONFIDENCE = 0.95
DRAWS = 1000
FEW_DAYS = 7
FEW_BLOCKS, MOST_BLOCKS = 20, 1000
LEAST_BLOCKS = 5
BINS = 2000
"""Into so many, equally full, rows are put in order of what a quantile is taken of."""

_DAY_S = 86_400

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


def blocks(rows: int, seconds_N: Places | None, seed: int = 0) -> Places:
    """Say of each of N rows in which block it lies, counted from 0; none is empty.

    Args:
        rows: how many there are.
        seconds_N: their moments, in seconds of any clock; None where they have none.
        seed: of the random blocks of rows without a moment.
    """
    if seconds_N is None:
        return np.random.default_rng(seed).permutation(rows) % MOST_BLOCKS if rows > MOST_BLOCKS else np.arange(rows)
    first, span_s = int(seconds_N.min()), int(np.ptp(seconds_N)) + 1
    day_N = seconds_N // _DAY_S
    days = int(np.ptp(day_N)) + 1
    if len(np.unique(day_N)) >= FEW_DAYS:
        place_N = (day_N - first // _DAY_S) // -(-days // MOST_BLOCKS)
    else:
        place_N = (seconds_N - first) * FEW_BLOCKS // span_s
    found: Places = np.unique(place_N, return_inverse=True)[1].astype(np.int64)
    return found


class Resamples:
    """Blocks of N rows, drawn again and again."""

    def __init__(self, block_N: Places, seed: int = 0) -> None:
        self._block_N = block_N
        self.blocks = int(block_N.max()) + 1 if len(block_N) else 0
        drawn_DB = np.random.default_rng(seed).integers(0, max(self.blocks, 1), (DRAWS, self.blocks))
        flat = (drawn_DB + np.arange(DRAWS)[:, None] * self.blocks).ravel()
        counts = np.bincount(flat, minlength=DRAWS * self.blocks)
        self._times_DB = counts.reshape(DRAWS, self.blocks).astype(np.float64)

    def mean(self, value_N: npt.ArrayLike) -> Interval | None:
        """Give the interval of a mean."""
        return self.means(value_N, np.zeros(len(self._block_N), np.int64), 1)[0]

    def means(self, value_N: npt.ArrayLike, group_N: Places, groups: int) -> list[Interval | None]:
        """Give the interval of the mean of each group of rows.

        Args:
            group_N: each row's group, counted from 0.
            groups: how many there are.
        """
        place_N = self._block_N * groups + group_N
        sum_BG = self._counted(place_N, groups, np.asarray(value_N, np.float64))
        rows_BG = self._counted(place_N, groups)
        with np.errstate(invalid="ignore"):  # a group that is in no block of a draw has no mean there
            mean_DG = (self._times_DB @ sum_BG) / (self._times_DB @ rows_BG)
        return [interval(mean_DG[:, one], int((rows_BG[:, one] > 0).sum())) for one in range(groups)]

    def share(self, came_N: npt.NDArray[np.bool_]) -> Interval | None:
        """Give the interval of a share of rows."""
        return self.shares(came_N, np.zeros(len(self._block_N), np.int64), 1)[0]

    def shares(self, came_N: npt.NDArray[np.bool_], group_N: Places, groups: int) -> list[Interval | None]:
        """Give the interval of the share of rows of each group; see `means`."""
        blocks_G = (self._counted(self._block_N * groups + group_N, groups) > 0).sum(axis=0)
        found = self.means(came_N, group_N, groups)
        return [_widened(one, int(blocks)) for one, blocks in zip(found, blocks_G, strict=True)]

    def quantiles(self, value_N: Floats, shares: Sequence[float]) -> list[Interval | None]:
        """Give the interval of each quantile."""
        bins = _binned(value_N)
        rows_DQ = self._times_DB.astype(np.float32) @ self._in_bins(bins)
        below_DQ = np.cumsum(rows_DQ, axis=1, dtype=np.float64)
        return [interval(_quantile(bins, below_DQ, share), self.blocks) for share in shares]

    def area(self, score_N: Floats, positive_N: npt.NDArray[np.bool_]) -> Interval | None:
        """Give the interval of the area under the ROC curve; scores of one bin count as equal."""
        bins, times_DB = _binned(score_N), self._times_DB.astype(np.float32)
        yes_DQ, no_DQ = (times_DB @ self._in_bins(bins, rows_N) for rows_N in (positive_N, ~positive_N))
        below_DQ = np.cumsum(no_DQ, axis=1, dtype=np.float64) - no_DQ / 2
        with np.errstate(invalid="ignore"):
            area_D = (yes_DQ * below_DQ).sum(axis=1) / (yes_DQ.sum(axis=1) * no_DQ.sum(axis=1, dtype=np.float64))
        return interval(area_D, self.blocks)

    def _counted(self, place_N: Places, columns: int, weight_N: Floats | None = None) -> Floats:
        counts = np.bincount(place_N, weight_N, minlength=self.blocks * columns)
        return counts.reshape(self.blocks, columns).astype(np.float64)

    def _in_bins(self, bins: "_Bins", rows_N: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float32]:
        place_N = self._block_N * len(bins) + bins.place_N
        return self._counted(place_N if rows_N is None else place_N[rows_N], len(bins)).astype(np.float32)


def interval(figure_D: Floats, blocks: int) -> Interval | None:
    """Give the interval of a figure from its values over draws of so many blocks; None where they say nothing."""
    known_D = figure_D[np.isfinite(figure_D)]
    if blocks < LEAST_BLOCKS or not len(known_D):
        return None
    outside = (1 - CONFIDENCE) / 2
    share = float(ndtr(stdtrit(blocks - 1, outside) * np.sqrt(blocks / (blocks - 1))))
    low, high = np.quantile(known_D, [share, 1 - share])
    return Interval(low=float(low), high=float(high))


def _widened(share: Interval | None, blocks: int) -> Interval | None:
    """Give Wilson's interval of a share of which no draw was another than 0, or than 1."""
    if share is None or share.low != share.high or share.low not in (0.0, 1.0):
        return share
    square = float(ndtri((1 + CONFIDENCE) / 2)) ** 2
    width = square / (blocks + square)
    return Interval(low=0.0, high=width) if share.low == 0.0 else Interval(low=1.0 - width, high=1.0)


@dataclass(frozen=True, slots=True)
class _Bins:
    """Values in Q bins, equally full but where values are equal."""

    low_Q: Floats
    high_Q: Floats
    """The least and the largest value of each."""
    place_N: Places
    """Each value's bin."""

    def __len__(self) -> int:
        return len(self.low_Q)


def _binned(value_N: Floats) -> _Bins:
    ranked_N = np.sort(value_N)
    low_Q = np.unique(ranked_N[np.linspace(0, len(ranked_N), BINS, endpoint=False).astype(np.int64)])
    end_Q = np.append(np.searchsorted(ranked_N, low_Q[1:]), len(ranked_N))
    place_N = np.searchsorted(low_Q, value_N, side="right") - 1
    return _Bins(low_Q, ranked_N[end_Q - 1], place_N.astype(np.int64))


def _quantile(bins: _Bins, below_DQ: Floats, share: float) -> Floats:
    """Find where the rows of each draw reach a share, between the values of the bin in which they do."""
    wanted_D = share * below_DQ[:, -1]
    bin_D = (below_DQ < wanted_D[:, None]).sum(axis=1)
    draw_D = np.arange(len(below_DQ))
    before_D = np.where(bin_D > 0, below_DQ[draw_D, bin_D - 1], 0.0)
    inside_D = (wanted_D - before_D) / (below_DQ[draw_D, bin_D] - before_D)
    found: Floats = bins.low_Q[bin_D] + inside_D * (bins.high_Q - bins.low_Q)[bin_D]
    return found
