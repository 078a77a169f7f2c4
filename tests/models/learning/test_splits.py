"""Splits in time: three spans, each later than the one before, that lose nothing."""

from datetime import UTC, datetime, timedelta

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from models.learning.splits import Split, split_in_time

START = pd.Timestamp("2020-01-01", tz=UTC)


def split(days: list[int], validation_day: int, test_day: int) -> tuple[Split, pd.Series]:
    at = START + pd.Series(pd.to_timedelta(days, unit="D"))
    table = pd.DataFrame({"day": days})
    cuts = (START + timedelta(days=day) for day in (validation_day, test_day))
    return split_in_time(table, at, *cuts), at


def test_a_row_at_a_border_belongs_to_the_later_span() -> None:
    spans, _ = split([4, 1, 2, 3], validation_day=2, test_day=3)

    assert [spans.train["day"].tolist(), spans.validation["day"].tolist(), spans.test["day"].tolist()] == [
        [1],
        [2],
        [4, 3],
    ]


def test_one_border_leaves_no_validation_rows() -> None:
    spans, _ = split([1, 2, 3], validation_day=2, test_day=2)

    assert spans.validation.empty
    assert spans.test["day"].tolist() == [2, 3]


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 50), st.integers(0, 50))
def test_nothing_is_lost_and_nothing_later_is_learned_from(days: list[int], validation: int, more: int) -> None:
    spans, _ = split(days, validation, validation + more)

    parts = [spans.train, spans.validation, spans.test]
    assert sorted(row for part in parts for row in part.index) == list(range(len(days)))
    assert (spans.train["day"] < validation).all()
    assert (spans.validation["day"] < validation + more).all()
    assert (spans.test["day"] >= validation + more).all()


def test_takes_plain_moments() -> None:
    at = pd.Series(pd.to_datetime(["2020-01-01", "2020-02-01"], utc=True))
    cut = pd.Timestamp(datetime(2020, 1, 15, tzinfo=UTC))

    assert len(split_in_time(at.to_frame(), at, cut, cut).test) == 1
