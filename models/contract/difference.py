"""How two states of a table differ: schema, rows, and what their columns look like. Pure.

Rows are compared by a 64-bit digest of their values. Where a key names them, a row whose key stays and whose other
values do not is changed; without a key it is removed and added. Cost: a few passes over both states.
"""

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np
import pandas as pd

from models.contract.columns import Category, Contract

_SHOWN_VALUES = 20
_SHOWN_ROWS = 5


class RowDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows came, went and changed."""

    key: tuple[str, ...]
    """What names a row; empty where whole rows are compared."""
    added: int
    removed: int
    changed: int
    unchanged: int
    examples: list[str]
    """A few of the changed rows, as text: key, column, both values."""


class ColumnState(msgspec.Struct, frozen=True, kw_only=True):
    """What a column looks like in one state."""

    kind: str
    """Type of its values."""
    null_share: float
    distinct: int
    minimum: float | str | None
    """As text for times; None for categories, and where all values are null."""
    mean: float | None
    """None for all but numbers."""
    deviation: float | None
    """Standard deviation; None for all but numbers."""
    maximum: float | str | None


class ColumnDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A column, side by side."""

    name: str
    before: ColumnState | None
    """None where it is new."""
    after: ColumnState | None
    """None where it is gone."""
    new_values: list[str]
    """Categories that only the later state has; at most 20."""
    gone_values: list[str]
    """Categories that only the earlier state has; at most 20."""


def compare_rows(before: pd.DataFrame, after: pd.DataFrame, key: Sequence[str]) -> RowDifference:
    """Count rows by what became of them, over the columns that both states have.

    Args:
        key: columns whose joint value names a row; where it does not (columns or values are missing, or values come
            more than once), whole rows are compared.
    """
    shared = [name for name in before.columns if name in after.columns]
    before, after = _comparable(before[shared]), _comparable(after[shared])
    before, after = _alike(before[shared], after[shared]), _alike(after[shared], before[shared])
    if key and set(key) <= set(shared):
        named_before, named_after = _digests(before[list(key)]), _digests(after[list(key)])
        if named_before.is_unique and named_after.is_unique:
            return _by_key(before, after, tuple(key), named_before, named_after)
    counts_before, counts_after = _digests(before).value_counts(), _digests(after).value_counts()
    common = counts_before.index.intersection(counts_after.index)
    unchanged = int(np.minimum(counts_before.loc[common], counts_after.loc[common]).sum())
    return RowDifference(
        key=(),
        added=len(after) - unchanged,
        removed=len(before) - unchanged,
        changed=0,
        unchanged=unchanged,
        examples=[],
    )


def compare_columns(contract: Contract, before: pd.DataFrame, after: pd.DataFrame) -> list[ColumnDifference]:
    """Describe each column of both states, the later one's first."""
    categories = {column.name for column in (*contract.features, *contract.checks) if isinstance(column, Category)}
    names = [*after.columns, *(name for name in before.columns if name not in after.columns)]
    return [_column(name, name in categories, before, after) for name in names]


def _by_key(
    before: pd.DataFrame, after: pd.DataFrame, key: tuple[str, ...], named_before: pd.Series, named_after: pd.Series
) -> RowDifference:
    left = pd.DataFrame({"name": named_before, "digest": _digests(before), "place_before": range(len(before))})
    right = pd.DataFrame({"name": named_after, "digest": _digests(after), "place_after": range(len(after))})
    both = left.merge(right, on="name", suffixes=("_before", "_after"))
    changed = both[both["digest_before"] != both["digest_after"]]
    examples = [
        _example(before.iloc[int(old)], after.iloc[int(new)], key)
        for old, new in changed[["place_before", "place_after"]].head(_SHOWN_ROWS).to_numpy()
    ]
    return RowDifference(
        key=key,
        added=len(after) - len(both),
        removed=len(before) - len(both),
        changed=len(changed),
        unchanged=len(both) - len(changed),
        examples=examples,
    )


