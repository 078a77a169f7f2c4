"""The gate: a paired test with a stated error rate, and a "no" for all that cannot be compared."""

import math
import re

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from models.deciding.promotion import GateSettings, judge
from models.errors import DefinitionError

FEW = GateSettings(minimum_gain=0.1, minimum_rows=2, test_rows=100)

Errors = npt.NDArray[np.float64]


def errors(*values: float) -> Errors:
    return np.array(values, dtype=np.float64)


def drawn_errors(rows: int, seed: int = 0) -> Errors:
    return np.random.default_rng(seed).gamma(2.0, 2.0, rows)


def test_promotes_a_candidate_that_is_better_beyond_the_minimum_gain_and_says_by_how_much() -> None:
    verdict = judge("v1", errors(10, 20, 30), errors(8, 15, 25), FEW)

    # gains beyond 10 %: 1, 3 and 2; mean 2, deviation 1; Student's 95 % quantile with 2 degrees of freedom: 2.919986
    assert 2 - 2.919986 / math.sqrt(3) == pytest.approx(0.314, abs=5e-4)
    assert verdict.allowed
    assert verdict.reasons == (
        "error 16.00 against 20.00 of v1 (20.0% smaller) on 3 rows not trained on; "
        "gain beyond 10.0% at least +0.314 with 95% confidence",
    )


def test_rejects_a_worse_candidate() -> None:
    before = drawn_errors(5000)

    verdict = judge("v1", before, before * 1.05, GateSettings())

    assert not verdict.allowed
    assert "(5.0% larger)" in verdict.reasons[0]


def test_rejects_a_candidate_that_answers_as_the_incumbent() -> None:
    same = drawn_errors(5000)

    assert not judge("v1", same, same, GateSettings(minimum_gain=0)).allowed
    assert not judge("v1", same, same, GateSettings()).allowed


def test_rejects_a_gain_that_chance_may_explain() -> None:
    before = drawn_errors(100)
    after = before - 0.1 + np.random.default_rng(1).normal(0, 5, 100)

    assert after.mean() < before.mean() * 0.9
    assert not judge("v1", before, after, GateSettings()).allowed


def test_rejects_a_real_gain_below_the_minimum() -> None:
    before = drawn_errors(5000)

    assert not judge("v1", before, before * 0.96, GateSettings(minimum_gain=0.05)).allowed
    assert judge("v1", before, before * 0.94, GateSettings(minimum_gain=0.05)).allowed


def test_compares_row_by_row_so_that_hard_rows_do_not_hide_a_gain() -> None:
    before = drawn_errors(50) * 100
    after = np.random.default_rng(1).permutation(before) * 0.97

    assert judge("v1", before, before * 0.97, GateSettings()).allowed
    assert not judge("v1", before, after, GateSettings()).allowed


rows = st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=2, max_size=40)


@given(rows, st.floats(0.01, 0.4), st.floats(0, 0.5))
def test_wins_exactly_where_the_one_sided_interval_of_scipy_lies_above_0(
    rows: list[tuple[float, float]], error_rate: float, minimum_gain: float
) -> None:
    before, after = np.array(rows).T
    settings = GateSettings(minimum_gain=minimum_gain, error_rate=error_rate, minimum_rows=2)
    gains = before * (1 - minimum_gain) - after

    assume(gains.std() > 1e-6)
    low = stats.ttest_1samp(gains, 0, alternative="greater").confidence_interval(1 - error_rate).low
    assume(abs(low) > 1e-6)

    verdict = judge("v1", before, after, settings)

    (said,) = re.findall(r"at least ([+-][\d.]+(?:e[+-]\d+)?) with", verdict.reasons[0])
    assert verdict.allowed == (low > 0)
    assert float(said) == pytest.approx(low, rel=6e-3)


def test_decides_by_the_mean_where_all_rows_gain_the_same() -> None:
    before = drawn_errors(50) + 1

    assert judge("v1", before, before - 0.5, GateSettings(minimum_gain=0)).allowed
    assert not judge("v1", before, before + 0.5, GateSettings(minimum_gain=0)).allowed


