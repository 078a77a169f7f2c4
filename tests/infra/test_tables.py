"""Tables in the lake: equal tables are equal bytes, and a bad raw file is refused by its name."""

import io
import secrets
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import tables
from infra.errors import Corrupt
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.lakefs.server import Server
from infra.lake.lakefs.store import LakeFSLake
from infra.lake.transaction import transaction
from models.errors import ContractError
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer

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
    """What somebody else writes with pandas."""
    content = io.BytesIO()
    table.to_parquet(content)
    return content.getvalue()


def decoded(content: bytes) -> pd.DataFrame:
    table: pd.DataFrame = pq.read_table(pa.BufferReader(content)).to_pandas()
    return table


def repeated(column: str) -> bytes:
    """Rides that have a column twice, which pandas cannot write."""
    table = pa.Table.from_pandas(rides())
    content = io.BytesIO()
    pq.write_table(table.append_column(column, table[column]), content)
    return content.getvalue()


def test_equal_tables_give_equal_bytes_whatever_their_index() -> None:
    shifted = rides().set_index(pd.Index([7, 8, 9]))

    assert tables.encode(shifted) == tables.encode(rides())
    pd.testing.assert_frame_equal(decoded(tables.encode(shifted)), rides(), check_dtype=False)


def test_equal_tables_give_equal_bytes_however_they_were_put_together() -> None:
    whole = rides(6)
    joined = pd.concat([whole.iloc[:2], whole.iloc[2:]])

    assert tables.encode(joined) == tables.encode(whole)
    assert tables.encode(whole.iloc[:3]) == tables.encode(rides(3))
    assert tables.encode(decoded(tables.encode(whole))) == tables.encode(whole)


def test_another_value_row_order_or_type_gives_other_bytes() -> None:
    different = [
        rides(),
        rides().assign(zone=[0, 1, 3]),
        rides().iloc[::-1],
        rides().astype({"zone": "int32"}),
        rides().rename(columns={"miles": "km"}),
    ]

    assert len({tables.encode(table) for table in different}) == len(different)


def test_a_table_without_rows_keeps_its_columns_and_their_types() -> None:
    pd.testing.assert_frame_equal(decoded(tables.encode(rides().iloc[:0])), rides().iloc[:0], check_dtype=False)
    assert decoded(tables.encode(rides(0)))["miles"].dtype == float


def test_reads_only_what_is_wanted_in_that_order() -> None:
    raw = tables.read_raw("a.parquet", parquet(rides()[["kind", "miles", "zone", "at"]].assign(more=1)), WANTED)

    assert list(raw.columns) == list(WANTED)
    pd.testing.assert_frame_equal(raw, rides(), check_dtype=False)


@pytest.mark.parametrize("index", ["at", ["zone", "kind"]])
def test_a_column_that_its_writer_used_as_an_index_is_a_column(index: str | list[str]) -> None:
    raw = tables.read_raw("a.parquet", parquet(rides().set_index(index)), WANTED)

    pd.testing.assert_frame_equal(raw, rides(), check_dtype=False)


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
        (parquet(rides().astype({"zone": str})), "column 'zone' should be integer, it is"),
        (parquet(rides().assign(at="monday")), "column 'at' should be time, it is"),
        (parquet(rides().assign(kind=pd.Categorical([b"a", b"b", b"b"]))), "column 'kind' should be text, it is dict"),
        (parquet(rides().assign(kind=1)), "column 'kind' should be text, it is int64"),
        (repeated("zone"), r"columns \['zone'\] are there more than once; the file has \['at', 'zone', .*'zone'\]"),
    ],
)
def test_refuses_a_bad_file_by_its_name(content: bytes, reason: str) -> None:
    with pytest.raises(ContractError, match=rf"^a\.parquet: {reason}"):
        tables.read_raw("a.parquet", content, WANTED)


@pytest.mark.parametrize(
    ("moments", "said"),
    [
        (
            ["2020-01-01", "2020-01-02T08:15:00", "mon'day"],
            '"mon\'day" in row 3, not counting the header, is no moment',
        ),
        (["2020-13-01", "2020-01-02", "2020-01-03"], "'2020-13-01' in row 1, not"),
        (["2020-01-01", "2020-01-02 08:15:00Z", "2020-01-03"], "'2020-01-02 08:15:00Z' in row 2, .* not as most are"),
        (["2020-01-01", "", "x" * 99], f"'{'x' * 40}' in row 3, not"),
    ],
)
def test_says_which_moment_of_a_csv_file_is_none(moments: list[str], said: str) -> None:
    with pytest.raises(ContractError, match=rf"^a\.csv: column 'at' should be time: {said}"):
        tables.read_raw("a.csv", rides().assign(at=moments).to_csv().encode(), WANTED)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfea,b\n1,2\n", "its header is no UTF-8; save it as CSV in UTF-8"),
        (b"a;b\n1;2\n", "its columns are parted by semicolons; save it with commas, and with decimal points"),
        (b"a;b\n1,5;2\n", r"Expected 1 columns, got 2.*\); columns are parted by commas, and numbers have points"),
    ],
)
def test_says_how_a_csv_file_is_to_be_written(content: bytes, said: str) -> None:
    with pytest.raises(ContractError, match=rf"^odd\.csv: .*{said}"):
        tables.read_csv("odd.csv", io.BytesIO(content))


