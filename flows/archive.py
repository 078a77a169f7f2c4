"""Archive: what the journal has recorded becomes tables of the lake, exactly once."""

from collections.abc import Callable

import msgspec
import pyarrow as pa

from flows import catalog
from flows.orchestration import task
from infra import tables
from infra.assembly import assemble
from infra.dataset import LABELS, PREDICTIONS, SHADOWS, archive_path
from infra.errors import Conflict, NotFound
from infra.journal.index import Label
from infra.journal.journal import Counts, Journal
from infra.journal.segments import Sealed
from infra.lake.protocol import Lake
from infra.lake.transaction import Transaction, transaction
from infra.settings import load_settings
from models.contract import arrow
from models.contract.columns import Category, Number

POSITION = "journal/position.json"


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far journals are archived; of their segments the tables' names say it."""

    last_labels: dict[str, int] = {}
    """Sequence number of the last label, by journal: several may be archived to one branch."""


@task("archive the journal")
def archive(model: str, branch: str) -> Counts:
    """Commit what the journal has and the lake has not; then remove the segments from the journal.

    A segment becomes one table, named by its digest, so that whoever comes again or at once adds nothing twice; labels
    and the position that they reach to are one commit. What challengers answered in the shadow goes with them.

    Returns:
        How many predictions and labels were added.

    Raises: `Conflict` when another archive came first.
    """
    target = catalog.load(model).contract.target
    platform = assemble(load_settings())
    lake, journal = platform.lake(model), platform.journal(model, branch)
    commit = lake.resolve(branch)
    before, last, own = _position(lake, commit), journal.last_label(), journal.identity()
    reached = before.last_labels.get(own, 0)
    sealed, shadows = journal.seal(), journal.shadows.seal()
    labels = journal.labels(reached, last)
    rows, added, added_shadows = dict[Sealed, int](), 0, 0
    if sealed or shadows or labels:
        note = {"kind": "journal"}
        with transaction(lake, branch, "archive the journal", note) as work:
            if _position(lake, work.base) != before:
                raise Conflict(f"the journal of {model} on branch {branch!r} is being archived by another; try again")
            for one in sealed:  # one at a time, for together they may be more than fits into memory
                rows[one], new = _put(lake, work, PREDICTIONS, one, _table(journal, one))
                added += new
            for one in shadows:
                added_shadows += _put(lake, work, SHADOWS, one, _read(journal.shadows.table, one))[1]
            if labels:
                so_far = sum(before.last_labels.values())  # so that paths are in the order of archiving
                path = f"{LABELS}{so_far:012}-{own}-{last:012}.parquet"
                work.put(path, tables.encode_arrow(_labels_table(target, labels)))
                work.put(POSITION, msgspec.json.encode(Position(last_labels=before.last_labels | {own: last})))
            note |= {"predictions": str(added), "labels": str(len(labels))}
            note |= {"shadows": str(added_shadows)} if added_shadows else {}
    journal.archived(rows, last)
    journal.shadows.archived(shadows)
    return Counts(added, len(labels))


def _position(lake: Lake, commit: str) -> Position:
    try:
        return msgspec.json.decode(lake.get(commit, POSITION), type=Position)
    except NotFound:
        return Position()


def _table(journal: Journal, sealed: Sealed) -> pa.Table:
    """Order by moment and id, not by arrival."""
    return _read(journal.table, sealed).sort_by([("event_at", "ascending"), ("id", "ascending")])


def _read(read: Callable[[Sealed], pa.Table], sealed: Sealed) -> pa.Table:
    try:
        return read(sealed)
    except NotFound as error:
        raise Conflict(f"{error}: it is being archived by another; try again") from error


def _put(lake: Lake, work: Transaction, folder: str, sealed: Sealed, table: pa.Table) -> tuple[int, int]:
    """Put a segment's table where it is not there yet; say how many rows it has, and how many are new."""
    path = archive_path(sealed.first, sealed.last, sealed.digest, folder)
    if not table.num_rows or _is_there(lake, work.base, path):
        return table.num_rows, 0
    work.put(path, tables.encode_arrow(table))
    return table.num_rows, table.num_rows


def _is_there(lake: Lake, commit: str, path: str) -> bool:
    try:
        lake.stat(commit, path)
    except NotFound:
        return False
    return True


def _labels_table(target: Number | Category, labels: list[Label]) -> pa.Table:
    names = pa.array([label.id for label in labels])
    values = pa.array([label.value for label in labels], arrow.label_type(target))
    known_at = pa.array([label.known_at for label in labels], pa.timestamp("us", "UTC"))
    table = pa.table({"id": names, "value": values, "known_at": known_at})
    return table.sort_by([("known_at", "ascending"), ("id", "ascending")])
