"""Kill -9 under load, strict: every answered prediction is in the journal, and none is there twice."""

import asyncio
import os
import select
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from infra import bentos
from infra.assembly import assemble
from infra.journal.journal import Journal
from infra.serving_process import ServiceProcess
from infra.settings import Settings

CALLERS = 8
ANSWERS_BETWEEN = 60
WITHIN_S = 60.0


@pytest.fixture
def service(settings: Settings, promote: Callable[..., None]) -> Iterator[ServiceProcess]:
    """The Bento of `v1`, served by two workers."""
    promote("v1", 2.0)
    settings = settings.model_copy(update={"workers": 2})
    with ServiceProcess.start(settings, bentos.build(settings, "tiny").tag) as service:
        yield service


class Callers:
    """Ask without a pause, some with names and some without; what was named is asked again until it is answered."""

    def __init__(self, url: str, row: dict[str, Any]) -> None:
        self.answered: list[str] = []
        self._url = url
        self._row = row
        self._named = 0
        self._last = False
        self._more = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(CALLERS)]

    async def until_nobody_answers(self) -> None:
        """Ask on until nobody listens any more."""
        self._last = True
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*self._tasks)

    async def more(self) -> None:
        """Wait until some more are answered."""
        wanted = len(self.answered) + ANSWERS_BETWEEN
        async with asyncio.timeout(WITHIN_S), self._more:
            await self._more.wait_for(lambda: len(self.answered) >= wanted)

    async def _ask_on(self, number: int) -> None:
        rows: list[dict[str, Any]] = []
        while True:  # a connection each, so that both workers are asked
            async with aiohttp.ClientSession() as session:
                rows = rows or self._next(number)
                try:
                    async with session.post(f"{self._url}/v1/predict", json={"rows": rows}) as answer:
                        status, told = answer.status, await answer.json()
                except aiohttp.ClientConnectorError:
                    if self._last:
                        return
                    continue
                except aiohttp.ClientError:
                    continue
                assert status == 200, told
                async with self._more:
                    self.answered += [one["id"] for one in told["predictions"]]
                    self._more.notify_all()
                rows = []

    def _next(self, number: int) -> list[dict[str, Any]]:
        self._named += 1
        return [{**self._row, "id": f"row-{self._named}"}, self._row] if number % 2 else [self._row] * 3


def workers(settings: Settings, service: ServiceProcess) -> list[int]:
    folder = settings.bentos / "okruh_metrics" / str(service.pid)
    found = {int(path.stem.rpartition("_")[2]) for path in folder.glob("*.db")}
    return sorted(filter(alive, found))


def alive(pid: int) -> bool:
    """Say whether a process runs, and is not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.proof)])
def test_every_answered_prediction_is_recorded_once(
    settings: Settings, service: ServiceProcess, row: dict[str, Any], kills: int
) -> None:
    async def run() -> list[str]:
        callers = Callers(service.url, row)
        await callers.start()
        for number in range(kills):
            await callers.more()
            there = workers(settings, service)
            os.kill(there[number % len(there)], signal.SIGKILL)
        await callers.more()
        left = [os.pidfd_open(pid) for pid in workers(settings, service)]
        os.kill(service.pid, signal.SIGKILL)
        await callers.until_nobody_answers()
        for worker in left:
            ended = select.poll()  # unlike select, for descriptors of any number
            ended.register(worker, select.POLLIN)
            assert ended.poll(WITHIN_S * 1000)
            os.close(worker)
        return callers.answered

    answered = asyncio.run(run())

    recorded = Counter(archived(assemble(settings).journal("tiny", "main")))
    assert len(answered) == len(set(answered)) > kills * ANSWERS_BETWEEN
    assert [name for name in answered if recorded[name] != 1] == []
    assert [name for name, times in recorded.items() if times > 1] == []


def archived(journal: Journal) -> list[str]:
    return [name for one in journal.seal() for name in journal.table(one)["id"].to_pylist()]
