"""What was known at a moment: nothing later, nothing earlier than asked, the same frame from the same lake."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from infra import tables
from infra.dataset import LABELS, PREDICTIONS, known_rows, labelled_predictions, partition_path
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.transaction import transaction
from models.catalog.taxi_eta import CONTRACT, MODEL

FAR = datetime(2030, 1, 1, tzinfo=UTC)


def trips(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """Accepted rows from (pickup, dropoff, minutes), wall times of New York."""
    pickup, dropoff, minutes = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            "pickup_at": pd.to_datetime(list(pickup)).as_unit("us"),
            "pickup_zone": 1,
            "dropoff_zone": 2,
            "trip_miles": 1.5,
            "passengers": 1.0,
            "trip_minutes": list(minutes),
            "dropoff_at": pd.to_datetime(list(dropoff)).as_unit("us"),
            "fare_usd": 9.0,
        }
    )


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[EmbeddedLake]:
    """An empty one."""
    made = EmbeddedLake(tmp_path)
    yield made
    made.close()


def put(lake: EmbeddedLake, **objects: pd.DataFrame) -> None:
    with transaction(lake, "main", "put", {}) as work:
        for path, table in objects.items():
            work.put(path, tables.encode(table))


def put_months(lake: EmbeddedLake) -> None:
    put(
        lake,
        **{
            partition_path(MODEL, "2020-01"): trips(("2020-01-31 23:50", "2020-02-01 00:10", 20.0)),
            partition_path(MODEL, "2020-02"): trips(
                ("2020-02-10 08:00", "2020-02-10 08:30", 30.0), ("2020-02-10 07:00", "2020-02-10 08:10", 70.0)
            ),
        },
    )


def answers(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """Archived predictions from (id, instant, predicted)."""
    ids, at, predicted = zip(*rows, strict=True)
    moments = pd.to_datetime(list(at), utc=True).as_unit("us")
    local = moments.tz_convert("America/New_York").tz_localize(None)
    table = trips(*[(str(moment), str(moment), 0.0) for moment in local])
    table = table[[column.name for column in CONTRACT.inputs]]
    return table.assign(id=list(ids), version="v1", predicted=list(predicted), event_at=moments)


def labels(*rows: tuple[str, float, str]) -> pd.DataFrame:
    """Archived labels from (id, value, instant)."""
    ids, values, at = zip(*rows, strict=True)
    return pd.DataFrame({"id": ids, "value": values, "known_at": pd.to_datetime(list(at), utc=True).as_unit("us")})


def test_reads_what_was_known_and_nothing_later(lake: EmbeddedLake) -> None:
    put_months(lake)
    at_half_past = datetime(2020, 2, 10, 13, 30, tzinfo=UTC)

    known = known_rows(MODEL, lake, "main", at_half_past).whole()
    before = known_rows(MODEL, lake, "main", at_half_past - pd.Timedelta(seconds=1)).whole()

    assert known["trip_minutes"].tolist() == [20.0, 70.0, 30.0]  # in the order in which they became known
    assert before["trip_minutes"].tolist() == [20.0, 70.0]
    assert known["event_at"].iloc[0] == pd.Timestamp("2020-02-01 04:50", tz="UTC")


def test_reads_no_partition_that_ended_before_it_is_to_learn(lake: EmbeddedLake) -> None:
    put_months(lake)

    later = known_rows(MODEL, lake, "main", FAR, learn_from=datetime(2020, 2, 10, 12, 30, tzinfo=UTC))
    at_the_edge = known_rows(MODEL, lake, "main", FAR, learn_from=datetime(2020, 2, 1, 4, 55, tzinfo=UTC))

    assert (later.whole()["trip_minutes"].tolist(), later.paths) == ([30.0], (partition_path(MODEL, "2020-02"),))
    assert at_the_edge.whole()["trip_minutes"].tolist() == [70.0, 30.0]
    assert at_the_edge.paths[0] == partition_path(MODEL, "2020-01")  # it is still January in New York


def test_joins_answers_and_labels_by_id_within_the_targets_range(lake: EmbeddedLake) -> None:
    asked = answers(*((name, "2020-03-01T12:00:00Z", 9.0) for name in "abcd"))
    told = labels(*((name, value, "2020-03-01T13:00:00Z") for name, value in (("c", 8.0), ("a", 7.0), ("b", 500.0))))
    put(lake, **{f"{PREDICTIONS}1.parquet": asked, f"{LABELS}1.parquet": told})

    rows, paths = labelled_predictions(CONTRACT, lake, "main")

    assert sorted(zip(rows["id"], rows["trip_minutes"], rows["predicted"], strict=True)) == [
        ("a", 7.0, 9.0),
        ("c", 8.0, 9.0),
    ]
    assert paths == (f"{PREDICTIONS}1.parquet", f"{LABELS}1.parquet")


def test_answers_are_learned_from_when_their_label_has_come(lake: EmbeddedLake) -> None:
    put_months(lake)
    put(
        lake,
        **{
            f"{PREDICTIONS}1.parquet": answers(("a", "2020-03-01T12:00:00Z", 9.0)),
            f"{LABELS}1.parquet": labels(("a", 11.0, "2020-03-02T12:00:00Z")),
        },
    )

    early = known_rows(MODEL, lake, "main", datetime(2020, 3, 2, 11, tzinfo=UTC)).whole()
    late = known_rows(MODEL, lake, "main", datetime(2020, 3, 2, 12, tzinfo=UTC)).whole()

    assert 11.0 not in early["trip_minutes"].tolist()
    assert late["trip_minutes"].tolist() == [*early["trip_minutes"], 11.0]


def test_answers_from_before_it_is_to_learn_are_left_out_however_late_their_label(lake: EmbeddedLake) -> None:
    asked = answers(("a", "2020-03-01T12:00:00Z", 9.0), ("b", "2020-03-02T12:00:00Z", 9.0))
    told = labels(("a", 11.0, "2020-03-05T12:00:00Z"), ("b", 12.0, "2020-03-03T12:00:00Z"))
    put(lake, **{f"{PREDICTIONS}1.parquet": asked, f"{LABELS}1.parquet": told})

    known = known_rows(MODEL, lake, "main", FAR, learn_from=datetime(2020, 3, 2, 12, tzinfo=UTC)).whole()

    assert known["trip_minutes"].tolist() == [12.0]


def test_rows_and_labels_outside_the_targets_range_are_not_learned_from(lake: EmbeddedLake) -> None:
    minutes = (0.99, 1.0, 120.0, 120.01, float("nan"))
    history = trips(*(("2020-01-05 08:00", "2020-01-05 08:30", one) for one in minutes))
    asked = answers(*((str(one), "2020-03-01T12:00:00Z", 9.0) for one in minutes))
    told = labels(*((str(one), one, "2020-03-01T13:00:00Z") for one in minutes))
    paths = (partition_path(MODEL, "2020-01"), f"{PREDICTIONS}1.parquet", f"{LABELS}1.parquet")
    put(lake, **dict(zip(paths, (history, asked, told), strict=True)))

    assert known_rows(MODEL, lake, "main", FAR).whole()["trip_minutes"].tolist() == [1.0, 120.0, 1.0, 120.0]


@pytest.mark.parametrize(
    ("pickup", "instant"),
    [
        ("2020-03-08 01:59", "2020-03-08 06:59"),
        ("2020-03-08 02:30", "2020-03-08 07:30"),  # skipped: an hour later, 03:30
        ("2020-03-08 03:00", "2020-03-08 07:00"),
        ("2020-11-01 00:59", "2020-11-01 04:59"),
        ("2020-11-01 01:30", "2020-11-01 05:30"),  # twice: the first of the two
        ("2020-11-01 02:00", "2020-11-01 07:00"),
    ],
)
def test_wall_times_are_instants_across_the_change_of_clocks(lake: EmbeddedLake, pickup: str, instant: str) -> None:
    put(lake, **{partition_path(MODEL, pickup[:7]): trips((pickup, pickup, 5.0))})
    moment = pd.Timestamp(instant, tz="UTC")

    rows = known_rows(MODEL, lake, "main", moment, learn_from=moment.to_pydatetime()).whole()
    before = known_rows(MODEL, lake, "main", moment - pd.Timedelta(seconds=1)).whole()

    assert (rows["event_at"].tolist(), rows["known_at"].tolist()) == ([moment], [moment])
    assert before.empty


def test_an_answer_in_the_hour_that_comes_twice_keeps_its_instant(lake: EmbeddedLake) -> None:
    asked = answers(("first", "2020-11-01T05:30:00Z", 9.0), ("second", "2020-11-01T06:30:00Z", 9.0))
    told = labels(("first", 8.0, "2020-11-01T08:00:00Z"), ("second", 8.0, "2020-11-01T08:00:00Z"))
    put(lake, **{f"{PREDICTIONS}1.parquet": asked, f"{LABELS}1.parquet": told})

    rows = known_rows(MODEL, lake, "main", FAR).whole()

    assert rows["pickup_at"].tolist() == [pd.Timestamp("2020-11-01 01:30")] * 2
    assert rows["event_at"].dt.hour.tolist() == [5, 6]


@pytest.mark.parametrize(
    "first", ["2020-03-01T10:00:00Z", "2020-11-01T05:30:00Z"]
)  # the latter in an hour that repeats
def test_the_order_of_arrival_does_not_matter(tmp_path: Path, first: str) -> None:
    def frame(folder: str, order: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
        lake = EmbeddedLake(tmp_path / folder)
        moments = [str(pd.Timestamp(first) + pd.Timedelta(hours=place)) for place in range(3)]
        asked = answers(*((name, moment, 9.0) for name, moment in zip("abc", moments, strict=True)))
        told = labels(*((name, 8.0, "2020-12-05T13:00:00Z") for name in "abc"))
        put(lake, **{f"{PREDICTIONS}1.parquet": order(asked), f"{LABELS}1.parquet": order(told)})
        rows = known_rows(MODEL, lake, "main", FAR).whole()
        lake.close()
        return rows

    pd.testing.assert_frame_equal(frame("one", lambda table: table), frame("other", lambda table: table.iloc[::-1]))


def test_an_empty_lake_knows_nothing(lake: EmbeddedLake) -> None:
    found = known_rows(replace(MODEL, table="walks"), lake, "main", FAR)

    assert (len(found.whole()), found.paths) == (0, ())
    assert "trip_minutes" in found.whole().columns


def test_an_event_that_was_answered_and_ingested_later_counts_once(lake: EmbeddedLake) -> None:
    put_months(lake)
    asked = answers(("a", "2020-02-10T13:00:00Z", 9.0), ("b", "2020-02-10T14:00:00Z", 9.0))
    told = labels(("a", 30.0, "2020-02-10T13:35:00Z"), ("b", 31.0, "2020-02-10T14:35:00Z"))
    put(lake, **{f"{PREDICTIONS}1.parquet": asked, f"{LABELS}1.parquet": told})

    known = known_rows(MODEL, lake, "main", FAR).whole()

    assert known["trip_minutes"].tolist() == [20.0, 70.0, 30.0, 31.0]
    assert known["known_at"].iloc[2] == pd.Timestamp("2020-02-10 13:35", tz="UTC")  # as the service learned it


def test_leaves_out_what_is_older_and_nothing_else_however_clocks_change(lake: EmbeddedLake) -> None:
    hours = [f"2020-11-01 {hour:02}:30" for hour in range(6)] + ["2020-10-30 12:00", "2020-10-31 23:59"]
    put(lake, **{partition_path(MODEL, "2020-11"): trips(*((hour, "2020-11-01 07:00", 60.0) for hour in hours))})
    everything = known_rows(MODEL, lake, "main", FAR).whole()

    for since in pd.date_range("2020-10-31T00:00Z", "2020-11-02T00:00Z", freq="30min"):
        rows = known_rows(MODEL, lake, "main", FAR, since.to_pydatetime()).whole()
        pd.testing.assert_frame_equal(rows, everything[everything["event_at"] >= since].reset_index(drop=True))
