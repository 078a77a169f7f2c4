"""Requests that come together are predicted together; where there is nothing to wait for, nobody waits.

What arrives in one turn of the event loop, or while a batch is predicted, is the next batch, within bounds; there is no
timer. A batch that takes less than a millisecond is predicted in the event loop, which costs less than handing it to a
thread; a longer one in a thread, one at a time, while the loop reads what comes next.

Whoever waits gets what belongs to their own rows, or their own error: where a batch fails, each request is tried alone.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from models.errors import OkruhError

Rows = Sequence[Any]
"""Decoded rows (`models.contract.rows`)."""

MAXIMUM_BATCH_ROWS = 1024
"""Above it a batch gains nothing; a request with more rows is a batch of its own."""

MAXIMUM_WAITING_ROWS = 40_000
MAXIMUM_WAITING_BYTES = 64 << 20

_INLINE_S = 1e-3


class Overloaded(OkruhError):
    """More waits to be predicted than shall wait; nothing was done."""


class _Waiting(NamedTuple):
    rows: Rows
    size: int
    answer: asyncio.Future[list[float]]


class Batcher:
    """Predicts rows of one champion. For one event loop at a time.

    Args:
        predict: gives one value a row.
        seconds: how long it takes for so many rows.
    """

    def __init__(self, predict: Callable[[Rows], list[float]], seconds: Callable[[int], float]) -> None:
        self._predict = predict
        self._seconds = seconds
        self._waiting: deque[_Waiting] = deque()
        self._rows = self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one in which a batch is under way; None where none is."""
        self._thread: ThreadPoolExecutor | None = None

    async def predict(self, rows: Rows, size: int) -> list[float]:
        """Predict rows that came in so many bytes. Raises: `Overloaded`, and what `predict` raises for these rows."""
        full = self._rows + len(rows) > MAXIMUM_WAITING_ROWS or self._bytes + size > MAXIMUM_WAITING_BYTES
        if self._waiting and full:
            raise Overloaded(f"{self._rows} rows wait to be predicted: try again")
        loop = asyncio.get_running_loop()
        one = _Waiting(rows, size, loop.create_future())
        self._waiting.append(one)
        self._rows += len(rows)
        self._bytes += size
        if self._loop is not loop:
            self._loop = loop
            loop.call_soon(self._next)
        return await one.answer

    def _next(self) -> None:
        batch, rows = self._take()
        if not batch:
            self._loop = None
            return
        assert self._loop is not None
        if self._seconds(len(rows)) <= _INLINE_S:
            _tell(batch, _attempt(self._predict, batch, rows))
            self._loop.call_soon(self._next)  # what has arrived meanwhile is read first
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "batch")
        done = self._loop.run_in_executor(self._thread, _attempt, self._predict, batch, rows)
        done.add_done_callback(lambda outcomes: self._end(batch, outcomes.result()))

    def _end(self, batch: list[_Waiting], outcomes: "list[list[float] | Exception]") -> None:
        _tell(batch, outcomes)
        self._next()

    def _take(self) -> tuple[list[_Waiting], Rows]:
        batch: list[_Waiting] = []
        rows: list[Any] = []
        while self._waiting and (not batch or len(rows) + len(self._waiting[0].rows) <= MAXIMUM_BATCH_ROWS):
            one = self._waiting.popleft()
            batch.append(one)
            rows += one.rows
            self._bytes -= one.size
        self._rows -= len(rows)
        return batch, rows


def _attempt(
    predict: Callable[[Rows], list[float]], batch: list[_Waiting], rows: Rows
) -> "list[list[float] | Exception]":
    """Predict a batch; give the values of each request, or what went wrong with it alone."""
    try:
        values = predict(rows)
    except Exception as error:  # noqa: BLE001 (whoever waits must be told, or waits for ever)
        if len(batch) == 1:
            return [error]
        return [outcome for one in batch for outcome in _attempt(predict, [one], one.rows)]
    outcomes, start = list[list[float] | Exception](), 0
    for one in batch:
        outcomes.append(values[start : start + len(one.rows)])
        start += len(one.rows)
    return outcomes


def _tell(batch: list[_Waiting], outcomes: "list[list[float] | Exception]") -> None:
    for one, outcome in zip(batch, outcomes, strict=True):
        if one.answer.done():
            continue  # whoever asked has gone
        if isinstance(outcome, Exception):
            one.answer.set_exception(outcome)
        else:
            one.answer.set_result(outcome)
