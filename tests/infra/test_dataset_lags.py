"""What was known at a moment, with lags: from table and journal, whatever came when, and nothing known only later."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from infra import tables
from infra.dataset import LABELS, PREDICTIONS, known_rows, partition_path
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.transaction import transaction
from models.contract.columns import Category, Contract, Lag, Number, Time
from models.model import Model

FAR = datetime(2030, 1, 1, tzinfo=UTC)
LOAD = Number(name="load", unit="MW", minimum=0, maximum=1000)
DAY = Lag(name="load_1d", of="load", hours=24, by=("station",), unit="MW", minimum=0, maximum=1000)
TWO_DAYS = Lag(name="load_2d", of="load", hours=48, by=("station",), unit="MW", minimum=0, maximum=1000)
CONTRACT = Contract(
    time=Time(name="at", zone=None, parts=()),
    features=(Category(name="station", values=("north", "south")), DAY),
    target=LOAD,
    known="told_at",
)
MODEL = Model(
    name="load",
    description="Load of a station.",
    contract=CONTRACT,
    network=lambda _: pytest.fail("nothing is trained"),
)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[EmbeddedLake]:
    """An empty one."""
    made = EmbeddedLake(tmp_path)
    yield made
    made.close()


def put(lake: EmbeddedLake, objects: Mapping[str, pd.DataFrame]) -> None:
    with transaction(lake, "main", "put", {}) as work:
        for path, table in objects.items():
            work.put(path, tables.encode(table))


def moments(*texts: str) -> pd.DatetimeIndex:
    return pd.to_datetime(list(texts), utc=True).as_unit("us")


def measured(*rows: tuple[str, float], told_after: str = "0h") -> pd.DataFrame:
    """Accepted rows of one station from (time, load)."""
    at, load = zip(*rows, strict=True)
    times = moments(*at)
    return pd.DataFrame(
        {"at": times, "station": "north", "load": list(load), "told_at": times + pd.Timedelta(told_after)}
    )


def months(**tables: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        partition_path(MODEL, month.replace("_", "-").removeprefix("of-")): table for month, table in tables.items()
    }


def journal(*rows: tuple[str, float | None, float, str], archive: int = 1) -> dict[str, pd.DataFrame]:
    """Answered and labelled from (time, the lag that was sent, load, when it was told)."""
    at, sent, load, told = zip(*rows, strict=True)
    ids = [f"{archive}-{place}" for place in range(len(rows))]
    asked = {"at": moments(*at), "station": "north", "load_1d": np.array(sent, float), "event_at": moments(*at)}
    return {
        f"{PREDICTIONS}{archive}.parquet": pd.DataFrame({"id": ids, "version": "v1", "predicted": 1.0, **asked}),
        f"{LABELS}{archive}.parquet": pd.DataFrame({"id": ids, "value": list(load), "known_at": moments(*told)}),
    }


def before_lags(objects: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Give archives as they were before a lag was declared."""
    return {path: table.drop(columns="load_1d", errors="ignore") for path, table in objects.items()}


def lags(lake: EmbeddedLake, ref: str = "main", learn_from: datetime | None = None) -> dict[str, float | None]:
    """Give lags by the time of their row."""
    rows = known_rows(MODEL, lake, ref, FAR, learn_from).whole()
    times = rows["at"].dt.strftime("%m-%d %H")
    return {at: None if np.isnan(one) else one for at, one in zip(times, rows["load_1d"].tolist(), strict=True)}


JANUARY = measured(("2020-01-30T12:00Z", 1.0), ("2020-01-31T12:00Z", 2.0))
FEBRUARY = measured(("2020-02-01T12:00Z", 3.0), ("2020-02-02T12:00Z", 4.0))
BOTH = {"01-30 12": None, "01-31 12": 1.0, "02-01 12": 2.0, "02-02 12": 3.0}


@pytest.mark.parametrize("order", [("of_2020_01", "of_2020_02"), ("of_2020_02", "of_2020_01")])
def test_lags_go_back_beyond_a_partition_in_whatever_order_they_came(
    lake: EmbeddedLake, order: tuple[str, str]
) -> None:
    tables = {"of_2020_01": JANUARY, "of_2020_02": FEBRUARY}
    for month in order:
        put(lake, months(**{month: tables[month]}))

    assert lags(lake) == BOTH


def test_a_month_that_is_ingested_again_changes_what_follows_and_no_commit_of_before(lake: EmbeddedLake) -> None:
    put(lake, months(of_2020_01=JANUARY, of_2020_02=FEBRUARY))
    before = lake.resolve("main")
    put(lake, months(of_2020_01=measured(("2020-01-31T12:00Z", 9.0))))

    assert lags(lake) == {"01-31 12": None, "02-01 12": 9.0, "02-02 12": 3.0}
    assert lags(lake, before) == BOTH


def test_a_target_that_was_told_after_the_rows_own_moment_is_no_lag_of_it(lake: EmbeddedLake) -> None:
    put(lake, months(of_2020_01=measured(("2020-01-30T12:00Z", 1.0), ("2020-01-31T12:00Z", 2.0), told_after="25h")))
    put(lake, months(of_2020_02=measured(("2020-02-01T12:00Z", 3.0), ("2020-02-02T12:00Z", 4.0), told_after="24h")))

    assert lags(lake) == {"01-30 12": None, "01-31 12": None, "02-01 12": None, "02-02 12": 3.0}


