"""Lags: what a series was some time before each row, found in a table of the past.

Tables do not keep lags. They are computed where rows are read, so that a row that comes late, a month that is ingested
again and a lag that is declared later are all heeded, and the same commit of the lake gives the same values.

Of a row about a moment `t`, a lag is the value of the same series at `t` minus its hours, to the second, or, within its
tolerance, the newest before. Only values that were known by `t` are looked at: a target from when it became known, a
feature from its row's moment on. Of several values of one moment the one that became known last is taken, of those that
did so together the largest, so that the order of rows decides nothing. Where there is none it is null.

Pure pandas: an application that keeps its own past computes the lags that it sends by the same code. Cost:
about a microsecond for each row of the past, and as much for each lag of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.contract.clock import SECOND, Microseconds, moments
from models.contract.columns import Category, Contract, Lag
from models.errors import ContractError

EVENT_AT, KNOWN_AT = "event_at", "known_at"
"""Moments (aware) that a table may have beside the contract's columns: of its rows, and of their targets."""

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Series:
    """The past of one number, every series of it, ordered by series, second, and when it became known."""

    first_s: int
    span_s: int
    """Seconds from the first to beyond the last."""
    places_N: npt.NDArray[np.int64]
    """Number of the series, times `span_s`, plus seconds since `first_s`."""
    known_us_N: Microseconds
    values_N: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        series_N: npt.NDArray[np.int64],
        at_us_N: Microseconds,
        known_us_N: Microseconds,
        values_N: npt.NDArray[np.float64],
    ) -> Self:
        """Order a past; leave out what is of no series, of no moment, or not known."""
        kept = (series_N >= 0) & (at_us_N != _NEVER) & (known_us_N != _NEVER) & np.isfinite(values_N)
        seconds_N, known_us_N, values_N = at_us_N[kept] // SECOND, known_us_N[kept], values_N[kept]
        first_s, last_s = (int(seconds_N.min()), int(seconds_N.max())) if len(seconds_N) else (0, 0)
        span_s = last_s - first_s + 1
        places_N = series_N[kept] * span_s + (seconds_N - first_s)
        order_N = np.lexsort((values_N, known_us_N, places_N))
        return cls(first_s, span_s, places_N[order_N], known_us_N[order_N], values_N[order_N])

    def before(self, lag: Lag, series_M: npt.NDArray[np.int64], at_us_M: Microseconds) -> npt.NDArray[np.float64]:
        """Give a lag of M rows, NaN where there is none."""
        found_M = np.full(len(series_M), np.nan)
        if not len(self.places_N):
            return found_M
        wanted_s_M = at_us_M // SECOND - lag.seconds - self.first_s
        rows = np.flatnonzero((series_M >= 0) & (at_us_M != _NEVER) & (wanted_s_M >= 0))
        begins, wanted_s, at_us = series_M[rows] * self.span_s, wanted_s_M[rows], at_us_M[rows]
        newest = begins + np.minimum(wanted_s, self.span_s - 1)
        oldest = begins + np.maximum(wanted_s - lag.tolerance_s, 0)
        order, place = np.argsort(newest), np.empty(len(rows), np.int64)  # in order, caches are not missed
        place[order] = np.searchsorted(self.places_N, newest[order], side="right") - 1
        left = np.arange(len(rows))  # those for which none is found yet that was known
        while len(left):
            inside = (place[left] >= 0) & (self.places_N[place[left]] >= oldest[left])
            place[left[~inside]] = -1
            left = left[inside]
            left = left[self.known_us_N[place[left]] > at_us[left]]
            place[left] -= 1
        values = self.values_N[place]
        allowed = (place >= 0) & (values >= lag.minimum) & (values <= lag.maximum)
        found_M[rows[allowed]] = values[allowed]
        return found_M


def past_columns(contract: Contract) -> list[str]:
    """Name what lags are computed from: the time, numbers and categories."""
    names = [name for lag in contract.lags for name in (lag.of, *lag.by)]
    return list(dict.fromkeys((contract.time_column.name, *names)))


class History:
    """A table of the past, to compute lags from."""

    def __init__(self, contract: Contract, table: pd.DataFrame) -> None:
        """Order it.

        Args:
            table: rows in any order: what `past_columns` names and, where the contract has one, its `known` column.
                Moments of `event_at` and `known_at`, where it has these, go before.

        Raises: `ContractError` for a column that is missing, or that is of no moments.
        """
        self._contract = contract
        known = KNOWN_AT if KNOWN_AT in table else contract.known
        _check(table, "the past", [*past_columns(contract), *([known] if known else [])])
        at_us_N = _event_us(contract, table)
        known_us_N = _moments_us(contract, table[known]) if known else at_us_N
        self._series = {
            of_by: _Series.of(
                _series(contract, table, of_by[1]),
                at_us_N,
                known_us_N if of_by[0] == contract.target.name else at_us_N,
                table[of_by[0]].to_numpy(np.float64, na_value=np.nan),
            )
            for of_by in {(lag.of, lag.by) for lag in contract.lags}
        }

    def with_lags(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Add the lags that rows lack; those that they have stay as they are.

        Args:
            rows: the contract's time and what its lags are by; of them a moment of `event_at` goes before.

        Raises: `ContractError` for a column that is missing, or that is of no moments.
        """
        lacking = [lag for lag in self._contract.lags if lag.name not in rows]
        if not lacking:
            return rows
        time = self._contract.time_column.name
        _check(rows, "the rows", [time, *(name for lag in lacking for name in lag.by)])
        at_us = _event_us(self._contract, rows)
        found = {
            lag.name: self._series[lag.of, lag.by].before(lag, _series(self._contract, rows, lag.by), at_us)
            for lag in lacking
        }
        return rows.assign(**found)


def _check(table: pd.DataFrame, what: str, wanted: Sequence[str]) -> None:
    if missing := [name for name in dict.fromkeys(wanted) if name not in table]:
        raise ContractError(f"{what}: columns {missing} are missing, from which lags are computed")


def _event_us(contract: Contract, table: pd.DataFrame) -> Microseconds:
    return _moments_us(contract, table[EVENT_AT if EVENT_AT in table else contract.time_column.name])


def _moments_us(contract: Contract, times: pd.Series) -> Microseconds:
    """Give moments in UTC; the largest number where there is none."""
    if not pd.api.types.is_datetime64_any_dtype(times):
        raise ContractError(f"column {times.name!r} is {times.dtype}, no moments; read it by pandas.to_datetime")
    is_wall_time, there = times.dt.tz is None, times.notna().to_numpy()
    naive = times if is_wall_time else times.dt.tz_convert("UTC").dt.tz_localize(None)
    found_us = naive.to_numpy("datetime64[us]").astype(np.int64)
    if is_wall_time:
        found_us[there] = moments(contract.zone or "UTC", found_us[there])
    return np.where(there, found_us, _NEVER)


def _series(contract: Contract, table: pd.DataFrame, by: Sequence[str]) -> npt.NDArray[np.int64]:
    """Number the series that rows are of; -1 where a category is null or unknown."""
    columns = {column.name: column for column in contract.categories}
    numbers = np.zeros(len(table), np.int64)
    for name in by:
        codes = _codes(columns[name], table[name])
        numbers = np.where((numbers < 0) | (codes < 0), -1, numbers * len(columns[name].values) + codes)
    return numbers


def _codes(category: Category, values: pd.Series) -> npt.NDArray[np.int64]:
    alike = values.astype(object) if category.is_text else values.astype("Int64")
    return pd.Index(category.values, dtype=alike.dtype).get_indexer(pd.Index(alike)).astype(np.int64)
