"""HTTP traffic against a service, in the order of events.

Requests start in event order over a fixed number of connections; a label is sent only after its prediction was
answered. Every outcome is counted: accepted, refused by the contract (422), or failed. Cost: about 0.2 ms of one core a
request.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec
import uvloop

from infra.errors import Unavailable

CONNECTIONS = 32
_IDLE_S = 3.0  # servers close idle connections after 5 s; one that is being closed must not be used


@dataclass(slots=True)
class Event:
    """One request, due at a moment of event time."""

    at_s: float
    """Seconds since 1970, UTC."""
    item: int
    """Number of the row that it is about."""
    is_label: bool
    body: bytes


@dataclass(slots=True)
class Counts:
    """What became of the requests so far."""

    sent: int = 0
    refused: int = 0
    failed: int = 0
    labels_sent: int = 0
    labels_failed: int = 0
    during_swaps: int = 0
    failures: list[str] = field(default_factory=list)
    """The first few, for people."""
    refusals: dict[str, int] = field(default_factory=dict)
    """How often each rule refused, by field and rule."""


class _Broken(msgspec.Struct):
    field: str
    rule: str


class _Fault(msgspec.Struct):
    violations: list[_Broken] = []


class _Refused(msgspec.Struct):
    error: _Fault


class _Answered(msgspec.Struct):
    version: str


class Traffic:
    """A client of one service, with its own event loop; use from one thread."""

    def __init__(self, url: str) -> None:
        self.counts = Counts()
        self._url = url
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._session: aiohttp.ClientSession | None = None
        self._accepted: dict[int, asyncio.Future[bool]] = {}
        self._recent: list[bytes] = []

    def play(self, events: Iterable[Event]) -> None:
        """Send events in order and wait for every answer."""
        self._runner.run(self._play(iter(events)))

    def until_answered_by(self, version: str, within_s: float = 30.0) -> None:
        """Repeat the latest predictions until one is answered by `version`. Raises: `Unavailable` when none is.

        The service answers repeated ids again and records them once, so this is traffic that leaves no trace.
        """
        if not self._recent:
            raise Unavailable(f"{self._url} has answered no prediction that could be repeated")
        try:
            self._runner.run(self._repeat(version, within_s))
        except TimeoutError as error:
            raise Unavailable(f"{self._url} did not answer with {version} within {within_s:g} s") from error

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    async def _play(self, events: Iterator[Event]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._work(events))

    async def _work(self, events: Iterator[Event]) -> None:
        for event in events:
            if event.is_label:
                await self._label(event)
            else:
                self._accepted[event.item] = asyncio.get_running_loop().create_future()
                await self._predict(event)

    async def _predict(self, event: Event) -> None:
        answered = self._accepted[event.item]
        self.counts.sent += 1
        status, body = await self._post("/v1/predict", event.body)
        if status == 422:
            self.counts.refused += 1
            self._note_refusal(body)
        elif status != 200:
            self.counts.failed += 1
            self._note(f"prediction {event.item}: {status} {body[:200]!r}")
        elif len(self._recent) < CONNECTIONS:
            self._recent.append(event.body)
        else:
            self._recent[event.item % CONNECTIONS] = event.body
        answered.set_result(status == 200)

    async def _label(self, event: Event) -> None:
        answered = self._accepted.pop(event.item, None)
        if answered is None or not await answered:
            return
        self.counts.labels_sent += 1
        status, body = await self._post("/v1/feedback", event.body)
        if status != 200:
            self.counts.labels_failed += 1
            self._note(f"label {event.item}: {status} {body[:200]!r}")

    async def _repeat(self, version: str, within_s: float) -> None:
        async with asyncio.timeout(within_s):
            for body in self._endlessly():
                status, answer = await self._post("/v1/predict", body)
                self.counts.during_swaps += 1
                if status != 200:
                    self.counts.failed += 1
                    self._note(f"during a swap: {status} {answer[:200]!r}")
                elif msgspec.json.decode(answer, type=_Answered).version == version:
                    return

    def _endlessly(self) -> Iterator[bytes]:
        while self._recent:
            yield from self._recent

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                base_url=self._url,
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=_IDLE_S),
                headers={"content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=30),
            )
        try:
            async with self._session.post(path, data=body) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, repr(error).encode()

    def _note(self, failure: str) -> None:
        if len(self.counts.failures) < 5:
            self.counts.failures.append(failure)

    def _note_refusal(self, body: bytes) -> None:
        for broken in msgspec.json.decode(body, type=_Refused).error.violations:
            reason = f"{broken.field}: {broken.rule.partition(', got ')[0]}"
            self.counts.refusals[reason] = self.counts.refusals.get(reason, 0) + 1


@contextmanager
def traffic_to(url: str) -> Iterator[Traffic]:
    """Open a client and close it at the end of the block."""
    traffic = Traffic(url)
    try:
        yield traffic
    finally:
        traffic.close()
