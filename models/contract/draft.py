"""A first contract for a table that nobody has described yet: kinds, ranges, categories, and what looks wrong.

It is a draft: ranges are those of the rows that were seen, with a tenth of their span on either side, and units are for
people to fill in. Columns from which nothing can be learned (one value only, another one in each row) or too much (they
say the target) are left out, and said so. Cost: a few passes over each column.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from models.contract.columns import Category, Contract, Lag, Number, Slice, Task, Time, TimePart
from models.contract.lags import History, past_columns
from models.contract.reading import odd_moment
from models.errors import ContractError

UNIT = ""
"""What a draft says of a unit that nobody has told."""

_MOST_CATEGORIES = 1000
_SHOWN_VALUES = 3
_MOST_CLASSES = 100
_FEW_CLASSES = 10
"""Whole numbers with at most so many values are taken for classes."""
_CODED_AS = ("id", "code", "zone", "type", "class", "category", "kind", "zip", "zipcode", "postcode")
"""Last words of names of whole numbers that count nothing."""
_LAST_WORD = re.compile(r"([A-Z]+|[A-Z]?[a-z]+)[^a-zA-Z]*$")
_MONTH = r"[A-Z][a-z]{2,8}\.?"
_DATE = re.compile(
    rf"(\d{{4}}([/-])\d{{1,2}}\2\d{{1,2}}|\d{{1,2}}([./-])\d{{1,2}}\3\d{{4}}|\d{{1,2}}/\d{{1,2}}/\d\d|\d\d\.\d\d\.\d\d"
    rf"|{_MONTH} \d{{1,2}},? \d{{4}}|\d{{1,2}}\.? {_MONTH} \d{{4}})([T ,].*)?"
)
_MOSTLY = 0.9
"""A share of a column's values that are dates from which on it is one of dates, however it says that one is unknown."""
_FEW_GROUPS, _MOST_SLICES = 20, 8
"""Values of a category that is a slice, and how many such are suggested."""
_TOLD_ROWS, _FEWEST_TOLD = 100_000, 10
"""Rows on which it is looked whether a column says the target: at most, and at least, as few agree by chance."""
_ALIKE = 0.9999
"""A correlation of ranks from which on two columns have one order."""
_LARGEST = 1e37
"""Networks compute in 32 bits, which hold little more, nor less than its inverse."""
_A_YEAR_S, _TWO_DAYS_S, _TWO_MONTHS_S = 365 * 86_400, 2 * 86_400, 61 * 86_400


@dataclass(frozen=True)
class Draft:
    """A contract, and what was seen on the way to it."""

    contract: Contract
    task: Task
    rows: int
    span_days: float | None
    """Within which nearly all moments lie; None without a time."""
    seen: dict[str, str] = field(default_factory=dict)
    """What each column holds, by name."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Columns that the contract does not have, and why."""


def draft(
    table: pa.Table,
    target: str,
    time: str | None = None,
    task: Task | None = None,
    taken: Collection[str] = (),
    lags: Mapping[str, float] = MappingProxyType({}),
    by: Sequence[str] = (),
) -> Draft:
    """Look at a table and write a contract for it.

    Args:
        table: rows as they were read; text, numbers, truth values, moments.
        target: the column to predict.
        time: the column that says what moment a row is about; None where there is none.
        task: what is asked of the target; None: what its kind suggests.
        taken: names that no column may have.
        lags: hours before a row at which the target is looked up, by what the column shall be called.
        by: columns whose values tell series apart.

    Raises: `ContractError` for a target, a time, lags or series that cannot be.
    """
    names = _check(table, target, time, taken)
    table = _plain(table)
    label, task = _target(target, table[target], task)
    _check_lags(table, label, time, lags, by)
    columns, seen, left_out = list[Number | Category](), {target: _seen(label, table[target])}, dict[str, str]()
    moment = None if time is None else _time(time, table[time])
    for name in names:
        if name in (target, time):
            continue
        why = "no column may be called so; rename it" if name in taken or "/" in name or not name else ""
        why = why or _useless(table[name], table[target], label)
        found = why or (_category if name in by else _feature)(name, table[name])
        if isinstance(found, str) and name in by:
            raise ContractError(f"{name!r} tells no series apart: {found}")
        if isinstance(found, str):
            left_out[name] = found
        else:
            columns.append(found)
            seen[name] = _seen(found, table[name]) + _follows(target, table[target], table[name])
    if not columns and not (moment and moment.parts):
        raise ContractError("no column is left to predict from: " + "; ".join(f"{k}: {v}" for k, v in left_out.items()))
    columns += [_lag(name, label, hours, by) for name, hours in lags.items()]
    contract = Contract(
        time=moment,
        features=tuple(columns),
        target=label,
        partition="file" if moment else "month",
        slices=tuple(_slices(moment, columns)),
    )
    seen |= _seen_in_order(contract, table)
    span_days = None if time is None else _span_s(table[time]) / 86_400
    return Draft(contract, task, table.num_rows, span_days, seen, left_out)


