"""Monitor: each answer archived once, each window judged once, each change alarmed once and told to who retrains."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

from flows import screens
from flows.monitor import ALARM_EVENT, monitor
from infra import registry
from infra.dataset import labelled_predictions
from infra.errors import NotFound
from models.catalog.taxi_eta import CONTRACT
from models.watching.alarms import Alarm
from models.watching.windows import WindowReport
from tests.flows.conftest import (
    A_WEEK_OF_HOURS,
    AS_OF,
    FIRST_MONDAY,
    FOURTH_MONDAY,
    SECOND_MONDAY,
    THIRD_MONDAY,
    Answers,
    add_scaled,
    champion,
    enthrone,
    journal_a_week,
    lake,
)

AN_HOUR = timedelta(hours=1)


def journal_a_changed_world() -> None:
    """Two weeks after the promotion: one as it was, one in which trips take half as long as predicted."""
    journal_a_week(FIRST_MONDAY, wrong_by=2.0)
    journal_a_week(SECOND_MONDAY, wrong_by=9.0)


@pytest.fixture
def sent() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What was sent to Prefect as alarms, read by Prefect's own client for tests."""

    def payloads() -> list[dict[str, Any]]:
        EventsWorker.instance().wait_until_empty()
        events = [event for client in AssertingEventsClient.all for event in client.events]
        return [event.payload | {"about": event.resource.id} for event in events if event.event == ALARM_EVENT]

    AssertingEventsClient.reset()
    EventsWorker.set_client_override(AssertingEventsClient)
    yield payloads
    EventsWorker.set_client_override(None)


def test_archives_each_answer_once(trained: Path) -> None:
    journal_a_week(FIRST_MONDAY, wrong_by=1.0)
    first = monitor("taxi_eta", FIRST_MONDAY)
    nothing = monitor("taxi_eta", FIRST_MONDAY)
    journal_a_week(SECOND_MONDAY, wrong_by=1.0)
    second = monitor("taxi_eta", SECOND_MONDAY)

    assert [one.archived_predictions for one in (first, nothing, second)] == [A_WEEK_OF_HOURS, 0, A_WEEK_OF_HOURS]
    assert [one.archived_labels for one in (first, nothing, second)] == [A_WEEK_OF_HOURS, 0, A_WEEK_OF_HOURS]
    rows, _ = labelled_predictions(CONTRACT, lake(), "main")
    assert len(rows) == rows["id"].nunique() == 2 * A_WEEK_OF_HOURS
    assert (rows["predicted"] - rows["trip_minutes"]).unique().tolist() == [1.0]


def test_judges_each_whole_window_once(trained: Path) -> None:
    journal_a_week(FIRST_MONDAY, wrong_by=1.0)

    early = monitor("taxi_eta", SECOND_MONDAY - AN_HOUR)
    late = monitor("taxi_eta", SECOND_MONDAY)
    again = monitor("taxi_eta", SECOND_MONDAY)

    assert [len(one.windows) for one in (early, late, again)] == [1, 1, 0]
    (before_anybody_asked,) = early.windows
    assert (before_anybody_asked.mean_error, before_anybody_asked.statistic) == (None, None)
    (window,) = late.windows
    assert (window.start, window.end) == (FIRST_MONDAY, SECOND_MONDAY)
    assert (window.labels, window.mean_error, window.version) == (A_WEEK_OF_HOURS, 1.0, champion())
    assert set(window.drift) == {"pickup_zone", "dropoff_zone", "trip_miles", "passengers"}
    kept = registry.read_reports(lake(), "main", registry.WINDOWS, WindowReport)
    assert kept == [*early.windows, *late.windows]


def test_judging_week_by_week_or_all_at_once_is_the_same(trained: Path) -> None:
    lake().create_branch("weekly", "main")
    for branch in ("main", "weekly"):
        for start, wrong_by in ((FIRST_MONDAY, 2.0), (SECOND_MONDAY, 9.0)):
            Answers(start, A_WEEK_OF_HOURS, minutes=9.0, wrong_by=wrong_by, version=champion()).journal(branch)

    at_once = monitor("taxi_eta", THIRD_MONDAY)
    weekly = [monitor("taxi_eta", until, "weekly") for until in (FIRST_MONDAY, SECOND_MONDAY, THIRD_MONDAY)]

    assert [window for one in weekly for window in one.windows] == at_once.windows
    assert [alarm for one in weekly for alarm in one.alarms] == at_once.alarms
    assert len(at_once.windows) == 3


def test_judges_only_what_the_champion_answered_within_the_targets_range(trained: Path) -> None:
    Answers(FIRST_MONDAY, 5, minutes=9.0, wrong_by=1.0, version=champion()).journal()
    Answers(FIRST_MONDAY + AN_HOUR / 2, 7, minutes=9.0, wrong_by=5.0, version="another").journal()
    Answers(FIRST_MONDAY + timedelta(days=1), 9, minutes=500.0, wrong_by=5.0, version=champion()).journal()

    (_, window) = monitor("taxi_eta", SECOND_MONDAY).windows

    assert (window.labels, window.mean_error) == (5, 1.0)


