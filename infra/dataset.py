"""What was known at a moment: accepted rows of a model's tables, and answered predictions whose label had arrived.

Without a time column, a row of a table is about the moment of its ingestion, and known from then on; the same event in
table and journal cannot be told, and counts twice.

Both come as one frame of the contract's columns plus `event_at` and `known_at` (aware, UTC), ordered by `known_at` and
then by the row's content, so that the same lake and `as_of` give the same frame. Rows whose target lies outside the
contract are left out; an event that both tables and journal have is the journal's.

Cost: reads every Parquet object of the table and the journal at that commit.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from infra import tables
from infra.errors import NotFound
from infra.lake.protocol import Lake
from models.contract.answers import allows
from models.contract.columns import Contract
from models.contract.table import to_instants
from models.model import Model

PREDICTIONS = "journal/predictions/"
LABELS = "journal/labels/"
SHADOWS = "journal/shadows/"
"""What challengers answered in the shadow; nothing is learned from it."""

INGESTED_AT = "ingested_at"
"""The column that tables have where the contract has no time: when a row came (aware, UTC)."""

_MOMENT = "%Y%m%dT%H%M%S%f"


def table_prefix(model: Model) -> str:
    """Where a model's accepted rows are."""
    return f"data/{model.table}/"


def partition_path(model: Model, month: str) -> str:
    """Where a month's accepted rows are."""
    return f"{table_prefix(model)}{month}.parquet"


def archive_path(first: datetime, last: datetime, digest: str, folder: str = PREDICTIONS) -> str:
    """Where the answers of a journal's segment are: those given between two moments (aware)."""
    return f"{folder}{first.astimezone(UTC):{_MOMENT}}-{last.astimezone(UTC):{_MOMENT}}-{digest[:16]}.parquet"


def archived_prediction(lake: Lake, commit: str, name: str, answered_at: datetime | None) -> dict[str, Any]:
    """Read the row of an archived prediction; of the tables that may have it, where it is known when it was answered.

    Raises: `NotFound`.
    """
    at = f"{answered_at.astimezone(UTC):{_MOMENT}}" if answered_at is not None else None
    for path in sorted((entry.path for entry in lake.list(commit, PREDICTIONS)), reverse=True):
        first, last, *_ = path.removeprefix(PREDICTIONS).split("-")
        if (at is None or first <= at <= last) and (found := tables.find(lake, commit, path, "id", name)):
            return found
    raise NotFound(f"no prediction has the id {name!r}")


def archived_label(lake: Lake, commit: str, name: str) -> dict[str, Any] | None:
    """Read the archived label of a prediction; None where there is none."""
    paths = sorted((entry.path for entry in lake.list(commit, LABELS)), reverse=True)
    return next((found for path in paths if (found := tables.find(lake, commit, path, "id", name))), None)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows and the objects that they were read from."""

    rows: pd.DataFrame
    paths: tuple[str, ...]


def known_rows(model: Model, lake: Lake, commit: str, as_of: datetime, learn_from: datetime | None = None) -> Dataset:
    """Read everything that may be learned from at `as_of`: rows about moments from `learn_from` on.

    Partitions of months that ended before `learn_from` are not read, nor are older rows that lie together in one.
    """
    first, since, time = "", None, model.contract.time
    if learn_from is not None and time is not None:
        first = _month(model.contract, learn_from) if model.contract.is_monthly else ""
        since = (time.name, _a_day_before(model.contract, learn_from))
    asked = [*(column.name for column in model.contract.inputs), model.contract.target.name]
    known = [INGESTED_AT] if time is None else [model.contract.known] if model.contract.known else []
    history, paths = tables.read_all(
        lake, commit, table_prefix(model), f"{table_prefix(model)}{first}", list(dict.fromkeys(asked + known)), since
    )
    answered, answered_paths = labelled_predictions(model.contract, lake, commit)
    wanted = [*asked, "event_at", "known_at"]
    parts = [part[wanted] for part in (answered, _with_moments(model.contract, history)) if not part.empty]
    if not parts:
        return Dataset(pd.DataFrame(columns=wanted), ())
    if len(parts) == 2:
        parts[1] = _without(parts[1], parts[0], wanted[:-1])
    rows = _within_range(model.contract, pd.concat(parts, ignore_index=True))
    rows = rows[rows["known_at"] <= as_of]
    if learn_from is not None:
        rows = rows[rows["event_at"] >= learn_from]
    rows = rows.sort_values(["known_at", *wanted[:-1]], ignore_index=True)
    return Dataset(rows, (*paths, *answered_paths))


def _without(history: pd.DataFrame, answered: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Leave out of the table what was answered and labelled as well: an event whose raw file came later counts once."""
    answered_in = history["event_at"].between(answered["event_at"].min(), answered["event_at"].max())
    again = history[answered_in].reset_index().merge(answered[key].drop_duplicates(), on=key)["index"]
    return history[~history.index.isin(again)]


def _month(contract: Contract, moment: datetime) -> str:
    return f"{moment.astimezone(ZoneInfo(contract.zone or 'UTC')):%Y-%m}"


def _a_day_before(contract: Contract, moment: datetime) -> datetime:
    """Give a time of the table's kind that is surely before a moment, whatever clocks were changed in between."""
    before = moment - timedelta(days=1)
    return before.astimezone(ZoneInfo(contract.zone)).replace(tzinfo=None) if contract.zone else before


def labelled_predictions(contract: Contract, lake: Lake, commit: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Join archived predictions and labels by id; of an id that is there again, the first.

    A name is remembered for a time only (`OKRUH_JOURNAL_KEEP_DAYS`), and by one journal: it may come again.

    Returns:
        The contract's columns, `id`, `version`, `predicted`, `event_at`, `known_at`; and the objects read. Only labels
        within the target's range.
    """
    predictions, prediction_paths = tables.read_all(lake, commit, PREDICTIONS)
    labels, label_paths = tables.read_all(lake, commit, LABELS)
    if predictions.empty or labels.empty:
        return pd.DataFrame(), ()
    labels = labels.rename(columns={"value": contract.target.name})
    joined = predictions.drop_duplicates("id").merge(labels.drop_duplicates("id"), on="id", how="inner", validate="1:1")
    return _within_range(contract, joined), (*prediction_paths, *label_paths)


def _within_range(contract: Contract, rows: pd.DataFrame) -> pd.DataFrame:
    return rows[allows(contract.target, rows[contract.target.name].tolist())].reset_index(drop=True)


def _with_moments(contract: Contract, table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    if contract.time is None:
        return table.assign(event_at=table[INGESTED_AT], known_at=table[INGESTED_AT])
    event_at = to_instants(contract, table[contract.time.name])
    known_at = to_instants(contract, table[contract.known]) if contract.known else event_at
    return table.assign(event_at=event_at, known_at=known_at)
