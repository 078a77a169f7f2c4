"""Alarms: the statistic is the paper's, false alarms are as rare as promised, and a real rise is found and dated."""

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract.columns import Contract, Number, Time
from models.errors import DefinitionError
from models.watching import alarms
from models.watching.alarms import STAKES, DetectorState, WatchSettings, WindowEvidence
from models.watching.profile import LossProfile

MONDAY = datetime(2020, 3, 2, tzinfo=UTC)
EXACT = WatchSettings(tolerance=0, standard_errors=0)
"""Takes the measured mean loss for the largest that is no change."""

CONTRACT = Contract(
    time=Time(name="at", zone=None, parts=()),
    features=(),
    target=Number(name="waited", unit="minutes", minimum=0, maximum=90),
)

losses = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def detector(null_mean: float) -> DetectorState:
    measured = LossProfile(rows=100, mean=30 * null_mean, scaled_mean=null_mean, scaled_deviation=0.1)
    return alarms.start(measured, EXACT)


def fed(state: DetectorState, loss_N: npt.ArrayLike, start: datetime = MONDAY) -> tuple[DetectorState, float]:
    return alarms.update(state, start, np.asarray(loss_N, dtype=np.float64))


def statistics_by_definition(losses: list[float], null_mean: float) -> list[float]:
    """Give M after each loss, averaged over the stakes, by the recursion as it is written in the paper."""
    stakes = [0.01 * 90 ** (step / 11) for step in range(12)]
    m, averages = [0.0] * 12, []
    for loss in losses:
        m = [(1 + stake * (loss / null_mean - 1)) * (before + 1) for stake, before in zip(stakes, m, strict=True)]
        averages.append(sum(m) / 12)
    return averages


def test_gives_the_statistic_that_can_be_computed_by_hand() -> None:
    mean_stake, mean_square = STAKES.mean(), (STAKES**2).mean()

    one, _ = fed(detector(0.5), [1.0])
    two, reached_by_two = fed(detector(0.5), [1.0, 0.0])
    three, reached_by_three = fed(detector(0.5), [1.0, 0.0, 0.5])

    assert math.exp(one.log_statistic) == pytest.approx(1 + mean_stake)
    assert math.exp(two.log_statistic) == pytest.approx(2 - mean_stake - mean_square)
    assert math.exp(three.log_statistic) == pytest.approx(3 - mean_stake - mean_square)
    assert math.exp(reached_by_two) == pytest.approx(2 - mean_stake - mean_square)
    assert math.exp(reached_by_three) == pytest.approx(3 - mean_stake - mean_square)


@given(losses, st.floats(0.01, 0.99))
def test_gives_the_statistic_of_its_definition(losses: list[float], null_mean: float) -> None:
    expected = statistics_by_definition(losses, null_mean)

    state, reached = fed(detector(null_mean), losses)

    assert state.log_statistic == pytest.approx(math.log(expected[-1]), abs=1e-9)
    assert reached == pytest.approx(math.log(max(expected)), abs=1e-9)


@given(losses, st.lists(st.integers(0, 60), max_size=6))
def test_windows_one_after_the_other_say_what_one_long_window_says(losses: list[float], cuts: list[int]) -> None:
    whole, reached_by_whole = fed(detector(0.3), losses)
    state, reached = detector(0.3), -math.inf

    for first, end in pairwise([0, *sorted(cuts), len(losses)]):
        if losses[first:end]:
            state, reached_now = fed(state, losses[first:end])
            reached = max(reached, reached_now)

    assert state.log_m == pytest.approx(whole.log_m, abs=1e-9)
    assert reached == pytest.approx(reached_by_whole, abs=1e-9)


def test_a_window_without_labels_changes_nothing() -> None:
    state, _ = fed(detector(0.5), [1.0, 0.0])

    following, reached = fed(state, [], MONDAY + timedelta(days=7))

    assert following == state
    assert reached == state.log_statistic


def test_a_detector_survives_its_json_form() -> None:
    fresh = detector(0.5)
    used, _ = fed(fresh, [1.0, 0.0])

    for state in (fresh, used):
        assert msgspec.json.decode(msgspec.json.encode(state), type=DetectorState) == state


