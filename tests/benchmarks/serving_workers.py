"""Two workers beside one: what a request costs, since the load shares the cores that they would need to be faster.

Servers may use both cores here, and the load comes from the one of them that is always the load's.
"""

import sys
from contextlib import AbstractContextManager, ExitStack
from statistics import median

from tests.benchmarks import processes
from tests.benchmarks.figures import Figure
from tests.benchmarks.pinned import BOTH_CORES, Bench, Served, counted, okruh, until, wrk
from tests.benchmarks.serving_rows import write_row

_STARTS = 3
"""What a request costs differs by a tenth from one start of the same server to the next."""
_READY_S = 30.0


def figures(bench: Bench) -> list[Figure]:
    """Compare the workers' CPU seconds for 1,000 requests by 64 connections, pair by pair, after several starts."""
    costs, rates = list[list[float]](), list[list[float]]()
    for start in range(_STARTS):
        with ExitStack() as running:
            servers = [running.enter_context(_workers(count, bench)) for count in (1, 2)]
            for served, count in zip(servers, (1, 2), strict=True):
                _await_workers(served, count)
                wrk(served, 1)
            for pair in range(bench.rounds):
                order = (0, 1) if (start * bench.rounds + pair) % 2 else (1, 0)
                found = {place: _cost(servers[place], bench.seconds) for place in order}
                costs.append([found[0][0], found[1][0]])
                rates.append([found[0][1], found[1][1]])
    return [
        Figure(
            name="CPU seconds for 1,000 single rows, two workers / one, relaxed journal",
            value=median(two / one for one, two in costs),
            unit="ratio",
            bound="<= 1.1",
            compared_with={
                "one, s": median(one for one, _ in costs),
                "two, s": median(two for _, two in costs),
                "one, requests/s": median(one for one, _ in rates),
                "two, requests/s": median(two for _, two in rates),
            },
        )
    ]


def _workers(count: int, bench: Bench) -> AbstractContextManager[Served]:
    name, body = f"{count} workers", write_row(bench)
    settings, tag, place = bench.settings, bench.tag, bench.place
    return okruh(name, settings, tag, body, place, cores=BOTH_CORES, journal="relaxed", workers=count)


def _cost(served: Served, seconds: int) -> tuple[float, float]:
    """Give the CPU seconds of 1,000 requests, and the requests a second."""
    workers = processes.children(served.pid)
    before = sum(map(processes.cpu_s, workers))
    load = wrk(served, seconds)
    return (sum(map(processes.cpu_s, workers)) - before) / load.requests * 1000, load.rate


def _await_workers(served: Served, count: int) -> None:
    if not until(lambda: counted(served, "okruh_champion_workers") == count, _READY_S):
        sys.exit(f"{served.name}: {counted(served, 'okruh_champion_workers'):.0f} of {count} workers serve")
