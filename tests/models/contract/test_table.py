"""Table validation: bad rows are set apart with their reason, bad tables are refused by name."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract.clock import EPOCH, microseconds, moments
from models.contract.columns import MISSING_CODE, Category, Contract, Number, Time, TimePart
from models.contract.rows import column_maker, graph_inputs
from models.contract.table import REASON, time_part, to_columns, to_instants, validate
from models.errors import ContractError

PARTS = tuple(TimePart)
CONTRACT = Contract(
    time=Time(name="starts_at", zone="America/New_York", parts=PARTS),
    features=(
        Number(name="distance", unit="km", minimum=0, maximum=100),
        Number(name="weight", unit="kg", minimum=0, maximum=50, nullable=True),
        Category(name="kind", values=("bike", "car"), nullable=True),
        Category(name="zone", values=(1, 2, 3)),
    ),
    target=Number(name="minutes", unit="min", minimum=1, maximum=60),
    known="ends_at",
    checks=(Number(name="fare", unit="EUR", minimum=1, maximum=99),),
    unique=("starts_at", "distance"),
    maximum_refused=0.5,
)


def rides(rows: int = 10) -> pd.DataFrame:
    starts_at = pd.Series(pd.date_range("2020-01-20", periods=rows, freq="1D", unit="us"))
    return pd.DataFrame(
        {
            "starts_at": starts_at,
            "distance": np.arange(rows, dtype=np.float64),
            "weight": [None, *[2.5] * (rows - 1)],
            "kind": [None, *["car"] * (rows - 1)],
            "zone": [1] * rows,
            "minutes": [30.0] * rows,
            "ends_at": starts_at + pd.Timedelta(minutes=30),
            "fare": [10.0] * rows,
            "colour": ["red"] * rows,
        }
    )


def test_accepts_a_good_table_in_the_order_of_time_without_other_columns() -> None:
    checked = validate(CONTRACT, rides().iloc[::-1], "rides.parquet")

    assert checked.partition == "2020-01"
    assert checked.refused.empty
    assert checked.accepted["distance"].tolist() == list(range(10))
    assert "colour" not in checked.accepted


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("distance", 100.1, "distance: outside 0 to 100 km"),
        ("distance", np.inf, "distance: outside 0 to 100 km"),
        ("distance", None, "distance: may not be null"),
        ("weight", -0.1, "weight: outside 0 to 50 kg"),
        ("kind", "boat", "kind: unknown category"),
        ("zone", 4, "zone: unknown category"),
        ("minutes", 0.5, "minutes: outside 1 to 60 min"),
        ("minutes", None, "minutes: may not be null"),
        ("fare", 0.0, "fare: outside 1 to 99 EUR"),
        ("starts_at", None, "starts_at: may not be null"),
        ("ends_at", None, "ends_at: may not be null"),
        (
            "starts_at",
            pd.Timestamp("2020-02-01"),
            "starts_at: outside the partition 2020-01; ends_at: before starts_at",
        ),
        ("ends_at", pd.Timestamp("2020-01-22 23:59:59"), "ends_at: before starts_at"),
        ("starts_at", pd.Timestamp("2019-12-31 23:59:59"), "starts_at: outside the partition 2020-01"),
    ],
)
def test_sets_a_bad_row_apart_with_its_reason(column: str, value: Any, reason: str) -> None:
    table = rides()
    table.loc[3, column] = value

    checked = validate(CONTRACT, table, "rides.parquet")

    assert checked.refused[REASON].tolist() == [reason]
    assert checked.accepted["distance"].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_gives_every_reason_against_a_row() -> None:
    table = rides()
    table.loc[3, ["distance", "minutes"]] = [-1.0, 99.0]

    checked = validate(CONTRACT, table, "rides.parquet")

    assert checked.refused[REASON].tolist() == ["distance: outside 0 to 100 km; minutes: outside 1 to 60 min"]
    assert checked.refused["distance"].tolist() == [-1.0]


def test_keeps_the_first_of_duplicates() -> None:
    table = pd.concat([rides(), rides().iloc[[4]].assign(minutes=31.0)])

    checked = validate(CONTRACT, table, "rides.parquet")

    assert checked.refused[REASON].tolist() == ["duplicate of an earlier row"]
    spoilt = rides()
    spoilt.loc[[0, 4], "distance"] = -1.0
    mended = validate(CONTRACT, pd.concat([spoilt, rides().iloc[[4]]]), "rides.parquet")
    assert mended.refused[REASON].tolist() == ["distance: outside 0 to 100 km"] * 2, "the row that was mended is taken"
    assert checked.refused["minutes"].tolist() == [31.0]


def test_partition_is_the_month_of_most_rows() -> None:
    table = rides(7)
    table["starts_at"] = pd.to_datetime(["2020-01-01"] * 3 + ["2020-02-05"] * 4).as_unit("us")
    table["ends_at"] = table["starts_at"]

    checked = validate(CONTRACT, table, "rides.parquet")

    assert checked.partition == "2020-02"
    assert len(checked.refused) == 3


def test_takes_every_spelling_of_text_and_of_time() -> None:
    table = rides()
    table = table.assign(kind=table["kind"].astype("str"), starts_at=table["starts_at"].dt.as_unit("ns"))

    checked = validate(CONTRACT, table, "rides.parquet")

    pd.testing.assert_frame_equal(checked.accepted, validate(CONTRACT, rides(), "rides.parquet").accepted)


def test_takes_every_spelling_of_numbers_and_categories() -> None:
    table = rides().astype({"distance": "int64", "weight": "Float64", "minutes": "int8", "zone": "int16"})
    table = table.assign(kind=table["kind"].astype("category"))

    checked = validate(CONTRACT, table, "rides.parquet")

    pd.testing.assert_frame_equal(checked.accepted, validate(CONTRACT, rides(), "rides.parquet").accepted)


def test_validates_instants_in_utc() -> None:
    contract = msgspec.structs.replace(
        CONTRACT, time=Time(name="starts_at", zone=None, parts=PARTS), maximum_gap_days=3
    )
    table = rides()
    for column in ("starts_at", "ends_at"):
        table[column] = table[column].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")

    checked = validate(contract, table, "rides.parquet")

    assert str(checked.accepted["starts_at"].dtype) == "datetime64[us, UTC]"
    assert len(checked.accepted) == 10


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (rides().drop(columns=["zone", "fare"]), r"columns \['zone', 'fare'\] are missing"),
        (rides().rename(columns={"zone": "Zone"}), r"columns \['zone'\] are missing.*'Zone'"),
        (rides().iloc[:0], "no rows"),
        (rides().assign(distance="far"), "'distance': should be float64, it is str"),
        (rides().assign(zone=1.5), r"zone: unknown category \(10 rows\)"),
        (rides().assign(kind=1), "'kind': should be text, it is int64"),
        (rides().assign(starts_at="monday"), r"'starts_at': should be datetime64\[us\], it is str"),
        (rides().assign(starts_at=pd.Series([None] * 10, dtype="datetime64[us]")), "no row has a starts_at"),
        (pd.DataFrame({"other": [1]}), "columns .* are missing"),
        (
            rides().assign(minutes=[99.0] * 6 + [30.0] * 4),
            "60% of 10 rows break .*, at most 50% may \\(`maximum_refused`\\): minutes",
        ),
    ],
)
def test_refuses_a_bad_table_by_name(table: pd.DataFrame, reason: str) -> None:
    with pytest.raises(ContractError, match=reason) as caught:
        validate(CONTRACT, table, "rides.parquet")
    assert str(caught.value).startswith("rides.parquet: ")


def test_refuses_local_times_that_carry_an_offset() -> None:
    table = rides()
    with pytest.raises(ContractError, match=r"should be datetime64\[us\], it is datetime64\[us, UTC\]"):
        validate(CONTRACT, table.assign(starts_at=table["starts_at"].dt.tz_localize("UTC")), "rides.parquet")


def test_refuses_a_table_with_too_few_good_rows() -> None:
    with pytest.raises(ContractError, match=r"10 good rows, at least 11 are needed \(`minimum_rows`\)"):
        validate(msgspec.structs.replace(CONTRACT, minimum_rows=11), rides(), "rides.parquet")


def test_refuses_a_table_that_ends_too_long_before_its_month() -> None:
    fresh, stale = (msgspec.structs.replace(CONTRACT, maximum_gap_days=days) for days in (4, 2))

    assert len(validate(fresh, rides(), "rides.parquet").accepted) == 10
    with pytest.raises(ContractError, match=r"the newest row is of 2020-01-29, 3 days before the end of 2020-01"):
        validate(stale, rides(), "rides.parquet")


def test_a_refusal_names_each_broken_column() -> None:
    with pytest.raises(ContractError) as caught:
        validate(CONTRACT, rides().assign(distance="far", fare="much"), "rides.parquet")
    assert [violation.field for violation in caught.value.violations] == ["distance", "fare"]


def test_gives_the_graph_one_array_a_column_with_null_marked() -> None:
    contract = msgspec.structs.replace(
        CONTRACT, features=(*CONTRACT.features, Category(name="seat", values=(7, 8), nullable=True))
    )
    table = rides(2).assign(seat=pd.array([None, 8], dtype="Int64"))

    columns = to_columns(contract, table)

    assert list(columns) == ["starts_at", "distance", "weight", "kind", "zone", "seat"]
    assert columns["starts_at"].tolist() == [1_579_478_400, 1_579_564_800]
    assert np.isnan(columns["weight"][0])
    assert columns["kind"].tolist() == ["", "car"]
    assert columns["seat"].tolist() == [MISSING_CODE, 8]
    assert [array.dtype for array in columns.values()] == [
        np.int64, np.float32, np.float32, np.object_, np.int64, np.int64,
    ]  # fmt: skip


@given(st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), min_size=1, max_size=20))
def test_tables_and_requests_give_the_same_times(times: list[datetime]) -> None:
    contract = msgspec.structs.replace(CONTRACT, features=(), unique=())

    of_table = to_columns(contract, pd.DataFrame({"starts_at": pd.Series(times).astype("datetime64[us]")}))
    of_request = graph_inputs(contract)({"starts_at": column_maker(CONTRACT.time_column)(times)})

    assert of_table["starts_at"].tolist() == of_request["starts_at"].tolist()


@given(st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1)).map(lambda at: at.replace(fold=0)))
def test_tables_and_requests_mean_the_same_instant(time: datetime) -> None:
    _assert_same_instant(time)


@pytest.mark.parametrize(
    "time", [datetime(2020, 3, 8, 2, 30), datetime(2020, 11, 1, 1, 30), datetime(2020, 3, 8, 3), datetime(2020, 11, 1)]
)
def test_clock_changes_are_read_alike_in_tables_and_requests(time: datetime) -> None:
    _assert_same_instant(time)


def _assert_same_instant(time: datetime) -> None:
    (found,) = to_instants(CONTRACT, pd.Series([time]).astype("datetime64[us]"))
    assert CONTRACT.time_column.zone
    (of_request,) = moments(CONTRACT.time_column.zone, column_maker(CONTRACT.time_column)([time]).astype(np.int64))
    assert of_request == microseconds(found.to_pydatetime() - EPOCH)
    assert found == time.replace(tzinfo=ZoneInfo(CONTRACT.time_column.zone)).astimezone(UTC)


def test_instants_stay_what_they_are() -> None:
    contract = msgspec.structs.replace(CONTRACT, time=Time(name="starts_at", zone=None, parts=()))
    naive = pd.Series(pd.to_datetime(["2020-03-08 02:30"]))

    assert to_instants(contract, naive).tolist() == [pd.Timestamp("2020-03-08 02:30Z")]
    assert to_instants(contract, naive.dt.tz_localize("Asia/Tokyo")).tolist() == [pd.Timestamp("2020-03-07 17:30Z")]


def test_time_parts_count_as_the_contract_says() -> None:
    times = pd.Series(pd.to_datetime(["2020-03-01 08:15:59"]))

    parts = {part.value: time_part(times, part).tolist() for part in TimePart}

    assert parts == {"minute_of_day": [495], "hour": [8], "weekday": [6], "month": [3], "day_of_year": [61]}
