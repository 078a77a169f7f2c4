"""A whole evaluation: its parts fit together, for each kind of target and with and without a time."""

from datetime import datetime
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from models.contract.columns import Category, Contract, Number, Slice, Time, TimePart
from models.evaluating.evaluation import Answered, evaluate
from models.evaluating.measures import measure
from models.figures import Evaluation
from models.inference import GraphInputs

HOURS = 24 * 28
SIZE = Number(name="size", unit="m", minimum=0, maximum=10)
MINUTES = Number(name="minutes", unit="min", minimum=0, maximum=100)
LATE = Category(name="late", values=("no", "yes"))
REGRESSION = Contract(
    time=Time(name="at", zone="Europe/Prague", parts=(TimePart.HOUR,)),
    features=(SIZE,),
    target=MINUTES,
    slices=(Slice(column="at", part=TimePart.HOUR, edges=(12,)), Slice(column="size", edges=(5,))),
)
CLASSIFICATION = Contract(features=(SIZE,), target=LATE, slices=(Slice(column="size", edges=(5,)),))


def minutes(columns: GraphInputs) -> npt.NDArray[np.float32]:
    return (5 * columns["size"]).astype(np.float32)


def likelihoods(columns: GraphInputs) -> npt.NDArray[np.float32]:
    late_N = columns["size"].astype(np.float32) / 10
    return np.stack([1 - late_N, late_N], axis=1)


@pytest.fixture(scope="module")
def columns() -> GraphInputs:
    """An hour a row, four weeks from 2 March 2020 on."""
    start = int(np.datetime64("2020-03-02T00:00:00", "s").astype(np.int64))
    sizes = np.random.default_rng(0).uniform(0, 10, HOURS).astype(np.float32)
    return {"at": start + np.arange(HOURS) * 3600, "size": sizes}


def regression(columns: GraphInputs, validation: int = 100) -> tuple[Answered, Evaluation]:
    draw = np.random.default_rng(1)
    answers = minutes(columns)
    tested = Answered(answers, (answers + draw.normal(1, 3, HOURS)).tolist())
    stopped = Answered(answers[:validation], (answers + draw.normal(1, 3, HOURS)).tolist()[:validation])
    naive = np.full(HOURS, 25.0, np.float32)
    return tested, evaluate(REGRESSION, tested, columns, stopped, naive, minutes)


def test_each_measure_lies_in_its_interval(columns: GraphInputs) -> None:
    tested, found = regression(columns)

    measured = measure(MINUTES, tested.answers, tested.truth)
    assert set(found.intervals) == measured.keys() - {"rows"}
    for name, interval in found.intervals.items():
        assert interval.low < measured[name] < interval.high, name
    assert found.blocks == 28
    assert found.naive_interval is not None
    assert found.naive_interval.low > measured["mae"]


def test_slices_are_means_over_their_rows(columns: GraphInputs) -> None:
    tested, found = regression(columns)

    error_N, large_N = np.abs(tested.answers - np.array(tested.truth)), columns["size"].astype(np.float64) >= 5
    assert {name: list(groups) for name, groups in found.slices.items()} == {
        "hour": ["0-11", "12-23"],
        "size": ["under 5", "from 5"],
    }
    large = found.slices["size"]["from 5"]
    assert large.rows == large_N.sum()
    assert large.loss == pytest.approx(error_N[large_N].mean())
    assert large.interval is not None
    assert large.interval.low < large.loss < large.interval.high
    assert found.mean_losses()["size"]["from 5"] == large.loss
    for groups in found.slices.values():
        assert sum(group.rows for group in groups.values()) == HOURS


def test_errors_are_told_day_by_day_and_by_what_was_predicted(columns: GraphInputs) -> None:
    tested, found = regression(columns)

    assert [span.rows for span in found.over_time] == [24] * 28
    assert found.over_time[0].start == datetime(2020, 3, 2)
    first = tested.answers[:24] - np.array(tested.truth[:24])
    assert found.over_time[0].loss == pytest.approx(np.abs(first).mean())
    assert found.over_time[0].bias == pytest.approx(first.mean())
    assert sum(one.rows for one in found.spread) == HOURS
    predicted = [one.predicted for one in found.spread]
    assert predicted == sorted(predicted)
    assert all(one.low < one.middle < one.high for one in found.spread)
    assert np.mean([one.middle - one.predicted for one in found.spread]) == pytest.approx(1.0, abs=0.6)


