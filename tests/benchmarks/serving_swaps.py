"""Champions swapped under load: every answer has to be computed by the version that it names.

Versions multiply by different factors, so that an answer's value says which of them computed it. Every second swap goes
back to the version before, which the service has kept; the others load one from the lake.
"""

import asyncio
import os
import shutil
import time
from collections import Counter
from itertools import cycle, islice

import aiohttp
import msgspec

from infra.bentos import build
from infra.lake.protocol import Lake
from infra.settings import load_settings
from tests.benchmarks import graphs
from tests.benchmarks.figures import Figure
from tests.benchmarks.pinned import LOAD_CORE, Bench, Served, counted, okruh, until

_MODEL = "multiplying"
_FACTORS = {"v2": 2, "v3": 3, "v5": 5}
_IN_TURN = ("v3", "v2", "v5", "v2")
_SWAPS_A_ROUND, _EVERY_S = 40, 0.3
_POLL_S = 0.05
_CONNECTIONS = 16
_LARGEST = 100_000
_LAST_SWAP_S = 5.0


class _Answered:
    """What became of requests."""

    def __init__(self) -> None:
        self.by_version = Counter[str]()
        self.failed = 0
        self.wrong = 0
        """Values that the version which an answer names does not give."""


class _Predicted(msgspec.Struct):
    value: float


class _Answer(msgspec.Struct):
    version: str
    predictions: list[_Predicted]


def figures(bench: Bench) -> list[Figure]:
    """Promote another version every 0.3 seconds, and check all answers meanwhile."""
    swaps = _SWAPS_A_ROUND * bench.rounds
    settings = load_settings(home=bench.place / "swaps")
    shutil.rmtree(settings.home, ignore_errors=True)
    versions = {version: graphs.multiplying(factor) for version, factor in _FACTORS.items()}
    lake = graphs.register(settings, bench.champion.card, _MODEL, versions)
    body = bench.place / "multiplied.json"
    body.write_bytes(_request(1))
    tag, cores = build(settings, _MODEL).tag, os.sched_getaffinity(0)
    with okruh("swaps", settings, tag, body, bench.place, journal="relaxed", rollout_poll_s=_POLL_S) as served:
        os.sched_setaffinity(0, {int(LOAD_CORE)})
        try:
            answered, took_s = asyncio.run(_swap_under_load(served, lake, swaps))
        finally:
            os.sched_setaffinity(0, cores)
        until(lambda: _made(served) >= swaps, _LAST_SWAP_S)
        made = _made(served)
    beside = {"requests": float(answered.by_version.total()), **answered.by_version, "seconds": took_s}
    about = f"while champions were swapped {swaps} times in {swaps * _EVERY_S:.0f} s"
    return [
        Figure(name=f"swaps made {about}", value=made, unit="swaps", bound=f"== {swaps}", compared_with=beside),
        Figure(name=f"requests failed {about}", value=answered.failed, unit="requests", bound="== 0"),
        Figure(name=f"answers not by the version they name, {about}", value=answered.wrong, unit="", bound="== 0"),
    ]


def _made(served: Served) -> float:
    return counted(served, "okruh_champion_swaps_total")


async def _swap_under_load(served: Served, lake: Lake, swaps: int) -> tuple[_Answered, float]:
    answered, ended = _Answered(), asyncio.Event()
    began = time.perf_counter()
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_CONNECTIONS)) as session,
        asyncio.TaskGroup() as group,
    ):
        for connection in range(_CONNECTIONS):
            group.create_task(_ask(session, served.url, connection, answered, ended))
        for number, version in enumerate(islice(cycle(_IN_TURN), swaps), start=1):
            await asyncio.sleep(began + number * _EVERY_S - time.perf_counter())
            await asyncio.to_thread(graphs.promote, lake, version)
        took_s = time.perf_counter() - began
        await asyncio.sleep(_EVERY_S)
        ended.set()
    return answered, took_s


async def _ask(session: aiohttp.ClientSession, url: str, first: int, answered: _Answered, ended: asyncio.Event) -> None:
    """Ask again and again, for other numbers each time, so that another request's answer is noticed as well."""
    number = first
    while not ended.is_set():
        number = (number + _CONNECTIONS) % _LARGEST
        try:
            async with session.post(url, data=_request(number), headers={"Content-Type": "application/json"}) as answer:
                body, status = await answer.read(), answer.status
        except aiohttp.ClientError:
            answered.failed += 1
            continue
        if status != 200:
            answered.failed += 1
            continue
        found = msgspec.json.decode(body, type=_Answer)
        answered.by_version[found.version] += 1
        answered.wrong += found.predictions[0].value != _FACTORS[found.version] * number


def _request(number: int) -> bytes:
    return msgspec.json.encode({"rows": [graphs.row([number, *[0] * (graphs.FEATURES - 1)])]})
