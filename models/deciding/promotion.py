"""May a candidate serve? A paired test on rows that neither it nor its early stopping has seen.

For each row d = champion's loss (1 - minimum_gain) - candidate's loss; the candidate wins when the one-sided
lower confidence bound of the mean of d is above 0 (Student's t; the means of thousands of paired differences are close
to normal). The test is paired because rows differ far more from each other than two models do on one row.
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
) -> Verdict:
    """Compare losses on the same N rows (`models.contract.answers`); `incumbent` is who is challenged."""
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
    margin = float(stdtrit(rows - 1, 1 - settings.error_rate) * difference_N.std(ddof=1) / np.sqrt(rows))
    lower = float(difference_N.mean()) - margin
    share = f"{abs(1 - after / before):.1%} {'smaller' if after < before else 'larger'}" if before else "not comparable"
    reason = (
        f"error {after:#.4g} against {before:#.4g} of {incumbent} ({share}) on {rows} rows not trained on; "
        f"gain beyond {settings.minimum_gain:.1%} at least {lower:+#.3g} with {1 - settings.error_rate:.0%} confidence"
    )
    return Verdict(lower > 0, (reason,))
