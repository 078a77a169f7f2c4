"""The edge: HTTP in, HTTP out, for the service's own paths; everything else goes on to BentoML's application.

A plain ASGI function, because that answers a third more requests a second than a framework in between, and before
BentoML's middleware, because that costs more than the prediction. Errors become answers here, once. Whatever comes, on
BentoML's paths as well, is first let in by `services.access`. No body beyond 16 MiB is held: what exceeds it is thrown
away as it arrives, so that the caller can read the refusal, and past 64 MiB the connection is closed. No answer is kept
by caches on its way, nor taken for another type than it says.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, MutableMapping
from contextlib import aclosing
from typing import Any

from infra.connection import MAXIMUM_BODY_BYTES
from infra.errors import NotFound, Unavailable
from models.contract.arrow import NotArrow
from models.contract.rows import NotJSON, TooManyRows
from models.errors import ContractError, OkruhError
from services.access import Access, NotAdmitted, refuse_pickled_parts, wanted
from services.batching import Overloaded
from services.connections import ANSWER, SendWhole
from services.messages import Answer, Handler, Request, Route, Stream, media_type, say
from services.observing import OTHER, Observer
from services.predictions import IdsTaken, count_refusal
from services.under_way import Entry, UnderWay

logger = logging.getLogger("bentoml.okruh.service")

_DRAINED_BYTES = 64 << 20
_RETRY_AFTER = ((b"retry-after", b"1"),)
_CLOSE = ((b"connection", b"close"),)
_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
_ALWAYS_LINES = b"".join(b"%s: %s\r\n" % header for header in _ALWAYS)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Find = Callable[[str], Route | None]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class BodyTooLarge(ContractError):
    """The body exceeds `MAXIMUM_BODY_BYTES`."""


class TooLate(OkruhError):
    """The time is up within which a request is answered."""

    def __init__(self, within_s: float | None) -> None:
        super().__init__(f"not answered within {within_s:g} s")


class WrongMethod(NotAdmitted):
    """The path answers another method."""

    status = 405

    def __init__(self, scope: Scope, method: str) -> None:
        super().__init__(f"{scope['path']} answers {method}, not {scope['method']}")
        self.headers = ((b"allow", method.encode()), *_CLOSE)


class TooMany(OkruhError):
    """As many requests as shall be are being answered."""


_FAILED = OkruhError("the service failed; its log says why")


class Edge:
    """Answers the given routes and passes on the rest."""

    def __init__(
        self,
        fallback: ASGIApp,
        timeout_s: float | None = None,
        most: int | None = None,
        observer: Observer | None = None,
        fallback_paths: Collection[str] = (),
        access: Access | None = None,
    ) -> None:
        """Answer within `timeout_s`, from a request's head to its answer, `most` requests at a time; None: no bound.

        `observer` is told of each request; `fallback_paths` are those of the fallback that are told apart. `access`
        says who may ask; None: everybody.
        """
        self.access = access or Access()
        self.find: Find = lambda _: None
        """Gives what answers a path; None for what is passed on."""
        self._fallback = fallback
        self._timeout_s = timeout_s
        self._most = most
        self._running = 0
        self._observer = observer or Observer()
        self._fallback_paths = frozenset(fallback_paths)
        self._under_way = UnderWay(timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's event, as ASGI says."""
        if scope["type"] != "http":
            await (_refuse_upgrade(send) if scope["type"] == "websocket" else self._fallback(scope, receive, send))
            return
        route = self.find(scope["path"])
        if route is None:
            await self._observed_pass_on(scope, receive, send)
            return
        started, status = time.perf_counter(), None
        observed = self._observer.begin(scope)
        headers = observed.headers if observed else ()
        try:
            kind = media_type(scope["headers"]) if route.streams else b""
            if kind in route.streams and scope["method"] == route.method:
                parts = _Parts(send, kind, headers)
                answer, status = await self._stream(parts, route.streams[kind], route, scope, receive)
            else:
                answer = await self._within_bounds(route, scope, receive)
            if answer is not None:
                status = answer.status
                await _send(scope, send, answer, headers)
        finally:
            self._observer.end(observed, scope, route.name, status, time.perf_counter() - started)

    async def _observed_pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), None
        observed = self._observer.begin(scope)

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if observed:
                    message = {**message, "headers": [*message.get("headers", ()), *observed.headers]}
            await send(message)

        name = scope["path"] if scope["path"] in self._fallback_paths else OTHER
        try:
            await self._pass_on(scope, receive, told)
        finally:
            self._observer.end(observed, scope, name, status, time.perf_counter() - started)

    async def _within_bounds(self, route: Route, scope: Scope, receive: Receive) -> Answer | None:
        try:
            asked_s = self._enter(route, scope)
        except (NotAdmitted, TooMany) as error:
            return _unread(scope, error_answer(error, route.says))
        entry = self._under_way.enter(asked_s)
        try:
            return await self._answer(route, scope, receive, entry)
        except asyncio.CancelledError:
            if entry.ended is None:
                raise
            if entry.ended == "gone":
                return None
            return error_answer(TooLate(_sooner(asked_s, self._timeout_s)), route.says)
        finally:
            self._under_way.leave(entry)
            self._leave(route)

    async def _stream(
        self, parts: "_Parts", stream: Stream, route: Route, scope: Scope, receive: Receive
    ) -> tuple[Answer | None, int]:
        """Answer a body while it comes, by parts, or by an answer to be sent; give the status that this comes to.

        The service's bound is one from part to part, the caller's one for the whole. What is late ends with a line that
        says so: the status has been sent by then.
        """
        try:
            asked_s = self._enter(route, scope)
        except (NotAdmitted, TooMany) as error:
            answer = _unread(scope, error_answer(error, route.says))
            return answer, answer.status
        loop = asyncio.get_running_loop()
        until = None if asked_s is None else loop.time() + asked_s

        def next_until() -> float | None:
            return _sooner(until, None if self._timeout_s is None else loop.time() + self._timeout_s)

        request, bound = Request(b"", scope["headers"], scope["path"]), asyncio.timeout(None)
        answering = stream(request, _chunks(receive))
        try:
            await parts.begin()
            async with bound, aclosing(answering):
                bound.reschedule(next_until())
                async for part in answering:
                    await parts.send(part)
                    bound.reschedule(next_until())
            await parts.end()
        except Exception as error:  # as in `answered`; its status has been sent, so that its last line says it
            late = isinstance(error, TimeoutError) and bound.expired()
            if not late:
                logger.exception("a request failed")
            told = TooLate(_sooner(asked_s, self._timeout_s)) if late else _FAILED
            await parts.end(route.says(told) + b"\n")
            return None, 504 if late else 500
        finally:
            self._leave(route)
        return None, 200

    def _enter(self, route: Route, scope: Scope) -> float | None:
        """Count a request in, and give how many seconds its caller waits. Raises: `NotAdmitted`, `TooMany`."""
        asked_s = self.access.admit(route.name, scope["headers"], ours=True)
        if route.method != "GET":  # whoever asks how it is doing is told
            self._count_in()
        return asked_s

    def _count_in(self) -> None:
        if self._running == self._most:
            raise TooMany(f"{self._most} requests are being answered: try again")
        self._running += 1

    def _leave(self, route: Route) -> None:
        self._running -= route.method != "GET"

    async def _answer(self, route: Route, scope: Scope, receive: Receive, entry: Entry) -> Answer | None:
        """Give the answer to a request for one of our paths; None where the caller has gone."""
        asked, method = scope["method"], route.method
        if asked != method and (asked, method) != ("HEAD", "GET"):
            return error_answer(WrongMethod(scope, method), route.says)
        if method == "GET":
            return await answered(route.handler, Request(b"", scope["headers"], scope["path"]), route.says)
        try:
            body = await _read(scope, receive)
        except BodyTooLarge as error:
            return error_answer(error, route.says)
        if body is None:
            return None
        if wanted(route.name) == "predict":  # a label is kept, whether its sender waits or not
            entry.receive = receive
        return await answered(route.handler, Request(body, scope["headers"], scope["path"]), route.says)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            within_s = self.access.admit(scope["path"], scope["headers"], ours=False)
        except NotAdmitted as error:
            await _send(scope, send, _unread(scope, error_answer(error)))
            return
        if scope["method"] in {"GET", "HEAD"}:
            await self._fall_back(scope, receive, send, within_s)
            return
        try:
            self._count_in()
        except TooMany as error:
            await _send(scope, send, _unread(scope, error_answer(error)))
            return
        try:
            body = await self._read_for_another(scope, receive)
            if isinstance(body, Answer):
                await _send(scope, send, body)
            elif body is not None:
                await self._fall_back(scope, _replay(body, receive), send, within_s)
        finally:
            self._running -= 1

    async def _read_for_another(self, scope: Scope, receive: Receive) -> bytes | Answer | None:
        """Read a body that is passed on; give the answer where it is refused, None where the caller has gone."""
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await _read(scope, receive)
            refuse_pickled_parts(scope["headers"], body or b"")
        except OkruhError as error:
            return error_answer(error)
        except TimeoutError:
            return error_answer(TooLate(self._timeout_s))
        return body

    async def _fall_back(self, scope: Scope, receive: Receive, send: Send, within_s: float | None) -> None:
        began = False

        async def send_on(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message = {**message, "headers": [*message.get("headers", ()), *_ALWAYS]}
            await send(message)

        try:
            async with asyncio.timeout(within_s) as bound:
                await self._fallback(scope, receive, send_on)
        except TimeoutError:
            if began or not bound.expired():
                raise
            await _send(scope, send, error_answer(TooLate(within_s)))


async def answered(handler: Handler, request: Request, says: Callable[[OkruhError], bytes] = say) -> Answer:
    """Call a handler; whatever it raises becomes an answer."""
    try:
        return await handler(request)
    except OkruhError as error:
        return error_answer(error, says)
    except Exception:
        logger.exception("a request failed")
        return Answer(500, says(_FAILED))


def error_answer(error: OkruhError, says: Callable[[OkruhError], bytes] = say) -> Answer:
    """Turn an error into an answer."""
    body = says(error)
    if isinstance(error, NotAdmitted):
        return Answer(error.status, body, error.headers)
    status, headers = next((told for kind, told in _TOLD.items() if isinstance(error, kind)), (500, ()))
    if status == 500:
        logger.error("a request failed: %s", error)
    count_refusal(error)
    return Answer(status, body, headers)


_TOLD: dict[type[OkruhError], tuple[int, tuple[tuple[bytes, bytes], ...]]] = {
    BodyTooLarge: (413, _CLOSE),
    TooManyRows: (413, ()),
    NotJSON: (400, ()),
    NotArrow: (400, ()),
    ContractError: (422, ()),
    NotFound: (404, ()),
    IdsTaken: (409, ()),
    TooMany: (429, (*_RETRY_AFTER, *_CLOSE)),
    Overloaded: (503, _RETRY_AFTER),
    Unavailable: (503, _RETRY_AFTER),
    TooLate: (504, _CLOSE),
}
"""Status and headers of errors, the first that fits; of others 500."""


def _unread(scope: Scope, answer: Answer) -> Answer:
    """Have the server read on after an answer only where little is left of the body."""
    little = scope["method"] in {"GET", "HEAD"} or 0 < _declared_length(scope) <= MAXIMUM_BODY_BYTES
    return answer if little else answer._replace(headers=(*answer.headers, *_CLOSE))


async def _refuse_upgrade(send: Send) -> None:
    """Refuse a web socket: nothing here speaks it, and none shall pass by."""
    await send({"type": "websocket.close"})


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """Read a body; None where the caller has gone. Raises: `BodyTooLarge`."""
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


async def _chunks(receive: Receive) -> AsyncGenerator[bytes]:
    """Give a body as it comes, to its end or until the caller has gone."""
    while (message := await receive())["type"] == "http.request":
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"a body holds at most {MAXIMUM_BODY_BYTES >> 20} MiB; send the rows in parts")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read once more, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


