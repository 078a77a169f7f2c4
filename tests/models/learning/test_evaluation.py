"""Errors of predictions: exact on tiny data."""

import numpy as np
import pandas as pd
import pytest

from models.learning.evaluation import absolute_errors, measure, measure_slices

PREDICTED = np.array([1.0, 2.0, 3.0, 10.0], dtype=np.float32)
TARGET = pd.Series([2.0, 2.0, 1.0, 3.0], index=[7, 8, 9, 10])


def test_an_error_is_the_distance_to_the_truth() -> None:
    assert absolute_errors(PREDICTED, TARGET).tolist() == [1.0, 0.0, 2.0, 7.0]


def test_measures_are_those_of_the_errors() -> None:
    assert measure(PREDICTED, TARGET) == {
        "mae": 2.5,
        "median_absolute_error": 1.5,
        "absolute_error_90": pytest.approx(5.5),
        "bias": 2.0,
        "rows": 4.0,
    }


def test_a_prediction_that_is_no_number_is_seen() -> None:
    assert np.isnan(measure(np.full(4, np.nan, np.float32), TARGET)["mae"])


def test_slices_give_the_mean_error_of_each_value_that_occurs() -> None:
    kinds = pd.Series(pd.Categorical(["a", "b", "a", None], categories=["a", "b", "c"]), index=TARGET.index)
    hours = pd.Series([1, 1, 2, 2], index=TARGET.index)

    slices = measure_slices(PREDICTED, TARGET, {"kind": kinds, "hour": hours})

    assert slices == {"kind": {"a": 1.5, "b": 0.0}, "hour": {"1": 0.5, "2": 4.5}}
