"""The learning rate of each step, as a share of its peak.

A function of the step alone, so that a training that goes on from a checkpoint needs nothing of it.
"""

import math
from typing import Literal

Schedule = Literal["one_cycle", "cosine", "constant"]

_START = 1 / 25
_END = _START / 10_000
"""Where one cycle starts and ends, as torch's `OneCycleLR` has them."""


def rate(schedule: Schedule, step: int, steps: int, warm_up: float) -> float:
    """Give a step's share of the peak rate, 0..1; the first of `steps` is 0.

    `one_cycle` rises from a twenty-fifth for the share `warm_up` of all steps and falls to nothing, both along half a
    cosine (Smith and Topin, "Super-convergence", 2019). `cosine` rises linearly and falls to nothing (Loshchilov and
    Hutter, "SGDR", 2017, without restarts). `constant` rises linearly and stays.
    """
    peak = warm_up * steps - 1
    if schedule == "one_cycle":
        if step <= peak:
            return _along_a_cosine(_START, 1.0, step / peak if peak > 0 else 1.0)
        return _along_a_cosine(1.0, _END, (step - max(peak, 0)) / max(steps - 1 - max(peak, 0), 1))
    if step < peak:
        return (step + 1) / (peak + 1)
    if schedule == "constant":
        return 1.0
    return _along_a_cosine(1.0, 0.0, (step - max(peak, 0)) / max(steps - max(peak, 0), 1))


def _along_a_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
