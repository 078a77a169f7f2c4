"""Studies: the same draws again, also after kills; what was begun and broken off is run again, and not for ever."""

from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import pytest
from optuna import Trial as OptunasTrial

from infra.errors import Conflict, Misconfigured, Unavailable
from infra.studies import FIRST_AT_RANDOM, LOSSES, Studies, Study, Trial, Value, best_first, name_of
from models.learning.search import Choice, Floats, Integers, Space

SPACE: Space = {
    "training.learning_rate": Floats(1e-4, 1.0, log=True),
    "network.width": Integers(8, 64, step=8),
    "network.way": Choice(("plain", "periodic", None)),
}
USUAL: dict[str, Value] = {
    "training.learning_rate": 0.01,
    "network.width": 16,
    "network.way": None,
    "training.epochs": 3,
}
MANY = FIRST_AT_RANDOM + 6
KILLED = {0: "_suggest", 3: "report", 9: "set_user_attr", 11: "_suggest"}
"""After how many trials a process is killed, and at which of Optuna's steps of the next one."""


class Killed(BaseException):
    """A kill, for what is in a database after it."""


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path / "studies", None)


def error_of(settings: Mapping[str, Value]) -> float:
    """Be good for a narrow network and a rate of 0.1."""
    rate, width = settings["training.learning_rate"], settings["network.width"]
    assert isinstance(rate, float)
    assert isinstance(width, int)
    return abs(rate - 0.1) + width / 64


def run(study: Study, count: int) -> None:
    """Run trials to their ends."""
    for _ in range(count):
        asked = study.ask()
        for epoch in (1, 2, 3):
            study.report(asked.number, epoch, error_of(asked.settings) + 1 / epoch)
        study.finish(asked.number, error_of(asked.settings) + 1 / 3)


def drawn(trials: list[Trial]) -> list[dict[str, Value]]:
    return [one.settings for one in trials if one.counts]


def test_what_it_begins_from_is_tried_first_and_only_what_is_searched(studies: Studies) -> None:
    with studies.open("one", SPACE, 0) as study:
        study.begin(USUAL, SPACE)
        run(study, 1)

        assert drawn(study.trials()) == [{name: USUAL[name] for name in SPACE}]


def test_what_it_begins_from_is_drawn_where_it_lies_beyond_the_space(studies: Studies) -> None:
    with studies.open("one", SPACE, 0) as study:
        study.begin({**USUAL, "network.width": 17}, SPACE)
        run(study, 1)

        (only,) = drawn(study.trials())
    assert (only["training.learning_rate"], only["network.width"] in SPACE["network.width"]) == (0.01, True)


def test_the_same_seed_draws_the_same_and_another_something_else(tmp_path: Path) -> None:
    found = []
    for place, seed in enumerate((0, 0, 1)):
        with Studies(tmp_path / str(place), None).open("one", SPACE, seed) as study:
            study.begin(USUAL, SPACE)
            run(study, MANY)
            found.append(drawn(study.trials()))

    assert found[0] == found[1] != found[2]
    assert all(value in SPACE[name] for one in found[0] for name, value in one.items())


def test_a_study_that_is_opened_again_goes_on_as_if_it_had_not_been_left(tmp_path: Path) -> None:
    whole, parted = Studies(tmp_path / "whole", None), Studies(tmp_path / "parted", None)
    with whole.open("one", SPACE, 0) as study:
        study.begin(USUAL, SPACE)
        run(study, MANY)
        undisturbed = drawn(study.trials())

    for count in range(MANY + 1):
        with parted.open("one", SPACE, 0) as study:
            broken_off = study.begin(USUAL, SPACE)
            run(study, min(count, 1))
            if count in KILLED:
                with patch.object(OptunasTrial, KILLED[count], side_effect=Killed), pytest.raises(Killed):
                    run(study, 1)
        assert broken_off == (count - 1 in KILLED)

    with parted.open("one", SPACE, 0) as study:
        trials = study.trials()
    assert drawn(trials) == undisturbed
    assert [one.status for one in trials].count("broken off") == len(KILLED)


def test_a_trial_that_is_broken_off_again_has_failed(studies: Studies) -> None:
    for _ in range(LOSSES):
        with studies.open("one", SPACE, 0) as study:
            study.begin(USUAL, SPACE)
            study.ask()

    with studies.open("one", SPACE, 0) as study:
        assert study.begin(USUAL, SPACE) == 1
        first, second = study.trials()

    assert (first.status, second.status, first.settings) == ("broken off", "failed", second.settings)
    assert (first.counts, second.counts) == (False, True)
    assert second.reason == "its process was gone 2 times while it ran"