class _Parts:
    """An answer whose length is not known."""

    def __init__(self, send: Send, kind: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self._send = send
        self._headers = [(b"content-type", kind), *_ALWAYS, *headers]

    async def begin(self) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})

    async def send(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self, last: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": last, "more_body": False})


def _sooner(one_s: float | None, other_s: float | None) -> float | None:
    """Give the tighter of two bounds; None is none."""
    return other_s if one_s is None else one_s if other_s is None else min(one_s, other_s)


async def _send(scope: Scope, send: Send, answer: Answer, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Send an answer: in one piece where the server can do that."""
    body = b"" if scope["method"] == "HEAD" else answer.body
    extensions: dict[str, SendWhole] | None = scope.get("extensions")
    if extensions and ANSWER in extensions:
        lines = b"content-type: %s\r\ncontent-length: %d\r\n%s" % (answer.content_type, len(answer.body), _ALWAYS_LINES)
        if more := (*answer.headers, *headers):
            lines += b"".join(b"%s: %s\r\n" % header for header in more)
        if extensions[ANSWER](send, answer.status, lines, body, _CLOSE[0] in answer.headers):
            return
    kind, length = (b"content-type", answer.content_type), (b"content-length", str(len(answer.body)).encode())
    whole = [kind, length, *_ALWAYS, *answer.headers, *headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": whole})
    await send({"type": "http.response.body", "body": body})
