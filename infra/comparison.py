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
from models.contract.columns import Number
from models.deciding.rollout import Compared

_NUMBERS = {"served", "predicted", "value"}
_COLUMNS = ("id", "version", "champion", "served", "predicted")


def compare(lake: Lake, commit: str, journal: Journal, champion: str, challenger: str, target: Number) -> Compared:
    """Compare two versions on what both have answered. Raises: `Unavailable`."""
    paths = {entry.path for entry in lake.list(commit, SHADOWS)}
    here = journal.shadows.batches(lambda one: archive_path(one.first, one.last, one.digest, SHADOWS) in paths)
    shown = _table(_COLUMNS, _archived(lake, commit, SHADOWS, _COLUMNS), here)
    pair = pc.and_(pc.equal(shown["version"], challenger), pc.equal(shown["champion"], champion))
    shown = shown.filter(pair)
    answered = shown.filter(pc.is_valid(shown["predicted"]))
    served, predicted = (answered[name].to_numpy() for name in ("served", "predicted"))
    truth = _truth(lake, commit, journal, answered["id"], target)
    known = np.isfinite(truth)
    return Compared(
        unit=target.unit,
        rows=shown.num_rows,
        failed=shown.num_rows - answered.num_rows,
        mean_difference=_mean(np.abs(predicted - served)),
        largest_difference=float(np.abs(predicted - served).max()) if len(served) else None,
        labels=int(known.sum()),
        champion_error=_mean(np.abs(served - truth)[known]),
        challenger_error=_mean(np.abs(predicted - truth)[known]),
    )


def _truth(lake: Lake, commit: str, journal: Journal, ids: pa.ChunkedArray, target: Number) -> npt.NDArray[np.float64]:
    """Give the label of each row; NaN where there is none, or none within the target's range."""
    there = [label for label in journal.labels() if target.minimum <= label.value <= target.maximum]
    own = pa.record_batch(
        [pa.array([one.id for one in there], pa.string()), pa.array([one.value for one in there], pa.float64())],
        ["id", "value"],
    )
    labels = _table(("id", "value"), _archived(lake, commit, LABELS, ("id", "value")), iter([own]))
    places = pc.index_in(ids, labels["id"].combine_chunks())
    truth: npt.NDArray[np.float64] = labels["value"].combine_chunks().take(places).to_numpy(zero_copy_only=False)
    return np.where((truth >= target.minimum) & (truth <= target.maximum), truth, np.nan)


def _archived(lake: Lake, commit: str, folder: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for entry in lake.list(commit, folder):
        with tables.opened(lake, commit, entry.path) as table:
            yield from table.read(list(columns)).to_batches()


def _table(columns: Sequence[str], *parts: Iterator[pa.RecordBatch]) -> pa.Table:
    batches = [batch.select(list(columns)) for part in parts for batch in part]
    found = [pa.Table.from_batches([batch]).replace_schema_metadata(None) for batch in batches]
    empty = pa.table({name: pa.array([], pa.float64() if name in _NUMBERS else pa.string()) for name in columns})
    return pa.concat_tables([empty, *found])


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
