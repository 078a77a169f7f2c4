"""Trying a challenger: which requests are its, what it answers instead of the champion, and what it answers as well.

As a canary it answers a share of the requests. Where it fails, or takes twice as long as its terms call slow, the
champion answers, and its caller does not see it.

In the shadow it answers the champion's rows once more, after those are recorded, and nobody gets it: a thread of its
own, of lower priority, takes what has come together, predicts it in few large batches, compares, and has it journalled.
What waits for it is bounded in rows; what comes above it is dropped and counted. The event loop hands over what is
there already, once a write of the journal: some microseconds, or two for each drawn request where only a share is.
"""

import asyncio
import logging
import math
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.journal.answers import Answers
from infra.journal.journal import Recorded
from infra.journal.shadows import Shadows, batch_of
from models.contract.answers import are_finite, differences, largest_difference, shape
from models.contract.rows import Columns, Rows
from models.deciding.rollout import Challenger, is_drawn, weight_at
from services import metrics
from services.access import within_s
from services.batching import Overloaded, Part
from services.champion import Champion
from services.messages import Request
from services.tally import Tally

logger = logging.getLogger("bentoml.okruh.trial")

KEY = b"x-okruh-key"
"""The header whose value says whose a request is: all with one value are answered by the same model."""

MAXIMUM_WAITING_ROWS = 20_000

_PATIENCE = 2
_FEWEST_S = 0.05
"""A canary is waited for as long as its terms call slow, so many times over; so many seconds at least, since what is
sure to be slow is to be counted as such."""

_WEIGHED_S = 0.1
_COLLECT_S = 0.05
_WRITE_S = 1.0
_CLOSE_S = 1.0
_AT_ONCE_S = 0.01
_AT_ONCE_ROWS = (1024, 256, 64)
_FEWEST_ROWS = 16
_NICENESS = 10


class Tried:
    """A challenger, ready to answer, and the terms on which it is tried."""

    def __init__(self, model: Champion, terms: Challenger) -> None:
        self.model = model
        self.terms = terms
        self.tally = Tally()
        """Of its answers on these terms."""
        self._weight = 0.0
        self._weighed_s = -math.inf

    @property
    def weight(self) -> float:
        """Its share of requests without a key; what a ramp makes of it counts within a tenth of a second."""
        now_s = time.monotonic()
        if now_s > self._weighed_s + _WEIGHED_S:
            self._weight, self._weighed_s = weight_at(self.terms, datetime.now(UTC)), now_s
        return self._weight


class Drawn(NamedTuple):
    """The challenger whose a request is, too."""

    tried: Tried
    within_s: float | None
    """How long the caller waits; None where it does not say."""


def drawn(tried: Tried | None, request: Request) -> Drawn | None:
    """Give the challenger where a request is its, too; by the request's key, and by chance where it bears none."""
    if tried is None or tried.tally.ended is not None:
        return None
    key = request.header(KEY)
    its = is_drawn(tried.terms, key, datetime.now(UTC)) if key else random.random() < tried.weight  # noqa: S311
    if not its:
        return None
    return Drawn(tried, within_s(request.headers) if tried.terms.mode == "canary" else None)


async def predict_instead(its: Drawn, rows: Rows, size: int) -> Part | None:
    """Have a canary predict rows that came in so many bytes, and count it; None where it fails or takes too long.

    Of the time within which a caller wants an answer it has a half, so that the champion has the other one.
    """
    tried, began = its.tried, time.perf_counter()
    slow_s = tried.terms.abort.p99_ms / 1000
    patience_s = max(_FEWEST_S, _PATIENCE * slow_s)
    if its.within_s is not None:
        patience_s = min(patience_s, its.within_s / 2)
    asked: asyncio.Future[Part] | None = None
    outcome = "slow"  # as whatever is not there in time
    try:
        asked = tried.model.batcher.predict(rows, size)
        await asyncio.wait([asked], timeout=patience_s)
        if not asked.done():
            return None
        part = asked.result()  # it is recorded as its answer
        outcome = "slow" if time.perf_counter() - began > slow_s else "ok"
    except asyncio.CancelledError:
        # Whoever has gone early says nothing of it
        outcome = "slow" if time.perf_counter() - began > slow_s else "gone"
        raise
    except Overloaded:
        outcome = "refused"  # its callers' doing
        return None
    except Exception as error:  # noqa: BLE001 (whatever a challenger does wrong, the champion answers)
        outcome = "failed"
        logger.warning("canary %s failed, the champion answers: %s", tried.terms.version, error)
        return None
    else:
        return part
    finally:
        if asked is not None:
            asked.cancel()
        metrics.CANARY_REQUESTS.labels(tried.terms.version, outcome).inc()
        if outcome in {"ok", "slow", "failed"}:
            tried.tally.add(tried.terms.abort, 1, outcome == "failed", outcome == "slow")


Values = npt.NDArray[np.float32]
"""See `models.contract.answers`."""


class _Copy(NamedTuple):
    """Answered rows of a champion that wait for the challenger."""

    tried: Tried
    answers: Answers
    recorded: Recorded
    """Names among them that were recorded before, for these rows or for others."""


