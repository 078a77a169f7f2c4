"""What a challenger answered in the shadow, beside what the champion answered and what turned out to be true.

Rows and labels count whether the journal still has them or the lake has them already. Cost: reads every table of
shadows and of labels at the lake's branch, of each only the columns that it needs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra import tables
from infra.dataset import LABELS, SHADOWS, archive_path
from infra.journal.journal import Journal
from infra.lake.protocol import Lake
from models.contract import arrow
from models.contract.answers import allows, differences, losses, recorded
from models.contract.columns import Category, Contract, Number
from models.deciding.rollout import Compared

_COLUMNS = ("id", "version", "champion", "served", "predicted")


def compare(lake: Lake, commit: str, journal: Journal, champion: str, challenger: str, contract: Contract) -> Compared:
    """Compare two versions on what both have answered. Raises: `Unavailable`."""
    target, unit = contract.target, contract.error_unit
    paths = {entry.path for entry in lake.list(commit, SHADOWS)}
    here = journal.shadows.batches(lambda one: archive_path(one.first, one.last, one.digest, SHADOWS) in paths)
    shown = _table(_archived(lake, commit, SHADOWS, _COLUMNS), (batch.select(_COLUMNS) for batch in here))
    if shown is None:
        return Compared(unit=unit, rows=0, failed=0, labels=0)
    pair = pc.and_(pc.equal(shown["version"], challenger), pc.equal(shown["champion"], champion))
    shown = shown.filter(pair)
    answered = shown.filter(pc.is_valid(shown["predicted"]))
    served, predicted = (recorded(target, answered[name].to_pylist()) for name in ("served", "predicted"))
    truth = _truth(lake, commit, journal, answered["id"], target)
    known = np.array([one is not None for one in truth], bool)
    apart_N = differences(target, predicted, served)
    there = [one for one in truth if one is not None]
    return Compared(
        unit=unit,
        rows=shown.num_rows,
        failed=shown.num_rows - answered.num_rows,
        mean_difference=_mean(apart_N),
        largest_difference=float(apart_N.max()) if len(apart_N) else None,
        labels=len(there),
        champion_error=_mean(losses(target, served[known], there)),
        challenger_error=_mean(losses(target, predicted[known], there)),
    )


def _truth(lake: Lake, commit: str, journal: Journal, ids: pa.ChunkedArray, target: Number | Category) -> list[object]:
    """Give the label of each row; None where there is none, or none that the target can have."""
    there = journal.labels()
    kind = arrow.label_type(target)
    own = pa.record_batch(
        [pa.array([one.id for one in there], pa.string()), pa.array([one.value for one in there], kind)],
        ["id", "value"],
    )
    labels = _table(_archived(lake, commit, LABELS, ("id", "value")), iter([own]))
    assert labels is not None
    places = pc.index_in(ids, labels["id"].combine_chunks())
    found = labels["value"].combine_chunks().take(places).to_pylist()
    return [one if allowed else None for one, allowed in zip(found, allows(target, found), strict=True)]


def _archived(lake: Lake, commit: str, folder: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for entry in lake.list(commit, folder):
        with tables.opened(lake, commit, entry.path) as table:
            yield from table.read(list(columns)).to_batches()


def _table(*parts: Iterator[pa.RecordBatch]) -> pa.Table | None:
    batches = [batch for part in parts for batch in part]
    found = [pa.Table.from_batches([batch]).replace_schema_metadata(None) for batch in batches]
    return pa.concat_tables(found) if found else None


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
