"""Ingest: a commit a file, bad rows apart with their reason, bad files refused by name, nothing done twice."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from flows.ingest import ingest
from infra import tables
from infra.errors import NotFound
from models.errors import ContractError
from tests.flows.conftest import MonthMaker, lake

QUARANTINE = "quarantine/trips/2020-01.parquet"


def quarantined() -> pd.DataFrame:
    return tables.read(lake(), "main", QUARANTINE)


def test_commits_a_file_and_sets_its_bad_rows_apart(home: Path, make_month: MonthMaker) -> None:
    (done,) = ingest("taxi_eta", str(make_month("2020-01")))

    accepted = tables.read(lake(), "main", "data/trips/2020-01.parquet")
    refused = quarantined()
    assert (done.partition, done.rows, done.refused, done.cached) == ("2020-01", len(accepted), len(refused), False)
    assert done.rows + done.refused == 2000
    assert done.refused > 0
    assert refused["refused_because"].str.contains("outside").all()
    assert done.quarantine == QUARANTINE
    assert max(done.reasons.values()) <= done.refused <= sum(done.reasons.values())
    assert all("outside" in reason for reason in done.reasons)
    commit = next(lake().log("main"))
    assert (commit.id, commit.metadata["kind"]) == (done.commit, "ingest")


def test_a_file_that_is_in_the_lake_changes_nothing(home: Path, make_month: MonthMaker) -> None:
    file = str(make_month("2020-01"))
    (first,) = ingest("taxi_eta", file)

    (again,) = ingest("taxi_eta", file)

    assert again.cached
    assert lake().resolve("main") == first.commit == again.commit


def test_a_corrected_file_replaces_and_the_first_one_is_not_answered_from_the_cache(
    home: Path, make_month: MonthMaker
) -> None:
    first_file, corrected_file = make_month("2020-01"), make_month("2020-01", lambda rows: rows.iloc[:-100])
    (first,) = ingest("taxi_eta", str(first_file))

    (corrected,) = ingest("taxi_eta", str(corrected_file))
    (back,) = ingest("taxi_eta", str(first_file))

    assert corrected.rows < first.rows
    assert (back.rows, back.digest, back.cached) == (first.rows, first.digest, False)
    assert lake().stat("main", "data/trips/2020-01.parquet").digest == first.digest


def test_a_file_that_differs_in_its_bad_rows_alone_replaces_the_quarantine(home: Path, make_month: MonthMaker) -> None:
    def with_a_free_trip(rows: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([rows, rows.iloc[[0]].assign(fare_amount=0.0)], ignore_index=True)

    files = [str(make_month("2020-01", with_a_free_trip)), str(make_month("2020-01"))]

    found = [ingest("taxi_eta", file)[0] for file in (files[0], files[1], files[0])]

    assert [one.refused - found[1].refused for one in found] == [1, 0, 1]
    assert len({one.digest for one in found}) == 1
    assert not any(one.cached for one in found)
    assert lake().stat("main", QUARANTINE).digest == found[0].refused_digest == found[2].refused_digest


def test_a_file_without_bad_rows_empties_the_quarantine(home: Path, make_month: MonthMaker) -> None:
    ingest("taxi_eta", str(make_month("2020-01")))
    bad = set(quarantined()[["pickup_at", "dropoff_at"]].itertuples(index=False, name=None))

    def mended(rows: pd.DataFrame) -> pd.DataFrame:
        trips = zip(rows["pickup_datetime"], rows["dropoff_datetime"], strict=True)
        return rows[[trip not in bad for trip in trips]]

    (done,) = ingest("taxi_eta", str(make_month("2020-01", mended)))

    assert (done.refused, done.refused_digest) == (0, None)
    assert lake().list("main", "quarantine/") == []


def test_a_folder_is_a_commit_a_file_in_the_order_of_names(home: Path, make_month: MonthMaker, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for month in ("2020-02", "2020-01"):
        make_month(month).rename(folder / f"{month}.parquet")

    done = ingest("taxi_eta", str(folder))

    assert [(one.file, one.partition) for one in done] == [(f"{name}.parquet", name) for name in ("2020-01", "2020-02")]
    newest = [commit.id for commit in lake().log("main")][:3:2]
    assert newest == [done[1].commit, done[0].commit]


def test_a_copy_under_another_name_is_found_again_by_its_own_name(home: Path, make_month: MonthMaker) -> None:
    file = make_month("2020-01")
    (first,) = ingest("taxi_eta", str(file))

    (copied,) = ingest("taxi_eta", str(file.rename(file.with_name("copy.parquet"))))

    assert (copied.file, copied.cached, copied.commit) == ("copy.parquet", True, first.commit)


def test_another_branch_is_not_answered_from_the_cache_and_main_stays(home: Path, make_month: MonthMaker) -> None:
    file = str(make_month("2020-01"))
    (first,) = ingest("taxi_eta", file)
    lake().create_branch("trial", next(lake().log("main", "data/")).parents[0])

    (done,) = ingest("taxi_eta", file, branch="trial")

    assert (done.cached, done.digest) == (False, first.digest)
    assert lake().resolve("trial") == done.commit != lake().resolve("main") == first.commit


def test_another_lake_is_not_answered_from_the_cache(
    home: Path, make_month: MonthMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(make_month("2020-01"))
    ingest("taxi_eta", file)
    monkeypatch.setenv("OKRUH_HOME", str(tmp_path / "other"))

    (done,) = ingest("taxi_eta", file)

    assert not done.cached
    assert lake().stat("main", "data/trips/2020-01.parquet").digest == done.digest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.drop(columns="fare_amount"), r"columns \['fare_amount'\] are missing"),
        (lambda rows: rows.rename(columns={"trip_distance": "miles"}), r"columns \['trip_distance'\] are missing"),
        (lambda rows: rows.iloc[:0], "no rows"),
        (lambda rows: rows.astype({"trip_distance": str}), "'trip_distance' should be number"),
        (lambda rows: rows.assign(fare_amount=0.0), "100% of 2000 rows break the contract"),
        (lambda rows: rows.iloc[:900], "good rows, at least 1000 are needed"),
        (lambda rows: rows.iloc[:1500], "wait for the whole file"),
    ],
)
def test_refuses_a_bad_file_by_name_and_leaves_main_alone(
    home: Path, make_month: MonthMaker, change: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    before = lake().resolve("main")

    with pytest.raises(ContractError, match=rf"trips_2020-01\.parquet: .*{reason}"):
        ingest("taxi_eta", str(make_month("2020-01", change)))

    assert lake().resolve("main") == before
    assert list(lake().branches()) == ["main"]


def test_refuses_what_is_no_parquet_by_name(home: Path, tmp_path: Path) -> None:
    (tmp_path / "trips.parquet").write_bytes(b"PAR1 and nothing more")

    with pytest.raises(ContractError, match=r"trips\.parquet: not a Parquet file"):
        ingest("taxi_eta", str(tmp_path / "trips.parquet"))


def test_says_when_there_is_nothing_to_ingest(home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(NotFound, match=r"holds no \.parquet or \.csv file"):
        ingest("taxi_eta", str(tmp_path / "empty"))
    with pytest.raises(NotFound, match="does not exist"):
        ingest("taxi_eta", str(tmp_path / "nowhere"))
