"""Rows that were accepted under an older contract, against the one that is there now.

The lake keeps rows as they were accepted. Where the contract has been edited since, some of them may break it: learned
from all the same, a category that is none any more would silently be taken for null. Costs some ten milliseconds for
100,000 rows.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.contract import images
from models.contract.columns import Category, Contract, Image, Number

Broken = npt.NDArray[np.bool_]
"""[N]: whether a row breaks a rule."""


def broken_rules(contract: Contract, rows: pd.DataFrame) -> dict[str, Broken]:
    """Give the rules about the inputs that some rows break, and which rows these are."""
    broken = {rule: mask for rule, mask in _rules(contract, rows) if mask.any()}
    return dict(sorted(broken.items(), key=lambda found: -int(found[1].sum())))


def _rules(contract: Contract, rows: pd.DataFrame) -> Iterator[tuple[str, Broken]]:
    all_of_them = np.ones(len(rows), bool)
    if contract.time is not None and (rows[contract.time.name].dt.tz is None) != (contract.zone is not None):
        kind = "a moment with an offset" if contract.zone is None else "a wall time"
        yield f"{contract.time.name}: should be {kind}", all_of_them
    for column in contract.features:
        values = rows[column.name]
        if isinstance(column, Image):
            yield from _image_rules(column, values)
            continue
        if isinstance(column, Category) and column.is_text:
            fits, kind = not pd.api.types.is_numeric_dtype(values), "text"
        else:
            fits, kind = pd.api.types.is_numeric_dtype(values), "a number"
        if not fits and values.notna().any():
            yield f"{column.name}: should be {kind}", all_of_them
            continue
        null = values.isna().to_numpy()
        if not column.nullable:
            yield f"{column.name}: may not be null", null
        yield _rule(column), ~null & ~_allowed(column, values)


def _image_rules(image: Image, values: pd.Series) -> Iterator[tuple[str, Broken]]:
    _, found = images.read_cells(image, values.tolist())
    for rule in dict.fromkeys(found.values()):
        yield f"{image.name}: {rule}", np.array([found.get(row) == rule for row in range(len(values))], bool)


def _rule(column: Number | Category) -> str:
    if isinstance(column, Category):
        return f"{column.name}: unknown category"
    return f"{column.name}: outside {column.minimum:.12g} to {column.maximum:.12g} {column.unit}".rstrip()


def _allowed(column: Number | Category, values: "pd.Series[float] | pd.Series[str]") -> Broken:
    if isinstance(column, Category):
        return np.asarray(values.isin(column.values))
    return np.asarray(values.between(column.minimum, column.maximum))
