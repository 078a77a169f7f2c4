"""Monitor and retrain: each answer archived once, each window judged once, each change alarmed and learned once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import flows.monitor
from flows.monitor import ALARM_EVENT, Monitored, monitor
from flows.retrain import retrain
from infra import registry
from infra.dataset import labelled_predictions
from infra.errors import NotFound
from models.catalog.taxi_eta import CONTRACT
from models.deciding.verdict import PromotionReport
from models.watching.alarms import Alarm
from models.watching.windows import WindowReport
from tests.flows.conftest import AS_OF, Answers, champion, lake

FIRST_MONDAY = datetime(2020, 3, 2, 5, tzinfo=UTC)
WEEK = timedelta(days=7)
TWO_WEEKS_LATER = datetime(2020, 3, 16, 4, tzinfo=UTC)  # New York's clocks changed on 8 March
HOUR = timedelta(hours=1)
A_WEEK_OF_HOURS = 167


def journal_a_week(start: datetime, wrong_by: float) -> None:
    Answers(start, A_WEEK_OF_HOURS, minutes=9.0, wrong_by=wrong_by, version=champion()).journal()


def journal_a_changed_world() -> None:
    """Two weeks after the promotion: one as it was, one in which trips take half as long as predicted."""
    journal_a_week(FIRST_MONDAY, wrong_by=2.0)
    journal_a_week(FIRST_MONDAY + WEEK, wrong_by=9.0)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    """What is sent to Prefect's server in place of events; `test_deployment` sends real ones."""
    sent: list[tuple[str, str, dict[str, Any]]] = []
    monkeypatch.setattr(flows.monitor, "emit", lambda *event: sent.append(event))
    return sent


def test_archives_each_answer_once(trained: Path) -> None:
    journal_a_week(FIRST_MONDAY, wrong_by=1.0)
    first = monitor("taxi_eta", FIRST_MONDAY)
    nothing = monitor("taxi_eta", FIRST_MONDAY)
    journal_a_week(FIRST_MONDAY + WEEK, wrong_by=1.0)
    second = monitor("taxi_eta", FIRST_MONDAY + WEEK)

    assert [one.archived_predictions for one in (first, nothing, second)] == [A_WEEK_OF_HOURS, 0, A_WEEK_OF_HOURS]
    assert [one.archived_labels for one in (first, nothing, second)] == [A_WEEK_OF_HOURS, 0, A_WEEK_OF_HOURS]
    rows, _ = labelled_predictions(CONTRACT, lake(), "main")
    assert len(rows) == rows["id"].nunique() == 2 * A_WEEK_OF_HOURS
    assert (rows["predicted"] - rows["trip_minutes"]).unique().tolist() == [1.0]


def test_judges_each_whole_window_once(trained: Path) -> None:
    journal_a_week(FIRST_MONDAY, wrong_by=1.0)

    early = monitor("taxi_eta", FIRST_MONDAY + WEEK - timedelta(hours=2))
    late = monitor("taxi_eta", FIRST_MONDAY + WEEK)
    again = monitor("taxi_eta", FIRST_MONDAY + WEEK)

    assert [len(one.windows) for one in (early, late, again)] == [1, 1, 0]
    assert early.windows[0].mean_error is None  # of the promotion's own week, which nobody asked in
    (window,) = late.windows
    assert (window.labels, window.mean_error, window.version) == (A_WEEK_OF_HOURS, 1.0, champion())
    assert set(window.drift) == {"pickup_zone", "dropoff_zone", "trip_miles", "passengers"}
    kept = registry.read_reports(lake(), "main", registry.WINDOWS, WindowReport)
    assert kept == [*early.windows, *late.windows]


def test_raises_one_alarm_for_one_change_and_dates_it(trained: Path, events: list[Any]) -> None:
    journal_a_changed_world()

    found = monitor("taxi_eta", TWO_WEEKS_LATER)
    journal_a_week(TWO_WEEKS_LATER, wrong_by=9.0)
    later = monitor("taxi_eta", TWO_WEEKS_LATER + WEEK)

    (alarm,) = found.alarms
    assert (alarm.version, alarm.at, alarm.changed_at) == (champion(), TWO_WEEKS_LATER, FIRST_MONDAY + WEEK - HOUR)
    assert registry.read_reports(lake(), "main", registry.ALARMS, Alarm) == [alarm]
    assert later.alarms == []
    assert [window.alarm for window in later.windows] == [None]


def test_announces_an_alarm_unless_it_is_asked_not_to(trained: Path, events: list[Any]) -> None:
    for start in (FIRST_MONDAY, FIRST_MONDAY + WEEK):
        journal_a_week(start, wrong_by=9.0)

    quiet = monitor("taxi_eta", TWO_WEEKS_LATER, announce=False)
    assert (quiet.retraining_due, events) == (True, [])

    monitor("taxi_eta", TWO_WEEKS_LATER)
    ((event, model, payload),) = events
    assert (event, model, payload["alarm"]) == (ALARM_EVENT, "taxi_eta", quiet.alarms[0].id)


def test_does_not_retrain_without_an_alarm(trained: Path) -> None:
    journal_a_week(FIRST_MONDAY, wrong_by=1.0)
    found: Monitored = monitor("taxi_eta", FIRST_MONDAY + WEEK)

    done = retrain("taxi_eta", FIRST_MONDAY + WEEK)

    assert (found.alarms, found.retraining_due) == ([], False)
    assert (done.trained, done.verdict, done.reasons) == (None, None, ("no alarm is open",))


def test_learns_a_changed_world_from_its_own_labels_once(trained: Path) -> None:
    first = champion()
    for start in (FIRST_MONDAY, FIRST_MONDAY + WEEK):
        journal_a_week(start, wrong_by=9.0)
    (alarm,) = monitor("taxi_eta", TWO_WEEKS_LATER, announce=False).alarms

    done = retrain("taxi_eta", TWO_WEEKS_LATER)
    at_once = retrain("taxi_eta", TWO_WEEKS_LATER)

    assert done.trained is not None
    assert done.verdict is not None
    card = registry.load_card(lake(), "main", done.trained.version)
    labels = done.verdict.labels_since_change
    assert (done.verdict.alarm, done.verdict.incumbent, done.verdict.allowed) == (alarm.id, first, True)
    assert (card.warm_start, card.data.learn_from, card.as_of) == (first, alarm.changed_at, TWO_WEEKS_LATER)
    assert labels == 2 * A_WEEK_OF_HOURS
    assert card.data.rows_train + card.data.rows_test == labels
    assert card.data.rows_test == done.verdict.test_rows == labels // 5
    assert not any(path.startswith(("data/trips/2019", "data/trips/2020-01")) for path in card.data.paths)
    assert champion() == done.trained.version
    assert (at_once.trained, at_once.verdict) == (None, None)
    assert "grew 1.00-fold" in at_once.reasons[0]
    assert len(registry.read_reports(lake(), "main", registry.VERDICTS, PromotionReport)) == 2


def test_says_when_there_is_nobody_to_monitor(home: Path) -> None:
    with pytest.raises(NotFound, match="run `okruh promote taxi_eta` first"):
        monitor("taxi_eta", AS_OF)
