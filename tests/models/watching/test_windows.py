"""Windows: whole, without gap or overlap, between the midnights of the contract's zone."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.watching.windows import windows

NEW_YORK = ZoneInfo("America/New_York")

moments = st.datetimes(datetime(2016, 1, 1), datetime(2024, 1, 1), timezones=st.just(UTC))
zones = st.sampled_from([None, "America/New_York", "America/Sao_Paulo", "America/Havana", "Australia/Lord_Howe"])


def in_new_york(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=NEW_YORK)


def hours(spans: list[tuple[datetime, datetime]]) -> list[float]:
    return [(end - start) / timedelta(hours=1) for start, end in spans]


def test_weeks_begin_on_mondays_at_local_midnight() -> None:
    spans = list(windows(in_new_york(2020, 1, 8, 12), in_new_york(2020, 1, 27), 7, "America/New_York"))

    assert spans == [
        (datetime(2020, 1, 6, 5, tzinfo=UTC), datetime(2020, 1, 13, 5, tzinfo=UTC)),
        (datetime(2020, 1, 13, 5, tzinfo=UTC), datetime(2020, 1, 20, 5, tzinfo=UTC)),
        (datetime(2020, 1, 20, 5, tzinfo=UTC), datetime(2020, 1, 27, 5, tzinfo=UTC)),
    ]
    assert all(moment.tzinfo is UTC for span in spans for moment in span)


def test_the_week_in_which_clocks_change_is_an_hour_shorter_or_longer() -> None:
    spring = list(windows(in_new_york(2020, 3, 2), in_new_york(2020, 3, 16), 7, "America/New_York"))
    autumn = list(windows(in_new_york(2020, 10, 26), in_new_york(2020, 11, 9), 7, "America/New_York"))

    assert spring[0] == (datetime(2020, 3, 2, 5, tzinfo=UTC), datetime(2020, 3, 9, 4, tzinfo=UTC))
    assert autumn[0] == (datetime(2020, 10, 26, 4, tzinfo=UTC), datetime(2020, 11, 2, 5, tzinfo=UTC))
    assert hours(spring) == [167, 168]
    assert hours(autumn) == [169, 168]


@pytest.mark.parametrize(
    "moment", [datetime(2020, 11, 1, hour, 30, tzinfo=UTC) for hour in (4, 5, 6)]
)  # 00:30, 01:30 and 01:30 again
def test_an_hour_that_occurs_twice_lies_in_one_day(moment: datetime) -> None:
    spans = list(windows(moment, in_new_york(2020, 11, 3), 1, "America/New_York"))

    assert spans[0][0] == in_new_york(2020, 11, 1)
    assert hours(spans) == [25, 24]


def test_without_a_zone_midnight_is_that_of_utc() -> None:
    spans = list(windows(datetime(2020, 3, 8, 23, tzinfo=UTC), datetime(2020, 3, 10, 1, tzinfo=UTC), 1, None))

    assert spans == [
        (datetime(2020, 3, 8, tzinfo=UTC), datetime(2020, 3, 9, tzinfo=UTC)),
        (datetime(2020, 3, 9, tzinfo=UTC), datetime(2020, 3, 10, tzinfo=UTC)),
    ]


def test_a_window_is_cut_when_it_is_whole_and_not_before() -> None:
    after, end = in_new_york(2020, 1, 6), in_new_york(2020, 1, 13)

    assert list(windows(after, end - timedelta(seconds=1), 7, "America/New_York")) == []
    assert len(list(windows(after, end, 7, "America/New_York"))) == 1


@given(moments, st.integers(0, 60), st.integers(1, 10), zones)
def test_windows_follow_each_other_from_the_one_that_holds_the_first_moment(
    after: datetime, span_days: int, days: int, zone: str | None
) -> None:
    until = after + timedelta(days=span_days)

    spans = list(windows(after, until, days, zone))

    assert all(end == start for (_, end), (start, _) in pairwise(spans))
    assert all(abs((end - start) - timedelta(days=days)) <= timedelta(hours=1) for start, end in spans)
    if spans:
        assert spans[0][0] <= after < spans[0][1]
        assert spans[-1][1] <= until < spans[-1][1] + timedelta(days=days, hours=1)
    else:
        assert span_days <= days


@given(moments, st.integers(0, 40), st.integers(0, 40), st.integers(1, 10), zones)
def test_looking_twice_finds_each_window_once(
    after: datetime, first_days: int, second_days: int, days: int, zone: str | None
) -> None:
    middle = after + timedelta(days=first_days)
    until = middle + timedelta(days=second_days)

    first = list(windows(after, middle, days, zone))
    second = list(windows(first[-1][1] if first else after, until, days, zone))

    assert first + second == list(windows(after, until, days, zone))
