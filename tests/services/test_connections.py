"""What a connection may hold without asking, over real sockets, with bounds that are short enough to be waited for."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from services.connections import MAXIMUM_HEAD_BYTES, BoundedProtocol, bound
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
        connection.sendall(stray)  # which has uvicorn forget that it waits

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
