"""`taxi_eta` on a real month: April 2020, in which many trips were odd and many passengers not counted."""

import numpy as np
import pandas as pd
import pytest
import torch

from models.catalog.taxi_eta import CONTRACT, MODEL, naive, prepare
from models.contract.columns import TimePart
from models.contract.table import REASON, Validated, time_part, to_columns, validate
from models.evaluating.groups import groups
from models.learning.blocks import replace_missing
from models.learning.examples import Examples
from models.learning.loop import predict
from models.learning.preprocessing import Prepared
from models.learning.preprocessing import prepare as run_graph
from models.model import MonthlySample

MONTH = "2020-04"


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """The month as the commission published it."""
    assert isinstance(MODEL.sample, MonthlySample)
    return pd.read_parquet(MODEL.sample.file(MONTH))


@pytest.fixture(scope="module")
def checked(raw: pd.DataFrame) -> Validated:
    """The month, validated."""
    return validate(CONTRACT, prepare(raw), MONTH)


@pytest.fixture(scope="module")
def prepared(checked: Validated) -> Prepared:
    """Its accepted rows, as the network takes them."""
    return run_graph(CONTRACT, to_columns(CONTRACT, checked.accepted))


def test_preparing_drops_no_row_and_computes_the_minutes(raw: pd.DataFrame) -> None:
    table = prepare(raw)

    assert len(table) == len(raw) == 10_000
    pd.testing.assert_series_equal(
        table["pickup_at"] + pd.to_timedelta(table["trip_minutes"].mul(60).round(), unit="s"),
        table["dropoff_at"],
        check_names=False,
    )


def test_validation_keeps_most_trips_and_refuses_the_odd_ones_with_their_reasons(checked: Validated) -> None:
    reasons = checked.refused[REASON].str.split("; ").explode().value_counts().to_dict()

    assert (checked.partition, len(checked.accepted), len(checked.refused)) == (MONTH, 9578, 422)
    assert reasons == {
        "trip_miles: outside 0.1 to 50 miles": 294,
        "trip_minutes: outside 1 to 120 minutes": 186,
        "fare_usd: outside 2.5 to 250 USD": 69,
        "duplicate of an earlier row": 7,
    }


def test_validation_keeps_what_the_contract_allows_and_nothing_else(checked: Validated) -> None:
    kept, refused = checked.accepted, checked.refused

    assert kept["trip_miles"].between(0.1, 50).all()
    assert kept["trip_minutes"].between(1, 120).all()
    assert kept["fare_usd"].between(2.5, 250).all()
    assert kept["passengers"].isna().sum() == 769
    assert not kept.duplicated(list(CONTRACT.unique)).any()
    too_short_or_long = ~refused["trip_minutes"].between(1, 120)
    assert (refused[REASON].str.contains("trip_minutes") == too_short_or_long).all()


def test_time_parts_of_the_graph_equal_those_of_pandas_on_every_row(checked: Validated, prepared: Prepared) -> None:
    times = checked.accepted["pickup_at"]

    assert CONTRACT.time_column.parts == (TimePart.MINUTE_OF_DAY, TimePart.WEEKDAY, TimePart.MONTH)
    for place, part in enumerate(CONTRACT.time_column.parts):
        np.testing.assert_array_equal(prepared.time_parts_NP[:, place], time_part(times, part), err_msg=part)


def test_zones_become_their_own_number_and_numbers_stay(checked: Validated, prepared: Prepared) -> None:
    np.testing.assert_array_equal(prepared.categories_NC, checked.accepted[["pickup_zone", "dropoff_zone"]])
    np.testing.assert_array_equal(
        prepared.numbers_NF, checked.accepted[["trip_miles", "passengers"]].to_numpy(np.float32)
    )


def test_an_untrained_network_answers_typical_minutes_with_passengers_missing_too(
    checked: Validated, prepared: Prepared
) -> None:
    torch.manual_seed(0)
    made = MODEL.network(
        Examples(prepared, checked.accepted["trip_minutes"].to_numpy(np.float32)), **MODEL.network_settings
    )

    answered_N = predict(made.eval(), prepared)

    assert np.isnan(prepared.numbers_NF[:, 1]).sum() == 769
    assert np.isfinite(answered_N).all()
    assert np.median(answered_N) == pytest.approx(checked.accepted["trip_minutes"].median(), rel=0.1)


def test_missing_passengers_are_told_from_a_typical_number_of_them(checked: Validated, prepared: Prepared) -> None:
    torch.manual_seed(0)
    made = MODEL.network(
        Examples(prepared, checked.accepted["trip_minutes"].to_numpy(np.float32)), **MODEL.network_settings
    )
    torch.nn.init.normal_(made.get_parameter("weight"), std=0.1)
    typical_NF = replace_missing(torch.from_numpy(prepared.numbers_NF), 1.5).numpy()
    filled = Prepared(typical_NF, prepared.categories_NC, prepared.time_parts_NP)

    differs_N = predict(made.eval(), prepared) != predict(made, filled)

    np.testing.assert_array_equal(differs_N, np.isnan(prepared.numbers_NF[:, 1]))


def test_speed_by_hour_and_distance_is_better_than_one_speed_for_all(checked: Validated) -> None:
    trips = checked.accepted
    known, later = trips[:7000], trips[7000:]
    speed = known["trip_miles"].sum() / known["trip_minutes"].sum()

    by_one_speed = (later["trip_miles"] / speed - later["trip_minutes"]).abs().mean()
    by_naive = (naive(known, later) - later["trip_minutes"]).abs().mean()

    assert by_naive < 0.9 * by_one_speed


def test_naive_falls_back_to_one_speed_for_an_hour_that_it_never_saw() -> None:
    at_8, at_20 = pd.Timestamp("2020-04-01 08:00"), pd.Timestamp("2020-04-01 20:00")
    known = pd.DataFrame({"pickup_at": [at_8] * 2, "trip_miles": [2.5, 2.5], "trip_minutes": [5.0, 15.0]})
    known = pd.concat([known, known.assign(trip_miles=10.0, trip_minutes=25.0)], ignore_index=True)
    later = pd.DataFrame({"pickup_at": [at_20, at_8, at_8], "trip_miles": [5.0, 2.0, 10.0]}, index=[7, 3, 5])

    # 8 o'clock: 2-3 miles at 5 miles in 20 minutes, 8-12 miles at 20 in 50; all: 25 miles in 70 minutes
    assert naive(known, later).tolist() == [14.0, 8.0, 25.0]


def test_errors_are_reported_by_hour_and_by_distance(checked: Validated) -> None:
    found = groups(CONTRACT, to_columns(CONTRACT, checked.accepted))

    assert found["hour"].names == ("0-5", "6-9", "10-15", "16-19", "20-23")
    assert found["trip_miles"].names == ("under 1", "1 to 3", "3 to 8", "from 8")


def test_a_missing_zone_sets_its_row_apart_and_not_the_file() -> None:
    assert isinstance(MODEL.sample, MonthlySample)
    raw = pd.read_parquet(MODEL.sample.file(MONTH)).astype({"pickup_location_id": "float64"})
    raw.loc[5, "pickup_location_id"] = np.nan

    found = validate(CONTRACT, prepare(raw), "trips.parquet")

    assert "pickup_zone: unknown category" in "; ".join(found.refused[REASON])
