"""What a shadow costs whoever asks: the same service with a challenger in its shadow, and without one."""

import subprocess
from contextlib import ExitStack

import msgspec

from infra.assembly import assemble
from infra.lake.transaction import transaction
from infra.settings import Settings
from models.bundle import Bundle, bundle_folder
from tests.benchmarks.figures import Figure
from tests.benchmarks.homes import OKRUH, copy_of, environment
from tests.benchmarks.latencies import compare
from tests.benchmarks.pinned import MODEL, Bench, counted, most, okruh
from tests.benchmarks.serving_rows import write_row

_PAIRS = 3
"""For each round."""


def is_offered() -> bool:
    """Say whether there is a verb that puts a challenger into the shadow."""
    done = subprocess.run([*OKRUH, "rollout", "--help"], capture_output=True, text=True, check=False)
    return "--shadow" in done.stdout


def figures(bench: Bench) -> list[Figure]:
    """Compare the slowest hundredth at half of the maximum; the challenger has the champion's graph."""
    body, home = write_row(bench), copy_of(bench, "shadow")
    _try_in_shadow(home, bench.champion)
    with ExitStack() as running:
        alone, shadowed = (
            running.enter_context(okruh(name, settings, bench.tag, body, bench.place, journal="relaxed"))
            for name, settings in (("without a shadow", bench.settings), ("with a shadow", home))
        )
        rate = most(alone, bench) / 2
        slowest = compare(shadowed, alone, rate, bench, "shadow on", bound="<= 1.1", times=_PAIRS)
        share = counted(shadowed, "okruh_shadow_rows_total") / counted(shadowed, "okruh_predictions_total")
        dropped = counted(shadowed, "okruh_shadow_dropped_total")
    name = "rows that the shadow answered as well / rows answered"
    return [slowest, Figure(name=name, value=share, unit="", bound=">= 0.95", compared_with={"dropped": dropped})]


def _try_in_shadow(settings: Settings, champion: Bundle) -> None:
    """Register the champion under another version, and put that into the shadow for all requests."""
    version = f"{champion.card.version}-again"
    card = msgspec.structs.replace(champion.card, version=version)
    with transaction(assemble(settings).lake(MODEL), "main", f"register {version}", {}) as work:
        for name, content in msgspec.structs.replace(champion, card=card).files().items():
            work.put(f"{bundle_folder(version)}/{name}", content)
    command = [*OKRUH, "rollout", MODEL, "--shadow", version, "--weight", "1"]
    subprocess.run(command, env=environment(settings), stdout=subprocess.DEVNULL, check=True)
