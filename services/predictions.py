"""Predicting and recording rows, whatever they came in as.

Strict, a prediction is answered only after its record is durable; relaxed, its record follows within a moment. What was
predicted together is named and recorded together.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa
from prometheus_client import Counter

from infra.errors import Unavailable
from infra.journal.answers import Sheet, row_digest
from infra.journal.ids import KEY_BYTES, Ids, Mint
from infra.journal.journal import Journal, Recorded
from models.bundle import Card
from models.contract import arrow
from models.contract.answers import told
from models.contract.columns import Category, Number
from models.contract.rows import Array, Rows
from models.errors import OkruhError, Violation
from services import metrics, trial
from services.batching import MAXIMUM_BATCH_ROWS, Batch, Overloaded, Part
from services.champion import Champion
from services.observing import note, step
from services.trial import Drawn, Shadow, Tried

logger = logging.getLogger("bentoml.okruh.service")

INLINE_BYTES = 64 << 10
"""Bodies of JSON up to this, some hundred rows, are decoded in the event loop, which takes less than a thread."""

_RELAXED_S = 0.09
_RELAXED_ROWS = 20_000


class Answered:
    """What goes back, a row each."""

    def __init__(self, model: Champion, ids: Ids, part: Part) -> None:
        self.model = model
        """Who has answered: the champion, or a canary."""
        self._ids = ids
        self._part = part

    def __len__(self) -> int:
        return self._part.stop - self._part.start

    def ids(self) -> list[str]:
        """Give the ids as text."""
        return self._ids.texts(self._part.start, self._part.stop)

    def values(self) -> list[Any]:
        """Give the numbers, or of each row the most likely value."""
        return told(self._target, self._answers())

    def probabilities(self) -> list[list[float]] | None:
        """Give those of each value; None where the target is a number."""
        if isinstance(self._target, Number):
            return None
        found: list[list[float]] = self._answers().tolist()
        return found

    def arrow(self) -> pa.RecordBatch:
        """Give `id` (string) and `value` (float32), or `value` (of its kind) and `probabilities`, as Arrow."""
        start, count = self._part.start, self._part.stop - self._part.start
        ids, answers = self._ids.arrow().slice(start, count), self._answers()
        if isinstance(self._target, Number):
            return pa.RecordBatch.from_arrays([ids, arrow.numbers(pa.float32(), answers)], ["id", "value"])
        values = arrow.labels(self._target, answers.argmax(axis=1))
        return pa.RecordBatch.from_arrays([ids, values, arrow.answers(answers)], ["id", "value", "probabilities"])

    @property
    def _target(self) -> Number | Category:
        return self.model.card.contract.target

    def _answers(self) -> Array:
        return self._part.batch.values[self._part.start : self._part.stop]


class IdsTaken(OkruhError):
    """Ids stand for other rows than the ones that came with them; those are recorded, these are not.

    Whatever else came with them is recorded, and `answered`.
    """

    def __init__(self, taken: Sequence[str], places: Sequence[int], answered: Answered) -> None:
        rule = "was answered before for another row; give this row an id of its own"
        super().__init__(
            f"{len(taken)} ids stand for other rows than these, first row {places[0]}: {taken[0]!r}",
        )
        self.violations = [Violation("id", rule, place) for place in places]
        self.conflicting = sorted(taken)
        self.places = frozenset(places)
        self.answered = answered


class _Record(NamedTuple):
    """Of one batch."""

    sheet: Sheet | None
    """Where its rows are, until they are recorded; None where they will not be."""
    first: int
    """The place of its first row there."""
    ids: Ids
    durable: "asyncio.Future[Recorded] | None"
    """None where nobody waits for it."""


class _Copied(NamedTuple):
    """Rows of a sheet that a challenger in the shadow shall answer as well."""

    tried: Tried
    sheet: Sheet
    parts: list[tuple[int, int]]
    """From one place to another."""

    def rows(self) -> int:
        return sum(stop - start for start, stop in self.parts)


class Predictions:
    """The way of rows through a champion and into the journal. For one event loop."""

    def __init__(
        self, journal: Journal, *, strict: bool = True, goes_on: bool = False, shadow: Shadow | None = None
    ) -> None:
        """Prepare the way.

        Args:
            shadow: takes what is recorded where a challenger shall answer it as well; without it, nothing is taken.
            strict: no answer leaves before its record is durable.
            goes_on: what cannot be recorded is answered all the same, and counted.
        """
        self._journal = journal
        self._strict = strict
        self._goes_on = goes_on
        self._shadow = shadow
        self._mint: Mint | None = None
        self._unsent: list[Sheet] = []
        self._open: dict[str, Sheet] = {}
        """Those among them to which rows are put that callers did not name, by version."""
        self._copied: list[_Copied] = []
        self._unawaited_rows = 0
        """Rows among them that are answered whatever becomes of their record."""
        self._waiting_rows = 0
        """Rows that are not durable yet, handed over or not."""
        self._durable: asyncio.Future[Recorded] | None = None
        self._handing_over: asyncio.Handle | None = None

    async def answer(self, champion: Champion, rows: Rows, size: int, drawn: Drawn | None = None) -> Answered:
        """Predict rows that came in so many bytes, and record them; `drawn`: who shall answer instead, or as well.

        Raises: `Overloaded`, `Unavailable`, `IdsTaken`; `BundleError` where the graph gives no finite number for an
            accepted row.
        """
        with step("predict"):
            model, part = champion, None
            if drawn is not None and drawn.tried.terms.mode == "canary":
                model, part = await _instead(champion, drawn, rows, size)
            part = part or await champion.batcher.predict(rows, size)
        batch = part.batch
        with step("record"):
            record: _Record = batch.record or self._record(model, batch)
            if drawn is not None and drawn.tried.terms.mode == "shadow" and record.sheet is not None:
                self._copy(drawn.tried, record.sheet, record.first + part.start, record.first + part.stop)
            answered = Answered(model, record.ids, part)
            if record.durable is not None and (recorded := await self._outcome(record.durable)) and batch.given:
                _refuse_taken(answered, part, recorded)
        metrics.turn.inc(_rows_of(model.card.version), rows.count)
        return answered

    async def ready(self) -> bool:
        """Say whether rows are answered; where the journal's last write failed, by trying another."""
        if self._refusing:
            with suppress(Unavailable):  # which the journal says itself
                await asyncio.wrap_future(self._journal.append([]))
        return not self._refusing

    @property
    def _refusing(self) -> bool:
        return self._journal.failure is not None and not self._goes_on

    def close(self) -> None:
        """Record what was answered and not recorded yet; the log says what could not be."""
        if self._handing_over is not None:
            self._handing_over.cancel()
        answers = [sheet.answers() for sheet in self._unsent]
        metrics.SHADOW_DROPPED.labels("closing").inc(sum(one.rows() for one in self._copied))
        self._unsent, self._open, self._copied, self._durable = [], {}, [], None
        if not answers:
            return
        try:
            self._journal.append(answers).result()
        except Unavailable as error:
            rows = sum(len(one.ids) for one in answers)
            metrics.LOST.inc(self._unawaited_rows)
            logger.error("%d rows are not recorded, of which %d are answered: %s", rows, self._unawaited_rows, error)

    def _record(self, model: Champion, batch: Batch) -> _Record:
        """Name a batch's rows and have them recorded.

        Strict, its requests wait until they are; relaxed, only where the journal falls behind, or its last write failed
        and predictions shall stop then. What is asked for in one turn of the event loop, or relaxed within a moment, is
        handed over together: one wake-up of the journal's thread, one of the loop, and fewer, larger writes. A large
        batch is a write of its own, while its values are in the processor's caches.
        """
        if (mint := self._named_by()) is None:
            metrics.LOST.inc(len(batch.values))
            nobodys, _ = Mint(os.urandom(KEY_BYTES), 0).mint(len(batch.values))
            record = batch.record = _Record(None, 0, Ids(nobodys, batch.given), None)
            return record
        minted, answered_ms = mint.mint(len(batch.values))
        ids = Ids(minted, batch.given)
        sheet = self._sheet(model.card, ids)
        first = len(sheet)
        sheet.add(ids, batch.columns, batch.values, answered_ms)
        self._waiting_rows += len(ids)
        many = len(ids) >= MAXIMUM_BATCH_ROWS  # no write is spared by waiting for more
        if self._durable is None or (many and not self._strict):
            loop = asyncio.get_running_loop()
            self._durable = self._durable or loop.create_future()
            if self._handing_over is not None:
                self._handing_over.cancel()
            at_once = many or self._strict
            self._handing_over = (
                loop.call_soon(self._hand_over) if at_once else loop.call_later(_RELAXED_S, self._hand_over)
            )
        waits = self._strict or self._refusing or self._waiting_rows > _RELAXED_ROWS
        self._unawaited_rows += len(ids) if self._goes_on or not waits else 0
        record = batch.record = _Record(sheet, first, ids, self._durable if waits else None)
        return record

    def _sheet(self, card: Card, ids: Ids) -> Sheet:
        """Give the sheet that rows are put to; named ones have one of their own, for of a name the first row counts."""
        sheet = None if ids.given else self._open.get(card.version)
        if sheet is None or not sheet.has_room(len(ids)):
            sheet = Sheet(card.contract, card.version)
            self._unsent.append(sheet)
            if not ids.given:
                self._open[card.version] = sheet
        return sheet

    def _copy(self, tried: Tried, sheet: Sheet, start: int, stop: int) -> None:
        """Have rows of a sheet answered as well."""
        copied = self._copied[-1] if self._copied else None
        if copied is None or copied.sheet is not sheet or copied.tried is not tried:
            copied = _Copied(tried, sheet, [])
            self._copied.append(copied)
        parts = copied.parts
        if parts and parts[-1][1] == start:
            parts[-1] = (parts[-1][0], stop)
        else:
            parts.append((start, stop))

    def _named_by(self) -> Mint | None:
        """Give what makes ids; None where nothing can be recorded and predictions go on. Raises: `Unavailable`."""
        if self._mint is None:
            try:
                self._mint = self._journal.mint()
            except Unavailable:
                if not self._goes_on:
                    raise
        return self._mint

    async def _outcome(self, durable: "asyncio.Future[Recorded]") -> Recorded:
        try:
            return await asyncio.shield(durable)
        except Unavailable:
            if self._goes_on:
                return {}
            raise

    def _show(self, copied: list[_Copied], recorded: Recorded) -> None:
        if self._shadow is not None:
            for one in copied:
                self._shadow.take(one.tried, one.sheet.answers(one.parts), recorded)

    def _hand_over(self) -> None:
        durable, unawaited = self._durable, self._unawaited_rows
        answers, copied = [sheet.answers() for sheet in self._unsent], self._copied
        self._open, self._copied = {}, []
        self._durable, self._unsent, self._unawaited_rows = None, [], 0
        assert durable is not None

        def acknowledge(outcome: Recorded | BaseException) -> None:
            self._waiting_rows -= sum(len(one.ids) for one in answers)
            if not isinstance(outcome, BaseException):
                durable.set_result(outcome)
                self._show(copied, outcome)
                return
            durable.set_exception(outcome)
            durable.exception()  # nobody may wait for it, and asyncio would say so
            metrics.LOST.inc(unawaited)
            metrics.SHADOW_DROPPED.labels("unrecorded").inc(sum(one.rows() for one in copied))

        try:
            write = asyncio.wrap_future(self._journal.append(answers))
        except Unavailable as error:
            acknowledge(error)
        else:
            write.add_done_callback(lambda done: acknowledge(done.exception() or done.result()))


def count_refusal(error: OkruhError) -> None:
    """Count what is refused because too much waits, or because the journal cannot write."""
    if isinstance(error, Overloaded):
        metrics.OVERLOADS.inc()
    elif isinstance(error, Unavailable):
        metrics.JOURNAL_FAILURES.inc()


async def _instead(champion: Champion, drawn: Drawn, rows: Rows, size: int) -> tuple[Champion, Part | None]:
    """Have a canary predict; give who has, and nothing where it is for the champion to do."""
    if (part := await trial.predict_instead(drawn, rows, size)) is None:
        return champion, None
    note(version=drawn.tried.terms.version)
    return drawn.tried.model, part


@cache
def _rows_of(version: str) -> Counter:
    series: Counter = metrics.ROWS.labels(version)
    return series


def _refuse_taken(answered: Answered, part: Part, recorded: Recorded) -> None:
    """Compare the rows of names that came again with what the names stand for. Raises: `IdsTaken`."""
    batch = part.batch
    taken = {
        place - part.start: name
        for place, name in batch.given.items()
        if part.start <= place < part.stop and recorded.get(name, b"") not in (b"", row_digest(batch.columns, place))
    }
    if taken:
        raise IdsTaken(list(taken.values()), list(taken), answered)
