"""Intervals: as wide as theory says, and right as often as they claim."""

import numpy as np
import pytest
from scipy.stats import binomtest

from models.evaluating.bootstrap import LEAST_BLOCKS, MOST_BLOCKS, Resamples, blocks
from models.figures import Interval

DAY_S = 86_400


def width(interval: Interval | None) -> float:
    assert interval is not None
    return interval.high - interval.low


def holds(interval: Interval | None, value: float) -> bool:
    assert interval is not None
    return interval.low <= value <= interval.high


@pytest.mark.parametrize("rows", [400, 5000])
def test_the_interval_of_a_mean_of_independent_rows_is_that_of_its_standard_error(rows: int) -> None:
    draw = np.random.default_rng(0)
    values_N = draw.exponential(3.0, rows)

    interval = Resamples(blocks(rows, None)).mean(values_N)

    standard_error = values_N.std(ddof=1) / np.sqrt(rows)
    assert width(interval) == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert holds(interval, values_N.mean())


def test_the_interval_of_a_quantile_is_that_of_its_standard_error() -> None:
    rows = 20_000
    values_N = np.random.default_rng(1).normal(size=rows)

    median, upper = Resamples(blocks(rows, None)).quantiles(values_N, (0.5, 0.9))

    # sqrt(q (1 - q) / n) / density at the quantile; of a normal 0.399 and 0.1755
    assert width(median) == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(rows) / 0.399, rel=0.12)
    assert width(upper) == pytest.approx(2 * 1.96 * 0.3 / np.sqrt(rows) / 0.1755, rel=0.12)
    assert holds(median, float(np.median(values_N)))
    assert holds(upper, float(np.quantile(values_N, 0.9)))


@pytest.mark.parametrize("right", [0, 1])
def test_a_share_of_none_or_of_all_is_as_sure_as_wilson_says_of_so_many_blocks(right: int) -> None:
    came_N, group_N = np.repeat([right, 1 - right, right], [80, 40, 80]) == 1, np.repeat([0, 1], [80, 120])

    alike, mixed = Resamples(blocks(200, None)).shares(came_N, group_N, 2)
    (by_day,) = Resamples(blocks(80, np.arange(80) * DAY_S // 8)).shares(came_N[:80], group_N[:80], 1)

    for found, independent in ((alike, 80), (by_day, 10)):
        wilson = binomtest(right * independent, independent).proportion_ci(method="wilson")
        assert found is not None
        assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))
    assert mixed == Resamples(blocks(200, None)).means(came_N, group_N, 2)[1]


def test_quantiles_of_few_different_values_are_such_values() -> None:
    values_N = np.repeat([0.0, 1.0, 2.0], [300, 400, 300])

    median, upper = Resamples(blocks(1000, None)).quantiles(values_N, (0.5, 0.68))

    assert median == Interval(low=1.0, high=1.0)
    assert upper == Interval(low=1.0, high=2.0)


def test_the_interval_of_an_area_is_as_wide_as_areas_of_other_rows_spread() -> None:
    draw = np.random.default_rng(2)
    rows, resamples = 600, Resamples(blocks(600, None))

    def sample() -> tuple[np.ndarray, np.ndarray]:
        positive_N = np.arange(rows) % 3 == 0
        return draw.normal(positive_N * 1.0, 1.0), positive_N

    areas, widths = [], []
    for _ in range(100):
        score_N, positive_N = sample()
        areas.append((score_N[positive_N][:, None] > score_N[~positive_N]).mean())
        widths.append(width(resamples.area(score_N, positive_N)))

    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(areas), rel=0.15)


def days_of_errors(draw: np.random.Generator, days: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose errors share much within a day; their mean is 5 in the long run."""
    seconds_N = draw.integers(0, days * DAY_S, rows)
    return seconds_N, 5.0 + draw.normal(size=days)[seconds_N // DAY_S] + draw.normal(size=rows)


def test_blocks_of_days_are_right_where_single_rows_would_be_far_too_sure() -> None:
    draw, rows = np.random.default_rng(3), Resamples(blocks(2000, None))
    by_days, by_rows = [], []
    for _ in range(300):
        seconds_N, values_N = days_of_errors(draw, 30, 2000)
        by_days.append(holds(Resamples(blocks(2000, seconds_N)).mean(values_N), 5.0))
        by_rows.append(holds(rows.mean(values_N), 5.0))

    assert 0.92 <= np.mean(by_days) <= 0.98
    assert np.mean(by_rows) < 0.5


def test_few_blocks_are_allowed_for() -> None:
    draw = np.random.default_rng(4)
    found = [holds(Resamples(np.arange(6)).mean(draw.normal(size=6)), 0.0) for _ in range(600)]

    assert 0.91 <= np.mean(found) <= 0.98


def test_of_fewer_blocks_nothing_is_said() -> None:
    assert Resamples(np.arange(LEAST_BLOCKS - 1)).mean(np.arange(LEAST_BLOCKS - 1)) is None
    assert Resamples(np.zeros(100, np.int64)).mean(np.arange(100)) is None
    assert Resamples(np.arange(LEAST_BLOCKS)).mean(np.arange(LEAST_BLOCKS)) is not None


def test_a_group_is_judged_by_the_blocks_that_it_is_in() -> None:
    values_N, block_N = np.random.default_rng(5).normal(size=3000), np.arange(3000) % 40
    group_N = np.where(block_N < 3, 1, 0)  # in three blocks alone
    resamples = Resamples(block_N)

    most, few = resamples.means(values_N, group_N, 2)

    assert few is None
    rows_N = group_N == 0
    assert width(most) == pytest.approx(2 * 1.96 * values_N[rows_N].std() / np.sqrt(rows_N.sum()), rel=0.3)


def test_the_same_seed_gives_the_same_interval() -> None:
    values_N = np.random.default_rng(6).normal(size=5000)

    once, again, other = (Resamples(blocks(5000, None, seed), seed).mean(values_N) for seed in (1, 1, 2))

    assert once == again != other


def test_blocks_are_days_of_the_clock_where_there_are_enough() -> None:
    seconds_N = np.array([day * DAY_S + at for day in range(18_000, 18_007) for at in (0, DAY_S - 1)])

    assert blocks(14, seconds_N).tolist() == [day for day in range(7) for _ in range(2)]


def test_blocks_are_shorter_where_there_are_few_days() -> None:
    seconds_N = 18_000 * DAY_S + np.arange(48) * 3600

    found = blocks(48, seconds_N)

    assert (np.diff(found) >= 0).all()
    assert set(np.bincount(found)) == {2, 3}
    assert found[-1] == 19


def test_there_are_never_more_than_so_many_blocks() -> None:
    by_rows, by_days = blocks(10 * MOST_BLOCKS + 7, None), blocks(3 * MOST_BLOCKS, np.arange(3 * MOST_BLOCKS) * DAY_S)

    assert set(np.bincount(by_rows)) == {10, 11}
    assert not (np.diff(by_rows) >= 0).all()  # in no order
    assert np.bincount(by_days).tolist() == [3] * MOST_BLOCKS


@pytest.mark.parametrize("seconds_N", [None, np.array([5]), np.full(1, 10**9)])
def test_one_row_is_one_block(seconds_N: np.ndarray | None) -> None:
    assert blocks(1, seconds_N).tolist() == [0]
