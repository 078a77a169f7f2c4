"""Answers and their losses: exact on tiny data."""

import numpy as np
import pytest

from models.contract.answers import (
    allows,
    are_finite,
    differences,
    is_told,
    losses,
    places,
    recorded,
    shape,
    shown,
    told,
)
from models.contract.columns import Category, Number

MINUTES = Number(name="minutes", unit="min", minimum=1, maximum=90)
KIND = Category(name="kind", values=("bike", "car", "foot"))
DIGIT = Category(name="digit", values=(7, 8))


def test_the_loss_of_a_number_is_its_distance_from_the_truth() -> None:
    assert losses(MINUTES, np.array([1, 2, 9], np.float32), [2.0, 2, 3]).tolist() == [1, 0, 6]


def test_the_loss_of_probabilities_is_half_their_squared_distance_from_what_was_true() -> None:
    answers_NK = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.25, 0.25]], np.float32)

    assert losses(KIND, answers_NK, ["bike", "bike", "foot"]).tolist() == [0, 1, (0.25 + 0.0625 + 0.5625) / 2]


def test_who_says_what_he_believes_has_the_smallest_loss() -> None:
    truth = ["bike"] * 6 + ["car"] * 3 + ["foot"]

    def mean(*shares: float) -> float:
        return float(losses(KIND, np.array([shares] * 10, np.float32), truth).mean())

    others = [(0.7, 0.2, 0.1), (0.5, 0.3, 0.2), (1, 0, 0), (0.5, 0.4, 0.1)]
    assert all(mean(0.6, 0.3, 0.1) < mean(*other) for other in others)


def test_two_answers_are_apart_by_what_one_must_move() -> None:
    one, other = np.array([[1, 0, 0], [0.5, 0.5, 0]]), np.array([[0, 0, 1], [0.5, 0.25, 0.25]])

    assert differences(KIND, one, other).tolist() == [1, 0.25]
    assert differences(MINUTES, np.array([3.0, 4]), np.array([5.0, 1])).tolist() == [2, 3]


def test_an_answer_tells_the_number_or_the_most_likely_value() -> None:
    assert told(MINUTES, np.array([1.5, 2], np.float32)) == [1.5, 2]
    assert told(KIND, np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], np.float32)) == ["car", "bike"]
    assert told(DIGIT, np.array([[0.2, 0.8]], np.float32)) == [8]


def test_a_value_that_the_target_does_not_have_is_not_allowed() -> None:
    assert allows(MINUTES, [0.5, 1, 90, 91, float("nan"), None]).tolist() == [False, True, True, False, False, False]
    assert allows(KIND, ["car", "cart", None]).tolist() == [True, False, False]
    assert places(DIGIT, [8, 7, 9]).tolist() == [1, 0, -1]


@pytest.mark.parametrize(("target", "good", "bad"), [(MINUTES, 1.5, "1"), (KIND, "car", 1), (DIGIT, 7, 7.0)])
def test_a_label_is_of_the_targets_kind(target: Number | Category, good: object, bad: object) -> None:
    assert is_told(target, good)
    assert not is_told(target, bad)


def test_what_was_kept_row_by_row_is_one_array() -> None:
    kept = recorded(DIGIT, [[0.25, 0.75], None])

    assert kept.shape == shape(DIGIT, 2)
    assert are_finite(kept).tolist() == [True, False]
    assert np.isnan(recorded(MINUTES, [1.0, None])).tolist() == [False, True]
    assert recorded(DIGIT, []).shape == (0, 2)


def test_a_loss_is_shown_by_what_can_be_read_of_it() -> None:
    assert [shown(loss) for loss in (0, 0.01234, 0.5, 3.21, 123.4)] == ["0.00", "0.0123", "0.500", "3.21", "123.40"]
    assert shown(3.21, "minutes") == "3.21 minutes"
