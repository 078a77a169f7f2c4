"""Two workers beside one: what a request costs, since the load shares the cores that they would need to be faster.

Servers may use both cores here, and the load comes from the one of them that is always the load's.
"""

import sys
from contextlib import ExitStack
from statistics import median

from tests.benchmarks import processes
from tests.benchmarks.figures import Figure
from tests.benchmarks.pinned import BOTH_CORES, Bench, Served, counted, okruh, until, wrk
from tests.benchmarks.serving_rows import write_row

_READY_S = 30.0


def figures(bench: Bench) -> list[Figure]:
    """Compare the workers' CPU seconds for 1,000 requests by 64 connections, pair by pair."""
    body = write_row(bench)
    pairs, rates = list[tuple[float, float]](), list[tuple[float, float]]()
    with ExitStack() as running:
        servers = [
            running.enter_context(
                okruh(
                    f"{count} workers",
                    bench.settings,
                    bench.tag,
                    body,
                    bench.place,
                    cores=BOTH_CORES,
                    journal="relaxed",
                    workers=count,
                )
            )
            for count in (1, 2)
        ]
        for served, count in zip(servers, (1, 2), strict=True):
            _await_workers(served, count)
            wrk(served, 1)
        for _ in range(bench.rounds):
            (one_cost, one_rate), (two_cost, two_rate) = (_cost(served, bench.seconds) for served in servers)
            pairs.append((one_cost, two_cost))
            rates.append((one_rate, two_rate))
    return [
        Figure(
            name="CPU seconds for 1,000 single rows, two workers / one, relaxed journal",
            value=median(two / one for one, two in pairs),
            unit="ratio",
            bound="<= 1.1",
            compared_with={
                "one, s": median(one for one, _ in pairs),
                "two, s": median(two for _, two in pairs),
                "one, requests/s": median(one for one, _ in rates),
                "two, requests/s": median(two for _, two in rates),
            },
        )
    ]


def _cost(served: Served, seconds: int) -> tuple[float, float]:
    """Give the CPU seconds of 1,000 requests, and the requests a second."""
    workers = processes.children(served.pid)
    before = sum(map(processes.cpu_s, workers))
    load = wrk(served, seconds)
    return (sum(map(processes.cpu_s, workers)) - before) / load.requests * 1000, load.rate


def _await_workers(served: Served, count: int) -> None:
    if not until(lambda: counted(served, "okruh_champion_workers") == count, _READY_S):
        sys.exit(f"{served.name}: {counted(served, 'okruh_champion_workers'):.0f} of {count} workers serve")
