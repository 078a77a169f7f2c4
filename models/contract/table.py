"""Whole tables against the contract: bad rows are set apart with their reason, a bad table is refused.

Validation itself is pandera's. It costs about 50 ms for 10,000 rows, and pandera a second to import, which is why it
stays out of the service (`models.contract.rows` checks requests).
"""

import os
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.contract.columns import MISSING_CODE, Category, Contract, Number
from models.errors import ContractError, Violation

os.environ.setdefault("DISABLE_PANDERA_IMPORT_WARNING", "True")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pandera's own deprecations at import
    import pandera.pandas as pa

REASON = "refused_because"


@dataclass(frozen=True, slots=True)
class Validated:
    """A table cut in two. `refused` has the raw values and the column `refused_because`."""

    partition: str
    """Calendar month that most rows lie in, `YYYY-MM`."""
    accepted: pd.DataFrame
    refused: pd.DataFrame


def validate(contract: Contract, table: pd.DataFrame, name: str) -> Validated:
    """Check a prepared table.

    Args:
        table: the contract's inputs, target, checks and `known`; other columns are dropped.
        name: what to call the table in messages.

    Raises: `ContractError` when the table as a whole is refused: no rows, missing columns, wrong types, too few
        accepted, too many refused, too old at its partition's end.
    """
    wanted = [column.name for column in (*contract.inputs, contract.target, *contract.checks)]
    wanted += [contract.known] if contract.known else []
    if missing := [column for column in wanted if column not in table.columns]:
        raise ContractError(
            f"{name}: columns {missing} are missing; the file has {sorted(map(str, table.columns))}",
            [Violation(column, "column is missing") for column in missing],
        )
    if table.empty:
        raise ContractError(f"{name}: the table has no rows; nothing to ingest")
    table = table[wanted].reset_index(drop=True)
    partition = pd.Period(table[contract.time.name].median(), "M")
    reasons = _reasons(contract, table, partition)
    refused = reasons.notna()
    accepted = table[~refused].sort_values(contract.time.name, kind="stable").reset_index(drop=True)
    _check_whole(contract, name, table, accepted, partition)
    return Validated(str(partition), accepted, table[refused].assign(**{REASON: reasons[refused]}).reset_index(drop=True))


def _reasons(contract: Contract, table: pd.DataFrame, partition: pd.Period) -> pd.Series:
    """Give each row's reasons, joined; missing where the row is good."""
    found: dict[int, list[str]] = {}
    try:
        _schema(contract).validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        wrong_type = cases[cases["index"].isna()]
        if len(wrong_type):
            violations = [
                Violation(str(case.column or case.failure_case), f"{case.check}, found {case.failure_case}")
                for case in wrong_type.itertuples()
            ]
            raise ContractError(f"table breaks the contract: {violations[0]}", violations) from None
        rows = cases["index"].astype(int)
        for row, column, check in zip(rows, cases["column"], cases["check"], strict=True):
            found.setdefault(row, []).append(f"{column}: {_rule(check)}")
    time = table[contract.time.name]
    for row in np.flatnonzero(time.notna() & (time.dt.to_period("M") != partition)):
        found.setdefault(int(row), []).append(f"{contract.time.name}: outside the partition {partition}")
    if contract.unique:
        for row in np.flatnonzero(table.duplicated(list(contract.unique), keep="first")):
            found.setdefault(int(row), []).append("duplicate of an earlier row")
    return pd.Series({row: "; ".join(dict.fromkeys(texts)) for row, texts in found.items()}, dtype=object).reindex(
        table.index
    )


def _rule(check: object) -> str:
    text = str(check)
    return "may not be null" if text == "not_nullable" else text


def _schema(contract: Contract) -> pa.DataFrameSchema:
    columns = {contract.time.name: pa.Column("datetime64[us]", nullable=False)}
    if contract.known:
        columns[contract.known] = pa.Column("datetime64[us]", nullable=False)
    for column in (*contract.features, contract.target, *contract.checks):
        columns[column.name] = _column(column)
    return pa.DataFrameSchema(columns)


def _column(column: Number | Category) -> pa.Column:
    if isinstance(column, Number):
        within = pa.Check.in_range(
            column.minimum, column.maximum, error=f"outside {column.minimum:g} to {column.maximum:g} {column.unit}".rstrip()
        )
        return pa.Column("float64", within, nullable=column.nullable)
    known = pa.Check.isin(column.values, error="unknown category")
    kind = "object" if column.is_text else ("Int64" if column.nullable else "int64")
    return pa.Column(kind, known, nullable=column.nullable)


def _check_whole(
    contract: Contract, name: str, table: pd.DataFrame, accepted: pd.DataFrame, partition: pd.Period
) -> None:
    share = 1 - len(accepted) / len(table)
    if share > contract.maximum_refused:
        raise ContractError(
            f"{name}: {share:.0%} of {len(table)} rows break the contract, at most {contract.maximum_refused:.0%} may; "
            "see whether the file's columns or units have changed"
        )
    if len(accepted) < contract.minimum_rows:
        raise ContractError(f"{name}: {len(accepted)} good rows, at least {contract.minimum_rows} are needed")
    if contract.maximum_gap_days is not None:
        newest = accepted[contract.time.name].max()
        gap = (partition.end_time - newest) / pd.Timedelta(days=1)
        if gap > contract.maximum_gap_days:
            raise ContractError(
                f"{name}: the newest row is of {newest:%Y-%m-%d}, {gap:.0f} days before the end of {partition}; "
                f"at most {contract.maximum_gap_days:g} are allowed: wait for the whole file"
            )


def to_columns(contract: Contract, table: pd.DataFrame) -> dict[str, npt.NDArray[np.generic]]:
    """Give the graph's inputs for a table (see `models.inference`)."""
    columns: dict[str, npt.NDArray[np.generic]] = {contract.time.name: _seconds(table[contract.time.name])}
    for column in contract.features:
        values = table[column.name]
        if isinstance(column, Number):
            columns[column.name] = values.to_numpy(np.float32, na_value=np.nan)
        elif column.is_text:
            columns[column.name] = values.fillna("").to_numpy(object)
        else:
            columns[column.name] = values.fillna(MISSING_CODE).to_numpy(np.int64)
    return columns


def _seconds(times: pd.Series) -> npt.NDArray[np.int64]:
    naive = times.dt.tz_convert("UTC").dt.tz_localize(None) if times.dt.tz is not None else times
    return naive.astype("datetime64[s]").astype("int64").to_numpy()


def to_instants(contract: Contract, times: pd.Series) -> pd.Series:
    """Turn a table's times into aware UTC ones.

    A wall time that occurs twice is the first of the two; one that daylight saving skips is an hour later.
    """
    if times.dt.tz is not None:
        return times.dt.tz_convert("UTC")
    if contract.time.zone is None:
        return times.dt.tz_localize("UTC")
    first = np.ones(len(times), dtype=bool)
    local = times.dt.tz_localize(contract.time.zone, ambiguous=first, nonexistent=pd.Timedelta(hours=1))
    return local.dt.tz_convert("UTC")


def time_part(times: pd.Series, part: str) -> npt.NDArray[np.int64]:
    """Compute a time part with pandas: the yardstick for the graph's own."""
    calendar = times.dt
    match part:
        case "minute_of_day":
            values = calendar.hour * 60 + calendar.minute
        case "weekday":
            values = calendar.day_of_week
        case _:
            values = getattr(calendar, part)
    return values.to_numpy(np.int64)
