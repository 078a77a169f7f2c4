"""Calibration: nothing to blame in probabilities that are true, and what is wrong in others."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import brier_score_loss

from models.contract.columns import Category
from models.evaluating.bootstrap import Resamples, blocks
from models.evaluating.calibration import calibration
from models.figures import Calibration

LATE = Category(name="late", values=(0, 1))
KIND = Category(name="kind", values=("a", "b", "c"))


def of_binary(told_N: npt.NDArray[np.float64], came_N: npt.NDArray[np.bool_]) -> Calibration:
    answers_NK = np.stack([1 - told_N, told_N], axis=1).astype(np.float32)
    resamples = Resamples(np.arange(len(told_N)) % 100)
    return calibration(LATE, answers_NK, came_N.astype(np.int64), resamples)


def test_true_probabilities_have_an_error_of_nearly_nothing() -> None:
    draw = np.random.default_rng(0)
    told_N = draw.beta(1, 3, 100_000)

    found = of_binary(told_N, draw.random(100_000) < told_N)

    assert found.expected_error < 0.006
    assert found.event == "late is 1"
    assert len(found.bins) == 15
    assert {one.rows for one in found.bins} <= set(range(6600, 6700))


@pytest.mark.parametrize("rows", [300, 3000])
def test_the_error_by_chance_is_that_of_true_probabilities(rows: int) -> None:
    draw = np.random.default_rng(1)
    found = []
    for _ in range(200):
        told_N = draw.beta(2, 2, rows)
        found.append(of_binary(told_N, draw.random(rows) < told_N))

    errors, by_chance = zip(*((one.expected_error, one.error_by_chance) for one in found), strict=True)

    assert np.mean(errors) == pytest.approx(np.mean(by_chance), rel=0.06)


def test_probabilities_that_are_a_tenth_too_large_have_that_error() -> None:
    draw = np.random.default_rng(2)
    true_N = draw.uniform(0.1, 0.8, 50_000)

    found = of_binary(true_N + 0.1, draw.random(50_000) < true_N)

    assert found.expected_error == pytest.approx(0.1, abs=0.01)
    assert found.reliability == pytest.approx(0.01, abs=0.002)
    assert all(one.told - one.came == pytest.approx(0.1, abs=0.05) for one in found.bins)
    assert all(one.interval is not None and one.interval.low < one.came < one.interval.high for one in found.bins)
    assert found.expected_error > 10 * found.error_by_chance


def test_the_parts_of_a_brier_score_add_up() -> None:
    draw = np.random.default_rng(3)
    told_N = draw.choice([0.125, 0.25, 0.625], 1000)  # each its own bin
    came_N = draw.random(1000) < told_N**2

    found = of_binary(told_N, came_N)

    parts = found.reliability - found.resolution + found.uncertainty
    assert parts == pytest.approx(brier_score_loss(came_N, told_N))
    assert found.uncertainty == pytest.approx(came_N.mean() * (1 - came_N.mean()))
    assert [one.told for one in found.bins] == [0.125, 0.25, 0.625]
    assert [one.came for one in found.bins] == [came_N[told_N == told].mean() for told in (0.125, 0.25, 0.625)]


def test_of_several_values_the_likeliest_is_judged() -> None:
    draw = np.random.default_rng(4)
    answers_NK = draw.dirichlet(np.ones(3), 30_000)
    place_N = (answers_NK.cumsum(axis=1) < draw.random((30_000, 1))).sum(axis=1)
    sharpened_NK = answers_NK**2 / (answers_NK**2).sum(axis=1, keepdims=True)

    true, sharp = (
        calibration(KIND, told_NK.astype(np.float32), place_N, Resamples(blocks(30_000, None)))
        for told_NK in (answers_NK, sharpened_NK)
    )

    assert true.event == "the likeliest kind is right"
    assert true.expected_error < 0.012
    assert sharp.expected_error > 0.1  # too sure of itself
    assert all(one.told > one.came for one in sharp.bins[3:])
    assert min(one.told for one in true.bins) > 1 / 3


@pytest.mark.parametrize("rows", [1, 7])
def test_few_rows_are_one_bin(rows: int) -> None:
    found = of_binary(np.full(rows, 0.5), np.ones(rows, np.bool_))

    (only,) = found.bins
    assert (only.rows, only.told, only.came) == (rows, 0.5, 1.0)
    assert found.expected_error == 0.5
