"""The slowest hundredth of two servers at the same absolute rate, pair by pair."""

from statistics import median

from tests.benchmarks.figures import Figure
from tests.benchmarks.pinned import Bench, Served, open_loop


def compare(ours: Served, other: Served, rate: float, bench: Bench, about: str, bound: str = "") -> Figure:
    """Load one and then the other, in an open loop, as often as there are rounds; give the median of the ratios."""
    pairs = [(_p99_ms(ours, rate, bench), _p99_ms(other, rate, bench)) for _ in range(bench.rounds)]
    return Figure(
        name=f"p99 at {rate:,.0f} requests/s, open loop, {about} / {other.name}",
        value=median(mine / theirs for mine, theirs in pairs),
        unit="ratio",
        bound=bound,
        compared_with={
            "ours, ms": median(mine for mine, _ in pairs),
            f"{other.name}, ms": median(theirs for _, theirs in pairs),
        },
    )


def _p99_ms(served: Served, rate: float, bench: Bench) -> float:
    return open_loop(served, rate, bench.seconds).p99_ms
