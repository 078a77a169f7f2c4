"""A soak: half of the maximum, in an open loop, for an hour or a few minutes; what a service keeps must not grow.

Memory is flat when the median of the worker's resident memory in the last window is within 2 % of that in the window
after the warm-up; a window is a minute, as the warm-up is, or a tenth of a short soak. Of descriptors there are as many
in both. At the end the journal is archived: as many predictions reach the lake as were answered, and the ids are the
same (the CRC-32 of each, added up), so that each was recorded exactly once; no segment stays.

    python -m tests.benchmarks.soak --minutes 60
"""

import argparse
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from itertools import chain
from statistics import median
from typing import NamedTuple

import msgspec

from infra.assembly import assemble
from infra.dataset import PREDICTIONS
from infra.lake.protocol import Lake
from infra.settings import Settings
from infra.tables import read_arrow
from tests.benchmarks import processes
from tests.benchmarks.figures import Figure, publish
from tests.benchmarks.homes import copy_of, environment, prepare
from tests.benchmarks.open_loop import Latencies
from tests.benchmarks.pinned import MODEL, Bench, Served, most, okruh, open_loop_command
from tests.benchmarks.serving_rows import write_row

_WINDOW_S = 60.0
_SAMPLE_S = 1.0
_RELAXED_S = 1.0
"""After so long, all that was answered is recorded."""

_ARCHIVE = f"from flows.archive import archive; archive.fn({MODEL!r}, 'main')"


class Sample(NamedTuple):
    """A worker at one moment."""

    at_s: float
    """Since the load began."""
    rss_bytes: int
    descriptors: int


class Trend(NamedTuple):
    """What a worker had at first, and at the end; medians."""

    first: float
    last: float


def main() -> int:
    """Soak, and publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=60.0)
    bench = prepare(rounds=3, seconds=4)
    return publish("soak", figures(bench, arguments.parse_args().minutes), bench.home)


def figures(bench: Bench, minutes: float) -> list[Figure]:
    """Load a service for so long, watch its worker, and count what it has recorded."""
    settings = copy_of(bench, "soak")
    lake = assemble(settings).lake(MODEL)
    with okruh("soak", settings, bench.tag, write_row(bench), bench.place, journal="relaxed") as served:
        rate = most(served, bench) / 2
        time.sleep(_RELAXED_S)
        before = _archive(settings, lake)
        answered, samples = _soak(served, rate, minutes * 60)
        time.sleep(_RELAXED_S)
    after = _archive(settings, lake)
    recorded = [_ids(lake, path) for path in sorted(after - before)]
    left = list((settings.home / "journal").rglob("*.segment"))
    window_s = min(_WINDOW_S, minutes * 60 / 10)
    memory = trend(samples, lambda sample: sample.rss_bytes, window_s, window_s)
    open_ = trend(samples, lambda sample: sample.descriptors, window_s, window_s)
    about = f"in {minutes:g} minutes at {rate:,.0f} requests/s"
    good = answered.requests - answered.failed
    return [
        Figure(
            name=f"worker's memory, last / first window, {about}",
            value=memory.last / memory.first,
            unit="ratio",
            bound="0.98 to 1.02",
            compared_with={"first, MB": memory.first / 1e6, "last, MB": memory.last / 1e6}
            | {"most, MB": max(sample.rss_bytes for sample in samples) / 1e6},
        ),
        Figure(
            name=f"descriptors more at the end, {about}",
            value=open_.last - open_.first,
            unit="descriptors",
            bound="== 0",
            compared_with={"first": open_.first, "last": open_.last},
        ),
        Figure(name=f"segments left behind, {about}", value=len(left), unit="segments", bound="== 0"),
        Figure(
            name=f"requests failed, {about}",
            value=answered.failed,
            unit="requests",
            bound="== 0",
            compared_with={"requests": answered.requests, "p50, ms": answered.p50_ms, "p99, ms": answered.p99_ms},
        ),
        Figure(
            name=f"predictions archived beyond or short of those answered, {about}",
            value=abs(sum(count for count, _ in recorded) - good),
            unit="rows",
            bound="== 0",
            compared_with={"answered": good, "archived": sum(count for count, _ in recorded)},
        ),
        Figure(
            name=f"archived ids are the answered ones (their sums' difference), {about}",
            value=abs(sum(ids for _, ids in recorded) - answered.ids),
            unit="",
            bound="== 0",
        ),
    ]


def trend(samples: Sequence[Sample], value: Callable[[Sample], float], warm_up_s: float, window_s: float) -> Trend:
    """Compare the medians of the window after the warm-up and of the last one."""
    first = [value(one) for one in samples if warm_up_s <= one.at_s < warm_up_s + window_s]
    last = [value(one) for one in samples if one.at_s > samples[-1].at_s - window_s]
    return Trend(median(first), median(last))


def _soak(served: Served, rate: float, seconds: float) -> tuple[Latencies, list[Sample]]:
    (worker,) = processes.children(served.pid)
    samples = list[Sample]()
    with subprocess.Popen(open_loop_command(served, rate, seconds), stdout=subprocess.PIPE) as load:
        began = time.monotonic()
        while load.poll() is None:
            now = time.monotonic() - began
            if now < seconds:  # then the load ends, and so do its connections
                samples.append(Sample(now, processes.rss_bytes(worker), processes.descriptors(worker)))
            time.sleep(_SAMPLE_S)
        assert load.stdout is not None
        return msgspec.json.decode(load.stdout.read(), type=Latencies), samples


def _archive(settings: Settings, lake: Lake) -> set[str]:
    """Have the journal archived, and list what is."""
    subprocess.run([sys.executable, "-c", _ARCHIVE], env=environment(settings), check=True)
    return {entry.path for entry in lake.list("main", PREDICTIONS)}


def _ids(lake: Lake, path: str) -> tuple[int, int]:
    """Count the rows of an archived table, and add up the CRC-32 of their ids."""
    column = read_arrow(lake, "main", path)["id"]
    texts = chain.from_iterable(chunk.to_pylist() for chunk in column.chunks)
    return len(column), sum(zlib.crc32(text.encode()) for text in texts)


if __name__ == "__main__":
    sys.exit(main())
