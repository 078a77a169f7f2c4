"""`make bench-train`: the figures of training, as ratios in one run.

    python -m tests.benchmarks.train [--short] [--times N] [PART ...]

Without parts it is all of them, and published as `train`. Lightning and skorch are installed in environments of their
own.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from infra.settings import load_settings
from tests.benchmarks import train_again, train_flights, train_loop, train_quality, train_together
from tests.benchmarks.figures import Figure, publish
from tests.benchmarks.trainings import Bench

STARTS, ROUNDS, TIMES = 3, 5, 20

_PARTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "loop": train_loop.figures,
    "quality": train_quality.figures,
    "flights": train_flights.figures,
    "again": train_again.figures,
    "together": train_together.figures,
}


def main() -> int:
    """Measure, and publish."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("parts", nargs="*", metavar="PART", help=", ".join(_PARTS))
    reader.add_argument("--short", action="store_true", help="each once or twice: to see that it works")
    reader.add_argument("--times", type=int, metavar="N", help=f"how often each model is trained again ({TIMES})")
    arguments = reader.parse_args()
    if unknown := set(arguments.parts) - set(_PARTS):
        reader.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    if arguments.times is not None and arguments.times < 1:
        reader.error(f"--times must be at least 1, not {arguments.times}")
    starts, rounds, times = (1, 1, 2) if arguments.short else (STARTS, ROUNDS, TIMES)
    home = load_settings().home
    home.mkdir(parents=True, exist_ok=True)
    found = list[Figure]()
    for name in arguments.parts or _PARTS:
        with tempfile.TemporaryDirectory(prefix="bench-train-", dir=home) as place:
            found += _PARTS[name](Bench(home, Path(place), starts, rounds, arguments.times or times))
    name = "-".join(["train", *arguments.parts])
    return publish(f"{name}-short" if arguments.short else name, found, home)


if __name__ == "__main__":
    sys.exit(main())