class Shadow:
    """Has challengers answer what champions have answered. Taken from in one event loop."""

    def __init__(self, journal: Shadows) -> None:
        self._journal = journal
        self._waiting = deque[_Copy]()
        self._taken_rows = 0
        """Ever taken, which the event loop counts; less those that are done, which the thread counts: they wait."""
        self._done_rows = 0
        self._some = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._unwritten: list[pa.RecordBatch] = []
        self._write_at_s = 0.0
        self._until_s = math.inf

    def take(self, tried: Tried, answers: Answers, recorded: Recorded) -> None:
        """Have answered rows, that are recorded by now, answered by the challenger as well; or drop them."""
        count = len(answers.ids)
        if self._taken_rows - self._done_rows + count > MAXIMUM_WAITING_ROWS:
            metrics.SHADOW_DROPPED.labels("full").inc(count)
            return
        self._taken_rows += count
        self._waiting.append(_Copy(tried, answers, recorded))
        if not self._some.is_set():
            self._some.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Answer what waits, for a second at most, write it, and stop; the rest is dropped."""
        self._until_s = time.monotonic() + _CLOSE_S
        self._closing.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        _lower_priority()
        while True:
            self._some.wait(max(0.0, self._write_at_s - time.monotonic()) if self._unwritten else None)
            closing = self._closing.wait(_COLLECT_S)
            self._some.clear()
            copies = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for _, group in groupby(copies, key=lambda one: (id(one.tried), one.answers.version)):
                self._answer(list(group))
            if self._unwritten and (closing or time.monotonic() >= self._write_at_s):
                self._write()
            if closing:
                self._journal.close()
                return

    def _answer(self, copies: Sequence[_Copy]) -> None:
        """Answer rows of one champion by one challenger."""
        tried, answers = copies[0].tried, [one.answers for one in copies]
        count = sum(len(one.ids) for one in answers)
        try:
            columns = {name: np.concatenate([one.columns[name] for one in answers]) for name in answers[0].columns}
            served = np.concatenate([one.values for one in answers]).astype(np.float32)
            predicted = np.concatenate([served[:0], *_predicted(tried, columns, count, self._is_late)])
            why = "ended" if tried.tally.ended is not None else "closing"
            metrics.SHADOW_DROPPED.labels(why).inc(count - len(predicted))
            if len(predicted):
                _compare(tried, answers[0], served[: len(predicted)], predicted)
                repeated = [one.recorded for one in copies]
                answered = batch_of(tried.terms.version, answers, predicted, repeated)
                metrics.SHADOW_DROPPED.labels("repeated").inc(len(predicted) - answered.num_rows)
                self._keep(answered)
        except Exception:
            logger.exception("the shadow of %s failed", tried.terms.version)
            metrics.SHADOW_DROPPED.labels("failed").inc(count)
        finally:
            self._done_rows += count

    def _is_late(self) -> bool:
        return time.monotonic() > self._until_s

    def _keep(self, answered: pa.RecordBatch) -> None:
        if not self._unwritten:
            self._write_at_s = time.monotonic() + _WRITE_S
        self._unwritten.append(answered)

    def _write(self) -> None:
        answered, self._unwritten = self._unwritten, []
        try:
            self._journal.append(answered)
        except Exception as error:  # noqa: BLE001 (the thread goes on, whatever becomes of a write)
            logger.warning("what the shadow answered is not recorded: %s", error)
            metrics.SHADOW_DROPPED.labels("unwritten").inc(sum(one.num_rows for one in answered))


def _compare(tried: Tried, answers: Answers, served: Values, predicted: Values) -> None:
    target = answers.contract.target
    share = differences(target, predicted, served) / largest_difference(target)
    series = metrics.SHADOW_DIFFERENCE.labels(answers.version, tried.terms.version)
    metrics.observe(series, share[np.isfinite(share)])


def _predicted(tried: Tried, columns: Columns, count: int, is_late: Callable[[], bool]) -> Iterator[Values]:
    """Give a challenger's values of the rows in columns, batch by batch, to their end, its trial's, or the service's.

    A batch that takes longer than an answer may is slow, and so is each of its rows; batches are sized for ten
    milliseconds. What counts is the time on the processor, for this thread lets others go first.
    """
    model, rule = tried.model, tried.terms.abort
    at_once = next((rows for rows in _AT_ONCE_ROWS if model.batcher.seconds(rows) <= _AT_ONCE_S), _FEWEST_ROWS)
    clock = time.thread_time if model.placement.provider == "cpu" else time.perf_counter
    for start in range(0, count, at_once):
        if tried.tally.ended is not None or is_late():
            return
        rows, began = min(at_once, count - start), clock()
        part = Rows(rows, columns={name: array[start : start + rows] for name, array in columns.items()})
        try:
            _, values = model.predict([part])
        except Exception as error:  # noqa: BLE001 (onnxruntime raises a dozen unrelated classes)
            logger.warning("shadow %s failed: %s", tried.terms.version, error)
            values = np.full(shape(model.card.contract.target, rows), np.nan, np.float32)
        slow = clock() - began > rule.p99_ms / 1000
        failed = rows - int(are_finite(values).sum())
        for outcome, number in (("failed", failed), ("slow" if slow else "ok", rows - failed)):
            metrics.SHADOW_ROWS.labels(tried.terms.version, outcome).inc(number)
        tried.tally.add(rule, rows, failed, rows if slow else 0)
        yield values.astype(np.float32, copy=False)


def _lower_priority() -> None:
    """Have this thread wait for those who answer requests; where threads have no priority of their own, it has none."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
