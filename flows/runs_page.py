"""Runs beside each other as one HTML page that needs no network: curves, metrics, what differs between them."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import msgspec
import plotly.graph_objects as go

from flows.pages import figure_html, write_page
from flows.runs import Line, Runs, changes, differing, figure, metric_names, parameters, shown, took, yielded
from infra.settings import load_settings
from models.pages.markup import table_html
from models.pages.words import counted

_COLOURS = (
    *("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280"),
    *("#00838f", "#d69e2e", "#c53030", "#4a5568", "#1a365d"),
)
_MOST_COMPARED = 10
"""Runs that are compared where none are chosen: the newest."""
_ID_SHOWN = 12
_LATE = "validation_error"
"""The curve that is shown first, where there is one."""


def with_page(told: Runs) -> Runs:
    """Write a page of runs below OKRUH_HOME/reports. Raises: `Unavailable`."""
    path = load_settings().home / "reports" / f"{told.model}-runs.html"
    return msgspec.structs.replace(told, page=write_runs(told, path))


def write_runs(told: Runs, path: Path) -> Path:
    """Write the page. Raises: `Unavailable`."""
    compared = told.runs if told.chosen else told.runs[:_MOST_COMPARED]
    body = [
        f"<h1>{escape(told.model)}: {counted(len(told.runs), 'run')}</h1>",
        "<p>The newest first. Settings that are others than the definition's are named.</p>",
        _scrolled(_overview(told.runs)),
    ]
    if len(compared) < len(told.runs):
        body.append(f"<p>The newest {len(compared)} are compared below; `okruh runs` compares others by name.</p>")
    names = _curve_names(compared)
    for place, name in enumerate(names):
        body += [f"<h2>{escape(name)}</h2>", figure_html(_curve(compared, name), first=place == 0)]
    if metrics := metric_names(compared):
        body += ["<h2>Metrics</h2>", figure_html(_metrics(compared, metrics), first=not names)]
        body.append(
            _scrolled(_table(compared, {name: [line.metrics.get(name) for line in compared] for name in metrics}))
        )
    body += ["<h2>Parameters</h2><p>What is not the same in all is marked, and comes first.</p>"]
    body.append(_scrolled(_parameters(compared)))
    return write_page(path, f"{told.model}: runs", body)


def _overview(lines: Sequence[Line]) -> str:
    metrics = metric_names(lines)
    rows = [
        [
            line.id,
            line.status,
            yielded(line),
            f"{line.began_at:%Y-%m-%d %H:%M}",
            took(line.seconds),
            *(figure(line.metrics.get(name)) for name in metrics),
            "; ".join(filter(None, (changes(line), line.reason))),
        ]
        for line in lines
    ]
    heads = ["run", "status", "version", "began", "took", *metrics, "settings, failure"]
    return table_html(heads, rows, numbers=tuple(range(4, 5 + len(metrics))))


def _curve_names(lines: Sequence[Line]) -> list[str]:
    names = dict.fromkeys(name for line in lines for name in line.curves)
    return sorted(names, key=lambda name: name != _LATE)


def _curve(lines: Sequence[Line], name: str) -> go.Figure:
    drawn = go.Figure()
    for line, colour in zip(lines, _repeated(len(lines)), strict=True):
        if (curve := line.curves.get(name)) is not None:
            mode = "lines+markers" if len(curve.steps) < 100 else "lines"
            drawn.add_scatter(x=curve.steps, y=curve.values, mode=mode, name=_label(line), line_color=colour)
    drawn.update_xaxes(title="step")
    drawn.update_yaxes(title=name)
    drawn.update_layout(showlegend=True)
    return drawn


def _metrics(lines: Sequence[Line], names: Sequence[str]) -> go.Figure:
    """Draw each metric as a share of its largest, for they have scales of their own."""
    drawn = go.Figure()
    largest = {name: max((abs(line.metrics.get(name) or 0.0) for line in lines), default=0.0) or 1.0 for name in names}
    for line, colour in zip(lines, _repeated(len(lines)), strict=True):
        values = [line.metrics.get(name) for name in names]
        shares = [None if value is None else value / largest[name] for name, value in zip(names, values, strict=True)]
        texts = [figure(value) for value in values]
        drawn.add_bar(x=list(names), y=shares, name=_label(line), marker_color=colour, hovertext=texts)
    drawn.update_yaxes(title="share of the largest")
    drawn.update_layout(showlegend=True)
    return drawn


def _parameters(lines: Sequence[Line]) -> str:
    told = [parameters(line) for line in lines]
    apart = differing(lines)
    names = dict.fromkeys([*apart, *(name for one in told for name in one)])
    rows = [[name, *(_cut(shown(one.get(name))) for one in told)] for name in names]
    return table_html(["", *(_label(line) for line in lines)], rows, marked=range(len(apart)))


def _table(lines: Sequence[Line], rows: dict[str, list[float | None]]) -> str:
    cells = [[name, *map(figure, values)] for name, values in rows.items()]
    return table_html(["", *(_label(line) for line in lines)], cells, numbers=tuple(range(1, len(lines) + 1)))


def _label(line: Line) -> str:
    return line.version or (f"trial {line.trial}" if line.study else line.id)


def _cut(text: str) -> str:
    """Shorten digests and commits; `--json` has them whole."""
    return f"{text[:_ID_SHOWN]}…" if len(text) > 2 * _ID_SHOWN else text


def _repeated(count: int) -> list[str]:
    return [_COLOURS[place % len(_COLOURS)] for place in range(count)]


def _scrolled(table: str) -> str:
    return f"<div style='overflow-x:auto;white-space:nowrap'>{table}</div>"
