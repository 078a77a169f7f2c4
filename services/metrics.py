"""What the service tells Prometheus, added up over its workers."""

import asyncio
import struct

import numpy as np
import numpy.typing as npt
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from services import worker_files

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()

_ATTEMPTS = 10
_FEW = 4
_folder = worker_files.prepare()  # before anything is counted

REQUESTS = Counter("okruh_requests_total", "Answered requests.", ["path", "status"])
SECONDS = Histogram(
    "okruh_request_seconds",
    "Time from a request's whole head to its answer, handed over to be sent.",
    ["path"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
ROWS = Counter("okruh_predictions_total", "Answered rows.", ["version"])
LABELS = Counter("okruh_labels_total", "Labels received, by what became of them.", ["outcome"])
CHAMPION = Gauge(
    "okruh_champion_workers", "Workers that serve this version.", ["model", "version"], multiprocess_mode="livesum"
)
CHALLENGER = Gauge(
    "okruh_challenger_workers",
    "Workers that have this version ready beside the champion.",
    ["model", "version"],
    multiprocess_mode="livesum",
)
PROVIDER_MISSED = Gauge(
    "okruh_provider_missed",
    "Workers whose last loaded model does not run on the provider that is wanted, or best.",
    multiprocess_mode="livesum",
)
SWAPS = Counter("okruh_champion_swaps_total", "Champions taken over from the lake's rollout, by each worker.")
REFUSALS = Counter(
    "okruh_champion_refusals_total", "Champions of the rollout that could not be taken over, by each worker."
)
CHALLENGER_REFUSALS = Counter(
    "okruh_challenger_refusals_total", "Challengers of the rollout that could not be taken in, by each worker."
)
CHALLENGER_ABORTS = Counter(
    "okruh_challenger_aborts_total", "Trials that the challenger's answers have ended, by each worker."
)
CANARY_REQUESTS = Counter(
    "okruh_canary_requests_total",
    "Requests that were the challenger's, by what became of them; failed ones were answered by the champion.",
    ["version", "outcome"],
)
SHADOW_ROWS = Counter(
    "okruh_shadow_rows_total",
    "Rows that the challenger answered as well, by what became of them.",
    ["version", "outcome"],
)
SHADOW_DROPPED = Counter("okruh_shadow_dropped_total", "Rows that the shadow let go, by why.", ["why"])
SHADOW_DIFFERENCE = Histogram(
    "okruh_shadow_difference_share",
    "How far the challenger's answer is from the champion's, as a share of the target's range.",
    ["champion", "challenger"],
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1),
)
LAKE_REACHABLE = Gauge(
    "okruh_lake_reachable", "1 when every worker's last look at the lake succeeded.", multiprocess_mode="livemin"
)
LAKE_REACHABLE.set(1)  # until a look fails; without a lake there is none
LOST = Counter("okruh_unrecorded_predictions_total", "Rows that were answered and could not be recorded.")
LET_GO = Counter("okruh_connections_let_go_total", "Connections that were closed for what they did, by why.", ["why"])
OVERLOADS = Counter("okruh_overloads_total", "Requests refused because too many rows waited.")
LOST_SPANS = Counter("okruh_lost_spans_total", "Parts of traces that no collector took.")
JOURNAL_FAILURES = Counter("okruh_journal_failures_total", "Requests refused because the journal could not write.")
ABANDONED = Counter("okruh_abandoned_requests_total", "Predictions whose callers had gone before they were answered.")


class Turn:
    """Counts what happens in one turn of the event loop, of which a process has one, and writes it at its end.

    Writing costs a microsecond, as the file is one that other processes read; of many requests in a turn it costs no
    more than of one.
    """

    def __init__(self) -> None:
        self._counts: dict[Counter, float] = {}
        self._values: dict[Histogram, list[float]] = {}

    def inc(self, counter: Counter, amount: float = 1.0) -> None:
        """Count so many more."""
        if not self._counts:
            asyncio.get_running_loop().call_soon(self._write)
        self._counts[counter] = self._counts.get(counter, 0.0) + amount

    def observe(self, counter: Counter, histogram: Histogram, value: float) -> None:
        """Count one more, of this value."""
        self.inc(counter)
        self._values.setdefault(histogram, []).append(value)

    def _write(self) -> None:
        counts, self._counts = self._counts, {}
        values, self._values = self._values, {}
        for counter, amount in counts.items():
            counter.inc(amount)
        for histogram, some in values.items():
            if len(some) < _FEW:
                for value in some:
                    histogram.observe(value)
            else:
                observe(histogram, np.array(some))


turn = Turn()


def observe(histogram: Histogram, values: npt.NDArray[np.floating]) -> None:
    """Count many values at once, for `Histogram.observe` takes one, at a microsecond each."""
    counts = np.bincount(np.searchsorted(histogram._upper_bounds, values), minlength=len(histogram._upper_bounds))
    for place in np.flatnonzero(counts).tolist():
        histogram._buckets[place].inc(int(counts[place]))
    histogram._sum.inc(float(values.sum(dtype=np.float64)))


def exposition() -> bytes:
    """Give all of it, as Prometheus reads it."""
    if _folder is None:
        return generate_latest()
    worker_files.forget_the_dead(_folder)
    for _ in range(_ATTEMPTS - 1):
        try:
            return _added_up()
        except (FileNotFoundError, struct.error):  # a worker starts: it takes a dead one's file, or makes one
            continue
    return _added_up()


def _added_up() -> bytes:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(_folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
