"""Whole tables against the contract: bad rows are set apart with their reason, a bad table is refused.

Validation itself is pandera's. It costs about 50 ms for 10,000 rows, and pandera a second to import, which is why it
stays out of the service (`models.contract.rows` checks requests).
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.contract import clock, images
from models.contract.columns import MISSING_CODE, Category, Contract, Feature, Image, Number, Time
from models.errors import ContractError, Violation

os.environ.setdefault("DISABLE_PANDERA_IMPORT_WARNING", "True")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pandera's own deprecations at import
    import pandera.pandas as pa

REASON = "refused_because"


@dataclass(frozen=True, slots=True)
class Validated:
    """A table cut in two. `refused` has the raw values and the column `refused_because`.

    Accepted images are flat arrays; refused ones have the numbers that were there, in one list, as floats.
    """

    partition: str
    """Calendar month that most rows lie in, `YYYY-MM`; where partitions are files, the table's own name."""
    accepted: pd.DataFrame
    refused: pd.DataFrame

    @property
    def reasons(self) -> dict[str, int]:
        """Give how many refused rows broke each rule, the most frequent first."""
        return _counted(self.refused[REASON])


def _counted(refusals: Iterable[str]) -> dict[str, int]:
    return dict(Counter(reason for text in refusals for reason in text.split("; ")).most_common())


def validate(contract: Contract, table: pd.DataFrame, name: str) -> Validated:
    """Check a prepared table.

    Args:
        table: the contract's inputs but for lags, target, checks and `known`; other columns are dropped.
        name: what to call the table in messages; where partitions are files its partition, but for its ending.

    Raises: `ContractError` when the table as a whole is refused: no rows, missing columns, wrong types, too few
        accepted, too many refused, too old at its partition's end.
    """
    contract = contract.without_lags
    wanted = [column.name for column in (*contract.inputs, contract.target, *contract.checks)]
    wanted += [contract.known] if contract.known else []
    if missing := [column for column in wanted if column not in table.columns]:
        raise ContractError(
            f"{name}: columns {missing} are missing; after `prepare` there are {sorted(map(str, table.columns))}",
            [Violation(column, "column is missing") for column in missing],
        )
    if table.empty:
        raise ContractError(f"{name}: the table has no rows; nothing to ingest")
    table = _as_kept(contract, table[wanted].reset_index(drop=True))
    _check_types(contract, name, table)
    reasons = _broken_rules(contract, table)
    if contract.image:
        table[contract.image.name] = _read_images(contract.image, table[contract.image.name], reasons)
    time = contract.time
    partition = _check_month(time, table, name, reasons) if time and contract.is_monthly else PurePath(name).stem
    if time and contract.known:
        _add(reasons, table[contract.known] < table[time.name], f"{contract.known}: before {time.name}")
    if contract.unique:
        fitting = table[~table.index.isin(list(reasons))]  # a refused row is no reason against its mended copy
        again = fitting.duplicated(list(contract.unique)).reindex(table.index, fill_value=False)
        _add(reasons, again, "duplicate of an earlier row")
    refused = table.index.isin(list(reasons))
    accepted = table[~refused].reset_index(drop=True).astype(_floats(contract, table))
    if time is not None:
        accepted = accepted.sort_values(time.name, kind="stable", ignore_index=True)
    texts = ["; ".join(dict.fromkeys(reasons[row])) for row in table.index[refused]]
    _check_whole(contract, name, texts, accepted, partition)
    apart = table[refused].assign(**{REASON: texts}).reset_index(drop=True)
    if contract.image:  # in one type, whatever they are
        apart[contract.image.name] = _as_floats(apart[contract.image.name])
    return Validated(partition, accepted, apart)


def set_apart(contract: Contract, checked: Validated, reasons: Mapping[int, str], name: str) -> Validated:
    """Refuse some of the accepted rows as well, by their place. Raises: `ContractError`, as `validate` does."""
    refused = checked.accepted.index.isin(list(reasons))
    accepted = checked.accepted[~refused].reset_index(drop=True)
    texts = [reasons[row] for row in checked.accepted.index[refused]]
    apart = checked.accepted[refused].assign(**{REASON: texts}).reset_index(drop=True)
    if contract.image:
        apart[contract.image.name] = _as_floats(apart[contract.image.name])
    apart = pd.concat([checked.refused, apart], ignore_index=True) if len(checked.refused) else apart
    _check_whole(contract, name, apart[REASON].tolist(), accepted, checked.partition)
    return Validated(checked.partition, accepted, apart)


