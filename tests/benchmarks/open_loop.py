"""An open-loop load: requests leave by the clock, whether earlier ones have been answered or not.

A request's latency counts from the moment at which it should have left, so that a server that stalls is charged for all
who would have come meanwhile (Gil Tene calls the other way coordinated omission). It spins on a core of its own: timers
of event loops tell milliseconds.

    python -m tests.benchmarks.open_loop URL BODY REQUESTS_A_SECOND SECONDS
"""

import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np

CONNECTIONS = 64
_GIVE_UP_S = 10.0


class Latencies(msgspec.Struct, frozen=True):
    """What a load has met."""

    requests: int
    failed: int
    """Answers that were no 200, and requests that were not answered."""
    p50_ms: float
    p99_ms: float
    p999_ms: float


class _Connection:
    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.settimeout(0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._received = b""

    def ask(self, request: bytes, due: float) -> None:
        """Send a request, which is small enough to leave at once."""
        self.due = due
        self.socket.sendall(request)

    def answered(self) -> bool | None:
        """Read on; None while the answer is not whole, otherwise whether it is a 200."""
        self._received += self.socket.recv(65_536)
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(fields[b"content-length"]):
            return None
        self._received = b""
        return head.startswith(b"HTTP/1.1 200")


def load(url: str, body: bytes, rate: float, seconds: float) -> Latencies:
    """Send so many requests a second for so long, by 64 connections, and wait for the last answers."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    connections = [_Connection((parts.hostname, parts.port)) for _ in range(CONNECTIONS)]
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    try:
        return _run(connections, request, [number / rate for number in range(int(rate * seconds))])
    finally:
        for one in connections:
            one.socket.close()


def _run(connections: list[_Connection], request: bytes, moments: list[float]) -> Latencies:
    idle, waiting, latencies, failed = deque(connections), deque[float](), list[float](), 0
    began = time.perf_counter()
    upcoming: Iterator[float] = iter(moments)
    due: float | None = next(upcoming, None)
    with select.epoll() as poller:
        by_descriptor = {one.socket.fileno(): one for one in connections}
        for descriptor in by_descriptor:
            poller.register(descriptor, select.EPOLLIN)
        while len(latencies) + failed < len(moments):
            now = time.perf_counter() - began
            while due is not None and due <= now:
                waiting.append(due)
                due = next(upcoming, None)
            while waiting and idle:
                idle.popleft().ask(request, waiting.popleft())
            for descriptor, _ in poller.poll(0):
                one = by_descriptor[descriptor]
                if (good := one.answered()) is None:
                    continue
                if good:
                    latencies.append(time.perf_counter() - began - one.due)
                else:
                    failed += 1
                idle.append(one)
            if now > moments[-1] + _GIVE_UP_S:
                failed = len(moments) - len(latencies)
    found = np.percentile(latencies, [50, 99, 99.9]) * 1e3 if latencies else [np.inf] * 3
    return Latencies(len(moments), failed, *map(float, found))


if __name__ == "__main__":
    url, body, rate, seconds = sys.argv[1:]
    found = load(url, Path(body).read_bytes(), float(rate), float(seconds))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
