"""A decision with its reasons. A "no" is an answer, not an error."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """May it be done, and why (not)."""

    allowed: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'yes' if self.allowed else 'no'}: {'; '.join(self.reasons)}"