def _check(table: pa.Table, target: str, time: str | None, taken: Collection[str]) -> list[str]:
    """Refuse a table, a target or a time that cannot be one; give the columns' names."""
    names: list[str] = table.column_names
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ContractError(f"columns {repeated} are there more than once; rename them")
    for name in filter(None, (target, time)):
        if name not in names:
            raise ContractError(f"there is no column {name!r}; the table has {', '.join(names)}")
        if name in taken or "/" in name:
            raise ContractError(f"no column may be called {name!r}; rename it")
    if pa.types.is_nested(table[target].type):
        raise ContractError(f"target {target!r} is {table[target].type}; a target is one value a row: choose another")
    if target == time:
        raise ContractError(f"{target!r} is named as target and as time; they are two columns")
    if table.num_rows < 2:
        raise ContractError(f"the table has {table.num_rows} rows; there is nothing to learn from")
    return names


def _plain(table: pa.Table) -> pa.Table:
    """Have values themselves where there are dictionaries, as pandas' categories are in Parquet."""
    for place, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(place, column.name, table.column(place).cast(column.type.value_type))
    return table


def _target(name: str, values: pa.ChunkedArray, task: Task | None) -> tuple[Number | Category, Task]:
    if values.null_count == len(values) or (_is_number(values.type) and not len(_finite(values))):
        raise ContractError(f"target {name!r} is empty in each row; choose another")
    distinct = _distinct(values)
    if len(distinct) < 2:
        raise ContractError(f"target {name!r} is {distinct[0]!r} in each row: nothing can be learned; choose another")
    kind = values.type
    can_be_number = _is_number(kind)
    can_be_class = len(distinct) <= _MOST_CLASSES and not (pa.types.is_temporal(kind) or _has_fractions(values))
    few = len(distinct) == 2 or (len(distinct) <= _FEW_CLASSES and not pa.types.is_floating(kind))
    suggested: Task = "binary" if len(distinct) == 2 else "multiclass"
    if can_be_number and not (can_be_class and few):
        suggested = "regression"
    task = task or suggested
    if task == "regression":
        if not can_be_number:
            way_out = f"use --task {suggested}" if can_be_class else "choose another target"
            raise ContractError(f"target {name!r} is {kind}, no number: {way_out}")
        if odd := _beyond(values):
            raise ContractError(f"target {name!r}: {odd}")
        return _number(name, values, nullable=False), task
    if not can_be_class:
        way_out = f"{'use --task regression, or ' if can_be_number else ''}choose another target"
        raise ContractError(
            f"target {name!r} has {len(distinct):,} values, of {kind}: one that is a category has at most "
            f"{_MOST_CLASSES}, whole numbers or text; {way_out}"
        )
    if task == "binary" and len(distinct) != 2:
        raise ContractError(f"target {name!r} has {len(distinct)} values; --task binary wants two: use multiclass")
    return Category(name=name, values=tuple(distinct)), task


