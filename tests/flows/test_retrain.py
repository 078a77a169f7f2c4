"""Retrain: after an alarm, from the changed world's own labels, once; and only what wins serves."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from infra import registry
from infra.dataset import known_rows
from models.catalog.taxi_eta import MODEL
from models.deciding.verdict import PromotionReport
from models.watching.alarms import Alarm
from tests.flows.conftest import (
    A_WEEK_OF_HOURS,
    FIRST_MONDAY,
    FOURTH_MONDAY,
    SECOND_MONDAY,
    THIRD_MONDAY,
    Answers,
    champion,
    journal_a_week,
    lake,
)


def raise_alarm() -> Alarm:
    """Have trips take half as long as predicted for two weeks."""
    for start in (FIRST_MONDAY, SECOND_MONDAY):
        journal_a_week(start, wrong_by=9.0)
    (alarm,) = monitor("taxi_eta", THIRD_MONDAY, announce=False).alarms
    return alarm


def journal_changed_trips(start: datetime, count: int, known_at: datetime) -> None:
    """Have trips take half as long as predicted, one each half hour, and tell all of them at once."""
    half_an_hour, version = timedelta(minutes=30), champion()
    Answers(start, count, minutes=9.0, wrong_by=9.0, version=version, apart=half_an_hour, known_at=known_at).journal()


def test_does_nothing_without_an_alarm(trained: Path) -> None:
    journal_a_week(FIRST_MONDAY, wrong_by=1.0)
    monitor("taxi_eta", SECOND_MONDAY)
    before = lake().resolve("main")

    done = retrain("taxi_eta", SECOND_MONDAY)

    assert (done.trained, done.verdict, done.reasons) == (None, None, ("no alarm is open",))
    assert lake().resolve("main") == before


def test_does_not_know_of_an_alarm_that_was_raised_later(trained: Path) -> None:
    alarm = raise_alarm()

    done = retrain("taxi_eta", alarm.at - timedelta(hours=1))

    assert (done.trained, done.reasons) == (None, ("no alarm is open",))


def test_learns_a_changed_world_from_its_own_labels_once(trained: Path) -> None:
    first = champion()
    alarm = raise_alarm()

    done = retrain("taxi_eta", THIRD_MONDAY)
    after = lake().resolve("main")
    at_once = retrain("taxi_eta", THIRD_MONDAY)

    assert done.trained is not None
    assert done.verdict is not None
    card = registry.load_card(lake(), "main", done.trained.version)
    labels = done.verdict.labels_since_change
    assert (done.verdict.alarm, done.verdict.incumbent, done.verdict.allowed) == (alarm.id, first, True)
    assert (card.warm_start, card.data.learn_from, card.as_of) == (first, alarm.changed_at, THIRD_MONDAY)
    assert labels == 2 * A_WEEK_OF_HOURS
    assert (card.data.rows_train, card.data.rows_test) == (labels - labels // 5, labels // 5)
    assert done.verdict.test_rows == labels // 5
    assert not any(path.startswith(("data/trips/2019", "data/trips/2020-01")) for path in card.data.paths)
    assert champion() == done.trained.version
    assert (at_once.trained, at_once.verdict, lake().resolve("main")) == (None, None, after)
    assert "grew 1.00-fold" in at_once.reasons[0]
    assert len(registry.read_reports(lake(), "main", registry.VERDICTS, PromotionReport)) == 2


def test_holds_out_the_newest_labels(trained: Path) -> None:
    alarm = raise_alarm()

    done = retrain("taxi_eta", THIRD_MONDAY)

    assert done.trained is not None
    card = registry.load_card(lake(), "main", done.trained.version)
    known_at = known_rows(MODEL, lake(), card.data.commit, THIRD_MONDAY, alarm.changed_at).whole()["known_at"]
    assert (known_at < card.data.test_from).sum() == card.data.rows_train
    assert (known_at >= card.data.test_from).sum() == card.data.rows_test
    assert card.data.validation_from == card.data.test_from


@pytest.fixture
def world_that_changed_back(trained: Path) -> Alarm:
    """5,000 labels since an alarm's change: in the oldest 4,000 trips took an hour, in the newest what they used to."""
    start, apart = FIRST_MONDAY, timedelta(seconds=100)
    Answers(start, 4000, minutes=60.0, wrong_by=-50.0, version=champion(), apart=apart).journal()
    Answers(start + 4100 * apart, 1000, minutes=10.0, wrong_by=0.1, version=champion(), apart=apart).journal()
    (alarm,) = monitor("taxi_eta", SECOND_MONDAY, announce=False).alarms
    return alarm


