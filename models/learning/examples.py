"""Rows that a network learns from, and the order in which it sees them.

An epoch is a row of windows: some whole batches, gathered at once, on the device. Their order follows from seed and
epoch alone, so that a training that goes on from a checkpoint sees what it would have seen. What fills no batch at the
end of an epoch is left out of it, other rows each time.

Cost: `HeldRows` keeps a table on the device once; `StreamedRows` what is shuffled together, once as it was read and
once shuffled, and as much that is read ahead. Both gather windows of `WINDOW_BYTES`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from models.contract.answers import places
from models.contract.columns import Contract, Number
from models.contract.table import to_columns
from models.learning.preprocessing import Prepared, prepare, smallest_integer

WINDOW_BYTES = 4 << 20
"""A window has so many, or one batch: it stays in a processor's caches until it is used."""

_ANSWERED_ROWS, _ANSWERED_NUMBERS = 1 << 11, 1 << 18
"""Rows that a network answers at once, and numbers of images among them, so that what it computes on the way takes
little memory."""

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: multiples of it lie far apart (Knuth, "The Art of Computer Programming", 6.4)."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Prepared rows with their targets."""

    inputs: Prepared
    target_N: npt.NDArray[np.float32] | npt.NDArray[np.integer]
    """In its unit; of a category its 0-based place in the contract."""

    def __len__(self) -> int:
        return len(self.target_N)

    def __getitem__(self, rows: slice) -> "Examples":
        return Examples(self.inputs[rows], self.target_N[rows])

    @property
    def nbytes(self) -> int:
        """Say how much memory they take."""
        return sum(array.nbytes for array in self._arrays())

    def every(self, stride: int, first: int = 0) -> "Examples":
        """Copy every `stride`-th row, from one on."""
        *inputs, target_N = (array[first::stride].copy() for array in self._arrays())
        return Examples(Prepared(*inputs), target_N)

    @classmethod
    def joined(cls, parts: "Sequence[Examples]") -> "Examples":
        """Put parts of one table together; the only one stays as it is."""
        if len(parts) == 1:
            return parts[0]
        arrays = zip(*(part._arrays() for part in parts), strict=True)
        joined: Iterator[Any] = (np.concatenate(alike) for alike in arrays)
        *inputs, target_N = joined
        return cls(Prepared(*inputs), target_N)

    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return (*self.inputs.arrays(), self.target_N)

    def tensors(self) -> list[Tensor]:
        """Give a network's arguments and the target, sharing memory: integers and images as small as they are kept."""
        return [torch.from_numpy(array) for array in self._arrays()]