def test_parquet_is_read_as_csv_is_empty_text_as_null_and_whole_numbers_as_gaps_leave_them() -> None:
    table = rides().assign(kind=pd.Series(["bike", "", None]), zone=[7.0, np.nan, 9.0])
    decimals = pa.Table.from_pandas(table.assign(kind=table["kind"].astype("category")))
    decimals = decimals.set_column(1, "zone", decimals["zone"].cast(pa.decimal128(5, 1)))
    content = io.BytesIO()
    pq.write_table(decimals, content)

    from_csv = tables.read_raw("a.csv", table.to_csv().encode(), WANTED)
    from_parquet = tables.read_raw("a.parquet", parquet(table), WANTED)
    from_decimals = tables.read_raw("a.parquet", content.getvalue(), WANTED)

    assert from_csv["kind"].isna().tolist() == [False, True, True]
    pd.testing.assert_frame_equal(from_parquet, from_csv, check_dtype=False)
    pd.testing.assert_frame_equal(from_decimals, from_csv, check_dtype=False)


def test_a_file_with_a_spoilt_byte_is_read_or_refused_by_name() -> None:
    whole = parquet(rides())

    def outcome(place: int) -> str:
        spoilt = bytes([*whole[:place], whole[place] ^ 0b1000_0001, *whole[place + 1 :]])
        try:
            return " ".join(tables.read_raw("a.parquet", spoilt, WANTED).columns)
        except ContractError as refused:
            return str(refused).split(": ")[0]

    assert {outcome(place) for place in range(len(whole))} == {"at zone miles kind", "a.parquet"}


def test_a_damaged_page_is_refused_by_name() -> None:
    content = bytearray(parquet(rides(5_000)))
    content[200:2_000] = bytes(1_800)

    with pytest.raises(ContractError, match=r"^a\.parquet: the file is damaged"):
        tables.read_raw("a.parquet", bytes(content), WANTED)


def test_reads_partitions_in_order(tmp_path: Path) -> None:
    lake = EmbeddedLake(tmp_path)
    with transaction(lake, "main", "ingest", {}) as work:
        for month in ("2020-02", "2020-01", "2020-03"):
            work.put(f"data/rides/{month}.parquet", tables.encode(rides(1).assign(month=month)))

    everything, paths = tables.read_all(lake, "main", "data/rides/")
    nothing, no_paths = tables.read_all(lake, "main", "data/walks/")
    january = tables.read_group(lake, "main", paths[0], 0, ["miles", "zone"])

    assert everything["month"].tolist() == ["2020-01", "2020-02", "2020-03"]
    assert (nothing.empty, no_paths) == (True, ())
    assert list(january.columns) == ["miles", "zone"]
    with pytest.raises(
        ContractError, match=r"^data/rides/2020-01\.parquet lacks columns \['price'\], which the contract"
    ):
        tables.groups(lake, "main", paths[0], ["miles", "price"])
    lake.close()


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_reads_the_groups_of_rows_that_are_new_enough_and_no_others(tmp_path: Path, zone: str | None) -> None:
    table = rides(3 * tables.GROUP_ROWS).assign(noise=range(3 * tables.GROUP_ROWS))
    table["at"] = table["at"].dt.tz_localize(zone)
    content = bytearray(tables.encode(table))
    column = pq.ParquetFile(pa.BufferReader(bytes(content))).metadata.row_group(1).column(4)
    first = [table["at"][place * tables.GROUP_ROWS].to_pydatetime() for place in range(3)]

    with closing(EmbeddedLake(tmp_path)) as lake:
        entry = lake.put("main", "rides.parquet", bytes(content))
        file = lake.root / "objects" / entry.digest[:2] / entry.digest[2:]
        content[column.dictionary_page_offset or column.data_page_offset] ^= 1
        file.chmod(0o644)
        file.write_bytes(content)

        found = [tables.groups(lake, "main", "rides.parquet", ["noise"], ("at", moment)) for moment in first]
        newest = tables.read_group(lake, "main", "rides.parquet", 2, ["noise"])
        with pytest.raises(Corrupt):
            tables.read_group(lake, "main", "rides.parquet", 1, ["noise"])

    assert found == [[0, 1, 2], [1, 2], [2]]
    assert newest["noise"].tolist() == table["noise"].tolist()[-tables.GROUP_ROWS :]


def test_fetches_little_more_than_it_reads(lakefs: LakeFSServer) -> None:
    rows = 8 * tables.GROUP_ROWS
    random = np.random.default_rng(0)
    table = rides(rows).assign(**{f"noise_{number}": random.random(rows) for number in range(4)})
    content = tables.encode(table)
    with closing(LakeFSLake(Server(lakefs.address, KEY_ID, SECRET), f"okruh-{secrets.token_hex(4)}")) as lake:
        lake.create()
        lake.put("main", "rides.parquet", content)
        lakefs.sent = 0

        since = ("at", table["at"].iloc[-5].to_pydatetime())
        (group,) = tables.groups(lake, "main", "rides.parquet", ["noise_1"], since)
        newest = tables.read_group(lake, "main", "rides.parquet", group, ["noise_1"])

    assert len(newest) == tables.GROUP_ROWS
    # A group of two columns of eight, whole blocks of the footer beside it
    assert lakefs.sent < len(content) / 8
