"""What the sample's trips are to a service: requests when they start, labels when they end."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd

from infra import tables
from infra.errors import Misconfigured, NotFound
from infra.traffic import Event
from models.contract import images
from models.contract.columns import Contract, Image, Number, Time
from models.contract.lags import History
from models.contract.table import to_instants
from models.errors import DefinitionError
from models.model import Model, MonthlySample

_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True)
class Play:
    """A period of raw rows as events, in order."""

    events: list[Event]
    starts_at: datetime
    ends_at: datetime
    outside: int
    """Raw rows whose time lies outside the period; no one can send them in it."""


def sample_of(definition: Model) -> MonthlySample:
    """Give the sample. Raises: `DefinitionError` when a model has none of months."""
    if not isinstance(definition.sample, MonthlySample):
        raise DefinitionError(
            f"model {definition.name} has no months to play; give its definition a `sample` that is a MonthlySample"
        )
    return definition.sample


def months(first: str, last: str) -> list[str]:
    """List months from first to last, `YYYY-MM`. Raises: `Misconfigured`."""
    for month in (first, last):
        if not _MONTH.fullmatch(month):
            raise Misconfigured(f"{month!r} is not a month; write it as YYYY-MM, such as 2020-03")
    if first > last:
        raise Misconfigured(f"a period cannot begin with {first} and end with {last}")
    return [str(month) for month in pd.period_range(first, last, freq="M")]


def sample_files(definition: Model, first: str, last: str) -> dict[str, Path]:
    """Name the sample's file of each month from first to last. Raises: `Misconfigured`, `NotFound`."""
    sample = sample_of(definition)
    files = {month: sample.file(month) for month in months(first, last)}
    if missing := [month for month, file in files.items() if not file.is_file()]:
        raise NotFound(f"the sample of {definition.name} lacks {', '.join(missing[:5])}; choose months that it has")
    return files


def month_start(contract: Contract, month: str) -> datetime:
    """Give the moment a month begins on the contract's clock, aware, UTC."""
    zone = ZoneInfo(contract.time_column.zone) if contract.time_column.zone else UTC
    return pd.Period(month, "M").start_time.to_pydatetime().replace(tzinfo=zone).astimezone(UTC)


def load(definition: Model, first: str, last: str) -> Play:
    """Read a period's raw rows, good and bad ones, as a caller would send them.

    A row that has no label by the end of the period never gets one.
    """
    contract = definition.contract
    frames = [_read(definition, month, file) for month, file in sample_files(definition, first, last).items()]
    rows = pd.concat(frames, ignore_index=True)
    if contract.lags:
        rows = _with_lags(definition, first, rows)
    starts_at = month_start(contract, first)
    ends_at = month_start(contract, str(pd.Period(last, "M") + 1))
    rows["starts"] = _seconds(contract, rows[contract.time_column.name])
    rows["ends"] = np.maximum(_seconds(contract, rows[contract.known or contract.time_column.name]), rows["starts"])
    within = rows["starts"].between(starts_at.timestamp(), ends_at.timestamp(), inclusive="left")
    rows = rows[within].reset_index(drop=True)
    events = sorted(
        _events(contract, rows, ends_at.timestamp()), key=lambda event: (event.at_s, event.item, event.is_label)
    )
    return Play(events, starts_at, ends_at, int((~within).sum()))


def _read(definition: Model, month: str, file: Path) -> pd.DataFrame:
    rows = definition.prepared(tables.read_raw(file.name, file.read_bytes(), dict(definition.raw_kinds)))
    return rows.assign(id=[f"{month}-{place:06d}" for place in range(len(rows))])


def _with_lags(definition: Model, first: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Give rows what their callers would have known of the past, of the sample's earlier months as well."""
    reach = timedelta(seconds=max(lag.reach_s for lag in definition.contract.lags))
    oldest = str((pd.Period(first, "M").start_time - reach).to_period("M"))
    earliest = sample_of(definition).history_from
    before = [month for month in months(min(oldest, first), first)[:-1] if month >= earliest]
    files = sample_files(definition, before[0], before[-1]) if before else {}
    past = [*(_read(definition, month, file) for month, file in files.items()), rows]
    return History(definition.contract, pd.concat(past, ignore_index=True)).with_lags(rows)


def _seconds(contract: Contract, times: pd.Series) -> "pd.Series[float]":
    instants = to_instants(contract, times)
    seconds: pd.Series[float] = instants.dt.tz_localize(None).astype("datetime64[us]").astype("int64") / 1e6
    return seconds


def _events(contract: Contract, rows: pd.DataFrame, end_s: float) -> Iterator[Event]:
    columns = {column.name: _as_sent(column, rows[column.name]) for column in contract.inputs}
    targets = rows[contract.target.name].tolist()
    starts, ends, ids = rows["starts"].tolist(), rows["ends"].tolist(), rows["id"].tolist()
    for item, values in enumerate(zip(*columns.values(), strict=True)):
        row = dict(zip(columns, values, strict=True)) | {"id": ids[item]}
        yield Event(starts[item], item, is_label=False, body=msgspec.json.encode({"rows": [row]}))
        if ends[item] < end_s:
            label = {"id": ids[item], "value": targets[item], "at": datetime.fromtimestamp(ends[item], UTC)}
            yield Event(ends[item], item, is_label=True, body=msgspec.json.encode({"labels": [label]}))


def _as_sent(column: object, values: pd.Series) -> list[object]:
    if isinstance(column, Time):
        return list(values.dt.strftime("%Y-%m-%dT%H:%M:%S" + ("" if column.zone else "Z")))
    if isinstance(column, Number):
        return [None if np.isnan(value) else value for value in values.tolist()]
    if isinstance(column, Image):
        return [images.as_lists(column, value) for value in values]
    return [None if value is pd.NA else value for value in values.tolist()]
