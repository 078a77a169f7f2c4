"""What became of a challenger's answers, and whether its trial goes on.

Counted in each worker, over its last 1,000 answers at least: in the shadow an answer is a row, as a canary a request.
One thread counts; any may ask whether the trial has ended.
"""

from collections import deque
from typing import NamedTuple

from models.deciding.rollout import AbortRule, may_go_on
from services import metrics

LAST = 1000


class _Counts(NamedTuple):
    answers: int
    failed: int
    slow: int


class Tally:
    """Counts the answers of one trial."""

    def __init__(self) -> None:
        self.ended: str | None = None
        """Why the trial has ended; None while it goes on."""
        self._recent = deque[_Counts]()
        self._answers = self._failed = self._slow = 0

    def add(self, rule: AbortRule, answers: int, failed: int, slow: int) -> None:
        """Count answers that came together, and end the trial where the rule says so."""
        self._recent.append(_Counts(answers, failed, slow))
        self._count(1, self._recent[-1])
        while self._answers - self._recent[0].answers >= LAST:
            self._count(-1, self._recent.popleft())
        if (failed or slow) and self.ended is None:  # good ones end nothing
            verdict = may_go_on(rule, self._answers, self._failed, self._slow)
            if not verdict.allowed:
                self.ended = "; ".join(verdict.reasons)
                metrics.CHALLENGER_ABORTS.inc()

    def _count(self, sign: int, counts: _Counts) -> None:
        self._answers += sign * counts.answers
        self._failed += sign * counts.failed
        self._slow += sign * counts.slow
