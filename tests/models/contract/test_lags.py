"""Lags: what a series was some time before, of what was known by then, whatever the order of rows."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from models.contract.columns import Category, Contract, Lag, Number, Time
from models.contract.lags import History, past_columns
from models.errors import ContractError

LOAD = Number(name="load", unit="MW", minimum=0, maximum=1000)
STATION = Category(name="station", values=("north", "south"), nullable=True)
LINE = Category(name="line", values=(1, 2), nullable=True)
INSTANT, NEW_YORK = Time(name="at", zone=None, parts=()), Time(name="at", zone="America/New_York", parts=())


def lag(hours: float = 1, **changes: Any) -> Lag:
    said: dict[str, Any] = {
        "name": "before",
        "of": "load",
        "by": ("station",),
        "unit": "MW",
        "minimum": 0,
        "maximum": 1000,
    }
    return Lag(hours=hours, **(said | changes))


def contract(*lags: Lag, time: Time = INSTANT, known: str | None = None) -> Contract:
    return Contract(time=time, features=(STATION, LINE, *lags), target=LOAD, known=known)


def moments(*texts: str | None, zone: str | None = "UTC") -> pd.Series:
    full = ["NaT" if text is None else text if "-" in text else f"2020-01-01 {text}" for text in texts]
    return pd.Series(pd.to_datetime(full, format="ISO8601").as_unit("us").tz_localize(zone))


def table(*rows: tuple[str | None, str | None, float | None], **more: Any) -> pd.DataFrame:
    """Rows of (time, station, load)."""
    at, station, load = zip(*rows, strict=True)
    columns = {"at": moments(*at), "station": list(station), "load": pd.Series(load, dtype="float64")}
    return pd.DataFrame(columns | more)


def found(of: Contract, past: pd.DataFrame, rows: pd.DataFrame | None = None) -> list[float | None]:
    lags = History(of, past).with_lags(past if rows is None else rows)["before"]
    return [None if np.isnan(one) else one for one in lags.tolist()]


SMALL = table(
    ("03:00", "north", 13.0),
    ("00:00", "north", 10.0),
    ("01:00", "north", 11.0),
    ("00:00", "south", 20.0),
    ("01:00", "south", 21.0),
    ("02:00", "south", None),
    ("03:00", "south", 23.0),
    ("04:00", "north", 14.0),
)


def test_a_lag_is_the_value_of_the_same_series_so_long_before() -> None:
    assert found(contract(lag(1)), SMALL) == [None, None, 10.0, None, 20.0, 21.0, None, 13.0]
    assert found(contract(lag(2)), SMALL) == [11.0, None, None, None, None, 20.0, 21.0, None]
    assert found(contract(lag(0.5)), SMALL) == [None] * 8


def test_within_its_tolerance_the_newest_earlier_value_is_taken() -> None:
    assert found(contract(lag(1, tolerance_minutes=60)), SMALL) == [11.0, None, 10.0, None, 20.0, 21.0, 21.0, 13.0]
    assert found(contract(lag(1, tolerance_minutes=59)), SMALL) == [None, None, 10.0, None, 20.0, 21.0, None, 13.0]
    late = table(("09:00", "north", None), ("06:00", "south", None))
    assert found(contract(lag(1, tolerance_minutes=300)), SMALL, late) == [14.0, 23.0]
    assert found(contract(lag(1, tolerance_minutes=100)), SMALL, late) == [None, None]


def test_new_rows_need_no_target_and_have_the_past_of_the_table() -> None:
    new = table(("05:00", "north", 0.0), ("05:00", "south", 0.0)).drop(columns="load")

    assert found(contract(lag(1)), SMALL, new) == [14.0, None]


def test_without_a_category_all_rows_are_of_one_series() -> None:
    assert found(contract(lag(1, by=())), table(("00:00", None, 1.0), ("01:00", "south", 2.0))) == [None, 1.0]


def test_several_categories_tell_series_apart_together() -> None:
    by = contract(lag(1, by=("station", "line")))
    past = table(("00:00", "north", 1.0), ("00:00", "north", 2.0), ("00:00", "south", 3.0), line=[1, 2, 1])
    rows = table(*[("01:00", name, 0.0) for name in ("north", "north", "south", "south")], line=[2, 1, 1, 2])

    assert found(by, past, rows) == [2.0, 1.0, 3.0, None]


def test_series_that_are_not_known_and_rows_of_no_series_have_no_past() -> None:
    past = table(("00:00", "north", 1.0), ("00:00", None, 2.0), (None, "south", 3.0))
    rows = table(("01:00", "south", 0.0), ("01:00", None, 0.0), ("01:00", "west", 0.0), (None, "north", 0.0))

    assert found(contract(lag(1)), past, rows) == [None] * 4
    assert found(contract(lag(1)), past[:0], rows) == [None] * 4
    assert found(contract(lag(1)), past, rows[:0]) == []


def test_what_became_known_only_later_is_not_looked_at() -> None:
    of = contract(lag(1), known="known")
    past = table(
        *[(at, "north", load) for at, load in (("00:00", 1.0), ("01:00", 2.0), ("02:00", 3.0))],
        known=moments("01:00", "02:01", "02:30"),
    )

    assert found(of, past) == [None, 1.0, None]
    assert found(of, past, table(("02:00", "north", 0.0), ("03:00", "north", 0.0))) == [None, 3.0]


def test_a_value_that_was_known_is_taken_where_a_newer_one_was_not_yet() -> None:
    of = contract(lag(1, tolerance_minutes=120), known="known")
    past = table(
        *[(at, "north", load) for at, load in (("00:00", 1.0), ("01:00", 2.0), ("02:00", 3.0))],
        known=moments("00:00", "09:00", "09:00"),
    )

    assert found(of, past, table(("03:00", "north", 0.0), ("04:00", "north", 0.0), ("09:00", "north", 0.0))) == [
        1.0,
        None,
        None,
    ]


def test_of_a_corrected_value_the_last_that_was_known_then_is_taken() -> None:
    of = contract(lag(1), known="known")
    past = table(
        ("00:00", "north", 7.0),
        ("00:00", "north", 5.0),
        ("00:00", "north", 6.0),
        known=moments("02:00", "00:30", "00:10"),
    )
    rows = table(("01:00", "north", 0.0))
    later = rows.assign(at=moments("01:00:00.9"))

    assert found(of, past, rows) == [5.0]
    assert found(of, past, later) == [5.0]  # times count to the second
    assert found(of, past.assign(known=moments("00:10", "00:10", "02:00")), rows) == [7.0]  # together: the largest


def test_a_feature_is_known_at_its_own_moment_though_its_target_comes_late() -> None:
    heat = Number(name="heat", unit="C", minimum=-50, maximum=50)
    warm = lag(1, name="before", of="heat", unit="C", minimum=-50, maximum=50)
    of = Contract(time=INSTANT, features=(STATION, heat, warm), target=LOAD, known="known")
    past = table(("00:00", "north", 1.0), heat=[21.0], known=moments("09:00"))

    assert past_columns(of) == ["at", "heat", "station"]
    assert found(of, past, table(("01:00", "north", 0.0))) == [21.0]


def test_hours_are_those_that_have_passed_when_clocks_are_changed() -> None:
    of = contract(lag(24), time=NEW_YORK)
    times = ["2020-03-07 12:00", "2020-03-08 12:00", "2020-03-08 13:00", "2020-03-09 13:00"]
    past = pd.DataFrame({"at": moments(*times, zone=None), "station": "north", "load": [1.0, 2.0, 3.0, 4.0]})

    assert found(of, past) == [None, None, 1.0, 3.0]  # an hour was left out on 8 March


def test_moments_go_before_the_time_column() -> None:
    of = contract(lag(1), time=NEW_YORK, known="known")
    past = pd.DataFrame({"at": moments("2020-11-01 01:30", zone=None), "station": "north", "load": [1.0]})
    past = past.assign(event_at=moments("2020-11-01 06:30"), known_at=moments("2020-11-01 06:45"))  # the second 01:30
    rows = pd.DataFrame({"at": moments("2020-11-01 02:30", "2020-11-01 02:30", zone=None), "station": "north"})

    assert found(of, past, rows) == [1.0, 1.0]


def test_lags_that_rows_have_stay_as_they_are() -> None:
    of = contract(lag(1), lag(2, name="earlier"))
    rows = table(("02:00", "north", 0.0), ("03:00", "north", 0.0)).assign(before=[77.0, np.nan])

    with_lags = History(of, SMALL).with_lags(rows)

    assert with_lags["before"].tolist()[0] == 77.0
    assert np.isnan(with_lags["before"].tolist()[1])
    assert with_lags["earlier"].tolist() == [10.0, 11.0]
    assert "earlier" not in rows


def test_what_a_request_could_not_send_is_null() -> None:
    past = table(
        ("00:00", "north", 1000.5), ("01:00", "north", 1000.0), ("02:00", "north", np.inf), ("03:00", "north", 1.0)
    )

    assert found(contract(lag(1)), past) == [None, None, 1000.0, None]


@pytest.mark.parametrize(
    ("of", "past", "reason"),
    [
        (contract(lag()), SMALL.drop(columns="load"), r"the past: columns \['load'\] are missing, from which lags"),
        (contract(lag(), known="told"), SMALL, r"the past: columns \['told'\] are missing"),
        (
            contract(lag()),
            SMALL.assign(at="2020-01-01"),
            "column 'at' is str, no moments; read it by pandas.to_datetime",
        ),
    ],
)
def test_a_past_that_cannot_be_read_is_refused(of: Contract, past: pd.DataFrame, reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        History(of, past)


def test_rows_without_their_series_are_refused() -> None:
    with pytest.raises(ContractError, match=r"the rows: columns \['station'\] are missing"):
        History(contract(lag()), SMALL).with_lags(SMALL[["at"]])


ROW = some.tuples(
    some.integers(0, 8), some.sampled_from(["north", "south", None]), some.integers(0, 5), some.integers(0, 12)
)


@given(
    past=some.lists(ROW, max_size=40),
    rows=some.lists(ROW, max_size=10),
    hours=some.integers(1, 4),
    older=some.integers(0, 4),
)
def test_finds_what_looking_at_every_row_of_the_past_finds(
    past: list[tuple[int, str | None, int, int]],
    rows: list[tuple[int, str | None, int, int]],
    hours: int,
    older: int,
) -> None:
    of = contract(lag(hours, tolerance_minutes=60 * older), known="known")

    def frame(some: list[tuple[int, str | None, int, int]]) -> pd.DataFrame:
        at, station, load, known = (list(one) for one in zip(*some, strict=True)) if some else ([], [], [], [])
        start = pd.Timestamp("2020-01-01", tz="UTC")
        times = {
            name: [start + pd.Timedelta(hours=hour) for hour in hours] for name, hours in (("at", at), ("known", known))
        }
        columns = {name: pd.Series(values, dtype="datetime64[us, UTC]") for name, values in times.items()}
        return pd.DataFrame(
            columns | {"station": pd.Series(station, dtype=object), "load": pd.Series(load, dtype=float)}
        )

    def looked_up(at: int, station: str | None) -> float | None:
        there = [
            (then, known, float(load))
            for then, where, load, known in past
            if where == station is not None and at - hours - older <= then <= at - hours and known <= at
        ]
        return max(there)[2] if there else None

    assert found(of, frame(past), frame(rows)) == [looked_up(at, station) for at, station, _, _ in rows]


def test_millions_of_rows_are_looked_up_together() -> None:
    hours, stations = 200_000, np.array(["north", "south"], dtype=object)
    at = pd.Series(pd.date_range("2000-01-01", periods=hours, freq="h", tz="UTC").as_unit("us")).repeat(2)
    load = np.arange(2 * hours) % 1000.0
    past = pd.DataFrame({"at": at.to_numpy(), "station": np.tile(stations, hours), "load": load})
    shuffled = past.sample(frac=1, random_state=0)

    lags = History(contract(lag(24)), shuffled).with_lags(past)["before"]

    assert lags[:48].isna().all()
    assert (lags[48:].to_numpy() == load[:-48]).all()
