"""What a connection may hold without asking, over real sockets, with bounds that are short enough to be waited for."""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from services.app import Edge
from services.connections import MAXIMUM_HEAD_BYTES, BoundedProtocol, bound
from services.messages import Answer, Request, Route
from tests.services.conftest import listening

WITHIN_S = 20.0
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"


class Short(BoundedProtocol):
    """Waits for a fraction of a second; says when it has looked often enough."""

    head_within_s = 0.5
    taken_within_s = 0.05
    look_s = 0.05
    looks = 0
    looked = threading.Event()
    lost = threading.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        Short.lost.set()

    def _look(self) -> None:
        super()._look()
        Short.looks += 1
        if Short.looks > 12:
            Short.looked.set()


@pytest.mark.parametrize("stray", [b"\r\n", b"\r\n\r\n"])
def test_lets_go_who_asks_no_more_after_an_answer(stray: bytes) -> None:
    class Patient(Short):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.timeout_keep_alive = 0

    with listening(lengthy, Patient) as port, connect(port) as connection:
        connection.sendall(GET)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(stray)

        assert rest(connection) == b""


def test_lets_go_who_never_ends_the_body_of_what_was_answered() -> None:
    async def at_once(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    class Patient(Short):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.timeout_keep_alive = 0

    with listening(at_once, Patient) as port, connect(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nx")

        assert rest(connection).startswith(b"HTTP/1.1 401")


class Few(BoundedProtocol):
    """Has two connections at most."""

    most = 2


async def lengthy(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what was sent; for the path `/much`, with 32 MiB."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    body = bytes(32 << 20) if scope["path"] == "/much" else body
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def port() -> Iterator[int]:
    Short.looks = 0
    for event in (Short.looked, Short.lost):
        event.clear()
    with listening(lengthy, Short) as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)


def rest(connection: socket.socket) -> bytes:
    """Give all that comes until the other side closes."""
    content = b""
    try:
        while piece := connection.recv(1 << 16):
            content += piece
    except ConnectionResetError:
        pass
    return content


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: "])
def test_lets_go_who_does_not_ask(port: int, sent: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(sent)

        assert rest(connection).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_waits_for_a_body_whose_head_is_there(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nconnection: close\r\n\r\nab")
        assert Short.looked.wait(WITHIN_S)
        connection.sendall(b"cde")

        assert rest(connection).endswith(b"\r\n\r\nabcde")


def test_bounds_each_head_of_a_connection(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(GET)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(GET[:10])

        assert rest(connection).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nx-endless: " + b"a" * MAXIMUM_HEAD_BYTES,
        b"GET / HTTP/1.1\r\n" + b"x-again: a\r\n" * (MAXIMUM_HEAD_BYTES // 12 + 1),
        b"GET /" + b"a" * MAXIMUM_HEAD_BYTES,
    ],
)
def test_refuses_a_head_that_does_not_end(port: int, sent: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(sent)

        assert rest(connection).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_refuses_what_does_not_end_after_a_body(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(CHUNKED)
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"0\r\n" + b"x-trailer: a\r\n" * (MAXIMUM_HEAD_BYTES // 14 + 1))

        assert rest(connection).startswith(b"HTTP/1.1 431")


def test_the_one_that_waits_longest_makes_room() -> None:
    with listening(lengthy, Few) as port, connect(port) as first, connect(port) as second, connect(port) as third:
        assert rest(first) == b""
        for connection in (second, third):
            connection.sendall(GET)

            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_all_who_come_at_once_find_room() -> None:
    """More than may be: as many others are let go, one each."""
    count, made = 12, threading.Semaphore(0)

    class Counted(Few):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            made.release()

    with listening(lengthy, Counted) as port, ExitStack() as opened:
        connections = [opened.enter_context(connect(port)) for _ in range(count)]
        for _ in connections:
            assert made.acquire(timeout=WITHIN_S)
        kept = []
        for connection in connections:
            with suppress(OSError):
                connection.sendall(GET)
                if connection.recv(1 << 16).startswith(b"HTTP/1.1 200"):
                    kept.append(connection)

        assert kept == connections[-2:]


def test_refuses_web_sockets_and_keeps_nothing_of_them(port: int) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    with connect(port) as connection:
        connection.sendall(GET[:-2] + upgrade + b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")

        assert rest(connection).startswith(b"HTTP/1.1 403 Forbidden\r\n")

    assert Short.lost.wait(WITHIN_S)  # so that nobody looks after it any more


def test_lets_go_who_takes_nothing_of_an_answer_and_sends_a_little(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(GET.replace(b"/ ", b"/much ") + b"G")
        assert Short.lost.wait(WITHIN_S)

        assert b"408" not in rest(connection)


def test_a_late_head_waits_for_the_answer_before_it() -> None:
    asked, answer = threading.Event(), threading.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await asyncio.to_thread(answer.wait, WITHIN_S)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    Short.looks = 0
    Short.looked.clear()
    with listening(slow, Short) as port, connect(port) as connection:
        connection.sendall(GET + GET[:5])
        assert asked.wait(WITHIN_S)
        assert Short.looked.wait(WITHIN_S)  # past the moment at which the second head is late
        answer.set()
        content = rest(connection)

    assert content.startswith(b"HTTP/1.1 200 OK")
    assert content.count(b"HTTP/1.1") == 2
    assert b"HTTP/1.1 408 " in content


def test_lets_go_who_takes_nothing_of_an_answer(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(GET.replace(b"/ ", b"/much "))
        assert Short.lost.wait(WITHIN_S)

        assert len(rest(connection)) < 32 << 20


def test_uvicorn_reads_by_these_bounds_once_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from uvicorn.config import HTTP_PROTOCOLS, Config

    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(BoundedProtocol, "most", 0)
    bound()

    config = Config(lengthy)
    config.load()

    assert config.http_protocol_class is BoundedProtocol
    assert BoundedProtocol.most > 0


BODY = b'{"alive":true}'
LARGE = bytes(range(256)) * 512
POST = b"POST /%s HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n1"


@pytest.fixture
def whole() -> Iterator[int]:
    """A service whose answers are sent in one piece."""

    async def answer(request: Request) -> Answer:
        return Answer(200, BODY if request.path == "/livez" else LARGE, ((b"x-own", b"1"),))

    edge = Edge(lengthy)
    edge.find = lambda path: Route("GET" if path == "/livez" else "POST", answer, path)
    with listening(edge) as port:
        yield port


class Noting:
    """A transport that notes its writes."""

    def __init__(self, transport: Any, written: list[int]) -> None:
        self._transport = transport
        self._written = written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, content: bytes) -> None:
        self._written.append(len(content))
        self._transport.write(content)


@pytest.mark.parametrize(("level", "writes"), [(logging.WARNING, 1), (logging.INFO, 2)])
def test_an_answer_is_one_write_unless_uvicorn_logs_it(
    caplog: pytest.LogCaptureFixture, level: int, writes: int
) -> None:
    """BentoML gives the root logger a handler, and lets nothing below a warning pass."""
    written: list[int] = []

    class Noted(BoundedProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(Noting(transport, written))  # type: ignore[arg-type]  # as far as it is used

    edge = Edge(lengthy)
    edge.find = lambda path: Route("GET", alive, path)
    with (
        listening(edge, Noted, log_config=None) as port,
        caplog.at_level(level, "uvicorn.access"),
        connect(port) as connection,
    ):
        connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        ((_, body),) = heads_and_bodies(rest(connection), len(BODY))

    assert body == BODY
    assert len(written) == writes
    assert sum("/livez" in line.getMessage() for line in caplog.records) == writes - 1


async def alive(request: Request) -> Answer:
    return Answer(200, BODY)


@pytest.mark.parametrize(
    ("headers", "client"), [(b"", b"127.0.0.1"), (b"x-forwarded-for: 192.0.2.7\r\n", b"192.0.2.7")]
)
def test_a_proxy_on_this_host_says_who_asks(headers: bytes, client: bytes) -> None:
    async def who(scope: Any, receive: Any, send: Any) -> None:
        body = scope["client"][0].encode()
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    asked = b"GET / HTTP/1.1\r\nhost: a\r\n%s\r\n"
    with listening(who) as port, connect(port) as connection:
        connection.sendall(asked % headers + (asked % b"").replace(b"1.1", b"1.0"))
        content = rest(connection)

    answers = heads_and_bodies(content, len(client), len(b"127.0.0.1"))
    assert [body for _, body in answers] == [client, b"127.0.0.1"]


def heads_and_bodies(content: bytes, *lengths: int) -> Iterator[tuple[list[bytes], bytes]]:
    """Take answers apart whose bodies have these lengths."""
    for length in lengths:
        head, content = content.split(b"\r\n\r\n", 1)
        yield head.split(b"\r\n"), content[:length]
        content = content[length:]
    assert content == b""


def test_a_whole_answer_is_what_uvicorn_would_have_sent(whole: int) -> None:
    asked = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"
    with connect(whole) as connection:
        connection.sendall(asked + POST % b"large" + asked.replace(b"GET", b"HEAD") + asked.replace(b"GET", b"POST"))
        content = rest(connection)

    answers = list(heads_and_bodies(content, len(BODY), len(LARGE), 0, len(content.rsplit(b"\r\n\r\n", 1)[1])))

    assert [lines[0] for lines, _ in answers] == [b"HTTP/1.1 200 OK"] * 3 + [b"HTTP/1.1 405 Method Not Allowed"]
    assert [body for _, body in answers[:3]] == [BODY, LARGE, b""]
    expected = {b"content-type: application/json", b"cache-control: no-store", b"x-content-type-options: nosniff"}
    for lines, body in answers[:2]:
        assert set(lines) >= expected | {b"x-own: 1", b"content-length: %d" % len(body), b"server: uvicorn"}
        assert [line[:6] for line in lines].count(b"date: ") == 1
        assert b"connection: close" not in lines
    assert b"content-length: %d" % len(BODY) in answers[2][0]
    assert answers[3][0].count(b"connection: close") == 1


@pytest.mark.parametrize("asked", [b"GET /livez HTTP/1.0\r\n\r\n", b"GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n"])
def test_a_connection_that_its_caller_ends_is_closed_after_the_answer(whole: int, asked: bytes) -> None:
    with connect(whole) as connection:
        connection.sendall(asked)
        ((lines, body),) = heads_and_bodies(rest(connection), len(BODY))

    assert (lines.count(b"connection: close"), body) == (1, BODY)


def test_whole_answers_wait_where_nobody_takes_them(whole: int) -> None:
    with connect(whole) as connection, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(connection.sendall, POST % b"large" * 200 + b"GET /livez HTTP/1.0\r\n\r\n")
        answers = list(heads_and_bodies(rest(connection), *[len(LARGE)] * 200, len(BODY)))
        sending.result(WITHIN_S)

    assert [body for _, body in answers] == [LARGE] * 200 + [BODY]