def test_a_trial_whose_process_is_lost_is_run_again_once(studies: Studies) -> None:
    with studies.open("one", SPACE, 0) as study:
        study.begin(USUAL, SPACE)
        first = study.ask()
        study.lose(first.number, "worker died")
        second = study.ask()
        study.lose(second.number, "worker died again")

        assert first.settings == second.settings
        assert [(one.status, one.reason) for one in study.trials()] == [
            ("broken off", None),
            ("failed", "worker died again"),
        ]


def test_a_trial_that_is_given_back_may_come_back_however_often(studies: Studies) -> None:
    with studies.open("one", SPACE, 0) as study:
        study.begin(USUAL, SPACE)
        for _ in range(LOSSES + 1):
            study.ask()
            study.give_back()

        run(study, 1)
        assert [one.status for one in study.trials()] == ["broken off"] * (LOSSES + 1) + ["finished"]
        assert drawn(study.trials()) == [{name: USUAL[name] for name in SPACE}]


def test_another_home_s_running_trials_are_let_be(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    ours, theirs = (Studies(tmp_path / name, address) for name in ("ours", "theirs"))

    with ours.open("one", SPACE, 0) as mine, theirs.open("one", SPACE, 0) as other:
        mine.begin(USUAL, SPACE)
        running = mine.ask()
        assert other.begin(USUAL, SPACE) == 0
        run(other, 1)
        mine.finish(running.number, 1.0)

        assert [one.status for one in mine.trials()] == ["finished", "finished"]


def test_a_trial_that_is_worse_at_an_epoch_than_half_of_the_finished_ones_is_stopped(studies: Studies) -> None:
    with studies.open("one", SPACE, 0) as study:
        study.begin(USUAL, SPACE)
        run(study, FIRST_AT_RANDOM)
        bad, good = study.ask().number, study.ask().number

        assert [study.report(bad, epoch, 9.0) for epoch in (1, 2)] == [False, True]
        assert [study.report(good, epoch, 0.1) for epoch in (1, 2)] == [False, False]
        study.prune(bad)
        found = study.trials()[bad]

    assert (found.status, found.error, found.epochs, found.counts) == ("pruned", 9.0, 2, True)


def test_a_failed_trial_says_why_and_counts(studies: Studies) -> None:
    with studies.open("one", SPACE, 0) as study:
        study.begin(USUAL, SPACE)
        number = study.ask().number
        study.begun(number, "20200301-000000-beef")
        study.fail(number, "no number")
        (found,) = study.trials()

    assert (found.status, found.reason, found.run, found.error) == ("failed", "no number", "20200301-000000-beef", None)
    assert found.counts


def test_says_what_decides_once_enough_have_finished(studies: Studies) -> None:
    with studies.open("one", SPACE, 0) as study:
        study.begin(USUAL, SPACE)
        run(study, FIRST_AT_RANDOM - 1)
        assert study.importances() == {}
        run(study, 15)
        found = study.importances()

    assert set(found) == set(SPACE)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_one_process_at_a_time_is_at_a_study(studies: Studies) -> None:
    with (
        studies.open("one", SPACE, 0),
        studies.open("other", SPACE, 0),
        pytest.raises(Conflict, match=r"another process is at this search \(one\)"),
        studies.open("one", SPACE, 0),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("no address", Misconfigured, "OKRUH_STUDIES is no address of a database"),
        ("abacus://host/name", Misconfigured, "OKRUH_STUDIES: what speaks to this kind of database is not installed"),
        ("sqlite:////no/such/folder/studies.sqlite", Unavailable, "the database of searches fails"),
    ],
)
def test_says_what_is_wrong_with_a_database(tmp_path: Path, address: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said), Studies(tmp_path, address).open("one", SPACE, 0):
        pass


def test_a_study_s_name_follows_from_all_that_it_is_of() -> None:
    assert name_of("a", "b") == name_of("a", "b")
    assert len({name_of("a", "b"), name_of("ab", ""), name_of("b", "a")}) == 3


@pytest.fixture
def trial() -> Callable[..., Trial]:
    def make(number: int, status: str, error: float | None) -> Trial:
        told = {"settings": {}, "epochs": 1, "seconds": 1.0, "run": None, "reason": None}
        return Trial(number=number, status=status, error=error, **told)  # type: ignore[arg-type]

    return make


def test_the_best_comes_first_and_what_has_not_finished_after_what_has(trial: Callable[..., Trial]) -> None:
    made = [
        trial(0, "finished", 2.0),
        trial(1, "pruned", 0.1),
        trial(2, "failed", None),
        trial(3, "finished", 1.0),
        trial(4, "pruned", None),
    ]

    assert [one.number for one in best_first(made)] == [3, 0, 1, 4, 2]
