"""The edge: bodies, methods, and what it passes on."""

import asyncio
import gzip
from collections.abc import MutableMapping
from typing import Any

import httpx
import pytest

from infra.connection import MAXIMUM_BODY_BYTES
from services.app import Edge, answered
from services.batching import Overloaded
from services.messages import Answer, Request, Route
from tests.services.conftest import Caller

MIB = bytes(1 << 20)


async def echo(request: Request) -> Answer:
    return Answer(200, str(len(request.body)).encode())


async def broken(_: Request) -> Answer:
    raise RuntimeError("a mistake of ours")


async def nothing_else(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("passed on")


async def nothing_to_read() -> MutableMapping[str, Any]:
    raise AssertionError("read")


class Connection:
    """One request, fed by hand; counts what the application takes of its body."""

    def __init__(self, chunks: int, declared: int | None = None, ends_with: str = "http.request") -> None:
        self.taken = 0
        self.sent: list[MutableMapping[str, Any]] = []
        self._chunks = chunks
        self._ends_with = ends_with
        headers = [] if declared is None else [(b"content-length", str(declared).encode())]
        self._scope = {"type": "http", "method": "POST", "path": "/echo", "headers": headers}

    async def receive(self) -> MutableMapping[str, Any]:
        self.taken += 1
        if self.taken == self._chunks and self._ends_with == "http.disconnect":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": MIB, "more_body": self.taken < self._chunks}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    def run(self) -> int | None:
        edge = Edge(nothing_else)
        edge.find = lambda _: Route("POST", echo, "/echo")
        asyncio.run(edge(self._scope, self.receive, self.send))
        return self.sent[0]["status"] if self.sent else None


def test_reads_a_body_in_parts() -> None:
    connection = Connection(chunks=16)

    assert connection.run() == 200
    assert connection.sent[1]["body"] == str(MAXIMUM_BODY_BYTES).encode()


def test_throws_away_a_body_that_is_too_large() -> None:
    connection = Connection(chunks=20)

    assert connection.run() == 413
    assert connection.taken == 20


def test_stops_reading_a_body_that_does_not_end() -> None:
    connection = Connection(chunks=10_000)

    assert connection.run() == 413
    assert connection.taken == 65
    assert (b"connection", b"close") in connection.sent[0]["headers"]


def test_reads_nothing_of_a_body_that_says_it_is_huge() -> None:
    connection = Connection(chunks=1000, declared=1000 << 20)

    assert connection.run() == 413
    assert connection.taken == 0


def test_answers_nobody_who_has_gone() -> None:
    assert Connection(chunks=3, ends_with="http.disconnect").run() is None


def test_passes_on_what_is_not_its_own(client: Any) -> None:
    assert client.get("/other").status_code == 418
    assert client.post("/other", content=MIB).text == str(len(MIB))
    assert client.post("/other", content=bytes(20_000_000)).status_code == 413


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/v1/predict", "POST"), ("POST", "/v1/model", "GET")])
def test_names_the_method_that_a_path_takes(client: Any, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_head_request_gets_the_headers_alone(client: Any) -> None:
    answer = client.request("HEAD", "/v1/model")

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 100


def test_a_mistake_of_ours_is_a_500_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    edge = Edge(nothing_else)
    edge.find = lambda _: Route("GET", broken, "/broken")

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(edge({"type": "http", "method": "GET", "path": "/broken", "headers": []}, nothing_to_read, send))

    assert sent[0]["status"] == 500
    assert b"a mistake of ours" not in sent[1]["body"]
    assert "a mistake of ours" in caplog.text


def test_says_when_to_come_back_where_too_much_waits() -> None:
    async def full(_: Request) -> Answer:
        raise Overloaded("40000 rows wait to be predicted: try again")

    answer = asyncio.run(answered(full, Request(b"")))

    assert (answer.status, dict(answer.headers)) == (503, {b"retry-after": b"1"})
    assert b"40000 rows wait" in answer.body


async def unanswered(_: Request) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError("answered")


def test_answers_in_time_or_says_that_it_does_not() -> None:
    edge = Edge(nothing_else, timeout_s=0.01)
    edge.find = lambda path: Route("POST", unanswered, path)

    answer = Caller(edge).post("/slow", content=b"1")

    assert answer.status_code == 504
    assert answer.json() == {"error": {"message": "not answered within 0.01 s"}}


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    edge = Edge(nothing_else, timeout_s=0.01)
    edge.find = lambda path: Route("POST", echo, path)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("came")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(edge({"type": "http", "method": "POST", "path": "/echo", "headers": []}, receive, send))

    assert sent[0]["status"] == 504


def test_a_body_for_others_that_does_not_come_is_not_waited_for() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("came")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/other", "headers": []}
    asyncio.run(Edge(nothing_else, timeout_s=0.01)(scope, receive, send))

    assert sent[0]["status"] == 504


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("path", ["/v1/predict", "/v2/models/tiny/infer", "/other"])
def test_refuses_a_compressed_body_unread(client: Any, path: str, kind: str) -> None:
    bomb = gzip.compress(bytes(1 << 20))

    answer = client.post(path, content=bomb, headers={"content-encoding": "GZIP", "content-type": kind})

    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert "Content-Encoding" in answer.text
    assert client.post(path, content=b"{", headers={"content-encoding": "identity"}).status_code != 415


def test_answers_so_many_requests_at_a_time() -> None:
    async def ask() -> list[int]:
        go = asyncio.Event()

        async def waiting(request: Request) -> Answer:
            await go.wait()
            return await echo(request)

        edge = Edge(nothing_else, most=2)
        routes = {"/slow": Route("POST", waiting, "/slow"), "/livez": Route("GET", waiting, "/livez")}
        edge.find = routes.get
        transport = httpx.ASGITransport(edge)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            alive = [asyncio.create_task(client.get("/livez")) for _ in range(3)]  # which are not counted
            first = [asyncio.create_task(client.post("/slow", content=b"1")) for _ in range(2)]
            while edge._running < 2:
                await asyncio.sleep(0)
            refused = await client.post("/slow", content=b"1")
            go.set()
            done = await asyncio.gather(*first, *alive)
            return [one.status_code for one in (*done, refused)]

    assert asyncio.run(ask()) == [200, 200, 200, 200, 200, 429]


def test_what_fails_after_it_began_elsewhere_is_not_answered_twice() -> None:
    sent: list[str] = []

    async def begins(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise TimeoutError("its own")

    async def read() -> Any:
        return {"type": "http.request", "body": b"1"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "POST", "path": "/elsewhere", "headers": []}
    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(Edge(begins)(scope, read, send))

    assert sent == ["http.response.start"]


def test_what_is_passed_on_counts_among_the_requests_that_are_answered() -> None:
    statuses: list[int] = []

    async def read() -> Any:
        return {"type": "http.request", "body": b"1"}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    async def asks_again(scope: Any, receive: Any, _: Any) -> None:
        await edge(scope, receive, send)

    edge = Edge(asks_again, most=1)
    scope = {"type": "http", "method": "POST", "path": "/elsewhere", "headers": []}
    asyncio.run(edge(scope, read, send))
    asyncio.run(edge(scope, read, send))  # the first has left

    assert statuses == [429, 0, 429, 0]