def _check_lags(
    table: pa.Table, target: Number | Category, time: str | None, lags: Mapping[str, float], by: Sequence[str]
) -> None:
    """Refuse lags where there can be none, and series without lags."""
    if by and not lags:
        raise ContractError(f"series are told apart by {', '.join(by)}, and no lag is asked for")
    if lags and time is None:
        raise ContractError("lags need a time column, which says what came before")
    if lags and isinstance(target, Category):
        raise ContractError(f"lags are of numbers, and {target.name!r} is a category; use --task regression")
    if missing := [name for name in by if name not in table.column_names]:
        raise ContractError(f"there is no column {missing[0]!r}; the table has {', '.join(table.column_names)}")
    if {target.name, time} & set(by):
        raise ContractError("series are told apart by other columns than the target and the time")
    if there := [name for name in lags if name in table.column_names]:
        raise ContractError(f"there is a column {there[0]!r} already, as a lag would be called; rename or remove it")


def _category(name: str, values: pa.ChunkedArray) -> Category | str:
    """Describe a column as a category, whatever it seems to be, or say why it is none."""
    nullable = values.null_count > 0 or _has_nan(values)
    if pa.types.is_boolean(values.type):
        return Category(name=name, values=(0, 1), nullable=nullable)
    if not (_is_text(values.type) or _is_number(values.type)) or _has_fractions(values):
        return f"it is {values.type}; a category is of text or whole numbers"
    distinct = _distinct(values)
    if len(distinct) > _MOST_CATEGORIES:
        return f"it has {len(distinct):,} values; a category has at most {_MOST_CATEGORIES:,}"
    return Category(name=name, values=tuple(distinct), nullable=nullable)


def _lag(name: str, target: Number | Category, hours: float, by: Sequence[str]) -> Lag:
    assert isinstance(target, Number)
    return Lag(
        name=name,
        of=target.name,
        hours=hours,
        by=tuple(by),
        unit=target.unit,
        minimum=target.minimum,
        maximum=target.maximum,
    )


