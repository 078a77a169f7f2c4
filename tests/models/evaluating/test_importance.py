"""Importance: what is known of simple functions."""

import numpy as np
import numpy.typing as npt
import pytest

from models.contract.columns import Category, Contract, Number, Time, TimePart
from models.evaluating.bootstrap import blocks
from models.evaluating.importance import MOST_ANSWERS, MOST_ROWS, REPEATS, importance, looked_at
from models.inference import GraphInputs

ROWS = 4000
CONTRACT = Contract(
    time=Time(name="at", zone=None, parts=(TimePart.HOUR,)),
    features=(
        Number(name="size", unit="m", minimum=0, maximum=1),
        Number(name="noise", unit="m", minimum=0, maximum=1),
        Category(name="kind", values=("car", "bike")),
    ),
    target=Number(name="minutes", unit="min", minimum=0, maximum=100),
)


@pytest.fixture(scope="module")
def columns() -> GraphInputs:
    draw = np.random.default_rng(0)
    return {
        "at": draw.integers(0, 100 * 86_400, ROWS),
        "size": draw.random(ROWS).astype(np.float32),
        "noise": draw.random(ROWS).astype(np.float32),
        "kind": draw.choice(np.array(["car", "bike"], object), ROWS),
    }


def answer(columns: GraphInputs) -> npt.NDArray[np.float64]:
    hour_N = columns["at"].astype(np.int64) // 3600 % 24
    found: npt.NDArray[np.float64] = (
        3.0 * columns["size"].astype(np.float64) + 4.0 * (columns["kind"] == "car") + 1.0 * (hour_N >= 12)
    )
    return found


def test_what_is_lost_without_a_column_is_what_it_says(columns: GraphInputs) -> None:
    truth = answer(columns).tolist()

    found = importance(CONTRACT, answer, columns, truth, blocks(ROWS, columns["at"].astype(np.int64)))

    # Of two rows sizes are a third apart on average; of kinds and halves of a day half of them differ
    assert list(found) == ["at", "size", "noise", "kind"]
    for name, expected in {"size": 1.0, "kind": 2.0, "at": 0.5}.items():
        assert found[name].loss_increase == pytest.approx(expected, rel=0.05)
        interval = found[name].interval
        assert interval is not None
        assert interval.low < found[name].loss_increase < interval.high
    assert found["noise"].loss_increase == 0.0


def test_a_column_of_noise_that_is_learned_a_little_matters_nothing(columns: GraphInputs) -> None:
    draw = np.random.default_rng(1)
    truth = (answer(columns) + draw.normal(0, 2, ROWS)).tolist()

    def overfitted(rows: GraphInputs) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = answer(rows) + 0.1 * (rows["noise"].astype(np.float64) - 0.5)
        return found

    found = importance(CONTRACT, overfitted, columns, truth, blocks(ROWS, None))["noise"]

    assert abs(found.loss_increase) < 0.005
    assert found.interval is not None
    assert found.interval.low < 0 < found.interval.high


def test_its_intervals_are_right_as_often_as_they_claim(columns: GraphInputs) -> None:
    draw, held = np.random.default_rng(2), []
    for seed in range(120):
        rows = 300
        some = {name: draw.choice(values, rows) for name, values in columns.items()}
        truth = (answer(some) + draw.laplace(0, 1, rows)).tolist()
        interval = importance(CONTRACT, answer, some, truth, blocks(rows, None), seed)["kind"].interval
        assert interval is not None
        held.append(interval.low <= EXPECTED <= interval.high)

    assert 0.9 <= np.mean(held) <= 0.99


def _mean_rise() -> float:
    """Give the mean of |d + e| - |e| with e Laplace(0, 1), where d is 4, -4 or, half of the time, 0."""
    e = np.random.default_rng(3).laplace(0, 1, 1_000_000)
    return float((np.abs(4 + e) - np.abs(e)).mean() / 2)


EXPECTED = _mean_rise()


def test_a_classifier_loses_by_its_brier_score(columns: GraphInputs) -> None:
    contract = Contract(features=CONTRACT.features, target=Category(name="late", values=("no", "yes")))

    def sure(rows: GraphInputs) -> npt.NDArray[np.float64]:
        car_N = rows["kind"] == "car"
        return np.stack([~car_N, car_N], axis=1).astype(np.float64)

    truth = np.where(columns["kind"] == "car", "yes", "no").tolist()

    found = importance(contract, sure, columns, truth, blocks(ROWS, None))

    assert found["kind"].loss_increase == pytest.approx(0.5, abs=0.02)
    assert list(found) == ["size", "noise", "kind"]


def test_the_rows_that_are_looked_at_are_spread_and_bounded() -> None:
    assert looked_at(10, 4).tolist() == list(range(10))
    many = looked_at(200_000, 4)
    assert (len(many), many[0], many[-1]) == (MOST_ROWS, 0, 199_999)
    assert set(np.diff(many)) == {10, 9, 11} or set(np.diff(many)) <= {9, 10, 11}
    wide = looked_at(200_000, 64)
    assert len(wide) * 64 * REPEATS <= MOST_ANSWERS
