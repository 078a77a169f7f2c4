"""What each path does, from body to answer; knows no ASGI and no BentoML.

A prediction is answered only after its record is durable. Bodies up to 64 KiB (some hundred rows) are decoded, scored
and encoded in the event loop, which takes less time than handing them to a thread; larger ones in a thread.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from infra.errors import Unavailable
from infra.journal import Journal, Label, LabelOutcome, Prediction, Recorded
from models.contract.rows import MAXIMUM_ROWS, NotJSON, Rows, TooManyRows, broken_contract, violation_of
from models.errors import BundleError, Violation
from services import metrics
from services.champion import Champion, Following
from services.messages import (
    BrokenRule,
    ErrorAnswer,
    Fault,
    FeedbackAnswer,
    FeedbackRequest,
    Liveness,
    ModelAnswer,
    PredictAnswer,
    Predicted,
    Readiness,
    encode,
)
from services.openapi import document

_INLINE_BYTES = 64 << 10
_RELAXED_S = 0.02
_RELAXED_ROWS = 20_000
_CLOCKS_DIFFER_BY = timedelta(minutes=5)

_feedback = msgspec.json.Decoder(FeedbackRequest)


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


Handler = Callable[[bytes], Awaitable[Answer]]


class Endpoints:
    """The service's own paths over one champion and one journal."""

    def __init__(self, following: Following, journal: Journal, strict: bool = True) -> None:
        """`strict`: no answer leaves before its record is durable."""
        self._following = following
        self._journal = journal
        self._strict = strict
        self._unsent: list[Prediction] = []
        self._unacknowledged = 0
        """Rows that the journal was given and that are not durable yet."""
        self._durable: asyncio.Future[Recorded] | None = None

    def routes(self) -> dict[str, tuple[str, Handler]]:
        """Give method and handler by path."""
        return {
            "/v1/predict": ("POST", self.predict),
            "/v1/feedback": ("POST", self.feedback),
            "/v1/model": ("GET", self.model),
            "/livez": ("GET", self.livez),
            "/readyz": ("GET", self.readyz),
            "/docs.json": ("GET", self.docs),
        }

    async def predict(self, body: bytes) -> Answer:
        """Answer each row, once all of them are recorded.

        An id that was recorded with another row is named with 409, and nothing is answered that is not on record.
        Raises: `ContractError`, `Unavailable`, `BundleError`.
        """
        champion = self._following.champion
        large = len(body) > _INLINE_BYTES
        decode = champion.decoder.decode
        rows = await asyncio.to_thread(decode, body) if large else decode(body)
        values = await champion.batcher.predict(rows.values, len(body))
        answer, records = (
            await asyncio.to_thread(_answered, champion, rows, values) if large else _answered(champion, rows, values)
        )
        recorded = await self._record(records)
        if recorded and (others := [one for one in records if recorded.get(one.id, one.row) != one.row]):
            return _conflicting_answer(others, records)
        metrics.ROWS.labels(champion.card.version).inc(len(records))
        return Answer(200, answer)

    async def feedback(self, body: bytes) -> Answer:
        """Keep labels; name those that cannot be. Raises: `ContractError`, `Unavailable`."""
        now = datetime.now(UTC)
        labels = [
            Label(id=one.id, value=one.value, known_at=now if one.at is UNSET else _known_at(one.at, now, place))
            for place, one in enumerate(_decode_feedback(body).labels)
        ]
        outcomes = await asyncio.wrap_future(self._journal.append_labels(labels))
        for outcome in LabelOutcome:
            metrics.LABELS.labels(outcome.value).inc(outcomes.count(outcome))
        return _feedback_answer([label.id for label in labels], outcomes)

    async def model(self, _: bytes) -> Answer:
        """Say what answers now."""
        champion = self._following.champion
        card = champion.card
        answer = ModelAnswer(
            model=card.model,
            version=card.version,
            since=champion.since,
            digest=card.onnx_digest,
            signature=card.contract.signature,
            inputs=card.contract.inputs,
            target=card.contract.target,
            metrics=card.metrics,
            following=self._following.active,
            refused=self._following.refused,
        )
        return Answer(200, encode(answer))

    async def livez(self, _: bytes) -> Answer:
        """Say that the process answers."""
        return Answer(200, encode(Liveness()))

    async def readyz(self, _: bytes) -> Answer:
        """Say that requests are answered, and what is not as it should be."""
        card = self._following.champion.card
        readiness = Readiness(
            ready=True,
            model=card.model,
            version=card.version,
            following=self._following.active,
            lake=self._following.lake_failure,
            journal=self._journal.failure,
            refused=self._following.refused,
        )
        return Answer(200, encode(readiness))

    async def docs(self, _: bytes) -> Answer:
        """Give the OpenAPI document of these paths."""
        champion = self._following.champion
        return Answer(200, encode(document(champion.card, champion.decoder)))

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


