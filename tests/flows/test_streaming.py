"""A table that is read from the lake in each epoch: flights of which only a part may be kept in memory."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.ingest import ingest
from flows.promote import promote
from flows.sync import files_to_ingest
from flows.train import train
from infra import registry, tables
from infra.assembly import assemble
from infra.settings import load_settings
from models.catalog.flight_delay import MODEL
from models.errors import SourceUnavailable
from models.learning.examples import StreamedRows
from models.learning.settings import Setting
from models.model import Fetched
from tests.models.catalog.test_flight_delay import flights

ROWS = 12_000
STREAMED: dict[str, Setting] = {"memory_mb": 0.1, "epochs": 2, "test_days": 10, "batch_rows": 256}


@pytest.fixture
def months(tmp_path: Path) -> Path:
    """Three files of raw flights."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for month in ("2001-01", "2001-02", "2001-03"):
        flights(ROWS, month).to_parquet(folder / f"flights_{month}.parquet", index=False)
    return folder


def test_a_streamed_training_is_registered_wins_and_is_the_same_again(
    home: Path, months: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "GROUP_ROWS", 5_000)  # three groups a month
    parts = list[int]()
    read = StreamedRows._group

    def watched(rows: StreamedRows, group: list[int], seed: int, epoch: int) -> object:
        parts.extend(group)
        return read(rows, group, seed, epoch)

    monkeypatch.setattr(StreamedRows, "_group", watched)
    digests = []
    for name in ("one", "other"):
        monkeypatch.setenv("OKRUH_HOME", str(tmp_path / name))
        ingest("flight_delay", str(months))
        version = train("flight_delay", overrides=STREAMED).version
        lake = assemble(load_settings()).lake("flight_delay")
        bundle = registry.load_bundle(lake, "main", version)
        digests.append(bundle.card.onnx_digest)
        assert promote("flight_delay", version).allowed

    assert sorted(parts) == sorted(2 * 2 * list(range(7)))  # the groups before validation, in each of two epochs, twice
    assert digests[0] == digests[1]
    data = bundle.card.data
    assert data.rows_train + data.rows_validation + data.rows_test == 3 * ROWS
    assert bundle.card.settings["memory_mb"] == 0.1


def test_files_are_fetched_once_and_a_failure_leaves_nothing(home: Path) -> None:
    calls = []

    def fetch(folder: Path) -> None:
        calls.append(folder)
        (folder / "flights_2001-01.parquet").write_bytes(b"")
        if len(calls) == 1:
            raise SourceUnavailable("not now")

    definition = replace(MODEL, sample=Fetched(fetch=fetch))
    with pytest.raises(SourceUnavailable, match="not now"):
        files_to_ingest(definition, None)
    assert list((home / "fetched").iterdir()) == []

    first, again = files_to_ingest(definition, None), files_to_ingest(definition, None)

    assert first == again == [home / "fetched" / "flight_delay" / "flights_2001-01.parquet"]
    assert len(calls) == 2