def _example(before: pd.Series, after: pd.Series, key: tuple[str, ...]) -> str:
    named = ", ".join(f"{name} {before[name]}" for name in key)
    differing = [name for name in before.index if not _equal(before[name], after[name])]
    return f"{named}: {', '.join(f'{name} {before[name]} -> {after[name]}' for name in differing)}"


def _equal(left: object, right: object) -> bool:
    return bool(pd.isna(left) and pd.isna(right)) or left == right  # type: ignore[call-overload]


def _alike(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Have numbers of different types compare by value."""
    numbers = [
        name
        for name in table.columns
        if table[name].dtype != other[name].dtype
        and pd.api.types.is_numeric_dtype(table[name])
        and pd.api.types.is_numeric_dtype(other[name])
    ]
    return table.astype(dict.fromkeys(numbers, "float64")).reset_index(drop=True)


def _digests(table: pd.DataFrame) -> pd.Series:
    return pd.util.hash_pandas_object(table, index=False)


def _column(name: str, is_category: bool, before: pd.DataFrame, after: pd.DataFrame) -> ColumnDifference:
    states = [table[name] if name in table.columns else None for table in (before, after)]
    new, gone = [], []
    if is_category or any(values is not None and _is_text(values) and not _is_list(values) for values in states):
        old_values, new_values = (set(values.dropna().unique()) if values is not None else set() for values in states)
        new, gone = sorted(map(str, new_values - old_values)), sorted(map(str, old_values - new_values))
    described = [None if values is None else _state(values, is_category) for values in states]
    return ColumnDifference(
        name=name,
        before=described[0],
        after=described[1],
        new_values=new[:_SHOWN_VALUES],
        gone_values=gone[:_SHOWN_VALUES],
    )


def _state(values: pd.Series, is_category: bool) -> ColumnState:
    if _is_list(values):
        return _lists_state(values)
    present = values.dropna()
    is_number = pd.api.types.is_numeric_dtype(values) and not is_category
    is_time = pd.api.types.is_datetime64_any_dtype(values)
    ends: list[float | str | None] = [None, None]
    if len(present) and is_number:
        ends = [float(present.min()), float(present.max())]
    elif len(present) and is_time:
        ends = [present.min().isoformat(), present.max().isoformat()]
    return ColumnState(
        kind="text" if _is_text(values) else str(values.dtype),
        null_share=float(values.isna().mean()) if len(values) else 0.0,
        distinct=int(present.nunique()),
        minimum=ends[0],
        mean=float(present.mean()) if len(present) and is_number else None,
        deviation=float(present.std(ddof=0)) if len(present) and is_number else None,
        maximum=ends[1],
    )


def _lists_state(values: pd.Series) -> ColumnState:
    """Describe lists of numbers by all of their numbers."""
    whole = np.concatenate([np.asarray(one, np.float64) for one in values.dropna()])
    return ColumnState(
        kind="lists",
        null_share=float(values.isna().mean()),
        distinct=int(_digests_of_lists(values).nunique()),
        minimum=float(whole.min()),
        mean=float(whole.mean()),
        deviation=float(whole.std()),
        maximum=float(whole.max()),
    )


def _is_list(values: pd.Series) -> bool:
    """Say whether values are lists of numbers, as images are kept."""
    return pd.api.types.is_object_dtype(values) and any(isinstance(one, np.ndarray) and len(one) for one in values)


def means_of_lists(values: pd.Series) -> pd.Series:
    """Give each list's mean, where values are lists; others stay."""
    return values.map(np.mean, na_action="ignore").astype("float64") if _is_list(values) else values


def _digests_of_lists(values: pd.Series) -> pd.Series:
    """Give what lists that are the same have in common, in a few letters."""
    return values.map(
        lambda one: hashlib.blake2b(np.asarray(one, np.float64).tobytes(), digest_size=8).hexdigest(),
        na_action="ignore",
    )


def _comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Have what lists have in common stand for them: arrays can be neither hashed nor shown."""
    found = [name for name in table.columns if _is_list(table[name])]
    return table.assign(**{name: _digests_of_lists(table[name]) for name in found}) if found else table


def _is_text(values: pd.Series) -> bool:
    return bool(pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values))
