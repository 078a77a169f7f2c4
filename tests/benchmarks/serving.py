"""`make bench-serving`: what a service answers, beside bare programs and other products, with the same graphs.

The server has one core, the load another (`tests.benchmarks.pinned`). wrk comes from Debian's packages; latencies are
those of `tests.benchmarks.open_loop`. A soak of so many minutes comes at the end where SOAK_MINUTES says so.

    python -m tests.benchmarks.serving [--short] [PART ...]

Without parts it is all of them, about sixteen minutes, and published as `serving`.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable

from tests.benchmarks import (
    serving_arrow,
    serving_networks,
    serving_rollback,
    serving_rows,
    serving_shadow,
    serving_swaps,
    serving_workers,
    soak,
)
from tests.benchmarks.figures import Figure, publish
from tests.benchmarks.homes import prepare
from tests.benchmarks.pinned import Bench

ROUNDS, SECONDS = 5, 4

_PARTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "rows": serving_rows.figures,
    "arrow": serving_arrow.figures,
    "networks": serving_networks.figures,
    "swaps": serving_swaps.figures,
    "rollback": serving_rollback.figures,
    "workers": serving_workers.figures,
    "shadow": serving_shadow.figures,
}


def main() -> int:
    """Measure, and publish."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("parts", nargs="*", metavar="PART", help=", ".join(_PARTS))
    reader.add_argument("--short", action="store_true", help="one second each, once: to see that it works")
    arguments = reader.parse_args()
    if unknown := set(arguments.parts) - set(_PARTS):
        reader.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    if missing := [command for command in ("wrk", "taskset") if shutil.which(command) is None]:
        sys.exit(f"{', '.join(missing)} is missing: apt-get install wrk util-linux")
    bench = prepare(*((1, 1) if arguments.short else (ROUNDS, SECONDS)))
    offered = {name: part for name, part in _PARTS.items() if name != "shadow" or serving_shadow.is_offered()}
    chosen = arguments.parts or list(offered)
    found = [figure for name in chosen for figure in _PARTS[name](bench)]
    if minutes := os.environ.get("SOAK_MINUTES"):
        found += soak.figures(bench, float(minutes))
    name = "serving" if not arguments.parts else "-".join(["serving", *chosen])
    return publish(f"{name}-short" if arguments.short else name, found, bench.home)


if __name__ == "__main__":
    sys.exit(main())
