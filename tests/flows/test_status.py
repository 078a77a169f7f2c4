"""Status: what the lake and the journal say now, branch by branch, changing nothing."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from flows.ingest import ingest
from flows.monitor import monitor
from flows.promote import promote
from flows.status import Status, status
from infra import registry
from models.errors import DefinitionError
from tests.flows.conftest import (
    A_WEEK_OF_HOURS,
    AS_OF,
    FIRST_MONDAY,
    SECOND_MONDAY,
    THIRD_MONDAY,
    MonthMaker,
    add_scaled,
    champion,
    enthrone,
    journal_a_week,
    lake,
)


def test_there_is_nothing_before_anything_was_done_and_no_lake_is_made(home: Path) -> None:
    assert status("taxi_eta") == Status(model="taxi_eta", unit="minutes", bundles=0, lines=[])

    assert not (home / "lake").exists()


def test_data_alone_serves_nobody(home: Path, make_month: MonthMaker) -> None:
    ingest("taxi_eta", str(make_month("2020-01")))

    assert status("taxi_eta").lines == []


def test_tells_a_first_champion(trained: Path) -> None:
    card = registry.load_card(lake(), "main", champion())

    found = status("taxi_eta")

    (line,) = found.lines
    assert (found.bundles, line.branch, line.champion, line.since) == (1, "main", champion(), AS_OF)
    assert (line.trained_rows, line.trained_on_commit) == (card.data.rows_train, card.data.commit)
    assert (line.trained_as_of, line.test_error) == (AS_OF, card.metrics["mae"])
    assert (line.predictions, line.labels) == (0, 0)
    assert (line.previous, line.last_alarm, line.last_window_end, line.last_window_error) == (None, None, None, None)
    assert line.last_verdict is not None
    assert line.last_verdict.startswith(f"2020-03-01: {champion()} promoted: error ")


def test_tells_traffic_windows_alarm_and_the_last_verdict(trained: Path) -> None:
    add_scaled("worse", 1.5)
    for start in (FIRST_MONDAY, SECOND_MONDAY):
        journal_a_week(start, wrong_by=9.0)
    monitor("taxi_eta", THIRD_MONDAY, announce=False)
    promote("taxi_eta", "worse", datetime(2020, 3, 17, tzinfo=UTC))

    (line,) = status("taxi_eta").lines

    assert (line.predictions, line.labels) == (2 * A_WEEK_OF_HOURS, 2 * A_WEEK_OF_HOURS)
    assert (line.last_window_end, line.last_window_error) == (THIRD_MONDAY, 9.0)
    assert line.last_alarm is not None
    assert line.last_alarm.startswith("2020-03-09: mean error 9.00 minutes over 167 labels")
    assert line.last_verdict is not None
    assert line.last_verdict.startswith("2020-03-17: worse not promoted: error ")


def test_tells_the_settings_branch_first_and_then_replays_the_newest_first(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for branch in ("loop-2", "loop-10", "unrelated"):
        lake().create_branch(branch, "main")
    enthrone(add_scaled("second", 1.1), FIRST_MONDAY)

    everywhere = status("taxi_eta")
    monkeypatch.setenv("OKRUH_BRANCH", "unrelated")
    elsewhere = status("taxi_eta")
    (named,) = status("taxi_eta", "main").lines

    assert [line.branch for line in everywhere.lines] == ["main", "loop-10", "loop-2"]
    assert [line.branch for line in elsewhere.lines] == ["unrelated", "loop-10", "loop-2"]
    assert (everywhere.bundles, elsewhere.bundles) == (2, 1)
    assert (named.champion, named.previous) == ("second", elsewhere.lines[0].champion)


def test_changes_nothing(trained: Path) -> None:
    before = msgspec.json.encode((lake().branches(), lake().list("main")))

    status("taxi_eta")

    assert msgspec.json.encode((lake().branches(), lake().list("main"))) == before


def test_says_when_there_is_no_such_model(home: Path) -> None:
    with pytest.raises(DefinitionError, match="no model 'pizza_eta'"):
        status("pizza_eta")
