"""The circuit of a model without a time column whose target is a category: from a file to alarms and a retraining."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from flows.ingest import ingest
from flows.lineage import lineage
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.status import status
from flows.train import train
from infra import registry, tables
from infra.assembly import assemble
from infra.dataset import INGESTED_AT, known_rows, partition_path
from infra.journal.answers import Answers
from infra.journal.ids import Ids
from infra.journal.index import Label
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.settings import load_settings
from models.catalog.digits import CONTRACT, MODEL
from models.contract.rows import RowDecoder
from models.contract.table import to_columns
from models.errors import DefinitionError
from models.inference import Predictor
from models.model import Sample

FEW = {"epochs": 3}


@pytest.fixture
def champion(home: Path) -> str:
    """A version of `digits` that serves."""
    ingest("digits")
    version = train("digits", overrides=FEW).version
    assert promote("digits", version).allowed
    return version


def digits_lake() -> Lake:
    return assemble(load_settings()).lake("digits")


def test_the_same_file_again_changes_nothing(home: Path, tmp_path: Path) -> None:
    (first,) = ingest("digits")
    assert isinstance(MODEL.sample, Sample)
    (copied,) = [tmp_path / file.name for file in MODEL.sample.folder.iterdir()]
    rows = pd.read_parquet(MODEL.sample.folder / copied.name)
    rows.to_parquet(copied, compression="gzip")  # other bytes, the same rows

    (again,) = ingest("digits", str(copied))

    assert (again.partition, again.rows, again.commit, again.digest) == ("digits", 1797, first.commit, first.digest)


def test_trains_on_the_same_rows_each_time_and_judges_on_the_others(champion: str) -> None:
    lake = digits_lake()
    data = registry.load_card(lake, "main", champion).data

    assert (data.test_from, data.rows_train + data.rows_validation + data.rows_test) == (None, 1797)
    assert train("digits", overrides=FEW).version == champion
    report = registry.promotion_of(lake, "main", champion)
    assert report is not None
    assert report.test_rows == data.rows_test
    assert report.candidate_loss.mean < 0.1 < report.incumbent_loss.mean


def come_again() -> datetime:
    """Have the ingested rows and one more come a day later, in one file; give when."""
    path = partition_path(MODEL, "digits")
    table = tables.read(digits_lake(), "main", path)
    one_more = table.head(1).assign(digit=(table["digit"].head(1) + 1) % 10)
    at = table[INGESTED_AT].iloc[0] + timedelta(days=1)
    with transaction(digits_lake(), "main", "the file again", {}) as work:
        work.put(path, tables.encode(pd.concat([table, one_more]).assign(**{INGESTED_AT: at})))
    moment: datetime = at.to_pydatetime()
    return moment


def test_a_file_that_came_again_with_a_row_more_judges_no_version_on_what_it_learned(home: Path) -> None:
    ingest("digits")
    made = train("digits", overrides=FEW)
    data = registry.load_card(digits_lake(), "main", made.version).data
    at = come_again()

    first = promote("digits", made.version, at)
    other = promote("digits", train("digits", at, overrides=FEW | {"seed": 1}).version, at)

    assert first.allowed
    assert first.incumbent_loss.mean == pytest.approx(0.45, abs=0.01), "what it learned from is known to the naive one"
    assert first.test_rows == other.test_rows
    assert first.test_rows - data.rows_test in (0, 1)


def test_settings_of_the_other_way_to_hold_rows_out_are_refused(home: Path) -> None:
    with pytest.raises(DefinitionError, match=r"digits has no time column: training.test_days means"):
        train("digits", overrides={"test_days": 3.0})
    with pytest.raises(DefinitionError, match=r"taxi_eta has a time column: training.test_share means"):
        train("taxi_eta", overrides={"test_share": 0.3})


def journal(version: str, truth: npt.NDArray[np.int64], rows: pd.DataFrame, at: datetime) -> None:
    """Record answers of a version, and what was true."""
    bundle = registry.load_bundle(digits_lake(), "main", version)
    records = [{"image": image.reshape(8, 8).tolist()} for image in rows["image"]]
    columns = RowDecoder(CONTRACT).together([RowDecoder(CONTRACT).convert(records)])
    values = Predictor(bundle.onnx, CONTRACT).predict(to_columns(CONTRACT, rows))
    names = [f"{at:%d}-{place}" for place in range(len(rows))]
    answered_ms = np.full(len(rows), round(at.timestamp() * 1000))
    ids = Ids(b"-" * 36 * len(rows), dict(enumerate(names)))
    with closing(assemble(load_settings()).journal("digits", "main")) as written:
        written.append([Answers(CONTRACT, version, ids, columns, values, answered_ms)]).result()
        known_at = [at + timedelta(seconds=place) for place in range(len(rows))]
        labels = [
            Label(id=name, value=int(one), known_at=then)
            for name, one, then in zip(names, truth, known_at, strict=True)
        ]
        written.append_labels(labels).result()


@pytest.fixture
def rows(champion: str) -> pd.DataFrame:
    """Rows that were ingested."""
    known = known_rows(MODEL, digits_lake(), "main", datetime.now(UTC) + timedelta(days=1)).whole()
    return known[[*(column.name for column in CONTRACT.features), "digit"]].head(1000)


def test_a_world_whose_digits_mean_something_else_raises_an_alarm_and_is_learned(
    champion: str, rows: pd.DataFrame
) -> None:
    truth = rows["digit"].to_numpy(np.int64)
    monday = datetime.now(UTC).replace(hour=12) + timedelta(days=7 - datetime.now(UTC).weekday())
    journal(champion, truth, rows, monday)
    calm = monitor("digits", as_of=monday + timedelta(days=8), announce=False)
    journal(champion, (truth + 1) % 10, rows, monday + timedelta(days=8))
    changed = monitor("digits", as_of=monday + timedelta(days=15), announce=False)

    assert [window.labels for window in calm.windows if window.labels] == [1000]
    assert calm.alarms == []
    (alarm,) = changed.alarms
    assert "Brier score 0." in alarm.detail
    assert changed.retraining_due
    again = retrain("digits", as_of=monday + timedelta(days=15))
    assert again.trained is not None
    assert again.verdict is not None
    assert again.verdict.allowed, again.verdict.reasons
    (line,) = status("digits").lines
    assert line.champion == again.trained.version
    card = registry.load_card(digits_lake(), "main", again.trained.version)
    assert again.verdict.test_rows == card.data.rows_test
    assert lineage("digits", f"{monday:%d}-7").prediction is not None
