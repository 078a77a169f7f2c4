"""Rows that other partitions have: found whatever their kinds and nulls, and no other partition is read."""

from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from infra import tables
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.transaction import transaction
from infra.repeats import rows_elsewhere
from models.contract.columns import Category, Contract, Image, Number, Time
from models.contract.table import set_apart, validate
from models.model import Model

CONTRACT = Contract(
    time=Time(name="at", zone="UTC", parts=()),
    features=(
        Category(name="zone", values=(1, 2), nullable=True),
        Category(name="kind", values=("a", "b"), nullable=True),
        Image(name="image", height=1, width=2),
    ),
    target=Number(name="y", unit="", minimum=0, maximum=99),
    partition="file",
    maximum_refused=0.5,
)
MODEL = Model(name="seen", description="", contract=CONTRACT, network=lambda _: None)  # type: ignore[arg-type,return-value]


def rows(first: str, **changes: Any) -> pd.DataFrame:
    table = {
        "at": pd.date_range(first, periods=4, freq="D").as_unit("us"),
        "zone": pd.array([1, 2, 1, 2], "Int64"),
        "kind": pd.Series(["a", "b", None, "a"], dtype=object),
        "image": [np.array([1, place], np.uint8) for place in range(4)],
        "y": [0.0, 2.0, 3.0, 4.0],
    }
    return pd.DataFrame(table | changes)


def test_finds_rows_again_whatever_nulls_and_types_others_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = pd.array([None, 2, 1, 2], "Int64")
    parts = {
        "itself": rows("2020-01-01"),
        "gaps": rows("2020-01-01", zone=gaps, kind=pd.Series([None] * 4, dtype=object)),
        "half": rows("2020-01-03", image=[np.array([1, place + 2], np.uint8) for place in range(4)]).assign(
            y=[3.0, 4.0, 0.0, 2.0], kind=pd.Series([None, "a", "b", "a"], dtype=object)
        ),
        "floats": rows("2020-01-01", zone=[1.0, 2.0, 1.5, 2.0], y=[0, 2, 3, 4]),
        "unknown": rows("2020-01-01", y=[None, 2.0, 3.0, 4.0]),
        "images": rows("2020-01-01", image=[np.array([9, 9], np.uint8)] * 4),
        "older": rows("2020-01-01").assign(zone="one"),
        "lacking": rows("2020-01-01").drop(columns="zone"),
        "aware": rows("2020-01-01").assign(at=lambda table: table["at"].dt.tz_localize("UTC")),
    }
    asked = validate(CONTRACT, rows("2020-01-01"), "itself.parquet")
    with closing(EmbeddedLake(tmp_path)) as lake:
        with transaction(lake, "main", "put", {}) as work:
            for name, table in parts.items():
                work.put(f"data/rows/{name}.parquet", tables.encode(table))

        found = rows_elsewhere(MODEL, lake, lake.resolve("main"), asked.partition, asked.accepted)
        monkeypatch.delattr(tables, "opened")  # as each is read once
        again = rows_elsewhere(MODEL, lake, lake.resolve("main"), asked.partition, asked.accepted)

    assert again.keys() == found.keys()
    assert {entry.path.split("/")[-1]: which.tolist() for entry, which in found.items()} == {
        "floats.parquet": [True, True, False, True],
        "gaps.parquet": [False, False, True, False],
        "half.parquet": [False, False, True, True],
        "unknown.parquet": [False, True, True, True],
    }
    refused = set_apart(CONTRACT, asked, {2: "again", 3: "again"}, "itself.parquet").refused
    assert [cell.tolist() for cell in refused["image"]] == [[1, 2], [1, 3]]


@pytest.mark.parametrize(("first", "is_read"), [("2020-01-04", True), ("2020-01-05", False)])
def test_reads_no_rows_of_another_time(tmp_path: Path, first: str, is_read: bool) -> None:
    content = bytearray(tables.encode(rows("2020-01-01")))
    content[4:60] = bytes(56)
    with closing(EmbeddedLake(tmp_path)) as lake:
        lake.put("main", "data/rows/a.parquet", bytes(content))
        commit = lake.commit("main", "put", {}).id

        with pytest.raises(OSError, match="thrift") if is_read else nullcontext():
            assert rows_elsewhere(MODEL, lake, commit, "b", rows(first)) == {}