def _again(time: str, table: pa.Table) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Say which rows are, in all columns, another row again [N]; none where they hold lists or the like."""
    again = np.zeros(table.num_rows, bool)
    if not any(map(pa.types.is_nested, table.schema.types)):
        crowded = np.flatnonzero(table[time].to_pandas().duplicated(keep=False))  # which is mostly none
        again[crowded] = table.take(crowded).to_pandas().duplicated()
    return again


def _seen_in_order(contract: Contract, table: pa.Table) -> dict[str, str]:
    """Say when rows are, how many are there again, and how many lags are found.

    Raises: `ContractError` for a lag of which none is.
    """
    if contract.time is None:
        return {}
    again = _again(contract.time.name, table)
    repeats = f"; REPEATS? {again.mean():.1%} of rows are another row again" if again.any() else ""
    moments = {contract.time.name: _seen_moments(contract.time, table[contract.time.name]) + repeats}
    if not contract.lags:
        return moments
    rows = table.select(past_columns(contract)).to_pandas()
    if pa.types.is_date(table[contract.time_column.name].type):
        rows = rows.astype({contract.time_column.name: "datetime64[s]"})
    found = History(contract, rows).with_lags(rows)
    for lag in contract.lags:
        if found[lag.name].isna().all():
            raise ContractError(
                f"no row has a {lag.meaning}, to the second: choose other lags, or draft without and declare them "
                "with a tolerance"
            )
    crowded = (~again & rows.duplicated([contract.time_column.name, *contract.lags[0].by])).mean()
    odd = f"; SEVERAL SERIES? {crowded:.1%} of rows have the moment of another" if crowded else ""
    return moments | {
        lag.name: f"{lag.meaning}, {found[lag.name].isna().mean():.1%} missing{odd}" for lag in contract.lags
    }


def _feature(name: str, values: pa.ChunkedArray) -> Number | Category | str:
    """Describe a column, or say why it is none to learn from."""
    kind, nullable = values.type, values.null_count > 0 or _has_nan(values)
    if pa.types.is_boolean(kind):
        return Category(name=name, values=(0, 1), nullable=nullable)
    if _is_text(kind):
        distinct = _distinct(values)
        if len(distinct) > _MOST_CATEGORIES:
            return f"text with {len(distinct):,} values; a category has at most {_MOST_CATEGORIES:,}"
        return Category(name=name, values=tuple(distinct), nullable=nullable)
    if pa.types.is_integer(kind) and (word := _LAST_WORD.search(name)) and word[1].lower() in _CODED_AS:
        distinct = _distinct(values)
        if len(distinct) <= _MOST_CATEGORIES:
            return Category(name=name, values=tuple(distinct), nullable=nullable)
    return _number(name, values, nullable=nullable)


def _number(name: str, values: pa.ChunkedArray, *, nullable: bool) -> Number:
    numbers = _finite(values)
    least, most = float(numbers.min()), float(numbers.max())
    margin = (most / 10 - least / 10) or max(1.0, abs(most)) / 10
    low, high = _rounded(least - margin, margin, np.floor), _rounded(most + margin, margin, np.ceil)
    if pa.types.is_integer(values.type):
        low, high = float(np.floor(low)), float(np.ceil(high))
    low, high = min(max(low, 0.0) if least >= 0 else low, least), max(high, most)
    return Number(name=name, unit=UNIT, minimum=low, maximum=high, nullable=nullable)


def _time(name: str, values: pa.ChunkedArray) -> Time:
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(values.type):
        odd = odd_moment(values)
        raise ContractError(
            f"time {name!r} is {values.type}, not a moment{odd and ': '}{odd}; write it as 2020-03-01T08:15:00, or let "
            "`prepare` read it"
        )
    if values.null_count == len(values):
        raise ContractError(f"time {name!r} is empty in each row; choose another")
    seconds, span_s = _seconds(values), _span_s(values)
    if not span_s:
        raise ContractError(
            f"time {name!r} is {np.datetime64(int(np.median(seconds)), 's')} in nearly each row: none came later, to "
            "judge; leave --time out, or give a table of more than a moment"
        )
    parts = [TimePart.HOUR] if (seconds % 86_400).any() else []
    parts += [TimePart.WEEKDAY] if span_s > _TWO_DAYS_S else []
    parts += [TimePart.MONTH] if span_s > _TWO_MONTHS_S else []
    return Time(name=name, zone=None if values.type.tz else "UTC", parts=tuple(parts))


def _slices(time: Time | None, columns: Collection[Number | Category]) -> Iterator[Slice]:
    """Suggest for which groups of rows errors are reported: those that people will ask about."""
    if time is not None and TimePart.HOUR in time.parts:
        yield Slice(column=time.name, part=TimePart.HOUR, edges=(6, 12, 18))
    if time is not None and TimePart.WEEKDAY in time.parts:
        yield Slice(column=time.name, part=TimePart.WEEKDAY)
    few = [one for one in columns if isinstance(one, Category) and len(one.values) <= _FEW_GROUPS]
    yield from (Slice(column=one.name) for one in few[:_MOST_SLICES])


def _seconds(values: pa.ChunkedArray) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    moments = pc.drop_null(values)
    return np.asarray(moments.cast(pa.timestamp("s", getattr(moments.type, "tz", None)), safe=False).cast(pa.int64()))


def _span_s(values: pa.ChunkedArray) -> int:
    first, last = np.quantile(_seconds(values), [0.005, 0.995])  # a few are often centuries off
    return int(last - first)


def _useless(values: pa.ChunkedArray, target: pa.ChunkedArray, label: Number | Category) -> str:
    """Say why nothing is to be learned from a column; nothing where something may be."""
    present = len(values) - values.null_count
    if present == 0:
        return "empty in each row"
    if not (_is_number(values.type) or _is_text(values.type) or pa.types.is_boolean(values.type)):
        if length := _images_length(values):
            return f"{length}; where they are images, declare an Image of that height, width and channels"
        moment = pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
        what = "a moment, which no feature is" if moment else f"{values.type}, which is neither number nor text"
        return f"{what}: let `prepare` make numbers of it"
    if _is_number(values.type) and not len(_finite(values)):
        return "no finite number in any row"
    if odd := _beyond(values) or _dates(values):
        return odd
    distinct = pc.count_distinct(pc.drop_null(values)).as_py()
    if distinct == 1:
        return f"{pc.drop_null(values)[0].as_py()!r} in each row" + ("" if present == len(values) else ", or empty")
    is_name = pa.types.is_integer(values.type) or _is_text(values.type)
    if is_name and distinct == present and present > 20 and not _says(values, target, label):
        return "another value in each row, as an id has"
    return "LEAK: says the target" if _says(values, target, label) else ""


def _dates(values: pa.ChunkedArray) -> str:
    """Say of text that it is dates; nothing of other columns."""
    distinct = [one for one in pc.unique(values).to_pylist() if one] if _is_text(values.type) else []
    dates = [one for one in distinct[:_TOLD_ROWS] if _DATE.fullmatch(one)]
    if not dates or len(dates) < _MOSTLY * len(distinct[:_TOLD_ROWS]):
        return ""
    return f"dates, such as {dates[0]!r}, which no feature is: let `prepare` make numbers of them"


def _images_length(values: pa.ChunkedArray) -> str:
    """Say how long lists of numbers are, where all are alike; nothing where they are not."""
    level, lengths = pc.drop_null(values).combine_chunks(), list[str]()
    while pa.types.is_list(level.type) or pa.types.is_large_list(level.type) or pa.types.is_fixed_size_list(level.type):
        found = pc.unique(pc.list_value_length(level)).to_pylist()
        if len(found) != 1 or not found[0]:
            return ""
        lengths.append(f"{found[0]:,}")
        level = level.flatten()
    return f"lists of {' x '.join(lengths)} numbers each" if lengths and _is_number(level.type) else ""


def _says(values: pa.ChunkedArray, target: pa.ChunkedArray, label: Number | Category) -> bool:
    """Say whether the target can be read off a column: the same order of numbers, or one value for one."""
    some = pd.DataFrame({"one": _some(values), "other": _some(target)}).replace([np.inf, -np.inf], np.nan).dropna()
    if len(some) < _FEWEST_TOLD or some["one"].nunique() < 2 or some["other"].nunique() < 2:
        return False
    if isinstance(label, Number) and _is_number(values.type):
        return bool(abs(some["one"].rank().corr(some["other"].rank())) > _ALIKE)  # Spearman's
    if some["one"].nunique() > len(some) / 2:
        return False  # each row its own value: it names rows
    return bool(some["one"].nunique() == some["other"].nunique() == len(some.drop_duplicates()))


def _follows(name: str, target: pa.ChunkedArray, values: pa.ChunkedArray) -> str:
    """Warn where each value of a column goes with one of the target: of few values, or cut by the target's in a row.

    That may be honest, as of a product and its price; few are so many that ten rows share one.
    """
    some = pd.DataFrame({"one": _some(values), "other": _some(target)}).dropna()
    rare = len(some) - some["other"].value_counts().max() if len(some) else 0
    pairs = some.drop_duplicates().sort_values("one")
    if rare < _FEWEST_TOLD or pairs["one"].duplicated().any():
        return ""
    many = len(some) / _FEWEST_TOLD
    in_a_row = int((pairs["other"] != pairs["other"].shift()).sum())
    is_cut = _is_number(values.type) and in_a_row == pairs["other"].nunique() <= many
    if not is_cut and len(pairs) > many:
        return ""
    return f"; SAYS THE TARGET? {name} follows from it in each of {len(some):,} rows"


def _some(values: pa.ChunkedArray) -> pd.Series:
    """Give rows from all over a column, at most `_TOLD_ROWS`, the same ones of each column.

    One by chance out of each stretch of it, as every n-th could be of one series or one hour of the day only.
    """
    if len(values) > _TOLD_ROWS:
        starts = np.linspace(0, len(values), _TOLD_ROWS + 1).astype(np.int64)
        within = np.random.default_rng(0).random(_TOLD_ROWS) * np.diff(starts)
        values = values.take(pa.array(starts[:-1] + within.astype(np.int64)))
    series: pd.Series = (values.cast(pa.float64()) if pa.types.is_decimal(values.type) else values).to_pandas()
    return series


def _seen(column: Number | Category, values: pa.ChunkedArray) -> str:
    """Describe what a column holds, in one line."""
    missing = (values.null_count + (_count_nan(values) if _has_nan(values) else 0)) / len(values)
    gaps = f", {missing:.1%} missing" if missing else ""
    if isinstance(column, Number):
        numbers = _finite(values)
        infinite = int(np.isinf(_numbers(values)).sum())
        odd = f", {infinite:,} infinite" if infinite else ""
        digits = 6 if values.type in (pa.float16(), pa.float32()) else 12  # beyond which there is nothing but noise
        least, most, middle = (f"{one:.{digits}g}" for one in (numbers.min(), numbers.max(), np.median(numbers)))
        return f"{least} to {most}, {middle} in the middle{gaps}{odd}"
    counted = sorted(pc.value_counts(pc.drop_null(values)).to_pylist(), key=lambda one: -one["counts"])
    often = ", ".join(f"{one['values']} {one['counts'] / len(values):.1%}" for one in counted[:_SHOWN_VALUES])
    more = ", ..." if len(counted) > _SHOWN_VALUES else ""
    return f"{len(counted):,} values: {often}{more}{gaps}"


def _seen_moments(time: Time, values: pa.ChunkedArray) -> str:
    """Describe a time in one line, and say which clock it is taken for."""
    first, last = (str(np.datetime64(int(end(_seconds(values))), "s")).replace("T", " ") for end in (np.min, np.max))
    zone = "" if time.zone is None else f", taken for {time.zone} as they have no offset: name their own by `zone`"
    return f"{first} to {last}{' UTC' if time.zone is None else zone}"


def _distinct(values: pa.ChunkedArray) -> list[int | str]:
    """Give the values that occur in order, truth values as 0 and 1, whole floats as integers."""
    known = (value for value in pc.unique(values).to_pylist() if value is not None and value != "")
    found = [value for value in known if not isinstance(value, float) or math.isfinite(value)]
    return sorted(int(value) if isinstance(value, bool | float) and value == int(value) else value for value in found)


def _beyond(values: pa.ChunkedArray) -> str:
    """Say of numbers that networks cannot compute with them; nothing of others."""
    if not _is_number(values.type):
        return ""
    least, most = _finite(values).min(), _finite(values).max()
    odd = most if most > -least else least
    if 1 / _LARGEST <= abs(odd) <= _LARGEST or odd == 0:
        return ""
    return f"{odd:g} is no number that 32 bits hold: remove such rows, or let `prepare` make other numbers of it"


def _has_fractions(values: pa.ChunkedArray) -> bool:
    if not (pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)):
        return False
    numbers = _finite(values)
    return bool((numbers % 1 != 0).any() or len(numbers) == 0)


def _numbers(values: pa.ChunkedArray) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.asarray(pc.drop_null(values).cast(pa.float64(), safe=False).to_numpy())


def _finite(values: pa.ChunkedArray) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    numbers = _numbers(values)
    return numbers[np.isfinite(numbers)]


def _has_nan(values: pa.ChunkedArray) -> bool:
    return pa.types.is_floating(values.type) and _count_nan(values) > 0


def _count_nan(values: pa.ChunkedArray) -> int:
    return int(np.isnan(_numbers(values)).sum())


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _rounded(value: float, margin: float, towards: np.ufunc) -> float:
    """Leave out what is small beside a margin, away from what was seen."""
    digits = 1 - int(np.floor(np.log10(margin)))
    step = 10.0**-digits
    return round(float(towards(value / step) * step), digits)
