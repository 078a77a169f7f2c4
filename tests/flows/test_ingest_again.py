"""Ingest of a folder that was ingested before: reads what changed, commits what differs, and is never deceived."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from flows import screens
from flows.ingest import ingest
from flows.sync import Ingested, found_again
from infra.errors import Unavailable
from infra.lake.transaction import transaction
from models.catalog import taxi_eta
from models.errors import ContractError
from tests.flows import drafting
from tests.flows.conftest import MonthMaker, lake
from tests.flows.drafting import edit, rides

MONTHS = ("2020-01", "2020-02")

_opened: list[str] = []


def _note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and str(arguments[0]).endswith(".parquet"):
        _opened.append(Path(str(arguments[0])).stem)


sys.addaudithook(_note_opened)

FolderMaker = Callable[..., Path]


@pytest.fixture
def make_folder(make_month: MonthMaker, tmp_path: Path) -> FolderMaker:
    """Write a folder of months, an hour old; `change` may spoil their rows."""

    def make(name: str = "raw", change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for month in MONTHS:
            age(make_month(month, change).rename(folder / f"{month}.parquet"))
        return folder

    return make


def age(file: Path) -> Path:
    """Have a file be written an hour ago."""
    an_hour_ago_ns = time.time_ns() - 3600 * 10**9
    os.utime(file, ns=(an_hour_ago_ns, an_hour_ago_ns))
    return file


def synced(folder: Path, branch: str | None = None) -> tuple[list[Ingested], list[str]]:
    """Ingest a folder, and say which of its files were opened."""
    _opened.clear()
    done = ingest("taxi_eta", str(folder), branch)
    return done, sorted({name for name in _opened if (folder / f"{name}.parquet").exists()})


def without_end(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[:-100]


def index(home: Path) -> Path:
    return home / "cache" / "seen" / "taxi-eta.sqlite"


def test_reads_and_commits_nothing_where_nothing_changed(home: Path, make_folder: FolderMaker) -> None:
    folder = make_folder()
    first, read_first = synced(folder)
    head = lake().resolve("main")

    again, read_again = synced(folder)

    assert (read_first, read_again) == ([*MONTHS], [])
    assert [one.cached for one in first + again] == [False, False, True, True]
    assert [(one.file, one.commit, one.reasons) for one in again] == [(o.file, o.commit, o.reasons) for o in first]
    assert lake().resolve("main") == head


def test_reads_the_file_that_changed_alone(home: Path, make_folder: FolderMaker, make_month: MonthMaker) -> None:
    folder = make_folder()
    synced(folder)
    age(make_month(MONTHS[1], without_end).replace(folder / f"{MONTHS[1]}.parquet"))

    done, read = synced(folder)

    assert read == [MONTHS[1]]
    assert [one.cached for one in done] == [True, False]
    assert lake().resolve("main") == done[1].commit


def test_reads_a_file_that_was_written_over_with_its_old_times_kept(home: Path, make_folder: FolderMaker) -> None:
    folder = make_folder()
    synced(folder)
    file = folder / f"{MONTHS[0]}.parquet"
    before = file.stat()
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    done, read = synced(folder)

    assert read == [MONTHS[0]]
    assert all(one.cached for one in done)


def test_reads_again_what_was_too_new_to_be_trusted(home: Path, make_folder: FolderMaker) -> None:
    folder = make_folder()
    (folder / f"{MONTHS[0]}.parquet").touch()
    synced(folder)

    done, read = synced(folder)

    assert read == [MONTHS[0]]
    assert all(one.cached for one in done)


def test_finds_all_again_without_a_flow_or_nothing(
    home: Path, make_folder: FolderMaker, make_month: MonthMaker
) -> None:
    folder = make_folder()
    nothing = found_again("taxi_eta", str(folder)), (home / "lake").exists()
    synced(folder)

    again = found_again("taxi_eta", str(folder))

    assert nothing == (None, False)
    assert again == synced(folder)[0]
    age(make_month(MONTHS[1], without_end).replace(folder / f"{MONTHS[1]}.parquet"))
    assert found_again("taxi_eta", str(folder)) is None


def test_ingests_again_under_another_contract(
    home: Path, make_folder: FolderMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    first, _ = synced(folder)
    short_trips = msgspec.structs.replace(taxi_eta.MODEL.contract.target, maximum=60)
    contract = msgspec.structs.replace(taxi_eta.MODEL.contract, target=short_trips)
    monkeypatch.setattr(taxi_eta, "MODEL", replace(taxi_eta.MODEL, contract=contract))

    done, read = synced(folder)

    assert read == [*MONTHS]
    assert not any(one.cached for one in done)
    assert all(after.refused > before.refused for before, after in zip(first, done, strict=True))


def test_ingests_again_into_a_lake_that_was_made_anew(home: Path, make_folder: FolderMaker) -> None:
    folder = make_folder()
    first, _ = synced(folder)
    shutil.rmtree(home / "lake")

    done, _ = synced(folder)

    assert not any(one.cached for one in done)
    assert [one.digest for one in done] == [one.digest for one in first]
    assert lake().resolve("main") == done[-1].commit


def test_tells_the_commit_of_the_lake_that_is_there(home: Path, make_folder: FolderMaker) -> None:
    folder, copy = make_folder("raw"), make_folder("copy")
    synced(folder)
    shutil.rmtree(home / "lake")
    copied, _ = synced(copy)

    done, _ = synced(folder)

    assert all(one.cached for one in done)
    assert [one.commit for one in done] == [one.commit for one in copied]


def test_remembers_by_branch(home: Path, make_folder: FolderMaker) -> None:
    folder = make_folder()
    start = lake().resolve("main")
    synced(folder)
    lake().create_branch("trial", start)

    done, read = synced(folder, branch="trial")
    again, read_again = synced(folder, branch="trial")

    assert (read, read_again) == ([*MONTHS], [])
    assert [one.cached for one in done + again] == [False, False, True, True]
    assert lake().resolve("trial") == done[1].commit != lake().resolve("main")


def test_a_lost_index_costs_one_look_at_the_content(home: Path, make_folder: FolderMaker) -> None:
    folder = make_folder()
    synced(folder)
    head = lake().resolve("main")
    index(home).unlink()

    done, read = synced(folder)
    _, read_again = synced(folder)

    assert (read, read_again) == ([*MONTHS], [])
    assert all(one.cached for one in done)
    assert lake().resolve("main") == head


@pytest.mark.parametrize("place", ["data/trips/2020-01.parquet", "quarantine/trips/2020-01.parquet"])
def test_brings_back_what_is_gone_from_the_lake(home: Path, make_folder: FolderMaker, place: str) -> None:
    folder = make_folder()
    synced(folder)
    digest = lake().stat("main", place).digest
    with transaction(lake(), "main", "drop", {}) as work:
        work.delete(place)

    done, read = synced(folder)

    assert read == [MONTHS[0]]
    assert [one.cached for one in done] == [False, True]
    assert lake().stat("main", place).digest == digest


def test_the_last_of_two_files_of_a_month_stands_after_every_run(
    home: Path, make_folder: FolderMaker, make_month: MonthMaker
) -> None:
    folder = make_folder()
    age(make_month(MONTHS[0], without_end).replace(folder / "corrected.parquet"))

    runs = [synced(folder)[0] for _ in range(3)]

    for done in runs:
        assert [one.file for one in done][-1] == "corrected.parquet"
        assert not done[-1].cached
    assert len({done[-1].digest for done in runs}) == 1
    assert lake().stat("main", f"data/trips/{MONTHS[0]}.parquet").digest == runs[-1][-1].digest


def test_names_a_file_that_cannot_be_read_any_more(home: Path, make_folder: FolderMaker) -> None:
    folder = make_folder()
    synced(folder)
    file = folder / f"{MONTHS[0]}.parquet"
    file.unlink()
    file.symlink_to("nowhere")

    with pytest.raises(Unavailable, match=rf"{MONTHS[0]}\.parquet cannot be read: No such file"):
        ingest("taxi_eta", str(folder))


def test_rows_that_another_file_has_are_told_or_where_rows_are_unique_refused(
    drafted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, later = rides(), rides(100).assign(at=lambda rows: rows["at"] + pd.Timedelta(days=365))
    first.loc[::7, "z"] = None
    edit(drafted, ('"z", unit="",', '"z", unit="", nullable=True,'))
    for name, rows in {"a": first, "b": pd.concat([first[:300], later]), "c": later.assign(y=0.0)}.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False)

    a, b, c = (ingest("rides", str(tmp_path / f"{name}.csv"))[0] for name in "abc")
    screens.ingested([a, b, c])
    first[:1].to_csv(tmp_path / "one.csv", index=False)
    (one,) = ingest("rides", str(tmp_path / "one.csv"))
    screens.ingested([one])
    told = [line for line in capsys.readouterr().out.splitlines() if "already" in line]

    assert [one.repeated_rows for one in (a, b, c, one)] == [0, 300, 0, 1]
    assert b.shared_with == {"data/rows/a.parquet": a.digest}
    assert b.rows == 400
    assert told[0].startswith(
        "300 rows are in data/rows/a.parquet already and count again; columns that the contract's"
    )
    assert told[1].startswith("1 row is in data/rows/a.parquet, data/rows/b.parquet already and counts again; ")
    with transaction(drafting.lake(), "main", "drop", {}) as work:
        work.delete("data/rows/one.parquet")

    edit(drafted, ("    partition=", '    unique=("at", "z"),\n    maximum_refused=0.8,\n    partition='))
    (again,) = ingest("rides", str(tmp_path / "a.csv"))
    (b,) = ingest("rides", str(tmp_path / "b.csv"))

    assert (again.rows, again.reasons) == (1700, {"duplicate of a row in data/rows/b.parquet": 300})
    assert (b.rows, b.reasons) == (300, {"duplicate of a row in data/rows/c.parquet": 100})
    first[-50:].to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(
        ContractError,
        match=r"^d\.csv: 100% of 50 rows .*: duplicate of a row in data/rows/a.*`okruh lake forget rides --",
    ):
        ingest("rides", str(tmp_path / "d.csv"))


def test_rows_are_not_lost_when_the_file_that_had_them_first_has_them_no_more(drafted: Path, tmp_path: Path) -> None:
    edit(drafted, ("    partition=", '    unique=("at", "x"),\n    maximum_refused=0.9,\n    partition='))
    rows, folder = rides(1500), tmp_path / "raw"
    folder.mkdir()

    def ingested(**files: pd.DataFrame) -> list[int]:
        for name, part in files.items():
            part.to_csv(folder / f"{name}.csv", index=False)
            age(folder / f"{name}.csv")
        return [one.rows for one in ingest("rides", str(folder))]

    runs = [
        ingested(a=rows[:1000], b=rows[500:1500]),
        ingested(a=rows[:400]),
        ingested(b=rows[900:1500]),
        ingested(a=rows[:1000]),
        ingested(b=rows[950:1500]),  # comes after a, of whose rows some were refused for those of b before
        ingested(),
    ]

    assert runs == [[1000, 500], [400, 1000], [400, 600], [900, 600], [950, 550], [950, 550]]
