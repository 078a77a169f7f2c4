"""A period as a service lives through it: a request when a trip starts, its label when it ends, nothing earlier."""

import json
from datetime import UTC, datetime

import pytest

from flows import play
from flows.play import Play, month_start, months
from models.catalog.taxi_eta import CONTRACT, MODEL


@pytest.fixture(scope="module")
def march() -> Play:
    """March 2020, whose clocks changed on the 8th."""
    return play.load(MODEL, "2020-03", "2020-03")


def test_a_period_is_whole_months_of_the_contracts_clock(march: Play) -> None:
    assert (march.starts_at, march.ends_at) == (
        datetime(2020, 3, 1, 5, tzinfo=UTC),
        datetime(2020, 4, 1, 4, tzinfo=UTC),
    )
    assert month_start(CONTRACT, "2020-03") == march.starts_at
    assert months("2019-11", "2020-02") == ["2019-11", "2019-12", "2020-01", "2020-02"]


def test_events_come_in_order_and_each_label_after_its_request(march: Play) -> None:
    asked: set[int] = set()
    times = [event.at_s for event in march.events]

    assert times == sorted(times)
    assert march.starts_at.timestamp() <= times[0]
    assert times[-1] < march.ends_at.timestamp()
    for event in march.events:
        assert (event.item in asked) == event.is_label
        asked.add(event.item)
    assert len(asked) + march.outside == 10_000


def test_requests_carry_the_contracts_columns_and_labels_their_moment(march: Play) -> None:
    requests = {event.item: json.loads(event.body)["rows"][0] for event in march.events if not event.is_label}
    label = next(event for event in march.events if event.is_label)
    (sent,) = json.loads(label.body)["labels"]

    assert {tuple(row) for row in requests.values()} == {(*(column.name for column in CONTRACT.inputs), "id")}
    assert len({row["id"] for row in requests.values()}) == len(requests)
    assert sent["id"] == requests[label.item]["id"]
    assert datetime.fromisoformat(sent["at"]).timestamp() == label.at_s
    assert label.at_s - sent["value"] * 60 == pytest.approx(
        next(event.at_s for event in march.events if event.item == label.item)
    )


def test_the_same_period_gives_the_same_events(march: Play) -> None:
    assert play.load(MODEL, "2020-03", "2020-03") == march
