"""May a candidate serve? A paired test on rows that neither it nor its early stopping has seen.

For each row d = champion's loss (1 - minimum_gain) - candidate's loss; the candidate wins when the one-sided
lower confidence bound of the mean of d is above 0. The test is paired because rows differ far more from each other than
two models do on one row. Rows of one block, such as a day, are alike in d: what was learned of Christmas holds on the
26th. So the deviation of the mean is that of the blocks' sums, and Student's t has one degree of freedom less than
there are blocks (Cameron and Miller, "A practitioner's guide to cluster-robust inference", 2015, sections II and VI);
with blocks of one row it is the usual test of means.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # `scipy.stats` gives the same and takes 0.7 s to import

from models.deciding.verdict import Verdict
from models.errors import DefinitionError


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What a candidate must prove."""

    minimum_gain: float = 0.005
    """Share of the champion's loss by which the candidate must be better."""
    error_rate: float = 0.05
    """Probability of promoting a candidate that is not better by that much."""
    minimum_rows: int = 30
    """Fewer test rows than this decide nothing."""
    test_rows: int = 20_000
    """At most this many rows, the newest, are compared."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot decide. Raises: `DefinitionError` naming the option."""
        if not 0 <= self.minimum_gain < 1:
            raise DefinitionError(f"gate.minimum_gain must lie in 0..1, not {self.minimum_gain!r}")
        if not 0 < self.error_rate < 0.5:
            raise DefinitionError(f"gate.error_rate must lie between 0 and 0.5, not {self.error_rate!r}")
        if self.minimum_rows < 2:
            raise DefinitionError(f"gate.minimum_rows must be at least 2, not {self.minimum_rows!r}")
        if self.test_rows < self.minimum_rows:
            raise DefinitionError(f"gate.test_rows must be at least gate.minimum_rows, not {self.test_rows!r}")


def judge(
    incumbent: str,
    incumbent_loss_N: npt.NDArray[np.float64],
    candidate_loss_N: npt.NDArray[np.float64],
    settings: GateSettings,
    block_N: npt.NDArray[np.int64] | None = None,
) -> Verdict:
    """Compare losses on the same N rows (`models.contract.answers`).

    Args:
        incumbent: who is challenged.
        incumbent_loss_N: its losses.
        candidate_loss_N: those of who challenges.
        settings: what must be proved.
        block_N: in which block each row lies, from 0, none empty; None, or all in one: rows count as independent.
    """
    rows = len(candidate_loss_N)
    if rows < settings.minimum_rows:
        return Verdict.no(f"only {rows} test rows, {settings.minimum_rows} are needed")
    if not np.isfinite(candidate_loss_N).all():
        return Verdict.no("the predictions of the candidate are not all finite")
    if wrong := int((~np.isfinite(incumbent_loss_N)).sum()):
        reason = f"{incumbent} gives no finite prediction for {wrong} of {rows} rows, the candidate for all of them"
        return Verdict(allowed=True, reasons=(reason,))
    before, after = float(incumbent_loss_N.mean()), float(candidate_loss_N.mean())
    difference_N = incumbent_loss_N * (1 - settings.minimum_gain) - candidate_loss_N
    gain = float(difference_N.mean())
    sum_B = difference_N - gain if block_N is None or not block_N.any() else np.bincount(block_N, difference_N - gain)
    blocks = len(sum_B)
    deviation = np.sqrt(blocks / (blocks - 1) * np.square(sum_B).sum()) / rows
    lower = gain - float(stdtrit(blocks - 1, 1 - settings.error_rate) * deviation)
    share = f"{abs(1 - after / before):.1%} {'smaller' if after < before else 'larger'}" if before else "not comparable"
    reason = (
        f"error {after:#.4g} against {before:#.4g} of {incumbent} ({share}) on {rows} rows not trained on; "
        f"gain beyond {settings.minimum_gain:.1%} at least {lower:+#.3g} with {1 - settings.error_rate:.0%} confidence"
    )
    return Verdict(lower > 0, (reason,))