def answered_rows(inputs: Sequence[Tensor] | Sequence[npt.NDArray[Any]]) -> int:
    """Say how many rows a network answers at once, by its arguments."""
    numbers = math.prod(inputs[3].shape[1:]) if len(inputs) > 3 else 1
    return max(1, min(_ANSWERED_ROWS, _ANSWERED_NUMBERS // numbers))


def to_examples(contract: Contract, table: pd.DataFrame) -> Examples:
    """Prepare accepted rows."""
    target, truth = contract.target, table[contract.target.name]
    inputs = prepare(contract, to_columns(contract, table))
    if isinstance(target, Number):
        return Examples(inputs, truth.to_numpy(np.float32))
    place_N: npt.NDArray[np.integer] = places(target, truth.tolist()).astype(smallest_integer(len(target.values)))
    return Examples(inputs, place_N)


class Rows(Protocol):
    """What an epoch is made of."""

    def __len__(self) -> int:
        """Count them."""
        ...

    def windows(self, batch: int, seed: int, epoch: int, step: int = 0) -> Iterator[list[Tensor]]:
        """Give the batches of an epoch from a step on, some at a time: the network's inputs and, last, the target."""
        ...


class HeldRows:
    """A table on the device."""

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self._parts = [part.to(device) for part in examples.tensors()]
        self._row_bytes = _row_bytes(self._parts)

    def __len__(self) -> int:
        return len(self._parts[-1])

    def windows(self, batch: int, seed: int, epoch: int, step: int = 0) -> Iterator[list[Tensor]]:
        """Shuffle all rows; see `Rows`."""
        order_N = _shuffled(len(self), seed, epoch).to(self._parts[-1].device)
        end, window = len(self) // batch * batch, _window(batch, self._row_bytes)
        for start in range(step * batch, end, window):
            rows = order_N[start : min(start + window, end)]
            yield [as_learned(part.index_select(0, rows)) for part in self._parts]

    def in_order(self) -> Iterator[list[Tensor]]:
        """Give all rows, some at a time."""
        step = answered_rows(self._parts[:-1])
        for start in range(0, len(self), step):
            yield [as_learned(part[start : start + step]) for part in self._parts]


class StreamedRows:
    """A table that is read in parts: they come in any order, and some at a time are shuffled together."""

    def __init__(
        self, counts: Sequence[int], read: Callable[[int], Examples], device: torch.device, together: int
    ) -> None:
        """Prepare to read.

        Args:
            counts: rows of each part.
            read: gives a part by its place; called by another thread, for one part at a time.
            device: where windows are wanted.
            together: how many parts are shuffled together.
        """
        self._counts = counts
        self._read = read
        self._device = device
        self._together = together

    def __len__(self) -> int:
        return sum(self._counts)

    def windows(self, batch: int, seed: int, epoch: int, step: int = 0) -> Iterator[list[Tensor]]:
        """Shuffle the parts, and the rows of those that are read together; see `Rows`."""
        places = _shuffled(len(self._counts), seed, epoch).tolist()
        groups = [places[start : start + self._together] for start in range(0, len(places), self._together)]
        first, skipped = 0, step * batch
        while first < len(groups) and skipped >= self._count(groups[first]):
            skipped -= self._count(groups[first])
            first += 1
        over: list[Tensor] | None = None  # of the group before, fewer than fill a batch
        with ThreadPoolExecutor(1, "reads-ahead") as thread:
            ahead = [thread.submit(self._group, groups[first], seed, epoch)] if first < len(groups) else []
            for number in range(first, len(groups)):
                rows = ahead.pop().result()
                if number + 1 < len(groups):
                    ahead.append(thread.submit(self._group, groups[number + 1], seed, epoch))
                window, start = _window(batch, _row_bytes(rows)), skipped
                skipped = 0
                while start < len(rows[-1]):
                    stop = start + window - (len(over[-1]) if over else 0)
                    some = [part[start:stop] for part in rows]
                    joined = [torch.cat(both) for both in zip(over, some, strict=True)] if over else some
                    whole = len(joined[-1]) // batch * batch
                    over, start = [part[whole:].clone() for part in joined], stop
                    if whole:
                        yield [as_learned(part[:whole].to(self._device)) for part in joined]

    def _count(self, group: list[int]) -> int:
        return sum(self._counts[place] for place in group)

    def _group(self, group: list[int], seed: int, epoch: int) -> list[Tensor]:
        """Read parts and shuffle their rows."""
        read = [self._read(place).tensors() for place in group]
        joined = [torch.cat(parts) for parts in zip(*read, strict=True)]
        del read
        order_N = _shuffled(len(joined[-1]), seed, epoch, 1 + group[0])
        return [part.index_select(0, order_N) for part in joined]


def _shuffled(count: int, *seeds: int) -> Tensor:
    """Give the numbers below `count` in an order that follows from the seeds alone."""
    mixed = 0
    for seed in seeds:
        mixed = (mixed * _GOLDEN + seed + 1) % 2**63
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed))


def _window(batch: int, row_bytes: int) -> int:
    return batch * max(1, WINDOW_BYTES // (batch * row_bytes))


def _row_bytes(parts: list[Tensor]) -> int:
    return max(1, sum(part[:1].numel() * part.element_size() for part in parts))


def as_learned(part: Tensor) -> Tensor:
    """Give codes in 64 bits; bytes, of images alone, as floats."""
    if part.is_floating_point():
        return part
    return part.to(torch.float32 if part.dtype == torch.uint8 else torch.int64)
