"""Which group of each of the contract's slices a row belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.contract.columns import MISSING_CODE, Category, Contract, Number, Slice, TimePart
from models.contract.table import time_part
from models.evaluating.bootstrap import Places
from models.inference import GraphInputs

FEW = 20
"""Values of a category that are groups of their own."""

MISSING, OTHERS = "(missing)", "(other values)"

_RANGES: dict[TimePart, tuple[int, int]] = {
    TimePart.MINUTE_OF_DAY: (0, 1439),
    TimePart.HOUR: (0, 23),
    TimePart.WEEKDAY: (0, 6),
    TimePart.MONTH: (1, 12),
    TimePart.DAY_OF_YEAR: (1, 366),
}
_NAMES: dict[TimePart, Sequence[str]] = {
    TimePart.WEEKDAY: ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    TimePart.MONTH: ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
}


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a slice that N rows have; none is empty."""

    names: tuple[str, ...]
    place_N: Places
    """Each row's group, counted from 0."""


def groups(contract: Contract, columns: GraphInputs) -> dict[str, Groups]:
    """Put N rows into the groups of each slice, by its name.

    Args:
        columns: the graph's inputs (`models.contract.table.to_columns`).
    """
    few = (column for column in contract.categories if len(column.values) <= FEW)
    wanted = (Slice(column=column.name) for column in few) if contract.slices is None else contract.slices
    inputs = {column.name: column for column in contract.inputs}
    return {one.name: _groups(one, inputs[one.column], columns[one.column]) for one in wanted}


def _groups(one: Slice, column: object, values: npt.NDArray[np.generic]) -> Groups:
    if isinstance(column, Category):
        return _of_categories(column, values)
    if isinstance(column, Number):
        return _of_numbers(values.astype(np.float32), one.edges)
    assert one.part is not None
    return _of_time(values.astype(np.int64), one.part, one.edges)


def _of_categories(column: Category, values: npt.NDArray[np.generic]) -> Groups:
    found, inverse_N, rows = np.unique(values, return_inverse=True, return_counts=True)
    known = [value for value in found.tolist() if value not in ("", MISSING_CODE)]
    if len(column.values) > FEW:
        counts = dict(zip(found.tolist(), rows.tolist(), strict=True))
        named = sorted(known, key=lambda value: -counts[value])[:FEW]
    else:
        named = [value for value in column.values if value in known]
    place = {value: number for number, value in enumerate(named)}
    names = (*(repr(value) if value in (MISSING, OTHERS) else str(value) for value in named), OTHERS, MISSING)
    by_value = [
        len(named) + 1 if value in ("", MISSING_CODE) else place.get(value, len(named)) for value in found.tolist()
    ]
    return _that_are_there(names, np.array(by_value, np.int64)[inverse_N])


def _of_numbers(values_N: npt.NDArray[np.float32], edges: Sequence[float]) -> Groups:
    missing_N = np.isnan(values_N)
    edges = edges or _quartiles(values_N[~missing_N])
    place_N = np.searchsorted(np.array(edges, np.float32), values_N, side="right")
    said = [f"{edge:.12g}" for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(said)]
    names = (f"under {said[0]}", *between, f"from {said[-1]}") if said else ("all",)
    return _that_are_there((*names, MISSING), np.where(missing_N, len(names), place_N))


def _quartiles(values_N: npt.NDArray[np.float32]) -> list[float]:
    """Cut at the quartiles, told in three digits, above the smallest value."""
    if not len(values_N):
        return []
    edges = {float(f"{edge:.3g}") for edge in np.quantile(values_N, [0.25, 0.5, 0.75])}
    return sorted(edge for edge in edges if edge > values_N.min())


def _of_time(seconds_N: Places, part: TimePart, edges: Sequence[float]) -> Groups:
    value_N = time_part(pd.Series(seconds_N.astype("datetime64[s]")), part)
    least, most = _RANGES[part]
    cuts = [int(np.ceil(edge)) for edge in edges] or range(least, most + 1)
    starts = sorted({least, *(cut for cut in cuts if least < cut <= most)})
    ends = [*(start - 1 for start in starts[1:]), most]
    shown = _NAMES.get(part)
    words = [str(value) if shown is None else shown[value - least] for value in range(least, most + 1)]
    names = [
        words[start - least] if start == end else f"{words[start - least]}-{words[end - least]}"
        for start, end in zip(starts, ends, strict=True)
    ]
    return _that_are_there(names, np.searchsorted(starts, value_N, side="right") - 1)


def _that_are_there(names: Sequence[str], place_N: npt.NDArray[np.integer]) -> Groups:
    kept, place_N = np.unique(place_N, return_inverse=True)
    return Groups(tuple(names[one] for one in kept.tolist()), place_N.astype(np.int64))
