"""Has the error changed? A sequential test over labels, with a stated rate of false alarms.

e-SR, a Shiryaev-Roberts e-detector (Shin, Ramdas, Rinaldo, "E-detectors", 2023): for losses X in 0..1 with mean at
most m under "nothing changed", L = 1 + lambda (X/m - 1) is a fair or losing bet; M <- L (M + 1) adds up the bets begun
at each label so far, averaged over 12 stakes lambda, and an alarm is raised at M >= A. For a known m the expected
number of labels to a false alarm is at least A, and P(alarm within n labels) is at most n/A.

Here m is the champion's loss on its own test rows, at the upper end of one standard error, times 1 + tolerance: seasons
move the error by several per cent, and no one wants to retrain for less. Within a window labels are taken in the order
of a digest of their ids, so that the cycle of a day or a week, which every whole window holds, is no evidence.

Cost: O(labels x 12); the state between windows is 12 numbers, and 12 for each of the last 60 windows to date a change.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import numpy as np
import numpy.typing as npt

from models.contract.answers import shown
from models.contract.columns import Contract
from models.errors import DefinitionError
from models.watching.profile import LossProfile

_DATED_WINDOWS = 60  # a change is dated at most this many windows back, so that a state stays small

STAKES = np.geomspace(0.01, 0.9, 12)
_LEAST_NULL_MEAN = 1e-6  # a bundle without any error on its test rows must still be watched


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """What counts as a change of the error, and how rarely it may be cried wrongly."""

    window_days: int = 7
    """Length of a judged window; windows begin on Mondays, 00:00 of the contract's zone, when it is 7."""
    ceiling: float | None = None
    """Losses above this, in the target's unit, count as this; None: a quarter of a number's range, all of a Brier
    score's."""
    tolerance: float = 0.15
    """Relative rise of the mean loss that is not worth an alarm."""
    labels_between_false_alarms: float = 400_000
    """Expected number of labels to a false alarm, at least (A)."""
    standard_errors: float = 1.0
    """How far above its measured mean the reference loss may truly lie."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot watch. Raises: `DefinitionError` naming the option."""
        if self.window_days < 1:
            raise DefinitionError(f"watch.window_days must be at least 1, not {self.window_days!r}")
        for name, above in (("ceiling", 0), ("labels_between_false_alarms", 1)):
            value = getattr(self, name)
            if value is not None and not value > above:
                raise DefinitionError(f"watch.{name} must be greater than {above}, not {getattr(self, name)!r}")
        for name in ("tolerance", "standard_errors"):
            if not getattr(self, name) >= 0:
                raise DefinitionError(f"watch.{name} must be at least 0, not {getattr(self, name)!r}")


class WindowEvidence(msgspec.Struct, frozen=True):
    """What one window said, by stake: the log of its joint bet."""

    start: datetime
    log_bet: tuple[float, ...]


