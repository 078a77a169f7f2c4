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
import zlib
from array import array
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np

CONNECTIONS = 64
_GIVE_UP_S = 10.0
_ID = b'"id":"'


class Latencies(msgspec.Struct, frozen=True):
    """What a load has met."""

    requests: int
    failed: int
    """Answers that were no 200, and requests that were not answered."""
    ids: int
    """The CRC-32 of each answered row's id, added up: the same for the same ids; of servers that give none, no use."""
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

    def answered(self) -> tuple[bool, bytes] | None:
        """Read on; None while the answer is not whole, otherwise whether it is a 200, and its body."""
        self._received += self.socket.recv(65_536)
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(fields[b"content-length"]):
            return None
        self._received = b""
        return head.startswith(b"HTTP/1.1 200"), body


def load(url: str, body: bytes, rate: float, seconds: float) -> Latencies:
    """Send so many requests a second for so long, by 64 connections, and wait for the last answers."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    connections = [_Connection((parts.hostname, parts.port)) for _ in range(CONNECTIONS)]
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    try:
        return _run(connections, request, rate, int(rate * seconds))
    finally:
        for one in connections:
            one.socket.close()


def _run(connections: list[_Connection], request: bytes, rate: float, count: int) -> Latencies:
    idle, waiting, latencies = deque(connections), deque[float](), array("d")
    upcoming = failed = ids = 0
    began = time.perf_counter()
    with select.epoll() as poller:
        by_descriptor = {one.socket.fileno(): one for one in connections}
        for descriptor in by_descriptor:
            poller.register(descriptor, select.EPOLLIN)
        while len(latencies) + failed < count:
            now = time.perf_counter() - began
            while upcoming < count and upcoming <= now * rate:
                waiting.append(upcoming / rate)
                upcoming += 1
            while waiting and idle:
                idle.popleft().ask(request, waiting.popleft())
            for descriptor, _ in poller.poll(0):
                one = by_descriptor[descriptor]
                if (answer := one.answered()) is None:
                    continue
                good, body = answer
                if good:
                    latencies.append(time.perf_counter() - began - one.due)
                    ids += zlib.crc32(id_of(body))
                else:
                    failed += 1
                idle.append(one)
            if now > count / rate + _GIVE_UP_S:
                failed = count - len(latencies)
    found = np.percentile(latencies, [50, 99, 99.9]) * 1e3 if latencies else [np.inf] * 3
    return Latencies(count, failed, ids, *map(float, found))


def id_of(body: bytes) -> bytes:
    """Give the id in the answer to a single row."""
    return body.partition(_ID)[2].partition(b'"')[0]


if __name__ == "__main__":
    url, body, rate, seconds = sys.argv[1:]
    found = load(url, Path(body).read_bytes(), float(rate), float(seconds))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