@pytest.mark.parametrize("runs", [400, pytest.param(20_000, marks=pytest.mark.proof)])
@pytest.mark.parametrize("error_rate", [0.05, 0.2])
def test_a_candidate_just_short_of_the_gain_is_promoted_as_often_as_the_error_rate(
    error_rate: float, runs: int
) -> None:
    draw, settings = np.random.default_rng(2), GateSettings(minimum_gain=0.02, error_rate=error_rate)
    promoted = 0

    for _ in range(runs):
        before = draw.gamma(2.0, 2.0, 200)
        promoted += judge("v1", before, before * 0.98 + draw.normal(0, 1, 200), settings).allowed

    assert stats.binomtest(promoted, runs, error_rate).pvalue > 0.01


@pytest.mark.parametrize("runs", [400, pytest.param(20_000, marks=pytest.mark.proof)])
def test_rows_of_a_day_that_are_alike_make_no_promotion_more_likely(runs: int) -> None:
    draw, settings = np.random.default_rng(3), GateSettings(minimum_gain=0.02)
    day_N = np.repeat(np.arange(20), 40)
    promoted = {"by days": 0, "by rows": 0}

    for _ in range(runs):
        before = draw.gamma(2.0, 2.0, 800)
        after = before * 0.98 + draw.normal(0, 1, 800) + draw.normal(0, 0.5, 20)[day_N]
        promoted["by days"] += judge("v1", before, after, settings, day_N).allowed
        promoted["by rows"] += judge("v1", before, after, settings).allowed

    assert stats.binomtest(promoted["by days"], runs, settings.error_rate).pvalue > 0.01
    assert promoted["by rows"] > 3 * settings.error_rate * runs


def test_blocks_of_one_row_or_one_block_of_all_count_rows_as_independent() -> None:
    before, after = drawn_errors(50), drawn_errors(50, seed=1)

    each, one, none = (
        judge("v1", before, after, GateSettings(), block_N) for block_N in (np.arange(50), np.zeros(50, np.int64), None)
    )

    assert each == one == none


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_predictions_that_are_not_finite_lose_and_it_says_whose(broken: float) -> None:
    good = np.full(40, 9.0)
    bad = np.full(40, 1.0)
    bad[7] = broken

    candidate, incumbent = judge("v1", good, bad, GateSettings()), judge("v1", bad, good, GateSettings())

    assert (candidate.allowed, incumbent.allowed) == (False, True)
    assert candidate.reasons == ("the predictions of the candidate are not all finite",)
    assert incumbent.reasons == ("v1 gives no finite prediction for 1 of 40 rows, the candidate for all of them",)


def test_decides_nothing_on_too_few_rows() -> None:
    verdict = judge("v1", np.full(29, 9.0), np.full(29, 1.0), GateSettings(minimum_rows=30))

    assert not verdict.allowed
    assert verdict.reasons == ("only 29 test rows, 30 are needed",)
    assert judge("v1", np.full(30, 9.0), np.full(30, 1.0), GateSettings(minimum_rows=30)).allowed


def test_nothing_is_better_than_an_incumbent_without_errors() -> None:
    verdict = judge("v1", np.zeros(40), np.zeros(40), GateSettings())

    assert not verdict.allowed
    assert "(not comparable)" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("minimum_gain", -0.1),
        ("minimum_gain", 1.0),
        ("minimum_gain", math.nan),
        ("error_rate", 0.0),
        ("error_rate", 0.5),
        ("minimum_rows", 1),
        ("test_rows", 29),
    ],
)
def test_refuses_settings_that_cannot_decide_by_name(option: str, value: float) -> None:
    with pytest.raises(DefinitionError, match=rf"gate\.{option} must .*, not {value}"):
        GateSettings(**{option: value})  # type: ignore[arg-type]
