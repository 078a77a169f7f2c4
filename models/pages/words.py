"""How figures are called and written on pages."""

import math

from models.contract.answers import shown

COUNT = "rows"
"""The metric that is a number of rows."""

_STEERS = (*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
"""Control characters, breaks of lines, and what changes the direction in which text is read."""
_SHOWN = {code: chr(code).encode("unicode_escape").decode() for code in _STEERS}

METRICS = {
    "mae": "mean error",
    "median_absolute_error": "median error",
    "absolute_error_90": "nine of ten errors are at most",
    "bias": "mean of predicted - true",
    "brier": "Brier score",
    "log_loss": "logarithmic loss, nats",
    "accuracy": "share of right answers",
    "roc_auc": "area under the ROC curve",
    COUNT: "rows judged",
}


def plain(text: str) -> str:
    """Escape what a terminal or a page would obey instead of showing it; what is left stands in one line."""
    return text.translate(_SHOWN)


def counted(number: int, noun: str) -> str:
    """Write how many there are of something whose plural ends in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def number(value: float) -> str:
    """Write a figure: two decimals, three digits where it is below 1, none of a fraction from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else shown(value)


def with_unit(value: float, unit: str) -> str:
    """Write a figure with its unit."""
    return f"{number(value)} {unit}".rstrip()


def span(low: float, high: float) -> str:
    """Write what lies between two figures, with as many decimals as its width deserves."""
    width = high - low
    decimals = max(0, 1 - math.floor(math.log10(width))) if width > 0 else 3
    return f"{low:,.{min(decimals, 8)}f} to {high:,.{min(decimals, 8)}f}"


def percent(share: float) -> str:
    """Write a share in per cent, with a decimal where it has one."""
    return f"{100 * share:.1f}".removesuffix(".0") + "\u00a0%"
