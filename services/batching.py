"""Requests that come together are predicted together; where there is nothing to wait for, nobody waits.

What arrives in one turn of the event loop, or while a batch is predicted, is the next batch, within bounds; there is no
timer. A batch that takes less than a millisecond is predicted in the event loop, which costs less than handing it to a
thread; a longer one in a thread, one at a time, while the loop reads what comes next.

Callers that ask again as soon as they are answered would be split for ever into those who were in the last batch and
those who came meanwhile. After a batch, the next one is therefore begun when nothing has come for five turns of the
loop, some hundredths of a millisecond, or after a hundred turns that brought something: so 64 such callers get a sixth
more answers. In a turn that brings nothing the core is given to whoever waits for it, for that may be a caller.

Whoever waits gets what belongs to their own rows, or their own error: where a batch fails, each request is tried alone.
What nobody waits for any more is not predicted.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from models.contract.rows import Array, Columns, Rows
from models.errors import OkruhError

MAXIMUM_BATCH_ROWS = 1024
"""Above it a batch gains nothing; a request with more rows is a batch of its own."""

MAXIMUM_WAITING_ROWS = 40_000
MAXIMUM_WAITING_BYTES = 64 << 20

_INLINE_S = 1e-3
_QUIET_TURNS = 5
_TURNS = 100


class Overloaded(OkruhError):
    """More waits to be predicted than shall wait; nothing was done."""


class Batch:
    """N predicted rows, of one request or of several."""

    __slots__ = ("columns", "given", "record", "values")

    def __init__(self, columns: Columns, values: Array, given: dict[int, str] | None = None) -> None:
        self.columns = columns
        self.values = values
        """float32 [N]."""
        self.given = given or {}
        """What callers named rows, by place."""
        self.record: Any = None
        """Of `services.predictions`."""


class Part(NamedTuple):
    """The rows of one request in a batch."""

    batch: Batch
    start: int
    stop: int


Predict = Callable[[Sequence[Rows]], tuple[Columns, Array]]
"""Puts rows of requests together and predicts them."""


class _Waiting(NamedTuple):
    rows: Rows
    size: int
    answer: asyncio.Future[Part]


class Batcher:
    """Predicts rows of one champion. For one event loop at a time.

    Args:
        predict: gives columns, and answers (`models.contract.answers`).
        seconds: how long it takes for so many rows.
    """

    def __init__(self, predict: Predict, seconds: Callable[[int], float]) -> None:
        self._predict = predict
        self.seconds = seconds
        self._waiting: deque[_Waiting] = deque()
        self._rows = self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one in which a batch is under way; None where none is."""
        self._thread: ThreadPoolExecutor | None = None

    def predict(self, rows: Rows, size: int) -> asyncio.Future[Part]:
        """Predict rows that came in so many bytes; whoever waits no more cancels what this gives.

        Raises: `Overloaded`; the future what `predict` raises for these rows.
        """
        full = self._rows + rows.count > MAXIMUM_WAITING_ROWS or self._bytes + size > MAXIMUM_WAITING_BYTES
        if self._waiting and full:
            raise Overloaded(f"{self._rows} rows wait to be predicted: try again")
        loop = self._loop
        if loop is None or not loop.is_running():
            loop = self._loop = asyncio.get_running_loop()  # a system call in Python 3.11
            loop.call_soon(self._next)
        one = _Waiting(rows, size, loop.create_future())
        self._waiting.append(one)
        self._rows += rows.count
        self._bytes += size
        return one.answer

    def _next(self) -> None:
        batch, rows = self._take()
        if not batch:
            self._loop = None
            return
        assert self._loop is not None
        if self.seconds(rows) <= _INLINE_S:
            self._end(batch, _attempt(self._predict, batch))
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "batch")
        done = self._loop.run_in_executor(self._thread, _attempt, self._predict, batch)
        done.add_done_callback(lambda outcomes: self._end(batch, outcomes.result()))

    def _end(self, batch: list[_Waiting], outcomes: "list[Part | Exception]") -> None:
        _tell(batch, outcomes)
        assert self._loop is not None
        self._loop.call_soon(self._gather, _QUIET_TURNS, _TURNS, self._rows)

    def _gather(self, quiet: int, turns: int, rows: int) -> None:
        """Predict what waits after so many more turns in which nothing comes, so many at most, or when it is full.

        Args:
            rows: how many waited a turn ago.
        """
        assert self._loop is not None
        if quiet == 0 or turns == 0 or self._rows >= MAXIMUM_BATCH_ROWS:
            self._next()
        else:
            if self._rows == rows:
                quiet -= 1
                os.sched_yield()
            else:
                quiet = _QUIET_TURNS
            self._loop.call_soon(self._gather, quiet, turns - 1, self._rows)

    def _take(self) -> tuple[list[_Waiting], int]:
        """Take the next batch, and say how many rows it has; whoever has gone is left out."""
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].rows.count <= MAXIMUM_BATCH_ROWS):
            one = self._waiting.popleft()
            self._bytes -= one.size
            self._rows -= one.rows.count
            if not one.answer.done():
                batch.append(one)
                rows += one.rows.count
        return batch, rows


def _attempt(predict: Predict, waiting: list[_Waiting]) -> "list[Part | Exception]":
    """Predict a batch; give each request's part, or what went wrong with it alone."""
    try:
        columns, values = predict([one.rows for one in waiting])
    except Exception as error:  # noqa: BLE001 (whoever waits must be told, or waits for ever)
        if len(waiting) == 1:
            return [error]
        return [outcome for one in waiting for outcome in _attempt(predict, [one])]
    batch, parts, start = Batch(columns, values), list[Part | Exception](), 0
    for one in waiting:
        parts.append(Part(batch, start, start + one.rows.count))
        if one.rows.ids is not None:
            batch.given |= {start + at: name for at, name in enumerate(one.rows.ids) if name is not None}
        start += one.rows.count
    return parts


def _tell(batch: list[_Waiting], outcomes: "list[Part | Exception]") -> None:
    if any(one.answer.done() for one in batch):
        batch, outcomes = _staying(batch, outcomes)
    for one, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Exception):
            one.answer.set_exception(outcome)
        else:
            one.answer.set_result(outcome)


def _staying(
    batch: list[_Waiting], outcomes: "list[Part | Exception]"
) -> "tuple[list[_Waiting], list[Part | Exception]]":
    """Leave out whoever has gone, and their rows, which are nobody's answer: a batch is recorded whole."""
    left = [(one, outcome) for one, outcome in zip(batch, outcomes, strict=True) if not one.answer.done()]
    staying, told = [one for one, _ in left], [outcome for _, outcome in left]
    parts = [outcome for outcome in told if isinstance(outcome, Part)]
    if not parts or any(part.batch is not parts[0].batch for part in parts):
        return staying, told  # each is a batch of its own
    whole, rows = parts[0].batch, np.concatenate([np.arange(part.start, part.stop) for part in parts])
    given = {place: whole.given[row] for place, row in enumerate(rows.tolist()) if row in whole.given}
    less = Batch({name: values[rows] for name, values in whole.columns.items()}, whole.values[rows], given)
    moved, start = list[Part | Exception](), 0
    for part in parts:
        moved.append(Part(less, start, start + part.stop - part.start))
        start += part.stop - part.start
    return staying, moved
