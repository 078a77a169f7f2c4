"""Predicting and recording rows, whatever they came in as.

Strict, a prediction is answered only after its record is durable; relaxed, its record follows within a moment.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

from infra.errors import Unavailable
from infra.journal import Journal, Prediction, Recorded
from models.contract.rows import Rows
from models.errors import BundleError, OkruhError, Violation
from services import metrics
from services.champion import Champion

INLINE_BYTES = 64 << 10
"""Bodies up to this, some hundred rows, are decoded and encoded in the event loop, which takes less than a thread."""

_RELAXED_S = 0.02
_RELAXED_ROWS = 20_000


class Answered(NamedTuple):
    """What goes back, a row each."""

    ids: list[str]
    values: list[float]


class IdsTaken(OkruhError):
    """Ids stand for other rows than the ones that came with them; those are recorded, these are not."""

    def __init__(self, taken: Sequence[str], places: Sequence[int]) -> None:
        rule = "was answered before for another row; give this row an id of its own"
        super().__init__(
            f"{len(taken)} ids stand for other rows than these, first row {places[0]}: {taken[0]!r}",
        )
        self.violations = [Violation("id", rule, place) for place in places]
        self.conflicting = sorted(taken)


class Predictions:
    """The way of rows through a champion and into the journal. For one event loop."""

    def __init__(self, journal: Journal, strict: bool = True) -> None:
        """`strict`: no answer leaves before its record is durable."""
        self._journal = journal
        self._strict = strict
        self._unsent: list[Prediction] = []
        self._unacknowledged = 0
        """Rows that the journal was given and that are not durable yet."""
        self._durable: asyncio.Future[Recorded] | None = None

    async def answer(self, champion: Champion, rows: Rows, size: int) -> Answered:
        """Predict rows that came in so many bytes, and record them.

        Raises: `Overloaded`, `Unavailable`, `IdsTaken`; `BundleError` where the graph gives no finite number for an
            accepted row.
        """
        values = await champion.batcher.predict(rows.values, size)
        if size <= INLINE_BYTES:
            ids, records = _recordable(champion, rows, values)
        else:
            ids, records = await asyncio.to_thread(_recordable, champion, rows, values)
        recorded = await self._record(records)
        if recorded and (places := [at for at, one in enumerate(records) if recorded.get(one.id, one.row) != one.row]):
            raise IdsTaken([records[place].id for place in places], places)
        metrics.ROWS.labels(champion.card.version).inc(len(records))
        return Answered(ids, values)

    def close(self) -> None:
        """Hand over what was answered and not recorded yet."""
        if self._unsent:
            self._journal.append(self._unsent)
            self._unsent = []

    async def _record(self, records: list[Prediction]) -> Recorded:
        """Record; give the recorded rows of ids that came again, where it waits until the records are durable.

        Strict, it does; relaxed, only where the journal falls behind. What is asked for in one turn of the event loop,
        or relaxed within a moment, is handed over together: one wake-up of the journal's thread, one of the loop, and
        fewer, larger commits.
        """
        self._unsent += records
        if self._durable is None:
            loop = asyncio.get_running_loop()
            self._durable = loop.create_future()
            if self._strict:
                loop.call_soon(self._hand_over)
            else:
                loop.call_later(_RELAXED_S, self._hand_over)
        if self._strict or self._unacknowledged + len(self._unsent) > _RELAXED_ROWS:
            return await asyncio.shield(self._durable)
        return {}

    def _hand_over(self) -> None:
        durable, records = self._durable, self._unsent
        self._durable, self._unsent = None, []
        assert durable is not None
        self._unacknowledged += len(records)
        try:
            commit = asyncio.wrap_future(self._journal.append(records))
        except Unavailable as error:
            self._acknowledge(durable, len(records), error)
        else:
            commit.add_done_callback(
                lambda done: self._acknowledge(durable, len(records), done.exception() or done.result())
            )

    def _acknowledge(self, durable: asyncio.Future[Recorded], rows: int, outcome: Recorded | BaseException) -> None:
        self._unacknowledged -= rows
        if not isinstance(outcome, BaseException):
            durable.set_result(outcome)
            return
        durable.set_exception(outcome)
        if not self._strict:
            durable.exception()  # nobody may wait for it, and asyncio would say so
            metrics.LOST.inc(rows)


def _recordable(champion: Champion, rows: Rows, values: list[float]) -> tuple[list[str], list[Prediction]]:
    version = champion.card.version
    if not all(map(isfinite, values)):
        raise BundleError(f"model {version} gave no finite number for an accepted row; nothing was recorded")
    ids = [given or new_id() for given in rows.ids]
    records = [
        Prediction(id=name, version=version, event_at=at, row=raw, value=value)
        for name, at, raw, value in zip(ids, rows.event_at, champion.decoder.raw(rows.values), values, strict=True)
    ]
    return ids, records


def new_id() -> str:
    """Make a prediction id: a UUID of version 7, so that ids sort by time and the journal's index grows at its end."""
    milliseconds = time.time_ns() // 1_000_000
    digits = f"{milliseconds:012x}7{os.urandom(10).hex()}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-8{digits[17:20]}-{digits[20:32]}"
