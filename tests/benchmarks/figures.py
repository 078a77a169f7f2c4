"""The one form of every benchmark: figures, their bounds, the machine; as JSON, as a table and as a page."""

import operator
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table

from flows.pages import figure_html, write_page
from models.pages.markup import table_html

_HEADS = ("figure", "value", "unit", "bound", "met", "compared with")
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


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a time when there are more files."""

    name: str
    seconds: dict[int, float]
    """By the number of files."""
    is_peer: bool = False
    """Whether it is another product's."""


def publish(name: str, figures: Sequence[Figure], home: Path, growths: Sequence[Growth] = ()) -> int:
    """Write `bench/NAME.json` and `bench/NAME.html` under `home`, print the table; 0 when every bound is kept, else 1.

    The page draws how times grow.
    """
    path = home / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [{**msgspec.to_builtins(figure), "met": figure.met} for figure in figures]
    machine = _machine()
    content = {"figures": plain, "growths": growths, "machine": machine}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2))
    rows = [_cells(figure) for figure in figures]
    table = Table(*_HEADS, box=None)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, width=150)
    console.print(table)
    body = [f"<h1>bench-{name}</h1>", f"<small>{', '.join(f'{key} {value}' for key, value in machine.items())}</small>"]
    body += ["<h2>Figures</h2>", table_html(list(_HEADS), rows, numbers=(1,))]
    if growths:
        body += ["<h2>Growth with the number of files</h2>", figure_html(_growth_figure(growths), first=True)]
    page = write_page(path.with_suffix(".html"), f"bench-{name}", body)
    console.print(f"written to {path} and {page}")
    return 0 if all(figure.met for figure in figures) else 1


def _cells(figure: Figure) -> list[str]:
    peers = ", ".join(f"{peer} {value:,.4g}" for peer, value in figure.compared_with.items())
    return [figure.name, f"{figure.value:,.4g}", figure.unit, figure.bound, "yes" if figure.met else "NO", peers]


def _growth_figure(growths: Sequence[Growth]) -> go.Figure:
    figure = go.Figure()
    for growth in growths:
        figure.add_scatter(
            x=list(growth.seconds),
            y=list(growth.seconds.values()),
            mode="lines+markers",
            name=growth.name,
            line_dash="dot" if growth.is_peer else "solid",
        )
    sizes = sorted({size for growth in growths for size in growth.seconds})
    figure.update_xaxes(title="files", type="log", tickvals=sizes, ticktext=[f"{size:,}" for size in sizes])
    figure.update_yaxes(title="seconds", type="log", dtick=1, tickformat="~g")
    return figure


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
