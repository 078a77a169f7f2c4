"""The learning rate: where it begins, peaks and ends, whatever the number of steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.learning.schedule import Schedule, rate


@pytest.mark.parametrize(("steps", "warm_up"), [(10, 0.2), (37, 0.3), (100, 0.2), (7, 0.5)])
def test_one_cycle_is_torchs(steps: int, warm_up: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=steps, pct_start=warm_up, cycle_momentum=False
    )
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            theirs.step()

    assert [rate("one_cycle", step, steps, warm_up) for step in range(steps)] == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 0.9045, 0.6545, 0.3455, 0.0955]),
    ],
)
def test_others_rise_in_a_line_and_stay_or_fall(schedule: Schedule, rates: list[float]) -> None:
    assert [rate(schedule, step, 8, 0.5) for step in range(8)] == pytest.approx(rates, abs=1e-4)


@given(st.sampled_from(["one_cycle", "cosine", "constant"]), st.integers(1, 60), st.floats(0.001, 0.999))
def test_every_step_has_a_rate_and_one_of_many_has_the_peak(schedule: Schedule, steps: int, warm_up: float) -> None:
    rates = [rate(schedule, step, steps, warm_up) for step in range(steps)]

    assert all(0 < one <= 1 for one in rates)
    assert max(rates) > 0.5 or steps * warm_up > steps - 2
