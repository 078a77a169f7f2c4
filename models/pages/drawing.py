"""Drawings of a page: SVG in it, in its colours, without a script. All text that is handed in is escaped.

Places are shares of whatever room there is, and letters and dots keep their size in it, so that a drawing is read on a
phone as well. What a drawing says, text beside it says too, or its label.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from models.pages.markup import text_html

STYLE = """
figure { margin: 0 0 1.5rem; break-inside: avoid; }
figcaption { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .875rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; color: var(--quiet); }
.legend span::before {
  content: ""; display: inline-block; width: .75rem; height: .25rem; margin-right: .375rem; border-radius: 2px;
  vertical-align: middle; background: var(--of-it);
}
.first { --of-it: var(--accent); }
.second { --of-it: var(--second); }
.quiet { --of-it: var(--edge); }
.chart { display: block; width: calc(100% - 3.75rem); height: 15rem; margin: .75rem .75rem 1.75rem 3rem; }
.chart, .chart svg { overflow: visible; }
.chart text { font-size: .75rem; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.chart .x { text-anchor: middle; }
.chart .y { text-anchor: end; dominant-baseline: middle; }
.chart line { stroke: var(--line); }
.chart path { fill: none; stroke: var(--of-it); vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.chart .line { stroke-width: 2px; }
.chart .line.quiet { stroke-dasharray: 4 4; }
.chart .point { stroke-width: 8px; stroke-linecap: round; }
.chart .band { fill: var(--band); stroke: none; }
.axis { font-size: .875rem; color: var(--quiet); text-align: center; }
.ranges td, .ranges th { padding-right: .75rem; vertical-align: middle; white-space: nowrap; }
.ranges td:last-child, .ranges th:last-child { padding-right: 0; }
.ranges th:first-child { white-space: normal; }
.ranges .drawn { width: 60%; }
.ranges svg { display: block; width: 100%; height: 1.25rem; overflow: visible; }
.ranges .range { stroke: var(--accent); stroke-width: 3; stroke-linecap: round; opacity: .55; }
.ranges .dot { fill: var(--accent); }
.ranges .bar { fill: var(--band); stroke: var(--accent); }
.ranges .mark { stroke: var(--edge); stroke-dasharray: 3 3; }
@media (max-width: 40rem) {
  .ranges tr { display: grid; grid-template-columns: 1fr repeat(3, auto); border-top: 1px solid var(--line); }
  .ranges th, .ranges td { border: none; }
  .ranges .drawn { grid-row: 2; grid-column: 1 / -1; width: auto; padding: 0 .25rem .4rem; }
  .ranges th.drawn { display: none; }
}
"""


@dataclass(frozen=True, slots=True)
class Range:
    """A figure with what it surely lies within, a line of a table."""

    name: str
    value: float
    low: float | None
    high: float | None
    texts: tuple[str, ...]
    """Cells after the drawing."""


def ranges_html(heads: Sequence[str], ranges: Sequence[Range], mark: float | None = None, as_bars: bool = False) -> str:
    """Draw figures one below the other on one scale.

    Args:
        heads: over the names, the drawing, and the texts.
        mark: a value that a line shows in all of them.
        as_bars: whether lengths from 0 on count, or places.
    """
    ends = [end for one in ranges for end in (one.value, one.low, one.high) if end is not None]
    ends += [end for end in (mark, 0.0 if as_bars else None) if end is not None]
    least, most = _padded(min(ends), max(ends))
    if as_bars:
        least = min(min(ends), 0.0)

    def x(value: float) -> str:
        return f"{100 * (value - least) / (most - least):.2f}%"

    def line(one: Range) -> str:
        parts = [f'<line class="mark" x1="{x(mark)}" x2="{x(mark)}" y1="0" y2="100%"/>'] if mark is not None else []
        if as_bars:
            start, end = sorted((one.value, 0.0))
            width = f"{100 * (end - start) / (most - least):.2f}%"
            parts.append(f'<rect class="bar" x="{x(start)}" y="15%" width="{width}" height="70%"/>')
        if one.low is not None and one.high is not None:
            parts.append(f'<line class="range" x1="{x(one.low)}" x2="{x(one.high)}" y1="50%" y2="50%"/>')
        if not as_bars:
            parts.append(f'<circle class="dot" cx="{x(one.value)}" cy="50%" r="4"/>')
        texts = "".join(f'<td class="n">{text_html(text)}</td>' for text in one.texts)
        drawn = f'<svg aria-hidden="true">{"".join(parts)}</svg>'
        return f'<tr><th scope="row">{text_html(one.name)}</th><td class="drawn">{drawn}</td>{texts}</tr>'

    first, drawn, *others = map(text_html, heads)
    head = f'<tr><th>{first}</th><th class="drawn">{drawn}</th>'
    head += "".join(f'<th class="n">{one}</th>' for one in others) + "</tr>"
    return f'<table class="ranges">{head}{"".join(map(line, ranges))}</table>'


@dataclass(frozen=True, slots=True)
class Series:
    """What one line of a chart goes through."""

    name: str
    points: Sequence[tuple[float, float]]
    style: Literal["first", "second", "quiet"] = "first"
    dots: bool = False
    """Whether points are marked and not joined."""
    band: Sequence[tuple[float, float, float]] = ()
    """Where it lies, as x, low and high: a band behind the line, or about each dot a line."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a chart."""

    label: str
    least: float
    most: float
    ticks: tuple[tuple[float, str], ...] = ()
    """Places with what is written there; without any, round numbers."""

    @classmethod
    def of(cls, label: str, values: Iterable[float], *, from_zero: bool = False) -> "Axis":
        """Make one on which some values have room."""
        found = [value for value in values if math.isfinite(value)] or [0.0]
        least, most = _padded(min(found), max(found))
        return cls(label, 0.0 if from_zero and min(found) >= 0 else least, most)

    def share(self, value: float) -> float:
        """Say where a value is, in 0..1."""
        return (value - self.least) / (self.most - self.least)

    def marks(self) -> Sequence[tuple[float, str]]:
        """Give places with what is written there."""
        return self.ticks or [(value, _written(value)) for value in round_numbers(self.least, self.most)]


def chart_html(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Draw lines and dots; `title` says to those who cannot see it what there is."""

    def place(at: float, value: float) -> str:
        return f"{1000 * x.share(at):.1f} {1000 * (1 - y.share(value)):.1f}"

    grid = [
        f'<line class="grid" x1="0" x2="100%" y1="{100 * (1 - y.share(at)):.2f}%" y2="{100 * (1 - y.share(at)):.2f}%"/>'
        f'<text class="y" x="-8" y="{100 * (1 - y.share(at)):.2f}%">{text_html(text)}</text>'
        for at, text in y.marks()
    ]
    grid += [
        f'<text class="x" x="{100 * x.share(at):.2f}%" y="100%" dy="1.4em">{text_html(text)}</text>'
        for at, text in x.marks()
    ]
    paths = [path for one in series for path in _paths(one, place)]
    legend = "".join(f'<span class="{one.style}">{text_html(one.name)}</span>' for one in series if one.name)
    inner = f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">{"".join(paths)}</svg>'
    return (
        f'<figure><figcaption><b>{text_html(y.label)}</b><span class="legend">{legend}</span></figcaption>'
        f'<svg class="chart" role="img" aria-label="{text_html(title)}">{"".join(grid)}{inner}</svg>'
        f'<p class="axis">{text_html(x.label)}</p></figure>'
    )


def _paths(one: Series, place: Callable[[float, float], str]) -> Iterable[str]:
    if one.band and not one.dots:
        upper = [place(at, high) for at, _, high in one.band]
        lower = [place(at, low) for at, low, _ in reversed(one.band)]
        yield f'<path class="band" d="M{" L".join((*upper, *lower))} Z"/>'
    if one.dots:
        for at, low, high in one.band:
            yield f'<path class="line {one.style}" d="M{place(at, low)} L{place(at, high)}"/>'
        for at, value in one.points:
            yield f'<path class="point {one.style}" d="M{place(at, value)} h0"/>'
    elif one.points:
        yield f'<path class="line {one.style}" d="M{" L".join(place(*point) for point in one.points)}"/>'


def round_numbers(least: float, most: float, about: int = 5) -> list[float]:
    """Give about so many round numbers between two."""
    rough = (most - least) / about
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    first = math.ceil(least / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(most / step + 1e-9) + 1)]


def _written(value: float) -> str:
    return f"{value:,.10g}" if abs(value) < 1e6 else f"{value:.3g}"


def _padded(least: float, most: float) -> tuple[float, float]:
    """Leave some room on both sides."""
    room = (most - least) * 0.05 or abs(most) * 0.05 or 1.0
    return least - room, most + room
