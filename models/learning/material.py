"""What one training is given: rows to learn from, prepared, and those that stop and judge it.

A table comes in parts, each cut in three (`models.learning.splits`). One pass prepares what is learned from, a part at
a time. All of it is kept while it takes no more than it may; a larger table is read again in each epoch, and a sample
stays for what a network takes from its rows. What one would answer without learning is made of all rows as well, which
are read once more for it where they take little as a table.

Cost of the pass: what is kept twice, for the moment in which its parts become one, and one part of the table.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from models.contract.columns import Contract
from models.errors import ContractError
from models.learning.examples import Examples, HeldRows, Rows, StreamedRows, to_examples
from models.learning.splits import Split

TABLE_ROWS = 10_000
"""As many of the rows that are learned from are kept as a table."""

_TABLE_SHARE = 16
"""All rows are read as a table where that takes at most this part of what may be kept: for a moment it is there twice,
beside what is kept."""

_SHARE = 4
"""Of a table that is not kept, a sample of at most this part of what may be kept is; it is read in groups of as much,
three of which are there at once: the one that is learned from, the next one, and what that is shuffled from."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The rows that are learned from."""

    sample: Examples
    """All rows, where `read` is None; otherwise every n-th."""
    counts: tuple[int, ...]
    """Rows of each part."""
    read: Callable[[int], Examples] | None
    """Reads a part that has rows by its place in `counts`; None where all rows are kept."""
    together: int
    """How many parts may be shuffled together."""
    targets: tuple[float, float]
    """The least and the largest, of a category its place; NaN where there is no row."""
    class_counts: npt.NDArray[np.int64]
    """How many rows have each value of a category; of a number none."""
    table: pd.DataFrame
    """At most `TABLE_ROWS` of them: the newest, in the order of time; without a time some of all, in no order."""
    whole: Callable[[], pd.DataFrame]
    """Reads all as a table; gives `table` where they would take more than a small part of what may be kept."""

    def __len__(self) -> int:
        return sum(self.counts)

    def rows(self, device: torch.device) -> Rows:
        """Give the rows to the loop."""
        if self.read is None:
            return HeldRows(self.sample, device)
        return StreamedRows(self.counts, self.read, device, self.together)


@dataclass(frozen=True, slots=True)
class Material:
    """Three parts of a model's rows."""

    train: TrainingSet
    validation: pd.DataFrame
    test: pd.DataFrame


def gather(contract: Contract, splits: Sequence[Split], memory_mb: float) -> Material:
    """Make one pass over a table.

    Args:
        splits: its parts, which may be read when they are asked for, and again, by another thread.
        memory_mb: how much prepared rows may take, in 10^6 bytes.
    """
    gathering = _Gathering(contract, memory_mb * 1e6)
    for place in range(len(splits)):
        gathering.add(place, splits[place])
    return gathering.end(splits)


class _Gathering:
    """The pass on its way."""

    def __init__(self, contract: Contract, most_bytes: float) -> None:
        self._contract = contract
        self._most = most_bytes
        self._kept: list[Examples] = []
        self._bytes = 0
        self._stride = 1
        """Of all rows every n-th is kept."""
        self._places: list[int] = []
        self._counts: list[int] = []
        self._largest = 0
        """Bytes of the largest part."""
        self._targets: list[float] = []
        self._class_counts = np.zeros(len(getattr(contract.target, "values", ())), np.int64)
        self._table: pd.DataFrame | None = None
        self._table_stride = 1
        self._validation: list[pd.DataFrame] = []
        self._test: list[pd.DataFrame] = []
        self._like: pd.DataFrame | None = None

    def add(self, place: int, split: Split) -> None:
        """Take one part."""
        self._like = split.train[:0] if self._like is None else self._like
        self._validation += [split.validation] if len(split.validation) else []
        self._test += [split.test] if len(split.test) else []
        if split.train.empty:
            return
        examples = to_examples(self._contract, split.train)
        target_N = examples.target_N
        self._targets += [float(target_N.min()), float(target_N.max())]
        if len(self._class_counts):
            self._class_counts += np.bincount(target_N, minlength=len(self._class_counts))
        self._keep_table(split.train)
        first = -sum(self._counts) % self._stride
        self._places.append(place)
        self._counts.append(len(examples))
        self._largest = max(self._largest, examples.nbytes)
        self._keep(examples.every(self._stride, first) if self._stride > 1 else examples)

    def _keep(self, examples: Examples) -> None:
        self._kept.append(examples)
        self._bytes += examples.nbytes
        most = self._most if self._stride == 1 else self._most / _SHARE
        while self._bytes > most and sum(map(len, self._kept)) > 1:
            most = self._most / _SHARE
            self._stride *= 2
            self._kept = [Examples.joined(self._kept).every(2)]
            self._bytes = self._kept[0].nbytes

    def _keep_table(self, rows: pd.DataFrame) -> None:
        if self._contract.time is not None:
            rows = _newest(rows, self._contract.time.name)
            joined = rows if self._table is None else pd.concat([self._table, rows], ignore_index=True)
            self._table = _newest(joined, self._contract.time.name)
            return
        rows = rows.iloc[-sum(self._counts) % self._table_stride :: self._table_stride]
        self._table = rows if self._table is None else pd.concat([self._table, rows], ignore_index=True)
        while len(self._table) > 2 * TABLE_ROWS:
            self._table, self._table_stride = self._table.iloc[::2], 2 * self._table_stride

    def end(self, splits: Sequence[Split]) -> Material:
        """Give what has been gathered. Raises: `ContractError` where there were no parts."""
        if self._like is None:
            raise ContractError("no data was known then; ingest some, or look at a later moment")
        contract, places = self._contract, self._places
        none = self._like
        streamed = self._stride > 1
        together = max(1, int(self._most / _SHARE / self._largest)) if self._largest else 1
        table = none if self._table is None else self._table
        if contract.time is None:  # files lie in no order that means anything, and their rows may be sorted
            table = table.sample(min(len(table), TABLE_ROWS), random_state=0, ignore_index=True)
        row_bytes = table.memory_usage(deep=True).sum() / max(1, len(table))
        few = not streamed and row_bytes * sum(self._counts) <= self._most / _TABLE_SHARE
        train = TrainingSet(
            sample=Examples.joined(self._kept) if self._kept else to_examples(contract, none),
            counts=tuple(self._counts),
            read=(lambda part: to_examples(contract, splits[places[part]].train)) if streamed else None,
            together=together,
            targets=(min(self._targets, default=math.nan), max(self._targets, default=math.nan)),
            class_counts=self._class_counts,
            table=table,
            whole=(lambda: _whole([splits[place].train for place in places], none)) if few else (lambda: table),
        )
        return Material(train, _whole(self._validation, none), _whole(self._test, none))


def _newest(rows: pd.DataFrame, time: str) -> pd.DataFrame:
    order_N = rows[time].argsort(kind="stable")
    return rows.iloc[order_N[-TABLE_ROWS:]]


def _whole(parts: list[pd.DataFrame], none: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else none
