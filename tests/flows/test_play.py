"""A period as a service lives through it: a request when a trip starts, its label when it ends, nothing earlier."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from flows import play
from flows.loop import loop
from flows.play import Play, month_start, months
from infra.errors import Misconfigured, NotFound
from models.catalog.taxi_eta import CONTRACT, MODEL
from models.contract.columns import Lag
from models.errors import DefinitionError
from models.model import Model, MonthlySample


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


def small(folder: Path, trips: list[tuple[str, str]], **columns: float) -> Model:
    """Make a model whose sample of March 2020 has trips from a pickup to a dropoff."""
    pickups, dropoffs = zip(*trips, strict=True)
    raw: dict[str, float] = {
        "pickup_location_id": 7,
        "dropoff_location_id": 9,
        "trip_distance": 2.5,
        "passenger_count": 1.0,
    }
    rows = pd.DataFrame({"pickup_datetime": pd.to_datetime(pickups), "dropoff_datetime": pd.to_datetime(dropoffs)})
    rows.assign(**raw | {"fare_amount": 9.0} | columns).to_parquet(folder / "2020-03.parquet")
    sample = MonthlySample(
        folder=folder, file_name="{month}.parquet", history_from="2020-02", play_from="2020-03", play_to="2020-03"
    )
    return replace(MODEL, sample=sample)


def test_a_trip_that_ends_after_the_period_gets_no_label(tmp_path: Path) -> None:
    model = small(tmp_path, [("2020-03-31 23:00", "2020-03-31 23:09"), ("2020-03-31 23:55", "2020-04-01 00:05")])

    events = play.load(model, "2020-03", "2020-03").events

    assert [(event.item, event.is_label) for event in events] == [(0, False), (0, True), (1, False)]


def test_rows_of_another_period_are_counted_and_not_sent(tmp_path: Path) -> None:
    model = small(tmp_path, [("2020-02-29 23:59", "2020-03-01 00:10"), ("2020-03-01 00:00", "2020-03-01 00:10")])

    period = play.load(model, "2020-03", "2020-03")

    assert (period.outside, [event.is_label for event in period.events]) == (1, [False, True])
    assert period.events[0].at_s == period.starts_at.timestamp()


def test_bad_rows_are_sent_as_a_caller_would_send_them(tmp_path: Path) -> None:
    trips = [("2020-03-02 10:00", "2020-03-02 09:00")]
    model = small(tmp_path, trips, passenger_count=float("nan"), trip_distance=-1.0)

    request, label = play.load(model, "2020-03", "2020-03").events

    assert json.loads(request.body)["rows"] == [
        {
            "pickup_at": "2020-03-02T10:00:00",
            "pickup_zone": 7,
            "dropoff_zone": 9,
            "trip_miles": -1.0,
            "passengers": None,
            "id": "2020-03-000000",
        }
    ]
    assert (label.at_s, json.loads(label.body)["labels"][0]["value"]) == (request.at_s, -60.0)


@pytest.mark.parametrize(
    ("first", "last", "error", "reason"),
    [
        ("2020-13", "2020-12", Misconfigured, "'2020-13' is not a month"),
        ("2020-03", "yesterday", Misconfigured, "'yesterday' is not a month; write it as YYYY-MM"),
        ("2020-03", "2020-02", Misconfigured, "a period cannot begin with 2020-03 and end with 2020-02"),
        ("2020-12", "2021-02", NotFound, "the sample of taxi_eta lacks 2021-01, 2021-02"),
    ],
)
def test_names_what_is_wrong_with_a_period(first: str, last: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        play.load(MODEL, first, last)


def test_a_model_without_a_sample_has_nothing_to_play() -> None:
    with pytest.raises(DefinitionError, match="model taxi_eta has no months to play"):
        play.load(replace(MODEL, sample=None), "2020-03", "2020-03")


@pytest.mark.parametrize(
    ("history_from", "play_from", "reason"),
    [("2020-03", "2020-03", "must begin before the play"), ("2019-12", "2020-13", "'2020-13' is not a month")],
)
def test_a_loop_that_makes_no_sense_is_refused_before_anything_is_done(
    home: Path, history_from: str, play_from: str, reason: str
) -> None:
    with pytest.raises(Misconfigured, match=reason):
        loop("taxi_eta", history_from, play_from, "2020-12")

    assert not (home / "lake").exists()


def test_requests_carry_the_lags_that_were_known_when_they_were_sent(tmp_path: Path) -> None:
    lag = Lag(name="before", of="trip_minutes", hours=24, by=("pickup_zone",), unit="minutes", minimum=1, maximum=120)
    definition = small(tmp_path, [("2020-03-01 08:00", "2020-03-01 08:30"), ("2020-03-02 08:00", "2020-03-02 08:10")])
    march = pd.read_parquet(tmp_path / "2020-03.parquet")
    at = [pd.Timestamp("2020-02-29 08:00"), pd.Timestamp("2020-02-29 08:20")]
    march[:1].assign(pickup_datetime=at[0], dropoff_datetime=at[1]).to_parquet(tmp_path / "2020-02.parquet")
    contract = msgspec.structs.replace(CONTRACT, features=(*CONTRACT.features, lag))

    events = play.load(replace(definition, contract=contract), "2020-03", "2020-03").events

    sent = [json.loads(event.body)["rows"][0]["before"] for event in events if not event.is_label]
    assert sent == [20.0, 30.0]


def test_the_first_months_of_a_sample_have_no_past(tmp_path: Path) -> None:
    lag = Lag(name="before", of="trip_minutes", hours=24 * 90, unit="minutes", minimum=1, maximum=120)
    definition = small(tmp_path, [("2020-03-01 08:00", "2020-03-01 08:30")])
    contract = msgspec.structs.replace(CONTRACT, features=(*CONTRACT.features, lag))
    sample = replace(play.sample_of(definition), history_from="2020-03")

    events = play.load(replace(definition, contract=contract, sample=sample), "2020-03", "2020-03").events

    assert json.loads(events[0].body)["rows"][0]["before"] is None