@pytest.mark.parametrize(("days", "spans"), [(1, 25), (5, 21), (30, 31), (100, 15), (2000, 23), (20_000, 40)])
def test_spans_are_hours_days_or_weeks_and_never_many(days: int, spans: int) -> None:
    rows = 2000
    columns: GraphInputs = {
        "at": np.linspace(0, days * 86_400, rows).astype(np.int64),
        "size": np.zeros(rows, np.float32),
    }
    tested = Answered(np.zeros(rows, np.float32), [1.0] * rows)

    found = evaluate(REGRESSION, tested, columns, tested, tested.answers, minutes).over_time

    assert len(found) == spans
    assert sum(span.rows for span in found) == rows
    gaps = {after.start - before.start for before, after in pairwise(found)}
    assert len(gaps) == 1


def test_without_validation_rows_the_earlier_test_rows_make_the_intervals_and_the_later_ones_measure_them(
    columns: GraphInputs,
) -> None:
    tested, found = regression(columns, validation=0)

    made = found.prediction_intervals
    assert made is not None
    assert (made.made_from, made.rows, found.no_prediction_intervals) == ("test", HOURS // 2, "")
    error_N = np.abs(tested.answers - np.asarray(tested.truth))
    for level in made.levels:
        bin_N = np.searchsorted(made.edges, tested.answers, side="right")
        held_N = error_N <= np.asarray(level.half_widths)[bin_N]
        assert level.coverage == held_N[HOURS // 2 :].mean()
        assert level.coverage == pytest.approx(level.share, abs=0.1)


def test_a_classifier_is_judged_by_its_calibration(columns: GraphInputs) -> None:
    draw = np.random.default_rng(2)
    answers = likelihoods(columns)
    truth = np.where(draw.random(HOURS) < answers[:, 1], "yes", "no").tolist()
    tested = Answered(answers, truth)

    found = evaluate(CLASSIFICATION, tested, columns, tested, np.full((HOURS, 2), 0.5, np.float32), likelihoods)

    assert found.calibration is not None
    assert found.calibration.expected_error < 3 * found.calibration.error_by_chance
    assert set(found.intervals) == {"brier", "log_loss", "accuracy", "roc_auc"}
    measured = measure(LATE, answers, truth)
    for name, interval in found.intervals.items():
        assert interval.low < measured[name] < interval.high, name
    assert (found.blocks, found.over_time, found.spread) == (HOURS, (), ())
    assert (found.prediction_intervals, found.no_prediction_intervals) == (None, "")
    assert found.naive_loss == 0.25
    assert found.importance["size"].loss_increase > 0.05


def test_one_row_is_judged_without_intervals() -> None:
    tested = Answered(np.array([5.0], np.float32), [4.0])
    columns = {"at": np.array([0]), "size": np.array([1.0], np.float32)}

    found = evaluate(REGRESSION, tested, columns, Answered(np.zeros(0, np.float32), []), tested.answers, minutes)

    assert (found.blocks, found.intervals, found.naive_interval) == (1, {}, None)
    assert found.slices["size"]["under 5"].interval is None
    assert found.no_prediction_intervals == "they want 4 validation rows, or 8 test rows; there are 0 and 1"
    assert msgspec.json.decode(msgspec.json.encode(found), type=Evaluation) == found


def test_an_evaluation_of_the_same_rows_is_the_same(columns: GraphInputs) -> None:
    assert regression(columns)[1] == regression(columns)[1]


def test_a_summary_is_for_lists_of_runs(columns: GraphInputs) -> None:
    _, found = regression(columns)

    assert found.summary().keys() == {
        "naive_loss",
        *(f"{name}_{end}" for name in found.intervals for end in ("low", "high")),
        *(f"{name}_{share}" for name in ("coverage", "mean_width") for share in (80, 90, 95)),
    }