def _answered(champion: Champion, rows: Rows, values: list[float]) -> tuple[bytes, list[Prediction]]:
    """Give the answer to a request, and what must be recorded before it leaves.

    Raises: `BundleError` where the graph gives no finite number for an accepted row.
    """
    version = champion.card.version
    if not all(map(isfinite, values)):
        raise BundleError(f"model {version} gave no finite number for an accepted row; nothing was recorded")
    ids = [given or new_id() for given in rows.ids]
    records = [
        Prediction(id=name, version=version, event_at=at, row=raw, value=value)
        for name, at, raw, value in zip(ids, rows.event_at, champion.decoder.raw(rows.values), values, strict=True)
    ]
    answer = PredictAnswer(champion.card.model, version, list(map(Predicted, ids, values)))
    return encode(answer), records


def new_id() -> str:
    """Make a prediction id: a UUID of version 7, so that ids sort by time and the journal's index grows at its end."""
    milliseconds = time.time_ns() // 1_000_000
    digits = f"{milliseconds:012x}7{os.urandom(10).hex()}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-8{digits[17:20]}-{digits[20:32]}"


def _known_at(at: datetime, now: datetime, place: int) -> datetime:
    """Give the moment at which a label says it became known, in UTC. Raises: `ContractError`."""
    try:
        known_at = at.astimezone(UTC)
    except OverflowError as error:
        raise broken_contract([Violation("at", f"not a moment that UTC has, got {at.isoformat()}", place)]) from error
    if known_at > now + _CLOCKS_DIFFER_BY:
        raise broken_contract([Violation("at", f"in the future, got {at.isoformat()}", place)])
    return known_at


def _decode_feedback(body: bytes) -> FeedbackRequest:
    try:
        request = _feedback.decode(body)
    except msgspec.ValidationError as error:
        raise broken_contract([violation_of(error, "labels")]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJSON(f"the body is not JSON: {error}") from error
    if len(request.labels) > MAXIMUM_ROWS:
        raise TooManyRows(f"a request carries at most {MAXIMUM_ROWS} labels, this one {len(request.labels)}")
    return request


def _conflicting_answer(others: list[Prediction], records: list[Prediction]) -> Answer:
    """Name the rows whose id stands for another row; the rest of the request is recorded and may be asked again."""
    taken = {one.id for one in others}
    places = [place for place, one in enumerate(records) if one.id in taken]
    rules = [
        BrokenRule("id", "was answered before for another row; give this row an id of its own", at) for at in places
    ]
    message = f"{len(others)} ids stand for other rows than these, first row {places[0]}: {records[places[0]].id!r}"
    return Answer(409, encode(ErrorAnswer(Fault(message, rules, conflicting=sorted(taken)))))


def _feedback_answer(ids: Sequence[str], outcomes: Sequence[LabelOutcome]) -> Answer:
    named = {
        outcome: [name for name, found in zip(ids, outcomes, strict=True) if found is outcome]
        for outcome in (LabelOutcome.UNKNOWN, LabelOutcome.CONFLICTING)
    }
    unknown, conflicting = named[LabelOutcome.UNKNOWN], named[LabelOutcome.CONFLICTING]
    kept = len(ids) - len(unknown) - len(conflicting)
    if kept == len(ids):
        return Answer(200, encode(FeedbackAnswer(kept)))
    reasons = []
    if unknown:
        reasons.append(f"{len(unknown)} labels name predictions that were never made")
    if conflicting:
        reasons.append(f"{len(conflicting)} labels contradict earlier ones, which stay")
    message = f"{' and '.join(reasons)}; {kept} labels are kept"
    fault = Fault(message, unknown=unknown, conflicting=conflicting, kept=kept)
    return Answer(404 if unknown else 409, encode(ErrorAnswer(fault)))