def test_says_that_labels_from_before_the_promotion_are_not_judged(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enthrone(add_scaled("late", 0.5), FOURTH_MONDAY)
    journal_a_week(FIRST_MONDAY, wrong_by=9.0)

    found = monitor("taxi_eta", THIRD_MONDAY)
    screens.monitored(found)

    assert (found.windows, found.champion_since, found.known_before) == ([], FOURTH_MONDAY, A_WEEK_OF_HOURS)
    shown = capsys.readouterr().out
    assert "no further window has ended" in shown
    assert f"{A_WEEK_OF_HOURS} labels became known before the champion's promotion (2020-03-23 04:00 UTC)" in shown


def test_counts_no_label_that_was_judged_as_too_early(trained: Path) -> None:
    journal_a_week(FIRST_MONDAY, wrong_by=1.0)

    assert [monitor("taxi_eta", until).known_before for until in (SECOND_MONDAY, THIRD_MONDAY)] == [0, 0]


def test_raises_one_alarm_for_one_change_and_dates_it(trained: Path) -> None:
    journal_a_changed_world()

    found = monitor("taxi_eta", THIRD_MONDAY)
    journal_a_week(THIRD_MONDAY, wrong_by=9.0)
    later = monitor("taxi_eta", FOURTH_MONDAY)

    (alarm,) = found.alarms
    assert (alarm.version, alarm.at, alarm.changed_at) == (champion(), THIRD_MONDAY, SECOND_MONDAY)
    assert registry.read_reports(lake(), "main", registry.ALARMS, Alarm) == [alarm]
    assert later.alarms == []
    assert [window.alarm for window in later.windows] == [None]


def test_raises_one_alarm_for_one_change_when_several_windows_are_judged_at_once(trained: Path) -> None:
    journal_a_changed_world()
    journal_a_week(THIRD_MONDAY, wrong_by=9.0)

    found = monitor("taxi_eta", FOURTH_MONDAY)

    assert [window.alarm is not None for window in found.windows] == [False, False, True, False]
    assert [alarm.at for alarm in found.alarms] == [THIRD_MONDAY]


def test_watches_a_new_champion_afresh(trained: Path) -> None:
    journal_a_changed_world()
    (first,) = monitor("taxi_eta", THIRD_MONDAY).alarms
    enthrone(add_scaled("second", 0.5), THIRD_MONDAY)

    journal_a_week(THIRD_MONDAY, wrong_by=2.0)
    unchanged = monitor("taxi_eta", FOURTH_MONDAY)
    journal_a_week(FOURTH_MONDAY, wrong_by=9.0)
    changed = monitor("taxi_eta", FOURTH_MONDAY + timedelta(days=7))

    assert (unchanged.alarms, [window.version for window in unchanged.windows]) == ([], ["second"])
    (second,) = changed.alarms
    assert (first.version != second.version, second.version) == (True, "second")


def test_announces_an_alarm_only_when_it_is_asked_to(trained: Path, sent: Callable[[], list[dict[str, Any]]]) -> None:
    for start in (FIRST_MONDAY, SECOND_MONDAY):
        journal_a_week(start, wrong_by=9.0)

    quiet = monitor("taxi_eta", THIRD_MONDAY, announce=False)
    before = sent()
    monitor("taxi_eta", THIRD_MONDAY)

    assert (quiet.retraining_due, before) == (True, [])
    (payload,) = sent()
    assert (payload["alarm"], payload["about"]) == (quiet.alarms[0].id, "okruh.model.taxi_eta")
    assert payload["reasons"] == list(quiet.reasons)


def test_announces_no_alarm_before_there_are_labels_to_learn_from(
    trained: Path, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    journal_a_changed_world()

    found = monitor("taxi_eta", THIRD_MONDAY)

    assert (len(found.alarms), found.retraining_due) == (1, False)
    assert found.reasons == (f"{A_WEEK_OF_HOURS} labels since the change, 200 are needed",)
    assert sent() == []


def test_announces_nothing_while_all_is_well(trained: Path, sent: Callable[[], list[dict[str, Any]]]) -> None:
    journal_a_week(FIRST_MONDAY, wrong_by=2.0)

    found = monitor("taxi_eta", SECOND_MONDAY)

    assert (found.alarms, found.retraining_due, found.reasons) == ([], False, ("no alarm is open",))
    assert sent() == []


def test_says_when_there_is_nobody_to_monitor(home: Path) -> None:
    with pytest.raises(NotFound, match="run `okruh promote taxi_eta` first"):
        monitor("taxi_eta", AS_OF)