def _read_images(image: Image, values: pd.Series, reasons: dict[int, list[str]]) -> pd.Series:
    """Give images as they are kept, and those that are refused as they are."""
    cells = values.tolist()
    pixels_ND, broken = images.read_cells(image, cells)
    for row, reason in broken.items():
        reasons.setdefault(row, []).append(f"{image.name}: {reason}")
    return pd.Series([cells[row] if row in broken else pixels_ND[row] for row in range(len(cells))], dtype=object)


def _as_floats(values: pd.Series) -> pd.Series:
    found = (images.dense(cell) for cell in values)
    return pd.Series([None if isinstance(one, str) else one.astype(np.float64).ravel() for one in found], dtype=object)


def _check_month(time: Time, table: pd.DataFrame, name: str, reasons: dict[int, list[str]]) -> str:
    """Refuse rows of another month than most; give the month."""
    months = table[time.name].dt.tz_localize(None).dt.to_period("M")
    if months.isna().all():
        raise ContractError(f"{name}: no row has a {time.name}")
    partition = months.mode().iloc[0]
    _add(reasons, months.notna() & (months != partition), f"{time.name}: outside the partition {partition}")
    return str(partition)


def _moments(contract: Contract) -> list[str]:
    """Name the columns that are moments."""
    return [name for name in (contract.time.name if contract.time else None, contract.known) if name]


def _as_kept(contract: Contract, table: pd.DataFrame) -> pd.DataFrame:
    """Bring each spelling of one kind to the one that the lake keeps."""
    for name in _moments(contract):
        if pd.api.types.is_datetime64_any_dtype(table[name]):
            table[name] = table[name].dt.as_unit("us")
        if contract.zone is None and isinstance(table[name].dtype, pd.DatetimeTZDtype):
            table[name] = table[name].dt.tz_convert("UTC")
    for column in (*contract.numbers, *contract.categories, contract.target, *contract.checks):
        values = table[column.name]
        if isinstance(column, Number):
            if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
                table[column.name] = values.astype("float64")
        elif column.is_text:
            if isinstance(values.dtype, pd.StringDtype | pd.CategoricalDtype):
                table[column.name] = values.astype(object)
        elif pd.api.types.is_integer_dtype(values) and (column.nullable or not values.hasnans):
            table[column.name] = values.astype(_integer_type(column))
    return table


def _check_types(contract: Contract, name: str, table: pd.DataFrame) -> None:
    moment = "datetime64[us]" if contract.zone else "datetime64[us, UTC]"
    wanted = dict.fromkeys(_moments(contract), moment)
    for column in (*contract.features, contract.target, *contract.checks):
        wanted[column.name] = _stored_type(column)
    violations = [
        Violation(column, f"should be {_said(contract, column, kind)}, it is {table[column].dtype}")
        for column, kind in wanted.items()
        if str(table[column].dtype) != kind and column not in _floats(contract, table)
    ]
    if violations:
        raise ContractError(
            f"{name}: {'; '.join(map(str, violations[:5]))}; let the definition's `prepare` give these types",
            violations,
        )


def _floats(contract: Contract, table: pd.DataFrame) -> dict[str, Literal["Int64", "int64"]]:
    """Name the categories of integers that are floats, because a row has a fraction, and what the others shall be."""
    columns = (*contract.categories, contract.target, *contract.checks)
    whole = [one for one in columns if isinstance(one, Category) and not one.is_text]
    return {one.name: _integer_type(one) for one in whole if table[one.name].dtype == "float64"}


def _said(contract: Contract, column: str, kind: str) -> str:
    """Call a type of columns as people do."""
    if contract.image and column == contract.image.name:
        return "lists of numbers"
    return "text" if kind == "object" else kind


def _stored_type(column: Feature) -> str:
    if isinstance(column, Number):
        return "float64"
    if isinstance(column, Image) or column.is_text:
        return "object"
    return _integer_type(column)


def _integer_type(column: Category) -> Literal["Int64", "int64"]:
    return "Int64" if column.nullable else "int64"


