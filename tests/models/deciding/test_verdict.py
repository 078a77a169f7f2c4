"""Verdicts: a decision is said together with its reasons."""

from models.deciding.verdict import Verdict


def test_says_the_decision_and_its_reasons() -> None:
    assert str(Verdict(allowed=True, reasons=("better", "sure"))) == "yes: better; sure"
    assert str(Verdict.no("too few rows")) == "no: too few rows"
