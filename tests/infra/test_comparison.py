"""What a shadow answered is compared with what was served and with what turned out to be true."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra import tables
from infra.comparison import compare
from infra.dataset import LABELS, SHADOWS, archive_path
from infra.journal.answers import Answers
from infra.journal.index import Label
from infra.journal.journal import Journal
from infra.journal.shadows import batch_of
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from models.deciding.rollout import Compared
from tests.infra.journal.answers import AT, CONTRACT, answers, milliseconds

NOTHING = Compared(
    unit="minutes",
    rows=0,
    failed=0,
    mean_difference=None,
    largest_difference=None,
    labels=0,
    champion_error=None,
    challenger_error=None,
)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    """A lake of nothing."""
    with closing(EmbeddedLake(tmp_path / "tiny")) as lake:
        yield lake


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal that nothing was written to."""
    with closing(Journal(tmp_path / "journal")) as journal:
        yield journal


def show(journal: Journal, one: Answers, *predicted: float, version: str = "v2") -> None:
    journal.shadows.append([batch_of(version, [one], np.array(predicted, np.float32), [()])])


def label(journal: Journal, **values: float) -> None:
    journal.append_labels([Label(id=name, value=value, known_at=AT) for name, value in values.items()]).result()


def archive(lake: Lake, journal: Journal) -> None:
    """Commit what there is, and leave it in the journal, as a kill would."""
    with transaction(lake, "main", "archive", {}) as work:
        for one in journal.shadows.seal():
            path = archive_path(one.first, one.last, one.digest, SHADOWS)
            work.put(path, tables.encode_arrow(journal.shadows.table(one)))
        known = journal.labels()
        if known:
            rows = {"id": [one.id for one in known], "value": [one.value for one in known]}
            work.put(f"{LABELS}1.parquet", tables.encode_arrow(pa.table(rows)))


def compared(lake: Lake, journal: Journal) -> Compared:
    return compare(lake, lake.resolve("main"), journal, "v1", "v2", CONTRACT)


def test_nothing_is_said_of_nothing(lake: Lake, journal: Journal) -> None:
    assert compared(lake, journal) == NOTHING


@pytest.mark.parametrize("archived", [False, True])
def test_compares_on_the_same_rows_wherever_they_are(lake: Lake, journal: Journal, archived: bool) -> None:
    one = answers("a", "b", "c", "d", value=10.0)
    journal.append([one]).result()
    show(journal, one, 11.0, 7.0, np.nan, 10.0)
    label(journal, a=12.0, c=1.0, d=700.0)
    if archived:
        archive(lake, journal)

    found = compared(lake, journal)

    assert (found.rows, found.failed, found.labels) == (4, 1, 1)
    assert found.mean_difference == pytest.approx(4 / 3)
    assert found.largest_difference == 3.0
    assert (found.champion_error, found.challenger_error) == (2.0, 1.0)


def test_adds_up_what_the_lake_and_the_journal_have(lake: Lake, journal: Journal) -> None:
    show(journal, answers("a", value=10.0), 11.0)
    archive(lake, journal)
    show(journal, answers("b", value=10.0)._replace(answered_ms=milliseconds(AT + timedelta(hours=1), 1)), 13.0)

    assert (compared(lake, journal).rows, compared(lake, journal).mean_difference) == (2, 2.0)


def test_leaves_other_versions_out(lake: Lake, journal: Journal) -> None:
    show(journal, answers("a"), 11.0, version="v3")
    show(journal, answers("b", version="v0"), 11.0)

    assert compared(lake, journal) == NOTHING
