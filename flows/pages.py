"""HTML pages that need no network: one file each, with the code that draws its plots in it."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.io import to_html

from infra.folders import write_report

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1f2933}
h1{margin-bottom:0}h2{margin-top:2.2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #e4e7eb;vertical-align:top}
td:last-child{min-width:14rem}
td:not(:last-child),th{white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
tr.m td{background:#fffbea}
small{color:#616e7c}
"""


def write_page(path: Path, title: str, body: Sequence[str]) -> Path:
    """Write a page of HTML parts. Raises: `Unavailable`."""
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
    page += f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>"
    return write_report(path, page.encode())


def figure_html(figure: go.Figure, first: bool = False) -> str:
    """Draw a figure; the page's first one carries the code that draws all of them."""
    figure.update_layout(
        template="plotly_white",
        height=360,
        margin={"l": 50, "r": 20, "t": 20, "b": 40},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    html: str = to_html(figure, include_plotlyjs=first, full_html=False, config={"displayModeBar": False})
    return html