def test_what_loses_does_not_serve_and_on_a_large_test_answers_the_alarm(world_that_changed_back: Alarm) -> None:
    before = registry.read_rollout(lake(), "main")

    done = retrain("taxi_eta", SECOND_MONDAY)
    again = retrain("taxi_eta", FOURTH_MONDAY)

    assert done.trained is not None
    assert done.verdict is not None
    assert (done.verdict.allowed, done.verdict.ends_episode, done.verdict.test_rows) == (False, True, 1000)
    assert registry.read_rollout(lake(), "main") == before
    assert done.trained.version in registry.versions(lake(), "main")
    assert (again.trained, again.reasons) == (
        None,
        (f"alarm {world_that_changed_back.id} is answered: its last candidate lost on a large test",),
    )


def test_a_champion_that_stays_is_watched_against_what_it_reaches_in_the_changed_world(
    world_that_changed_back: Alarm,
) -> None:
    done = retrain("taxi_eta", SECOND_MONDAY)

    journal_a_week(SECOND_MONDAY, wrong_by=1.0)
    found = monitor("taxi_eta", THIRD_MONDAY, announce=False)

    assert done.verdict is not None
    assert [window.reference_error for window in found.windows] == [done.verdict.incumbent_loss.mean]
    assert found.windows[0].state.windows[0].start == SECOND_MONDAY
    assert (found.alarms, found.retraining_due) == ([], False)


def test_labels_that_came_all_at_once_cannot_be_held_out(trained: Path) -> None:
    journal_changed_trips(FIRST_MONDAY, 300, known_at=SECOND_MONDAY - timedelta(hours=1))
    (alarm,) = monitor("taxi_eta", SECOND_MONDAY, announce=False).alarms

    done = retrain("taxi_eta", SECOND_MONDAY)

    assert (done.trained, done.verdict) == (None, None)
    assert "became known at once" in done.reasons[0]
    assert registry.versions(lake(), "main") == [alarm.version]


def test_labels_that_came_in_two_batches_are_held_out_by_batch(trained: Path) -> None:
    for start in (FIRST_MONDAY, FIRST_MONDAY + timedelta(days=3)):
        journal_changed_trips(start, 140, known_at=start + timedelta(days=3, hours=12))
    monitor("taxi_eta", SECOND_MONDAY, announce=False)

    done = retrain("taxi_eta", SECOND_MONDAY)

    assert done.trained is not None
    card = registry.load_card(lake(), "main", done.trained.version)
    assert (card.data.rows_train, card.data.rows_test) == (140, 140)


def test_a_rollback_ends_what_an_alarm_began(trained: Path) -> None:
    first, alarm = champion(), raise_alarm()
    retrain("taxi_eta", THIRD_MONDAY)
    rollback("taxi_eta", as_of=THIRD_MONDAY + timedelta(hours=1))
    for start in (THIRD_MONDAY, FOURTH_MONDAY):
        Answers(start, 2 * A_WEEK_OF_HOURS, minutes=9.0, wrong_by=1.0, version=first).journal()

    found = monitor("taxi_eta", FOURTH_MONDAY + timedelta(days=21))
    done = retrain("taxi_eta", FOURTH_MONDAY + timedelta(days=21))

    assert (found.alarms, found.retraining_due, done.trained) == ([], False, None)
    assert done.reasons == (f"{first} was rolled back to since alarm {alarm.id}",)


def test_an_older_version_is_judged_on_what_the_champion_did_not_learn_from(trained: Path) -> None:
    first = champion()
    raise_alarm()
    done = retrain("taxi_eta", THIRD_MONDAY)

    report = promote("taxi_eta", first, THIRD_MONDAY)

    assert done.verdict is not None
    assert (report.incumbent, report.allowed, report.test_rows) == (champion(), False, done.verdict.test_rows)
