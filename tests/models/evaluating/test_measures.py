"""Errors of predictions: exact on tiny data."""

import numpy as np
import pytest
from sklearn import metrics

from models.contract.columns import Category, Number
from models.evaluating.measures import measure

MINUTES = Number(name="minutes", unit="min", minimum=0, maximum=90)
PREDICTED = np.array([1.0, 2.0, 3.0, 10.0], dtype=np.float32)
TRUTH = [2.0, 2.0, 1.0, 3.0]


def test_measures_are_those_of_the_errors() -> None:
    assert measure(MINUTES, PREDICTED, TRUTH) == {
        "mae": 2.5,
        "median_absolute_error": 1.5,
        "absolute_error_90": pytest.approx(5.5),
        "bias": 2.0,
        "rows": 4.0,
    }


def test_a_prediction_that_is_no_number_is_seen() -> None:
    assert np.isnan(measure(MINUTES, np.full(4, np.nan, np.float32), TRUTH)["mae"])


@pytest.mark.parametrize("values", [(0, 1), ("bike", "car", "foot")])
def test_measures_of_probabilities_are_those_of_scikit_learn(values: tuple[int | str, ...]) -> None:
    draw = np.random.default_rng(0)
    answers_NK = draw.dirichlet(np.ones(len(values)), 500).round(1) + 0.05  # many are equal
    answers_NK = (answers_NK / answers_NK.sum(axis=1, keepdims=True)).astype(np.float32)
    place_N = draw.integers(0, len(values), 500)
    truth = [values[place] for place in place_N]

    found = measure(Category(name="kind", values=values), answers_NK, truth)

    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(place_N, answers_NK.argmax(axis=1)))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(place_N, answers_NK))
    one_hot_NK = np.eye(len(values))[place_N]
    assert found["brier"] == pytest.approx(((answers_NK - one_hot_NK) ** 2).sum(axis=1).mean() / 2)
    if len(values) == 2:
        assert found["brier"] == pytest.approx(metrics.brier_score_loss(place_N, answers_NK[:, 1]))
        assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(place_N, answers_NK[:, 1]))
    else:
        assert "roc_auc" not in found


def test_no_area_under_a_curve_where_one_value_never_came() -> None:
    answers_NK = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)

    found = measure(Category(name="late", values=(0, 1)), answers_NK, [1, 1])

    assert (found["accuracy"], "roc_auc" in found) == (0.5, False)
