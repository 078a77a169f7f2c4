"""The retraining policy: the whole decision table, and how trainings thin out while labels come."""

from dataclasses import replace
from typing import Any

import pytest

from models.deciding.retraining import Episode, RetrainingSettings, due
from models.errors import DefinitionError
from models.learning.settings import TrainingSettings

SETTINGS = RetrainingSettings(minimum_labels=200, growth=2.0, retry_growth=1.3)
OPEN = Episode(alarm="a1", labels_now=1000, labels_trained=0, last_lost=False, ended=False)


@pytest.mark.parametrize(
    ("episode", "allowed", "reason"),
    [
        (None, False, "no alarm is open"),
        (replace(OPEN, labels_now=0), False, "0 labels since the change, 200 are needed"),
        (replace(OPEN, labels_now=199), False, "199 labels since the change, 200 are needed"),
        (replace(OPEN, labels_now=200), True, "alarm a1 is open and nothing was trained on it yet"),
        (
            replace(OPEN, labels_trained=501),
            False,
            "labels since the change grew 2.00-fold since the last training, 2 is asked",
        ),
        (
            replace(OPEN, labels_trained=500),
            True,
            "labels since the change grew 2.00-fold since the last training, 2 is asked",
        ),
        (
            replace(OPEN, labels_trained=800, last_lost=True),
            False,
            "labels since the change grew 1.25-fold since the last training, 1.3 is asked",
        ),
        (
            replace(OPEN, labels_trained=750, last_lost=True),
            True,
            "labels since the change grew 1.33-fold since the last training, 1.3 is asked",
        ),
        (
            replace(OPEN, ended=True),
            False,
            "alarm a1 is answered: its last candidate lost on a large test",
        ),
        (
            replace(OPEN, ended=True, last_lost=True, labels_trained=1),
            False,
            "alarm a1 is answered: its last candidate lost on a large test",
        ),
    ],
)
def test_decides_by_this_table(episode: Episode | None, allowed: bool, reason: str) -> None:
    verdict = due(episode, SETTINGS)

    assert (verdict.allowed, verdict.reasons) == (allowed, (reason,))


@pytest.mark.parametrize(
    ("lost", "trained_at"),
    [(False, [200, 400, 800, 1600, 3200]), (True, [200, 260, 338, 440, 572, 744, 968, 1259, 1637, 2129, 2768, 3599])],
)
def test_trainings_grow_with_the_logarithm_of_the_labels(lost: bool, trained_at: list[int]) -> None:
    found: list[int] = []

    for labels in range(4000):
        episode = replace(OPEN, labels_now=labels, labels_trained=found[-1] if found else 0, last_lost=lost)
        if due(episode, SETTINGS).allowed:
            found.append(labels)

    assert found == trained_at


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"growth": 1.0}, r"retraining\.growth and retraining\.retry_growth must be greater than 1"),
        ({"retry_growth": 0.9}, r"retraining\.growth and retraining\.retry_growth must be greater than 1"),
        ({"test_share": 0.0}, r"retraining\.test_share must lie between 0 and 1, not 0\.0"),
        ({"test_share": 1.0}, r"retraining\.test_share must lie between 0 and 1, not 1\.0"),
        ({"minimum_labels": 4}, "leave no label to judge with"),
        ({"test_rows": 0}, "leave no label to judge with"),
        ({"closing_rows": 0}, r"retraining\.closing_rows must lie in 1\.\.test_rows \(4000\), not 0"),
        ({"closing_rows": 4001}, r"retraining\.closing_rows must lie in 1\.\.test_rows \(4000\), not 4001"),
        ({"training": {"epoch": 8}}, "no training setting is called epoch; there are epochs, "),
        ({"training": {"epochs": 0}}, r"training\.epochs must be greater than 0, not 0"),
        ({"training": TrainingSettings()}, r"retraining\.training must be a mapping of names to values, such as"),
    ],
)
def test_refuses_settings_that_cannot_decide_or_train_by_name(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        RetrainingSettings(**settings)
