"""Bounds on what a connection may hold without asking anything; uvicorn, which reads and writes HTTP here, sets none.

A head must be there ten seconds after the connection, or after its first byte, and have at most 64 KiB; so much may
come beside a body, too (trailers, extensions of chunks). A caller that takes nothing of an answer for a minute is let
go. After an answer a connection may wait as long as uvicorn is told (`--timeout-keep-alive`), and ten seconds more
where the answer came before the end of its request. Where as many connections are open as may be, the one that has
waited longest without asking makes room. What comes slowly after the head is bounded by the service's own timeout
(`services.app`).

Each connection is looked at every five seconds: a timer for each answer, as uvicorn sets it, takes an eighth of the
time of a small model's answers. Two more things of uvicorn's are left out where they do nothing: lines of its access
log, which BentoML's level of logging drops after they were made, and reading `X-Forwarded-For` where there is none.

A whole answer can be sent in one piece (`ANSWER`). uvicorn writes head and body apart, which costs a system call and a
packet, and checks each header that we have written ourselves.
"""

import asyncio
import logging
import resource
import time
from collections.abc import Callable
from typing import Any

import uvicorn.config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from services import metrics
from services.messages import ErrorAnswer, Fault, encode

MAXIMUM_HEAD_BYTES = 64 << 10
MAXIMUM_CONNECTIONS = 10_000

ANSWER = "okruh.answer"
"""The extension of ASGI by which a whole answer is sent at once, a `SendWhole`."""

SendWhole = Callable[[Any, int, bytes, bytes, bool], bool]
"""Takes what the server gave to send by, status, lines of the head, body, and whether the connection ends; gives False
where it cannot be sent now."""

_FORWARDED = b"x-forwarded-"
_TOGETHER_BYTES = 64 << 10
_RESERVED_DESCRIPTORS = 256
"""For files, and connections to others."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection, read and written by uvicorn."""

    head_within_s = 10.0
    taken_within_s = 60.0
    look_s = 5.0
    most = MAXIMUM_CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for one more, where there is none, and look after it from now on."""
        super().connection_made(transport)
        self.access_log = self.access_log and self.access_logger.isEnabledFor(logging.INFO)
        self._direct, self._proxied = self.app, self.app
        if isinstance(self.app, ProxyHeadersMiddleware):
            self._direct = self.app.app
        self._waits_since: float | None = time.monotonic()
        """When what has no whole head yet began; None between a head and the next."""
        self._idle_since: float | None = None
        """When the last answer was complete; None where none is, or more was asked."""
        self._unasked_bytes = 0
        self._unsent: tuple[object, ...] = ()
        self._unsent_since = 0.0
        self._look_later()
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._looking.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """Refuse: nothing here speaks it, and another protocol would take the connection, without these bounds."""
        self._refuse(403, "web sockets are not spoken here")

    def data_received(self, data: bytes) -> None:
        """Read on, within bounds."""
        self._unasked_bytes += len(data)
        super().data_received(data)
        if self._unasked_bytes > MAXIMUM_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"a request's head has at most {MAXIMUM_HEAD_BYTES >> 10} KiB")

    def on_message_begin(self) -> None:
        """Expect a head."""
        if self._waits_since is None:
            self._waits_since = time.monotonic()
        self._idle_since = None
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Have a head."""
        self._waits_since = None
        self._unasked_bytes = 0
        before = self.cycle
        self.app = self._direct
        for name, _ in self.headers:
            if name.startswith(_FORWARDED):
                self.app = self._proxied
        super().on_headers_complete()
        if self.cycle is not None and self.cycle is not before:
            self.cycle.scope["extensions"] = _EXTENSIONS  # type: ignore[typeddict-item]  # ours among ASGI's own

    def on_body(self, body: bytes) -> None:
        """Have a piece of a body, which is bounded elsewhere."""
        self._unasked_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for one; as uvicorn does, without its timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self._idle_since = time.monotonic()

    def _look_later(self) -> None:
        self._looking = self.loop.call_later(self.look_s, self._look)

    def _look(self) -> None:
        now, left = time.monotonic(), self.transport.get_write_buffer_size()
        unsent = (left, self.cycle)
        if not left or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        if now - self._unsent_since > self.taken_within_s:
            self._let_go("unread")
        elif not self.transport.is_closing() and not self._is_answering():
            if self._waits_since is not None and now - self._waits_since > self.head_within_s:
                self._refuse(408, f"no request came within {self.head_within_s:g} s")
            elif self._idle_since is not None and now - self._idle_since > self._idle_within_s():
                self.transport.close()
        self._look_later()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _idle_within_s(self) -> float:
        unread = self.cycle is not None and self.cycle.more_body
        return self.timeout_keep_alive + (self.head_within_s if unread else 0.0)

    def _make_room(self) -> None:
        ours = [one for one in self.connections if isinstance(one, BoundedProtocol)]
        idle = [(since, one) for one in ours if (since := one._asks_nothing_since()) is not None]
        victim = min(idle, key=lambda found: found[0])[1]
        self.connections.discard(victim)  # the next to come must find another
        victim._let_go("crowded out")

    def _asks_nothing_since(self) -> float | None:
        if self.transport.is_closing():
            return None
        return self._idle_since if self._waits_since is None else self._waits_since

    def _let_go(self, why: str) -> None:
        metrics.LET_GO.labels(why).inc()
        self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Say what is wrong, and close; where that would be taken for a part of another answer, only close."""
        own = self.cycle is not None and self.cycle.more_body and not self.cycle.response_started and not self.pipeline
        if self._is_answering() and not own:
            self._let_go(str(status))
            return
        metrics.LET_GO.labels(str(status)).inc()
        body = encode(ErrorAnswer(Fault(message)))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


class _Common:
    """The lines of all heads, which uvicorn renews every second."""

    headers: object = None
    lines = b""


def _answer(send: Any, status: int, lines: bytes, body: bytes, ends: bool) -> bool:
    """Do what `send` of uvicorn does of a whole answer; leave to it whatever is out of the ordinary."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        return False  # something is between us
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or cycle.access_log:
        return False
    if _Common.headers is not cycle.default_headers:
        _Common.headers = cycle.default_headers
        _Common.lines = b"".join(b"%s: %s\r\n" % header for header in cycle.default_headers)
    if not cycle.keep_alive and not ends:
        lines += b"connection: close\r\n"
    cycle.keep_alive = cycle.keep_alive and not ends
    cycle.waiting_for_100_continue = False
    cycle.response_started = cycle.response_complete = True
    head = b"%s%s%s\r\n" % (STATUS_LINE[status], _Common.lines, lines)
    if len(body) <= _TOGETHER_BYTES:
        cycle.transport.write(head + body)
    else:
        cycle.transport.write(head)
        cycle.transport.write(body)
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


_EXTENSIONS = {ANSWER: _answer}


def bound() -> None:
    """Have uvicorn's servers of this process read by these bounds, with as many descriptors as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAXIMUM_CONNECTIONS + _RESERVED_DESCRIPTORS
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    BoundedProtocol.most = most - _RESERVED_DESCRIPTORS
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"
