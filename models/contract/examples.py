"""Rows that a contract allows, drawn at random: what a graph can be tried on where there are no real ones."""

from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract import images
from models.contract.columns import MISSING_CODE, Contract, Image, Input, Number, Time

_NULL_EVERY = 7
_LATEST_S = 2**31


def example_columns(contract: Contract, rows: int) -> dict[str, npt.NDArray[Any]]:
    """Draw the same rows each time, as the arrays that a graph takes: the whole range, nulls where they may be."""
    draw = np.random.default_rng(0)
    return {column.name: _drawn(column, rows, draw) for column in contract.inputs}


def _drawn(column: Input, rows: int, draw: np.random.Generator) -> npt.NDArray[Any]:
    if isinstance(column, Time):
        return draw.integers(0, _LATEST_S, rows)
    if isinstance(column, Image):
        return _images(column, rows, draw)
    values: npt.NDArray[Any]
    null: float | int | str
    if isinstance(column, Number):
        values, null = draw.uniform(column.minimum, column.maximum, rows).astype(np.float32), np.nan
    elif column.is_text:
        values, null = draw.choice(np.array(column.values, object), rows), ""
    else:
        values, null = draw.choice(np.array(column.values, np.int64), rows), MISSING_CODE
    if column.nullable:
        values[::_NULL_EVERY] = null
    return values


def _images(image: Image, rows: int, draw: np.random.Generator) -> npt.NDArray[Any]:
    """Draw each number by itself; the first image is dark, the second bright."""
    kind, least, most = images.kept_as(image), image.minimum, image.maximum
    if image.whole:
        values = draw.integers(int(least), int(most) + 1, (rows, image.size), np.uint8)
    else:
        values = (least + (most - least) * draw.random((rows, image.size), np.float32)).clip(least, most)
    values = values.astype(kind, copy=False)
    values[:1], values[1:2] = least, most
    return images.in_rows(image, values)
