"""Splits in time: what is learned from, what stops the learning, and what judges it, in this order."""

from dataclasses import dataclass
from datetime import datetime

import pandas as pd


@dataclass(frozen=True, slots=True)
class Split:
    """Three spans of one table, each later than the one before."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame


def split_in_time(table: pd.DataFrame, at: pd.Series, validation_from: datetime, test_from: datetime) -> Split:
    """Cut a table by each row's moment `at`: before `validation_from`, before `test_from`, and the rest."""
    test = at >= test_from
    validation = ~test & (at >= validation_from)
    return Split(table[~test & ~validation], table[validation], table[test])
