"""A decision with its reasons. A "no" is an answer, not an error."""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from models.watching.profile import LossProfile


@dataclass(frozen=True, slots=True)
class Verdict:
    """May it be done, and why (not)."""

    allowed: bool
    reasons: tuple[str, ...]

    @classmethod
    def no(cls, reason: str) -> "Verdict":
        """Refuse for one reason."""
        return cls(allowed=False, reasons=(reason,))

    def __str__(self) -> str:
        return f"{'yes' if self.allowed else 'no'}: {'; '.join(self.reasons)}"


class PromotionReport(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict on one candidate, as the lake keeps it."""

    at: datetime
    """The `as_of` it was given at."""
    version: str
    incumbent: str
    """Version that it was compared with, or `naive`."""
    allowed: bool
    reasons: tuple[str, ...]
    test_rows: int
    incumbent_loss: LossProfile
    """On the test rows; what the incumbent is watched against when it stays."""
    candidate_loss: LossProfile
    alarm: str | None
    """The alarm that asked for the candidate."""
    labels_since_change: int
    """Labels that were known since the alarm's change when the candidate was trained; 0 without an alarm."""
    ends_episode: bool
    """Whether a loss on a test this large ends the alarm's episode."""
    ended_trial: str | None = None
    """The challenger whose trial this promotion ended: it became champion, or lost the one it was tried against."""
    serves_already: bool = False
    """Whether this was given before, and its version served when it was asked for again; false in the lake."""
