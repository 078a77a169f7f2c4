"""Data difference: two states of the lake's table, as the command shows them."""

from pathlib import Path

import pytest

from flows import screens
from flows.data_diff import data_diff
from infra import tables
from infra.errors import NotFound
from infra.lake.protocol import Change
from infra.lake.transaction import transaction
from tests.flows.conftest import lake

PATH = "data/trips/2020-01.parquet"


def test_compares_what_changed_between_two_commits(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lake().resolve("main")
    january = tables.read(lake(), before, PATH)
    january.loc[0, "passengers"] = 6.0
    with transaction(lake(), "main", "change", {}) as work:
        work.put(PATH, tables.encode(january.iloc[:-2]))
        work.delete("data/trips/2019-12.parquet")

    found = data_diff("taxi_eta", before, "main", tmp_path / "pages" / "diff.html")
    screens.data_difference(found)

    december = len(tables.read(lake(), before, "data/trips/2019-12.parquet"))
    assert found.partitions == [Change("data/trips/2019-12.parquet", "removed"), Change(PATH, "changed")]
    assert (found.rows.added, found.rows.removed, found.rows.changed) == (0, december + 2, 1)
    assert found.rows.unchanged == found.rows_after - 1 == found.rows_before - december - 3
    assert "-> 6.0" in found.rows.examples[0]
    shown = capsys.readouterr().out
    assert "removed  data/trips/2019-12.parquet" in shown
    assert f"0 added, {december + 2:,} removed, 1 changed" in shown
    page = (tmp_path / "pages" / "diff.html").read_text()
    assert page.count("plotly-graph-div") >= len(found.columns)
    assert "passengers" in page
    assert "http://" not in page.split("<body>")[1].split("<script")[0]


def test_says_that_nothing_differs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = data_diff("taxi_eta", "main", "main")
    screens.data_difference(found)

    assert (found.partitions, found.rows.unchanged) == ([], found.rows_before)
    assert "no partition of taxi_eta differs" in capsys.readouterr().out


def test_names_what_is_not_there(trained: Path, home: Path) -> None:
    with pytest.raises(NotFound, match="'nowhere'"):
        data_diff("taxi_eta", "main", "nowhere")


def test_says_when_there_is_no_lake(home: Path) -> None:
    with pytest.raises(NotFound, match="run `okruh ingest taxi_eta` first"):
        data_diff("taxi_eta", "main", "main")
