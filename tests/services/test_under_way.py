"""Nothing is predicted for a caller who has gone; whoever stays is answered."""

import asyncio
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
import uvicorn

from services import metrics
from services import under_way as module
from services.app import Edge
from services.messages import Answer, Request, Route


@pytest.fixture(autouse=True)
def looks_at_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.0)


class Server:
    """One request, of a caller who leaves when told to; its handler waits until it may answer."""

    def __init__(self, path: str, within_s: float | None = None) -> None:
        self.sent: list[MutableMapping[str, Any]] = []
        self.began, self.may_answer, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.ended: str | None = None
        self._unread = True
        self._path = path
        self._within_s = within_s

    async def ask(self) -> None:
        scope = {"type": "http", "method": "POST", "path": self._path, "headers": []}
        await self.edge(scope, self._receive, self._send)

    @property
    def edge(self) -> Edge:
        """What answers by this handler."""
        edge = Edge(nothing_else, self._within_s)
        edge.find = lambda path: Route("POST", self._handle, path)
        return edge

    async def _handle(self, request: Request) -> Answer:
        self.began.set()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "answered"
        return Answer(200, request.body)

    async def _receive(self) -> MutableMapping[str, Any]:
        if self._unread:
            self._unread = False
            return {"type": "http.request", "body": b"1", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)


async def nothing_else(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("passed on")


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run(path: str, then: Callable[[Server], None]) -> Server:
    async def ask() -> Server:
        server = Server(path)
        asked = asyncio.create_task(server.ask())
        await server.began.wait()
        await turns()
        then(server)
        await turns()
        server.may_answer.set()
        await asked
        return server

    return asyncio.run(ask())


def test_ends_a_prediction_whose_caller_has_gone() -> None:
    before = metrics.ABANDONED._value.get()

    server = run("/v1/predict", lambda server: server.gone.set())

    assert (server.ended, server.sent) == ("cancelled", [])
    assert metrics.ABANDONED._value.get() == before + 1


def test_notices_that_a_real_connection_was_closed() -> None:
    async def ask() -> str | None:
        handled = Server("/v1/predict")
        server = uvicorn.Server(uvicorn.Config(handled.edge, lifespan="off", log_config=None))
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            serving = asyncio.create_task(server.serve([listening]))
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1")
            await handled.began.wait()
            await turns()
            assert handled.ended is None
            writer.close()
            async with asyncio.timeout(30):
                while handled.ended is None:
                    await asyncio.sleep(0)
            server.should_exit = True
            await serving
        return handled.ended

    assert asyncio.run(ask()) == "cancelled"


def test_answers_whoever_stays_however_often_it_looks() -> None:
    server = run("/v1/predict", lambda _: None)

    assert server.ended == "answered"
    assert [message.get("body") for message in server.sent] == [None, b"1"]


def test_keeps_labels_of_whoever_has_gone() -> None:
    server = run("/v1/feedback", lambda server: server.gone.set())

    assert server.ended == "answered"


def test_another_end_is_not_taken_for_a_departure() -> None:
    async def ask() -> Server:
        server = Server("/v1/predict")
        asked = asyncio.create_task(server.ask())
        await server.began.wait()
        await turns()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        return server

    assert asyncio.run(ask()).ended == "cancelled"


def test_looks_no_more_where_nothing_is_under_way() -> None:
    under_way = module.UnderWay(None)

    async def ask() -> object:
        under_way.leave(under_way.enter())
        await turns()
        return under_way._loop

    assert asyncio.run(ask()) is None


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/feedback"])
def test_ends_what_takes_longer_than_the_service_allows(path: str) -> None:
    async def ask() -> Server:
        server = Server(path, within_s=0.01)
        async with asyncio.timeout(30):
            await server.ask()
        return server

    server = asyncio.run(ask())

    assert server.ended == "cancelled"
    assert server.sent[0]["status"] == 504
    assert server.sent[1]["body"] == b'{"error":{"message":"not answered within 0.01 s"}}'


def test_ends_a_body_that_does_not_come() -> None:
    async def ask() -> Server:
        server = Server("/v1/predict", within_s=0.01)
        server._unread = False
        async with asyncio.timeout(30):
            await server.ask()
        return server

    assert asyncio.run(ask()).sent[0]["status"] == 504
