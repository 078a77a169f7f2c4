"""What is learned from, what stops the learning, and what judges it.

Where rows have a time they are cut by when they became known, so that a model is judged on what came later. Without
one they are cut by a digest of what they hold, and by nothing else: the same row is always on the same side, in
whatever file and whenever it comes again, so that a row which judged one version teaches no other, and one that may
have been learned from never judges. What came since a training judges as far as it is held out by that.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.bundle import Card
from models.contract import images
from models.contract.columns import Contract, Feature, Image, Number


@dataclass(frozen=True, slots=True)
class Split:
    """Three parts of one table; where there is a time, each later than the one before."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame


def split_in_time(table: pd.DataFrame, at: pd.Series, validation_from: datetime, test_from: datetime) -> Split:
    """Cut a table by each row's moment `at`: before `validation_from`, before `test_from`, and the rest."""
    test = at >= test_from
    validation = ~test & (at >= validation_from)
    return Split(table[~test & ~validation], table[validation], table[test])


def split_by_content(contract: Contract, table: pd.DataFrame, validation_share: float, test_share: float) -> Split:
    """Cut a table by what its rows hold: about `test_share` of them judge, about `validation_share` stop."""
    place_N = _places(contract, table)
    test = place_N < test_share
    validation = ~test & (place_N < test_share + validation_share)
    return Split(table[~test & ~validation], table[validation], table[test])


def learned_from(card: Card, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Say of each row that was known then, [N], whether a bundle's training learned from it; see `unseen`."""
    if card.data.validation_from is not None:
        return np.asarray(rows["known_at"] < card.data.validation_from)
    held_out = _setting(card, "validation_share") + _setting(card, "test_share")
    return np.asarray(_places(card.contract, rows) >= held_out)


def unseen(card: Card, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Say of each row, [N], whether a bundle may be judged on it: its training neither learned from it nor was stopped.

    Args:
        rows: columns of the card's contract and `known_at` (aware, UTC).
    """
    if card.data.test_from is not None:
        return np.asarray(rows["known_at"] >= card.data.test_from)
    return np.asarray(_places(card.contract, rows) < _setting(card, "test_share"))


def _setting(card: Card, name: str) -> float:
    value = card.settings[name]
    assert isinstance(value, int | float)
    return float(value)


def _places(contract: Contract, table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Give each row a number in 0..1 that follows from what it holds alone."""
    # In one type each, however the rows came
    columns = {column.name: _alike(column, table[column.name]) for column in (*contract.features, contract.target)}
    digests = pd.util.hash_pandas_object(pd.DataFrame(columns), index=False)
    return np.asarray(digests.to_numpy(np.uint64) / 2.0**64, dtype=np.float64)


def _alike(column: Feature, values: pd.Series) -> pd.Series:
    if isinstance(column, Image):
        return pd.Series(images.digests(column, values), index=values.index)
    if isinstance(column, Number):
        return values.astype("float64")
    return values.astype("object").fillna("") if column.is_text else values.astype("Int64")