def test_allows_for_the_tolerance_above_one_standard_error_of_the_reference() -> None:
    reference = LossProfile(rows=100, mean=6, scaled_mean=0.2, scaled_deviation=0.1)

    assert alarms.start(reference, WatchSettings()).null_mean == pytest.approx((0.2 + 0.1 / 10) * 1.15)
    assert alarms.start(reference, WatchSettings(tolerance=0.5, standard_errors=2)).null_mean == pytest.approx(0.33)


def test_watches_a_bundle_that_made_no_error_on_its_test_rows() -> None:
    state = alarms.start(LossProfile(rows=9, mean=0, scaled_mean=0, scaled_deviation=0), WatchSettings())

    _, reached_without_errors = fed(state, [0.0] * 1000)
    _, reached = fed(state, [0.0, 0.01, 0.01])

    assert not alarms.raised(reached_without_errors, EXACT)
    assert alarms.raised(reached, EXACT)


@given(st.lists(st.floats(0, 0.25), min_size=1, max_size=60))
def test_losses_at_most_the_null_mean_are_no_more_than_counted(losses: list[float]) -> None:
    _, reached = fed(detector(0.25), losses)

    assert reached <= math.log(len(losses)) + 1e-9


def test_losses_of_exactly_the_null_mean_alarm_after_a_labels_and_not_before() -> None:
    settings = WatchSettings(labels_between_false_alarms=1000)

    _, reached_before = fed(detector(0.25), [0.25] * 999)
    _, reached = fed(detector(0.25), [0.25] * 1001)

    assert math.exp(reached_before) == pytest.approx(999)
    assert not alarms.raised(reached_before, settings)
    assert alarms.raised(reached, settings)


@pytest.mark.parametrize("seed", range(5))
def test_does_not_alarm_on_an_error_that_stayed(seed: int) -> None:
    state, reached = detector(0.2), -math.inf

    for loss_N in np.random.default_rng(seed).beta(1, 4, (20, 1000)):
        state, reached_now = fed(state, loss_N)
        reached = max(reached, reached_now)

    assert not alarms.raised(reached, EXACT)


@pytest.mark.parametrize("runs", [400, pytest.param(100_000, marks=pytest.mark.proof)])
@pytest.mark.parametrize("skew", ["by coin", "long tail"])
def test_false_alarms_within_n_labels_are_at_most_n_in_a(skew: str, runs: int) -> None:
    labels, settings, draw = 60, WatchSettings(labels_between_false_alarms=300), np.random.default_rng(1)
    shape = (runs, labels)
    loss_RN = (draw.random(shape) < 0.2).astype(np.float64) if skew == "by coin" else draw.beta(0.2, 0.8, shape)

    false_alarms = sum(alarms.raised(fed(detector(0.2), loss_N)[1], settings) for loss_N in loss_RN)

    assert 0 < false_alarms <= runs * 60 / 300


@pytest.mark.parametrize("runs", [20, pytest.param(400, marks=pytest.mark.proof)])
def test_labels_to_a_false_alarm_are_at_least_a_on_average(runs: int) -> None:
    settings, draw, labels = WatchSettings(labels_between_false_alarms=150), np.random.default_rng(2), 0

    for _ in range(runs):
        state, reached = detector(0.2), -math.inf
        while not alarms.raised(reached, settings):
            state, reached = fed(state, draw.beta(1, 4, 10))
            labels += 10
        labels -= 10

    assert labels / runs >= 150


def test_alarms_on_a_rise_and_dates_it_to_the_week_in_which_it_began() -> None:
    draw = np.random.default_rng(3)
    weeks = [draw.beta(1, 4, 700)] * 6 + [draw.beta(2, 4, 700), draw.beta(2, 4, 700)]
    state, raised = detector(0.2), []

    for week, loss_N in enumerate(weeks):
        state, reached = fed(state, loss_N, MONDAY + timedelta(weeks=week))
        raised.append(alarms.raised(reached, EXACT))

    assert raised == [False] * 6 + [True, True]
    assert alarms.changed_at(state.windows) == MONDAY + timedelta(weeks=6)


