"""Prediction intervals: exact on tiny data, and the promised coverage on simulated rows."""

import numpy as np
import numpy.typing as npt
import pytest

from models.contract.columns import Number
from models.evaluating.bootstrap import Resamples, blocks
from models.evaluating.conformal import SHARES, least_rows, prediction_intervals

Floats = npt.NDArray[np.float64]

MINUTES = Number(name="minutes", unit="min", minimum=0, maximum=1000)


def rides(draw: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Predictions, and truths whose spread grows with them."""
    predicted_N = draw.uniform(10, 100, rows)
    return predicted_N, predicted_N + draw.laplace(scale=0.1 * predicted_N)


def test_half_widths_are_ranked_errors() -> None:
    predicted_V, truth_V = np.full(19, 50.0), np.arange(51.0, 70.0)

    found = prediction_intervals(
        MINUTES, predicted_V, truth_V, np.array([50.0, 5.0]), np.array([66.0, 30.0]), Resamples(np.arange(2))
    )

    assert found is not None
    # of 19 errors 1..19 the 16th, 18th and 19th: ceil(20 x share)
    assert [level.half_widths for level in found.levels] == [(16.0,), (18.0,), (19.0,)]
    assert [level.coverage for level in found.levels] == [0.5, 0.5, 0.5]
    assert [level.mean_width for level in found.levels] == [26.5, 29.5, 31.0]  # cut off at 0
    assert (found.rows, found.edges) == (19, ())


def test_the_promised_share_of_rows_is_held_on_average() -> None:
    draw, resamples = np.random.default_rng(0), Resamples(blocks(1000, np.arange(1000)))
    coverage = []
    for _ in range(200):
        levels = prediction_intervals(MINUTES, *rides(draw, 150), *rides(draw, 1000), resamples)
        assert levels is not None
        coverage.append([level.coverage for level in levels.levels])

    held = np.mean(coverage, axis=0)

    assert (held >= np.array(SHARES) - 0.005).all()
    assert (held <= np.array(SHARES) + 1 / 151 + 0.005).all()


def test_large_predictions_have_wider_intervals_and_the_same_coverage() -> None:
    draw = np.random.default_rng(1)
    validation, (predicted_N, truth_N) = rides(draw, 20_000), rides(draw, 20_000)
    held = {}
    for name, rows_N in (("short", predicted_N < 30), ("long", predicted_N > 80)):
        resamples = Resamples(blocks(int(rows_N.sum()), None))
        found = prediction_intervals(MINUTES, *validation, predicted_N[rows_N], truth_N[rows_N], resamples)
        assert found is not None
        held[name] = found.levels[1]

    assert held["short"].coverage == pytest.approx(0.9, abs=0.02)
    assert held["long"].coverage == pytest.approx(0.9, abs=0.02)
    assert held["long"].mean_width == pytest.approx(held["short"].mean_width * 90 / 20, rel=0.15)
    assert list(held["long"].half_widths) == sorted(held["long"].half_widths)
    interval = held["long"].interval
    assert interval is not None
    assert interval.low < held["long"].coverage < interval.high


def test_a_world_that_has_changed_shows_in_the_coverage() -> None:
    draw = np.random.default_rng(2)
    predicted_N, truth_N = rides(draw, 2000)

    found = prediction_intervals(
        MINUTES, *rides(draw, 2000), predicted_N, truth_N + 20, Resamples(blocks(len(truth_N), None))
    )

    assert found is not None
    assert found.levels[1].coverage < 0.6


def test_few_rows_give_the_intervals_that_they_can() -> None:
    draw = np.random.default_rng(3)
    tested = rides(draw, 10)

    def shares(rows: int) -> list[float]:
        found = prediction_intervals(MINUTES, *rides(draw, rows), *tested, Resamples(np.arange(10)))
        return [level.share for level in found.levels] if found else []

    assert [shares(rows) for rows in (0, 3, 4, 9, 18, 19)] == [[], [], [0.8], [0.8, 0.9], [0.8, 0.9], list(SHARES)]
    assert [least_rows(share) for share in SHARES] == [4, 9, 19]


@pytest.mark.parametrize("values", [[7.0], [7.0, 8.0], [0.0, 0.0, 0.0, 9.0]])
def test_predictions_that_are_mostly_equal_leave_no_bin_empty(values: list[float]) -> None:
    draw = np.random.default_rng(4)
    predicted_V = draw.choice(values, 2000)
    predicted_V[0] = 5.0  # alone
    truth_V = predicted_V + draw.normal(size=2000)

    found = prediction_intervals(MINUTES, predicted_V, truth_V, predicted_V, truth_V, Resamples(np.arange(2000)))

    assert found is not None
    assert found.levels[2].coverage == pytest.approx(0.95, abs=0.02)
    assert len(found.levels[0].half_widths) == len(found.edges) + 1 <= len(set(values))
