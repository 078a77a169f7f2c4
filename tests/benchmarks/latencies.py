"""The slowest hundredth of two servers at the same absolute rate, pair by pair."""

from statistics import median

from tests.benchmarks.figures import Figure
from tests.benchmarks.pinned import Bench, Served, open_loop


def compare(
    ours: Served, other: Served, rate: float, bench: Bench, about: str, bound: str = "", times: int = 1
) -> Figure:
    """Load both in an open loop, pair by pair, each first in every other one; give the median of the ratios.

    Args:
        times: pairs for each round; a single one's ratio is anything from a half to twice what the median settles at.
    """
    pairs = [_pair(ours, other, rate, bench, swapped=pair % 2 == 1) for pair in range(bench.rounds * times)]
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


def _pair(ours: Served, other: Served, rate: float, bench: Bench, *, swapped: bool) -> tuple[float, float]:
    if swapped:
        theirs = _p99_ms(other, rate, bench)
        return _p99_ms(ours, rate, bench), theirs
    return _p99_ms(ours, rate, bench), _p99_ms(other, rate, bench)


def _p99_ms(served: Served, rate: float, bench: Bench) -> float:
    return open_loop(served, rate, bench.seconds).p99_ms
