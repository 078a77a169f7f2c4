"""Tables in the lake: equal tables are equal bytes, and a bad raw file is refused by its name."""

import io
from pathlib import Path

import pandas as pd
import pytest

from infra import tables
from infra.lake.embedded import EmbeddedLake
from infra.lake.transaction import transaction
from models.errors import ContractError

WANTED = {"at": "time", "zone": "integer", "miles": "number", "kind": "text"}


def rides(rows: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "at": pd.date_range("2020-01-01", periods=rows, freq="h"),
            "zone": range(rows),
            "miles": [0.5 * row for row in range(rows)],
            "kind": ["bike"] * rows,
        }
    )


def parquet(table: pd.DataFrame) -> bytes:
    content = io.BytesIO()
    table.to_parquet(content)
    return content.getvalue()


def test_equal_tables_give_equal_bytes_whatever_their_index() -> None:
    shifted = rides().set_index(pd.Index([7, 8, 9]))

    assert tables.encode(shifted) == tables.encode(rides())
    pd.testing.assert_frame_equal(tables.decode(tables.encode(shifted)), rides(), check_dtype=False)


def test_reads_only_what_is_wanted() -> None:
    raw = tables.read_raw("a.parquet", parquet(rides().assign(more=1)), WANTED)

    assert list(raw.columns) == list(WANTED)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a Parquet file"),
        (b"PAR1 nothing", "not a Parquet file"),
        (parquet(rides())[:-40], "not a Parquet file"),
        (
            parquet(rides().drop(columns="miles")),
            r"columns \['miles'\] are missing; the file has \['at', 'zone', 'kind'\]",
        ),
        (parquet(rides().rename(columns={"miles": "km"})), r"columns \['miles'\] are missing"),
        (parquet(rides().astype({"miles": str})), "column 'miles' should be number, it is"),
        (parquet(rides().astype({"zone": float})), "column 'zone' should be integer, it is double"),
        (parquet(rides().assign(at="monday")), "column 'at' should be time, it is"),
        (parquet(rides().assign(kind=1)), "column 'kind' should be text, it is int64"),
    ],
)
def test_refuses_a_bad_file_by_its_name(content: bytes, reason: str) -> None:
    with pytest.raises(ContractError, match=rf"^a\.parquet: {reason}"):
        tables.read_raw("a.parquet", content, WANTED)


def test_a_damaged_page_is_refused_by_name() -> None:
    content = bytearray(parquet(rides(5_000)))
    content[200:2_000] = bytes(1_800)

    with pytest.raises(ContractError, match=r"^a\.parquet: the file is damaged"):
        tables.read_raw("a.parquet", bytes(content), WANTED)


def test_reads_partitions_in_order_from_a_start_on(tmp_path: Path) -> None:
    lake = EmbeddedLake(tmp_path)
    with transaction(lake, "main", "ingest", {}) as work:
        for month in ("2020-02", "2020-01", "2020-03"):
            work.put(f"data/rides/{month}.parquet", tables.encode(rides(1).assign(month=month)))

    everything, paths = tables.read_all(lake, "main", "data/rides/")
    later, later_paths = tables.read_all(lake, "main", "data/rides/", "data/rides/2020-02")
    nothing, no_paths = tables.read_all(lake, "main", "data/walks/")

    assert everything["month"].tolist() == ["2020-01", "2020-02", "2020-03"]
    assert (later["month"].tolist(), later_paths) == (["2020-02", "2020-03"], paths[1:])
    assert (nothing.empty, no_paths) == (True, ())
    lake.close()
