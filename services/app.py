"""The edge: HTTP in, HTTP out, for the service's own paths; everything else goes on to BentoML's application.

A plain ASGI function, because that answers a third more requests a second than a framework in between, and before
BentoML's middleware, because that costs more than the prediction. Errors become answers here, once. No body beyond
16 MiB is held, on BentoML's paths neither: what exceeds it is thrown away as it arrives, so that the caller can read
the refusal, and past 64 MiB the connection is closed. A compressed body is refused unread: what it grows to is not
known.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from typing import Any

from infra.errors import NotFound, Unavailable
from models.contract.rows import NotJSON, TooManyRows
from models.errors import ContractError, OkruhError
from services import metrics
from services.batching import Overloaded
from services.messages import Answer, BrokenRule, ErrorAnswer, Fault, Handler, Request, Route, encode
from services.predictions import IdsTaken

logger = logging.getLogger("bentoml.okruh.service")

MAXIMUM_BODY_BYTES = 16 << 20

_DRAINED_BYTES = 64 << 20
_RETRY_AFTER = ((b"retry-after", b"1"),)
_CLOSE = ((b"connection", b"close"),)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Find = Callable[[str], Route | None]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class BodyTooLarge(ContractError):
    """The body exceeds `MAXIMUM_BODY_BYTES`."""


class EncodedBody(ContractError):
    """The body is compressed."""


class Edge:
    """Answers the given routes and passes on the rest."""

    def __init__(self, fallback: ASGIApp, timeout_s: float | None = None, most: int | None = None) -> None:
        """Answer within `timeout_s`, from a request's head to its answer, `most` requests at a time; None: no bound."""
        self.find: Find = lambda _: None
        """Gives what answers a path; None for what is passed on."""
        self._fallback = fallback
        self._timeout_s = timeout_s
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's event, as ASGI says."""
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        route = self.find(scope["path"])
        if route is None:
            await self._pass_on(scope, receive, send)
            return
        started = time.perf_counter()
        answer = await self._within_bounds(route, scope, receive)
        if answer is not None:
            await _send(scope, send, answer)
            _count(route.name, answer.status, time.perf_counter() - started)

    async def _within_bounds(self, route: Route, scope: Scope, receive: Receive) -> Answer | None:
        counted = route.method != "GET"  # whoever asks how it is doing is told
        if counted and self._running == self._most:
            fault = Fault(f"{self._most} requests are being answered: try again")
            return Answer(429, encode(ErrorAnswer(fault)), (*_RETRY_AFTER, *_CLOSE))
        self._running += counted
        try:
            async with asyncio.timeout(self._timeout_s):
                return await _answer(route, scope, receive)
        except TimeoutError:
            return self._late()
        finally:
            self._running -= counted

    def _late(self) -> Answer:
        return Answer(504, encode(ErrorAnswer(Fault(f"not answered within {self._timeout_s:g} s"))), _CLOSE)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in {"GET", "HEAD"}:
            await self._fallback(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await _read(scope, receive)
        except (BodyTooLarge, EncodedBody) as error:
            await _send(scope, send, error_answer(error))
            return
        except TimeoutError:
            await _send(scope, send, self._late())
            return
        if body is not None:
            await self._fallback(scope, _replay(body, receive), send)


async def answered(handler: Handler, request: Request) -> Answer:
    """Call a handler; whatever it raises becomes an answer."""
    try:
        return await handler(request)
    except OkruhError as error:
        return error_answer(error)
    except Exception:
        logger.exception("a request failed")
        return Answer(500, encode(ErrorAnswer(Fault("the service failed; its log says why"))))


def error_answer(error: OkruhError) -> Answer:
    """Turn an error into an answer."""
    violations = [BrokenRule(one.field, one.rule, one.row) for one in getattr(error, "violations", ())]
    fault = Fault(str(error), violations, conflicting=getattr(error, "conflicting", []))
    body = encode(ErrorAnswer(fault))
    match error:
        case BodyTooLarge():
            return Answer(413, body, _CLOSE)
        case EncodedBody():
            return Answer(415, body, (*_CLOSE, (b"accept-encoding", b"identity")))
        case TooManyRows():
            return Answer(413, body)
        case NotJSON():
            return Answer(400, body)
        case ContractError():
            return Answer(422, body)
        case NotFound():
            return Answer(404, body)
        case IdsTaken():
            return Answer(409, body)
        case Overloaded():
            metrics.OVERLOADS.inc()
            return Answer(503, body, _RETRY_AFTER)
        case Unavailable():
            metrics.JOURNAL_FAILURES.inc()
            return Answer(503, body, _RETRY_AFTER)
        case _:
            logger.error("a request failed: %s", error)
            return Answer(500, body)


async def _answer(route: Route, scope: Scope, receive: Receive) -> Answer | None:
    """Give the answer to a request for one of our paths; None where the caller has gone."""
    method, handler, _ = route
    asked = scope["method"]
    if asked != method and (asked, method) != ("HEAD", "GET"):
        fault = Fault(f"{scope['path']} answers {method}, not {asked}")
        return Answer(405, encode(ErrorAnswer(fault)), ((b"allow", method.encode()), *_CLOSE))
    if method == "GET":
        return await answered(handler, Request(b"", scope["headers"], scope["path"]))
    try:
        body = await _read(scope, receive)
    except (BodyTooLarge, EncodedBody) as error:
        return error_answer(error)
    return None if body is None else await answered(handler, Request(body, scope["headers"], scope["path"]))


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """Read a body; None where the caller has gone. Raises: `BodyTooLarge`, `EncodedBody`."""
    if _declared_length(scope) > _DRAINED_BYTES:
        raise _too_large()
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) <= MAXIMUM_BODY_BYTES:
            return body
    chunks: list[bytes] = []
    length = 0
    while message["type"] == "http.request":
        length += len(message.get("body", b""))
        if length <= MAXIMUM_BODY_BYTES:
            chunks.append(message.get("body", b""))
        else:
            chunks.clear()
        if length > _DRAINED_BYTES or not message.get("more_body"):
            if length > MAXIMUM_BODY_BYTES:
                raise _too_large()
            return b"".join(chunks)
        message = await receive()
    return None


def _declared_length(scope: Scope) -> int:
    """Give the length that a body's head says. Raises: `EncodedBody`."""
    length = 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value) if value.isdigit() else 0
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise EncodedBody("a body is sent as it is: without a Content-Encoding")
    return length


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"a body holds at most {MAXIMUM_BODY_BYTES >> 20} MiB; send the rows in parts")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read once more, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def _send(scope: Scope, send: Send, answer: Answer) -> None:
    kind = (b"content-type", answer.content_type)
    length = (b"content-length", str(len(answer.body)).encode())
    await send({"type": "http.response.start", "status": answer.status, "headers": [kind, length, *answer.headers]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})


def _count(name: str, status: int, seconds: float) -> None:
    requests, latency = _series(name, status)
    requests.inc()
    latency.observe(seconds)


@cache
def _series(name: str, status: int) -> tuple[Any, Any]:
    return metrics.REQUESTS.labels(name, str(status)), metrics.SECONDS.labels(name)
