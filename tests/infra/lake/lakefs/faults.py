"""Faults of a server and of the network between, for the requests that a test names."""

import threading
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Fault = Callable[[ASGIApp, Scope, Receive, Send], Any]


class Faulty:
    """Passes requests on to an app, but for those that a fault was planned for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.reset()

    def reset(self) -> None:
        """Plan nothing, and forget what was seen."""
        self._planned: list[tuple[str, str, Fault]] = []
        self.seen: list[str] = []
        """Method and path of every request, in order."""

    def plan(self, method: str, path_end: str, *faults: Fault) -> None:
        """Answer the next requests of a method, whose path ends so, by these faults, one each."""
        self._planned += [(method, path_end, fault) for fault in faults]

    def asked(self, method: str, path_end: str) -> int:
        """Count the requests of a method whose path ends so."""
        return sum(1 for one in self.seen if one.startswith(f"{method} ") and one.endswith(path_end))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.seen.append(f"{scope['method']} {scope['path']}")
        for planned in self._planned:
            method, end, fault = planned
            if scope["method"] == method and scope["path"].endswith(end):
                self._planned.remove(planned)
                await fault(self._app, scope, receive, send)
                return
        await self._app(scope, receive, send)


def answer(status: int, message: str) -> Fault:
    """Refuse, with lakeFS's error body."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await JSONResponse({"message": message}, status)(scope, receive, send)

    return fault


async def cut_request(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Break the connection once a part of the request's body has come; the app sees its client leave."""
    passed = False

    async def receive_and_break() -> Message:
        nonlocal passed
        if passed:
            _break(receive)
            return {"type": "http.disconnect"}
        passed = True
        message = await receive()
        return {**message, "body": message.get("body", b"")[:1], "more_body": True}

    try:
        await app(scope, receive_and_break, send)
    finally:
        _break(receive)


async def cut_answer(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Do what is asked, and break the connection in the middle of the answer's body."""

    async def send_half(message: Message) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            await send({**message, "body": body[: len(body) // 2], "more_body": True})
            _break(receive)
        else:
            await send(message)

    await app(scope, receive, send_half)


def hold(released: threading.Event) -> Fault:
    """Answer nothing until the test says so."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await run_in_threadpool(released.wait)
        await app(scope, receive, send)

    return fault


def _break(receive: Any) -> None:
    receive.__self__.transport.abort()  # uvicorn's connection
