"""The one form of every benchmark: figures, their bounds, the machine; as JSON and as a table."""

import operator
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

_COMPARISONS = {"<=": operator.le, "<": operator.lt, "==": operator.eq, ">=": operator.ge}


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value and what was asked of it."""

    name: str
    value: float
    unit: str
    bound: str
    """A comparison and a number, such as `<= 3.3`, or a range, such as `0 to 15`; empty where nothing was asked."""
    compared_with: dict[str, float] = {}

    @property
    def met(self) -> bool:
        """Whether the value keeps its bound."""
        if not self.bound:
            return True
        if " to " in self.bound:
            lowest, highest = map(float, self.bound.split(" to "))
            return lowest <= self.value <= highest
        comparison, limit = self.bound.split()
        return bool(_COMPARISONS[comparison](self.value, float(limit)))


def publish(name: str, figures: Sequence[Figure], home: Path) -> int:
    """Write `bench/NAME.json` under `home`, print the table, and give 0 when every bound is kept, else 1."""
    path = home / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [{**msgspec.to_builtins(figure), "met": figure.met} for figure in figures]
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"figures": plain, "machine": _machine()}), indent=2))
    table = Table("figure", "value", "unit", "bound", "met", "compared with", box=None)
    for figure in figures:
        peers = ", ".join(f"{peer} {value:,.4g}" for peer, value in figure.compared_with.items())
        table.add_row(
            figure.name, f"{figure.value:,.4g}", figure.unit, figure.bound, "yes" if figure.met else "NO", peers
        )
    console = Console(highlight=False, width=150)
    console.print(table)
    console.print(f"written to {path}")
    return 0 if all(figure.met for figure in figures) else 1


def _machine() -> Mapping[str, object]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "processor": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
