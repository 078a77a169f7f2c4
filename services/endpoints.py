"""What each path does, from body to answer; knows no ASGI and no BentoML.

Large bodies are decoded and encoded in a thread.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import UNSET

from infra.journal.index import Label, LabelOutcome
from infra.journal.journal import Journal
from models.contract.answers import is_told
from models.contract.columns import Category, Number
from models.contract.rows import MAXIMUM_ROWS, NotJSON, TooManyRows, broken_contract, violation_of
from models.deciding.rollout import weight_at
from models.errors import Violation
from services import metrics, streaming
from services.access import Access, NotAdmitted
from services.following import Following
from services.formats import format_of
from services.messages import (
    Abort,
    Answer,
    ErrorAnswer,
    Fault,
    FeedbackAnswer,
    FeedbackRequest,
    Handler,
    Liveness,
    ModelAnswer,
    Readiness,
    Request,
    Route,
    Trial,
    encode,
)
from services.observing import note, step
from services.open_inference import OpenInference
from services.openapi import document
from services.page import CONTENT_TYPE, HEADERS, locked_page, page
from services.predictions import INLINE_BYTES, Predictions
from services.trial import Tried, drawn

_CLOCKS_DIFFER_BY = timedelta(minutes=5)

_feedback = msgspec.json.Decoder(FeedbackRequest)


class Endpoints:
    """The service's own paths over one champion and one journal."""

    def __init__(self, following: Following, journal: Journal, predictions: Predictions) -> None:
        self._following = following
        self._journal = journal
        self._predictions = predictions
        self.access = Access()
        """Who may ask."""
        self._protocol = OpenInference(following, predictions)
        answered: dict[str, tuple[str, Handler]] = {
            "/v1/predict": ("POST", self.predict),
            "/v1/feedback": ("POST", self.feedback),
            "/v1/model": ("GET", self.model),
            "/livez": ("GET", self.livez),
            "/readyz": ("GET", self.readyz),
            "/docs.json": ("GET", self.docs),
            "/metrics": ("GET", self.metrics),
            "/": ("GET", self.page),
        }
        self._routes = {path: Route(method, handler, path) for path, (method, handler) in answered.items()}
        lines = {streaming.MEDIA_TYPE: self.predict_lines}
        self._routes["/v1/predict"] = self._routes["/v1/predict"]._replace(streams=lines)

    def find(self, path: str) -> Route | None:
        """Give what answers a path; None where it is none of ours."""
        return self._routes.get(path) or self._protocol.find(path)

    async def predict(self, request: Request) -> Answer:
        """Answer each row, once all of them are recorded; in the format that they came in.

        Raises: `ContractError`, `Overloaded`, `Unavailable`, `IdsTaken`, `BundleError`.
        """
        serving, body, kind = self._following.serving, request.body, format_of(request)
        champion, its = serving.champion, drawn(serving.challenger, request)
        inline = len(body) <= kind.inline_bytes
        note(model=champion.card.model, version=champion.card.version)
        with step("decode"):
            rows = kind.decode(champion, body) if inline else await asyncio.to_thread(kind.decode, champion, body)
        note(rows=rows.count)
        answered = await self._predictions.answer(champion, rows, len(body), its)
        with step("encode"):
            return kind.encode(answered) if inline else await asyncio.to_thread(kind.encode, answered)

    def predict_lines(self, request: Request, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """Answer rows as they come, a line each."""
        return streaming.answer_lines(request, chunks, lambda: self._following.serving, self._predictions)

    async def feedback(self, request: Request) -> Answer:
        """Keep labels; name those that cannot be. Raises: `ContractError`, `Unavailable`."""
        body = request.body
        target = self._following.champion.card.contract.target
        inline = len(body) <= INLINE_BYTES
        labels = _labels(body, target) if inline else await asyncio.to_thread(_labels, body, target)
        outcomes = await asyncio.wrap_future(self._journal.append_labels(labels))
        for outcome in LabelOutcome:
            metrics.LABELS.labels(outcome.value).inc(outcomes.count(outcome))
        return _feedback_answer([label.id for label in labels], outcomes)

    async def model(self, _: Request) -> Answer:
        """Say what answers now."""
        serving = self._following.serving
        champion, card = serving.champion, serving.champion.card
        answer = ModelAnswer(
            model=card.model,
            version=card.version,
            since=champion.since,
            digest=champion.digest,
            variant=champion.variant,
            signature=card.contract.signature,
            inputs=card.contract.inputs,
            target=card.contract.target,
            metrics=card.metrics,
            runs_on=champion.placement,
            following=self._following.active,
            refused=self._following.refused,
            challenger=_trial(serving.challenger),
            challenger_refused=self._following.challenger_refused,
            challenger_aborted=_abort(self._following),
        )
        return Answer(200, encode(answer))

    async def livez(self, _: Request) -> Answer:
        """Say that the process answers."""
        return Answer(200, encode(Liveness()))

    async def readyz(self, request: Request) -> Answer:
        """Say whether requests are answered, and what is not as it should be; paths and hosts only to who has a key."""
        ready, shown = await self._predictions.ready(), self._shown(request)
        serving = self._following.serving
        champion = serving.champion
        readiness = Readiness(
            ready=ready,
            model=champion.card.model,
            version=champion.card.version,
            following=self._following.active,
            provider=champion.placement.missed,
            lake=shown(self._following.lake_failure),
            journal=shown(self._journal.failure),
            refused=self._following.refused,
            challenger=_trial(serving.challenger),
            challenger_refused=self._following.challenger_refused,
            challenger_aborted=_abort(self._following),
            keys=self.access.failure,
        )
        return Answer(200 if ready else 503, encode(readiness))

    def _shown(self, request: Request) -> Callable[[str | None], str | None]:
        try:
            self.access.admit("/v1/model", request.headers, ours=True)
        except NotAdmitted:
            return lambda detail: detail and "the log says what, and this to whoever sends a key"
        return lambda detail: detail

    async def docs(self, _: Request) -> Answer:
        """Give the OpenAPI document of these paths."""
        champion = self._following.champion
        return Answer(200, encode(document(champion.card, champion.decoder, self.access.asks_for_keys)))

    async def metrics(self, _: Request) -> Answer:
        """Give what is counted in all workers, for Prometheus."""
        return Answer(200, await asyncio.to_thread(metrics.exposition), content_type=metrics.CONTENT_TYPE)

    async def page(self, request: Request) -> Answer:
        """Give the page on which a person tries the model; where keys are asked for, to whom has one."""
        card = self._following.champion.card
        try:
            self.access.admit("/v1/model", request.headers, ours=True)
        except NotAdmitted as error:
            return Answer(error.status, locked_page(card.model), (*error.headers, *HEADERS), CONTENT_TYPE)
        return Answer(200, page(card), HEADERS, CONTENT_TYPE)


def _labels(body: bytes, target: Number | Category) -> list[Label]:
    """Raises: `ContractError`."""
    now, labels = datetime.now(UTC), _decode_feedback(body).labels
    kind = "a number" if isinstance(target, Number) else "text" if target.is_text else "a whole number"
    rule = f"{target.name} is {kind}"
    if wrong := [Violation("value", rule, place) for place, one in enumerate(labels) if not is_told(target, one.value)]:
        raise broken_contract(wrong)
    return [
        Label(id=one.id, value=one.value, known_at=now if one.at is UNSET else _known_at(one.at, now, place))
        for place, one in enumerate(labels)
    ]


def _known_at(at: datetime, now: datetime, place: int) -> datetime:
    """Give the moment at which a label says it became known, in UTC. Raises: `ContractError`."""
    try:
        known_at = at.astimezone(UTC)
    except OverflowError as error:
        raise broken_contract([Violation("at", f"not a moment that UTC has, got {at.isoformat()}", place)]) from error
    if known_at > now + _CLOCKS_DIFFER_BY:
        raise broken_contract([Violation("at", f"in the future, got {at.isoformat()}", place)])
    return known_at


def _trial(tried: Tried | None) -> Trial | None:
    if tried is None or tried.tally.ended is not None:
        return None
    terms, weight = tried.terms, weight_at(tried.terms, datetime.now(UTC))
    return Trial(terms.version, terms.mode, terms.since, weight, tried.model.digest)


def _abort(following: Following) -> Abort | None:
    """Say whose answers have ended its trial; at once, before the rollout's thread has seen it."""
    tried = following.serving.challenger
    if tried is not None and tried.tally.ended is not None:
        return Abort(tried.terms.version, tried.tally.ended, None)
    aborted = following.aborted
    return None if aborted is None else Abort(aborted.version, aborted.reason, following.abort_failure)


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
        reasons.append(f"{len(unknown)} labels name predictions that are not known, or no longer")
    if conflicting:
        reasons.append(f"{len(conflicting)} labels contradict earlier ones, which stay")
    message = f"{' and '.join(reasons)}; {kept} labels are kept"
    fault = Fault(message, unknown=unknown, conflicting=conflicting, kept=kept)
    return Answer(404 if unknown else 409, encode(ErrorAnswer(fault)))