class DetectorState(msgspec.Struct, frozen=True, kw_only=True):
    """A detector between two windows."""

    null_mean: float
    """Largest mean loss that is no change (m)."""
    log_m: tuple[float, ...]
    """log M by stake; -inf is written as the lowest float."""
    windows: tuple[WindowEvidence, ...] = ()

    @property
    def log_statistic(self) -> float:
        """log of M averaged over the stakes."""
        return float(np.logaddexp.reduce(self.log_m) - np.log(len(self.log_m)))


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A statistical statement that the error of a version has changed."""

    id: str
    at: datetime
    """End of the window that raised it."""
    window_start: datetime
    version: str
    statistic: float
    """Highest log10 of M in the window."""
    threshold: float
    """log10 of A."""
    changed_at: datetime
    """Start of the window from which the evidence is strongest."""
    labels: int
    mean_error: float
    reference_error: float
    detail: str


def start(loss: LossProfile, settings: WatchSettings) -> DetectorState:
    """Arm a detector for a bundle from its profile. Raises: `DefinitionError` when it could never alarm."""
    upper = loss.scaled_mean + settings.standard_errors * loss.scaled_deviation / np.sqrt(loss.rows)
    lowest = float(np.finfo(np.float64).min)
    null_mean = max(float(upper * (1 + settings.tolerance)), _LEAST_NULL_MEAN)
    if null_mean >= 1:
        raise DefinitionError(
            f"watch.ceiling is too low: the mean loss, {loss.mean:.3g}, is so near to it that no rise beyond "
            "watch.tolerance would be seen"
        )
    return DetectorState(null_mean=null_mean, log_m=(lowest,) * len(STAKES))


def update(
    state: DetectorState,
    window_start: datetime,
    loss_N: npt.NDArray[np.float64],
) -> tuple[DetectorState, float]:
    """Feed one window's losses, in order.

    Returns:
        The next state, and the highest log statistic that was reached within the window.
    """
    if not len(loss_N):
        return state, state.log_statistic
    walk_KN = np.log1p(STAKES[:, None] * (loss_N[None, :] / state.null_mean - 1.0)).cumsum(axis=1)
    before_KN = np.hstack([np.zeros((len(STAKES), 1)), walk_KN[:, :-1]])
    begun_KN = np.logaddexp.accumulate(np.hstack([np.asarray(state.log_m)[:, None], -before_KN]), axis=1)[:, 1:]
    log_m_KN = walk_KN + begun_KN
    statistic_N = np.logaddexp.reduce(log_m_KN, axis=0) - np.log(len(STAKES))
    evidence = WindowEvidence(window_start, tuple(walk_KN[:, -1].tolist()))
    following = DetectorState(
        null_mean=state.null_mean,
        log_m=tuple(log_m_KN[:, -1].tolist()),
        windows=(*state.windows, evidence)[-_DATED_WINDOWS:],
    )
    return following, float(statistic_N.max())


def changed_at(windows: Sequence[WindowEvidence]) -> datetime:
    """Date the change: the window from which on the joint bet is largest."""
    total, best, when = np.zeros(len(STAKES)), -np.inf, windows[-1].start
    for window in reversed(windows):
        total = total + np.asarray(window.log_bet)
        if (evidence := float(np.logaddexp.reduce(total))) > best:
            best, when = evidence, window.start
    return when


def watching_order(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Order labels by a digest of their ids (see the module's text)."""
    keys = [hashlib.blake2b(identifier.encode(), digest_size=8).digest() for identifier in ids]
    return np.asarray(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def raised(reached: float, settings: WatchSettings) -> bool:
    """Whether a log statistic is an alarm."""
    return reached >= float(np.log(settings.labels_between_false_alarms))


def describe(
    state: DetectorState,
    reached: float,
    settings: WatchSettings,
    version: str,
    span: tuple[datetime, datetime],
    *,
    labels: int,
    mean_error: float,
    reference_error: float,
    contract: Contract,
) -> Alarm:
    """Put an alarm in words: what was seen, against what, how sure, and since when."""
    start_at, end = span
    changed = changed_at(state.windows)
    rise = f" ({mean_error / reference_error - 1:+.0%})" if reference_error else ""
    detail = (
        f"{contract.error_name} {shown(mean_error, contract.error_unit)} over {labels} labels, "
        f"{shown(reference_error)} when {version} was judged"
        f"{rise}; such evidence comes falsely at most once in "
        f"{settings.labels_between_false_alarms:,.0f} labels; strongest since {changed:%Y-%m-%d}"
    )
    return Alarm(
        id=f"{end:%Y%m%dT%H%M%SZ}-{version}",
        at=end,
        window_start=start_at,
        version=version,
        statistic=reached / float(np.log(10)),
        threshold=float(np.log10(settings.labels_between_false_alarms)),
        changed_at=changed,
        labels=labels,
        mean_error=mean_error,
        reference_error=reference_error,
        detail=detail,
    )