def _broken_rules(contract: Contract, table: pd.DataFrame) -> dict[int, list[str]]:
    """Give the reasons against each bad row, by its place."""
    found: dict[int, list[str]] = {}
    try:
        _schema(contract).validate(table.drop(columns=[contract.image.name] if contract.image else []), lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        for row, column, check in zip(cases["index"].astype(int), cases["column"], cases["check"], strict=True):
            found.setdefault(row, []).append(f"{column}: {_rule(check)}")
    return found


def _add(reasons: dict[int, list[str]], broken: "pd.Series[bool]", reason: str) -> None:
    for row in np.flatnonzero(broken):
        reasons.setdefault(int(row), []).append(reason)


def _rule(check: object) -> str:
    text = str(check)
    return "may not be null" if text == "not_nullable" else text


def _schema(contract: Contract) -> pa.DataFrameSchema:
    columns = {name: pa.Column(nullable=False) for name in _moments(contract)}
    for column in (*contract.features, contract.target, *contract.checks):
        if isinstance(column, Image):
            continue  # see `_read_images`
        columns[column.name] = pa.Column(checks=_allowed(column), nullable=column.nullable)
    return pa.DataFrameSchema(columns)


def _allowed(column: Number | Category) -> pa.Check:
    if isinstance(column, Category):
        return pa.Check.isin(column.values, error="unknown category")
    outside = f"outside {column.minimum:.12g} to {column.maximum:.12g} {column.unit}".rstrip()
    return pa.Check.in_range(column.minimum, column.maximum, error=outside)


def _check_whole(contract: Contract, name: str, refusals: list[str], accepted: pd.DataFrame, partition: str) -> None:
    rows = len(accepted) + len(refusals)
    if len(refusals) / rows > contract.maximum_refused:
        often = ", ".join(
            f"{reason} ({count} {'row' if count == 1 else 'rows'})"
            for reason, count in list(_counted(refusals).items())[:3]
        )
        raise ContractError(
            f"{name}: {len(refusals) / rows:.0%} of {rows} rows break the contract, at most "
            f"{contract.maximum_refused:.0%} may (`maximum_refused`): {often}"
        )
    if len(accepted) < contract.minimum_rows:
        raise ContractError(
            f"{name}: {len(accepted)} good rows, at least {contract.minimum_rows} are needed (`minimum_rows`)"
        )
    if contract.maximum_gap_days is not None:
        newest = accepted[contract.time_column.name].dt.tz_localize(None).max()
        gap = (pd.Period(partition, "M").end_time - newest) / pd.Timedelta(days=1)
        if gap > contract.maximum_gap_days:
            raise ContractError(
                f"{name}: the newest row is of {newest:%Y-%m-%d}, {gap:.0f} days before the end of {partition}; "
                f"at most {contract.maximum_gap_days:g} are allowed (`maximum_gap_days`): wait for the whole file"
            )


def to_columns(contract: Contract, table: pd.DataFrame) -> dict[str, npt.NDArray[np.generic]]:
    """Give the graph's inputs for a table (see `models.inference`)."""
    columns: dict[str, npt.NDArray[np.generic]] = {}
    if contract.time is not None:
        columns[contract.time.name] = _seconds(table[contract.time.name])
    for column in contract.features:
        values = table[column.name]
        if isinstance(column, Image):
            columns[column.name] = images.in_rows(column, images.from_cells(column, values))
        elif isinstance(column, Number):
            columns[column.name] = values.to_numpy(np.float32, na_value=np.nan)
        elif column.is_text:
            columns[column.name] = values.fillna("").to_numpy(object)
        else:
            columns[column.name] = values.fillna(MISSING_CODE).to_numpy(np.int64)
    return columns


def _seconds(times: pd.Series) -> npt.NDArray[np.int64]:
    naive = times.dt.tz_convert("UTC").dt.tz_localize(None) if times.dt.tz is not None else times
    return np.asarray(naive.astype("datetime64[s]").astype("int64"), dtype=np.int64)


def to_instants(contract: Contract, times: pd.Series) -> pd.Series:
    """Turn a table's times into aware UTC ones.

    A wall time that occurs twice is the first of the two; one that is left out is read by the clock before the change.
    """
    if times.dt.tz is not None:
        instants: pd.Series = times.dt.tz_convert("UTC")
        return instants
    wall_us = times.to_numpy("datetime64[us]").astype(np.int64)
    found = clock.moments(contract.zone or "UTC", wall_us)
    return pd.Series(pd.DatetimeIndex(found.view("datetime64[us]"), tz="UTC"), index=times.index, name=times.name)


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
    return np.asarray(values, dtype=np.int64)