def test_does_not_alarm_on_a_rise_within_the_tolerance() -> None:
    reference = LossProfile(rows=10_000, mean=6, scaled_mean=0.2, scaled_deviation=0.16)
    loss_N = np.random.default_rng(4).beta(1.1, 3.9, 20_000)

    _, reached = fed(alarms.start(reference, WatchSettings(tolerance=0.15)), loss_N)
    _, reached_without = fed(alarms.start(reference, WatchSettings(tolerance=0)), loss_N)

    assert loss_N.mean() == pytest.approx(0.22, abs=0.002)
    assert not alarms.raised(reached, EXACT)
    assert alarms.raised(reached_without, EXACT)


@pytest.mark.parametrize(
    ("log_bets", "place"),
    [([1.0], 0), ([-1.0], 0), ([1.0, 1.0], 0), ([-1.0, 1.0], 1), ([1.0, -2.0, 3.0], 2), ([3.0, -2.0, 1.0], 0)],
)
def test_dates_a_change_to_where_the_joint_bet_is_largest(log_bets: list[float], place: int) -> None:
    windows = [
        WindowEvidence(MONDAY + timedelta(weeks=week), (log_bet,) * len(STAKES))
        for week, log_bet in enumerate(log_bets)
    ]

    assert alarms.changed_at(windows) == MONDAY + timedelta(weeks=place)


@given(st.lists(st.text(min_size=1), unique=True, max_size=20).flatmap(lambda ids: st.permutations(ids).map(tuple)))
def test_the_order_of_labels_depends_on_their_ids_alone(ids: tuple[str, ...]) -> None:
    in_order = [ids[place] for place in alarms.watching_order(ids)]
    backwards = ids[::-1]

    assert sorted(in_order) == sorted(ids)
    assert [backwards[place] for place in alarms.watching_order(backwards)] == in_order


def test_labels_of_one_day_are_spread_over_the_window() -> None:
    days = np.repeat(np.arange(7), 1000)

    order = alarms.watching_order([f"trip-{number}" for number in range(7000)])

    assert days[order[:3500]].mean() == pytest.approx(3, abs=0.2)


def described(reference_error: float) -> alarms.Alarm:
    windows = (WindowEvidence(MONDAY, (1.0,) * 12), WindowEvidence(MONDAY + timedelta(days=7), (5.0,) * 12))
    span = (MONDAY + timedelta(days=7), MONDAY + timedelta(days=14))
    return alarms.describe(
        DetectorState(null_mean=0.1, log_m=(14.0,) * 12, windows=windows),
        14.0,
        WatchSettings(),
        "v3",
        span,
        labels=1234,
        mean_error=6.0,
        reference_error=reference_error,
        contract=CONTRACT,
    )


def test_an_alarm_says_what_was_seen_against_what_how_sure_and_since_when() -> None:
    alarm = described(reference_error=4.0)

    assert alarm.detail == (
        "mean error 6.00 minutes over 1234 labels, 4.00 when v3 was judged (+50%); such evidence comes falsely at most "
        "once in 400,000 labels; strongest since 2020-03-02"
    )
    assert (alarm.id, alarm.at, alarm.changed_at) == ("20200316T000000Z-v3", datetime(2020, 3, 16, tzinfo=UTC), MONDAY)
    assert alarm.statistic == pytest.approx(14 / math.log(10))
    assert alarm.threshold == pytest.approx(math.log10(400_000))


def test_an_alarm_against_a_reference_without_errors_gives_no_percentage() -> None:
    assert "0.00 when v3 was judged; such evidence" in described(reference_error=0.0).detail


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("window_days", 0),
        ("ceiling", 0.0),
        ("ceiling", math.nan),
        ("tolerance", -0.1),
        ("labels_between_false_alarms", 1.0),
        ("standard_errors", -1.0),
    ],
)
def test_refuses_settings_that_cannot_watch_by_name(option: str, value: float) -> None:
    with pytest.raises(DefinitionError, match=rf"watch\.{option} must be .*, not {value}"):
        WatchSettings(**{option: value})  # type: ignore[arg-type]


def test_refuses_a_ceiling_under_which_no_rise_can_be_seen() -> None:
    near = LossProfile(rows=400, mean=27.0, scaled_mean=0.9, scaled_deviation=0.1)

    with pytest.raises(DefinitionError, match=r"watch\.ceiling is too low"):
        alarms.start(near, WatchSettings(ceiling=30.0))
