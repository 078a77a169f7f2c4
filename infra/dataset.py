"""What was known at a moment: accepted rows of a model's tables, and answered predictions whose label had arrived.

Without a time column, a row of a table is about the moment of its ingestion, and known from then on; the same event in
table and journal cannot be told, and counts twice.

Both come as frames of the contract's columns plus `event_at` and `known_at` (aware, UTC). Rows whose target lies
outside the contract are left out, and answers to rows that an edited contract does not allow any more; of a table such
rows are an error. An event that both tables and journal have is the journal's.

Lags (`models.contract.lags`) are computed here, from what tables and journal know at that commit, so that it does not
matter in which order anything came; answered rows keep those that the caller sent, and are given those that were
declared later.

Cost: the journal is held in memory, of tables a group of rows at a time and, where there are lags, what these are of.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, overload
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra import tables
from infra.errors import NotFound
from infra.lake.protocol import Lake
from models.contract import images
from models.contract.answers import allows
from models.contract.columns import Contract
from models.contract.lags import EVENT_AT, KNOWN_AT, History, past_columns
from models.contract.outdated import broken_rules
from models.contract.table import to_instants
from models.errors import ContractError
from models.model import Model

PREDICTIONS = "journal/predictions/"
LABELS = "journal/labels/"
SHADOWS = "journal/shadows/"
"""What challengers answered in the shadow; nothing is learned from it."""

INGESTED_AT = "ingested_at"
"""The column that tables have where the contract has no time: when a row came (aware, UTC)."""

_MOMENT = "%Y%m%dT%H%M%S%f"

_Lacking = dict[tuple[str, ...], pd.Series]
"""Ids of answers by the lags that their archive lacks, because they were declared later."""


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


class KnownRows(Sequence[pd.DataFrame]):
    """Rows that were known at a moment, in parts that are read when they are asked for: a group of rows of a table's
    object each, and what was answered and labelled, if anything.

    A part has the contract's inputs and target, `event_at` and `known_at`; it may be empty. Reading one is safe in
    threads.
    """

    def __init__(self, model: Model, lake: Lake, commit: str, as_of: datetime, learn_from: datetime | None) -> None:
        contract = self._contract = model.contract
        self._lake, self._commit, self._as_of, self._learn_from = lake, commit, as_of, learn_from
        first, since = "", None
        if learn_from is not None and contract.time is not None:
            oldest = learn_from - timedelta(seconds=max((lag.reach_s for lag in contract.lags), default=0))
            first = _month(contract, oldest) if contract.is_monthly else ""
            since = (contract.time.name, _a_day_before(contract, oldest))
        prefix = table_prefix(model)
        paths = [entry.path for entry in lake.list(commit, prefix) if entry.path >= f"{prefix}{first}"]
        self._groups = [
            (path, group) for path in paths for group in tables.groups(lake, commit, path, self._asked, since)
        ]
        answered, answered_paths, lacking = _labelled(contract, lake, commit)
        answered = _still_allowed(contract, answered)
        self._answered = None if answered.empty else self._wanted(self._with_lags_since(answered, lacking))
        self._looked_at = set[int]()
        self.paths = (*paths, *answered_paths)
        """The objects that they are read from."""

    @property
    def _columns(self) -> list[str]:
        return [*self._kept, *(lag.name for lag in self._contract.lags)]

    @property
    def _kept(self) -> list[str]:
        """Name the columns that tables have."""
        return [*(column.name for column in self._contract.without_lags.inputs), self._contract.target.name]

    @property
    def _moments(self) -> list[str]:
        """Name the columns that tell of a table's rows when they happened and became known."""
        time, known = self._contract.time, self._contract.known
        return [INGESTED_AT] if time is None else [time.name, known] if known else [time.name]

    @property
    def _asked(self) -> list[str]:
        return list(dict.fromkeys([*self._kept, *self._moments]))

    def _with_lags(self, rows: pd.DataFrame) -> pd.DataFrame:
        lacking = any(lag.name not in rows for lag in self._contract.lags)
        return self._past.with_lags(rows) if lacking else rows

    def _with_lags_since(self, answered: pd.DataFrame, lacking: _Lacking) -> pd.DataFrame:
        """Give answers the lags that were declared since; those that were sent stay as they are, nulls as well."""
        for names, ids in lacking.items():
            since = answered["id"].isin(ids)
            if not since.any():
                continue
            given = self._with_lags(answered[since].drop(columns=list(names), errors="ignore"))
            for name in names:
                sent = answered.get(name, np.nan)
                answered = answered.assign(**{name: given[name].reindex(answered.index).where(since, sent)})
        return answered

    @cached_property
    def _past(self) -> History:
        return self.past(self._contract)

    def past(self, contract: Contract) -> History:
        """Read what lags of a contract of the model are computed from: all that lies in tables and journal."""
        needed = past_columns(contract)
        answered, _ = labelled_predictions(self._contract, self._lake, self._commit)
        parts = [] if answered.empty else [answered]
        for path, group in self._groups:
            columns = list(dict.fromkeys([*needed, *self._moments]))
            table = tables.read_group(self._lake, self._commit, path, group, columns)
            parts.append(_with_moments(self._contract, table))
        moments = [EVENT_AT, KNOWN_AT]
        return History(contract, pd.concat([part[[*needed, *moments]] for part in parts], ignore_index=True))

    def __len__(self) -> int:
        return len(self._groups) + (self._answered is not None)

    @overload
    def __getitem__(self, place: int) -> pd.DataFrame: ...
    @overload
    def __getitem__(self, place: slice) -> list[pd.DataFrame]: ...
    def __getitem__(self, place: int | slice) -> pd.DataFrame | list[pd.DataFrame]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        if place == len(self._groups):
            assert self._answered is not None
            return self._answered
        table = tables.read_group(self._lake, self._commit, *self._groups[place], self._asked)
        if place not in self._looked_at:  # once: in an epoch after the first it is the same
            _refuse_outdated(self._contract, self._groups[place][0], table)
            self._looked_at.add(place)
        rows = _within_range(self._contract, self._wanted(self._with_lags(_with_moments(self._contract, table))))
        if self._answered is None:
            return rows
        return _without(self._contract, rows, self._answered, [*self._kept, EVENT_AT])

    def _wanted(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Leave out what was not known then, and what is older than wanted."""
        known = rows["known_at"] <= self._as_of
        if self._learn_from is not None:
            known &= rows["event_at"] >= self._learn_from
        return rows.loc[known, [*self._columns, "event_at", "known_at"]]

    def whole(self, keep: Callable[[pd.DataFrame], npt.NDArray[np.bool_]] | None = None) -> pd.DataFrame:
        """Read all, or of each part the rows that `keep` says [N], as one frame.

        Ordered by `known_at`, then by what a row holds: the same rows give the same frame, wherever they lie.
        """
        read = ((part, None if keep is None else keep(part)) for part in self)
        parts = [part if kept is None else part[kept] for part, kept in read]
        wanted = [*self._columns, "event_at", "known_at"]
        if all(part.empty for part in parts):
            return parts[0] if parts else pd.DataFrame(columns=wanted)
        rows = pd.concat([part for part in parts if not part.empty], ignore_index=True)
        ordered = _comparable(self._contract, rows).sort_values(["known_at", *wanted[:-1]])
        if self._contract.image:
            ordered[self._contract.image.name] = rows[self._contract.image.name]
        return ordered.reset_index(drop=True)

    def newest(self) -> tuple[pd.Timestamp | None, int]:
        """Give the moment at which the newest became known (aware, UTC), and how many of the tables' rows do so later.

        Of tables only the times are read.
        """
        moments, later = [] if self._answered is None else [self._answered["known_at"].max()], 0
        for path, group in self._groups:
            table = tables.read_group(self._lake, self._commit, path, group, self._moments)
            known_at = _with_moments(self._contract, table)["known_at"]
            known = known_at <= self._as_of
            moments.append(known_at[known].max())
            later += int((known_at.notna() & ~known).sum())
        return max((moment for moment in moments if not pd.isna(moment)), default=None), later


def known_rows(model: Model, lake: Lake, commit: str, as_of: datetime, learn_from: datetime | None = None) -> KnownRows:
    """Find everything that may be learned from at `as_of`: rows about moments from `learn_from` on.

    Partitions of months that ended before `learn_from` are not read, nor are older rows that lie together in one; but
    for those to which lags go back.

    Raises: `ContractError` naming the table that lacks a column, or, when it is read, has rows that an edited contract
        does not allow any more; `Corrupt`.
    """
    return KnownRows(model, lake, commit, as_of, learn_from)


def _refuse_outdated(contract: Contract, path: str, rows: pd.DataFrame) -> None:
    """Refuse rows of a table that an edited contract allows no more. Raises: `ContractError`."""
    if rows.empty or not (broken := broken_rules(contract.without_lags, rows)):
        return
    often = ", ".join(f"{rule} ({int(found.sum())} rows)" for rule, found in list(broken.items())[:3])
    raise ContractError(
        f"{path} has rows of an older contract that the edited one does not allow, of {len(rows)}: {often}; ingest its "
        "file again, which sets such rows apart, or let the contract allow them"
    )


def _still_allowed(contract: Contract, answered: pd.DataFrame) -> pd.DataFrame:
    """Leave out answers to rows that an edited contract allows no more: a request with them would be refused now."""
    kept = contract.without_lags
    if answered.empty or any(column.name not in answered for column in kept.inputs):
        return answered.iloc[:0]
    broken = list(broken_rules(kept, answered).values())
    return answered[~np.logical_or.reduce(broken)].reset_index(drop=True) if broken else answered


def _without(contract: Contract, history: pd.DataFrame, answered: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Leave out of the table what was answered and labelled as well: an event whose raw file came later counts once."""
    answered_in = history["event_at"].between(answered["event_at"].min(), answered["event_at"].max())
    if not answered_in.any():
        return history
    possible, others = _comparable(contract, history[answered_in]), _comparable(contract, answered[key])
    again = possible.reset_index().merge(others.drop_duplicates(), on=key)["index"]
    return history[~history.index.isin(again)].reset_index(drop=True)


def _comparable(contract: Contract, rows: pd.DataFrame) -> pd.DataFrame:
    """Have what images have in common stand for them: arrays can be neither sorted nor joined by."""
    image = contract.image
    return rows if image is None else rows.assign(**{image.name: images.digests(image, rows[image.name])})


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
    rows, paths, _ = _labelled(contract, lake, commit)
    return rows, paths


def _labelled(contract: Contract, lake: Lake, commit: str) -> tuple[pd.DataFrame, tuple[str, ...], _Lacking]:
    """Do what `labelled_predictions` does, and say what archives lack: joined, that looks like a null that was sent."""
    prediction_paths = tuple(entry.path for entry in lake.list(commit, PREDICTIONS))
    archives = [tables.read(lake, commit, path) for path in prediction_paths]
    labels, label_paths = tables.read_all(lake, commit, LABELS)
    if not sum(map(len, archives)) or labels.empty:
        return pd.DataFrame(), (), {}
    lacked = [tuple(lag.name for lag in contract.lags if lag.name not in archive) for archive in archives]
    lacked_by = np.repeat(np.arange(len(archives)), [len(archive) for archive in archives])
    predictions = pd.concat(archives, ignore_index=True)
    first = ~predictions.duplicated("id").to_numpy()
    lacking = {
        names: predictions["id"][
            first & np.isin(lacked_by, [place for place, one in enumerate(lacked) if one == names])
        ]
        for names in dict.fromkeys(lacked)
        if names
    }
    labels = labels.rename(columns={"value": contract.target.name})
    joined = predictions[first].merge(labels.drop_duplicates("id"), on="id", how="inner", validate="1:1")
    return _within_range(contract, joined), (*prediction_paths, *label_paths), lacking


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