def test_reads_as_far_back_as_the_longest_lag_and_no_further(lake: EmbeddedLake) -> None:
    put(lake, months(of_2019_12=measured(("2019-12-31T12:00Z", 0.0)), of_2020_01=JANUARY, of_2020_02=FEBRUARY))

    def read(learn_from: datetime) -> tuple[str, ...]:
        return known_rows(MODEL, lake, "main", FAR, learn_from).paths

    assert lags(lake, learn_from=datetime(2020, 2, 1, 12, tzinfo=UTC)) == {"02-01 12": 2.0, "02-02 12": 3.0}
    assert read(datetime(2020, 2, 1, 12, tzinfo=UTC)) == tuple(months(of_2020_01=JANUARY, of_2020_02=FEBRUARY))
    assert read(datetime(2020, 2, 2, 12, tzinfo=UTC)) == tuple(months(of_2020_02=FEBRUARY))


def test_answered_rows_keep_the_lag_that_was_sent_and_are_the_past_of_others(lake: EmbeddedLake) -> None:
    sent = [
        ("2020-02-03T12:00Z", 77.0, 5.0, "2020-02-04T12:00Z"),
        ("2020-02-04T12:00Z", None, 6.0, "2020-02-05T12:01Z"),
    ]
    put(lake, months(of_2020_02=FEBRUARY) | journal(*sent))
    put(
        lake,
        months(
            of_2020_03=measured(("2020-02-04T12:00Z", 60.0), ("2020-02-05T12:00Z", 7.0), ("2020-02-06T12:00Z", 8.0))
        ),
    )

    found = lags(lake)

    assert (found["02-03 12"], found["02-02 12"]) == (77.0, 3.0)
    assert known_rows(MODEL, lake, "main", FAR).whole()["load_1d"].tolist()[-4:] == pytest.approx(
        [5.0, 60.0, np.nan, 7.0], nan_ok=True
    )


def test_an_event_in_table_and_journal_counts_once_whatever_lag_was_sent(lake: EmbeddedLake) -> None:
    put(lake, months(of_2020_02=FEBRUARY) | journal(("2020-02-02T12:00Z", 3.5, 4.0, "2020-02-02T12:00Z")))

    assert known_rows(MODEL, lake, "main", FAR).whole()["load_1d"].tolist() == pytest.approx([np.nan, 3.5], nan_ok=True)


def test_answers_of_before_a_lag_was_declared_are_given_it(lake: EmbeddedLake) -> None:
    put(lake, months(of_2020_02=FEBRUARY) | before_lags(journal(("2020-02-03T12:00Z", None, 5.0, "2020-02-04T12:00Z"))))

    assert lags(lake)["02-03 12"] == 4.0


@pytest.mark.parametrize(("older", "newer"), [(1, 2), (2, 1)])
def test_answers_of_before_a_lag_was_declared_are_given_it_beside_answers_that_sent_it(
    lake: EmbeddedLake, older: int, newer: int
) -> None:
    undeclared = journal(("2020-02-03T12:00Z", None, 5.0, "2020-02-04T12:00Z"), archive=older)
    sent = [
        ("2020-02-04T12:00Z", None, 6.0, "2020-02-05T12:00Z"),
        ("2020-02-05T12:00Z", 77.0, 7.0, "2020-02-06T12:00Z"),
    ]
    put(lake, months(of_2020_02=FEBRUARY) | before_lags(undeclared) | journal(*sent, archive=newer))

    found = lags(lake)

    assert (found["02-03 12"], found["02-04 12"], found["02-05 12"]) == (4.0, None, 77.0)


def test_each_archive_is_given_the_lags_that_were_declared_since(lake: EmbeddedLake) -> None:
    two = replace(MODEL, contract=msgspec.structs.replace(CONTRACT, features=(*CONTRACT.features, TWO_DAYS)))
    answers = [
        before_lags(journal(("2020-02-03T12:00Z", None, 5.0, "2020-02-04T12:00Z"), archive=1)),
        journal(("2020-02-04T12:00Z", 77.0, 6.0, "2020-02-05T12:00Z"), archive=2),
        journal(("2020-02-05T12:00Z", None, 7.0, "2020-02-06T12:00Z"), archive=3),
    ]
    answers[2][f"{PREDICTIONS}3.parquet"]["load_2d"] = 88.0
    put(lake, months(of_2020_02=FEBRUARY) | answers[0] | answers[1] | answers[2])

    rows = known_rows(two, lake, "main", FAR).whole().tail(3)

    assert rows["load_1d"].tolist() == pytest.approx([4.0, 77.0, np.nan], nan_ok=True)
    assert rows["load_2d"].tolist() == [3.0, 4.0, 88.0]


def test_an_empty_lake_knows_no_lags_either(lake: EmbeddedLake) -> None:
    put(lake, {"data/other/2020-01.parquet": JANUARY})

    found = known_rows(MODEL, lake, "main", FAR)

    assert (found.paths, list(found.whole())) == ((), ["at", "station", "load", "load_1d", "event_at", "known_at"])
