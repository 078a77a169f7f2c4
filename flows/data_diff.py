"""Data difference: how a model's table differs between two states of the lake. Reads only; no flow."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flows import catalog
from infra import tables
from infra.assembly import assemble
from infra.dataset import table_prefix
from infra.lake.protocol import Change
from infra.settings import load_settings
from models.contract.difference import (
    ColumnDifference,
    ColumnState,
    RowDifference,
    compare_columns,
    compare_rows,
    means_of_lists,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HEADS = ("column", "", "type", "null", "values", "smallest", "mean", "deviation", "largest", "")
NUMBERS = (3, 4, 5, 6, 7, 8)
"""Places of the columns of numbers under `HEADS`."""
WHEN = ("before", "after")
COLOURS = ("#c05621", "#2b6cb0")
MOST_BARS = 40


class DataDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A table at two commits, side by side."""

    model: str
    before: str
    """Commit id."""
    after: str
    """Commit id."""
    partitions: list[Change]
    rows_before: int
    rows_after: int
    rows: RowDifference
    columns: list[ColumnDifference]


def data_diff(model: str, before: str, after: str, page: Path | None = None) -> DataDifference:
    """Compare a model's table at two refs; partitions that are the same object in both are not compared by row.

    Args:
        model: name in the catalog.
        before: branch, tag or commit id.
        after: branch, tag or commit id.
        page: HTML file to write, with plots.

    Raises: `NotFound`, `Unavailable` where the page cannot be written.
    """
    definition, lake = catalog.load(model), assemble(load_settings()).existing_lake(model)
    prefix, commits = table_prefix(definition), (lake.resolve(before), lake.resolve(after))
    changes = lake.diff(*commits, prefix)
    parts = [{one.path: tables.read(lake, commit, one.path) for one in lake.list(commit, prefix)} for commit in commits]
    whole = [_joined(part, list(part)) for part in parts]
    old, new = (_joined(part, [change.path for change in changes]) for part in parts)
    found = DataDifference(
        model=model,
        before=commits[0],
        after=commits[1],
        partitions=changes,
        rows_before=len(whole[0]),
        rows_after=len(whole[1]),
        rows=_with_unchanged(compare_rows(old, new, definition.contract.unique), len(whole[0]) - len(old)),
        columns=compare_columns(definition.contract, *whole),
    )
    if page is not None:
        _write(found, whole, page)
    return found


def _joined(parts: "dict[str, pd.DataFrame]", paths: list[str]) -> "pd.DataFrame":
    """Join those of the paths that there are; where there is none, no rows of the same columns."""
    import pandas as pd

    chosen = [parts[path] for path in paths if path in parts]
    return pd.concat(chosen or [part.iloc[:0] for part in parts.values()] or [pd.DataFrame()], ignore_index=True)


def _with_unchanged(rows: RowDifference, others: int) -> RowDifference:
    return msgspec.structs.replace(rows, unchanged=rows.unchanged + others)


def lines_of(column: ColumnDifference) -> list[list[str]]:
    """Lay a column out for people, under `HEADS`: a line each for before and after."""
    notes = [f"new: {', '.join(column.new_values)}"] if column.new_values else []
    notes += [f"gone: {', '.join(column.gone_values)}"] if column.gone_values else []
    if column.before is not None and column.after is not None and column.before.kind != column.after.kind:
        notes.append(f"was {column.before.kind}")
    return [
        _line(column.name, "before", column.before, "" if column.before else "not there"),
        _line("", "after", column.after, "; ".join(notes) if column.after else "not there any more"),
    ]


def _line(name: str, when: str, state: ColumnState | None, note: str) -> list[str]:
    if state is None:
        return [name, when, "", "", "", "", "", "", "", note]
    numbers = [_number(value) for value in (state.minimum, state.mean, state.deviation, state.maximum)]
    return [name, when, state.kind, f"{state.null_share:.2%}", f"{state.distinct:,}", *numbers, note]


def _number(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:,.4g}"


def _write(found: DataDifference, states: "list[pd.DataFrame]", page: Path) -> None:
    from flows.pages import figure_html, write_page
    from models.pages.markup import table_html
    from models.pages.words import counted

    title = f"{found.model}: data at {found.before[:12]} and {found.after[:12]}"
    rows = found.rows
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{counted(found.rows_before, 'row')} before, {found.rows_after:,} after: {rows.added:,} added, "
        f"{rows.removed:,} removed, {rows.changed:,} changed.</p>",
        "<h2>Columns</h2>",
        table_html(list(HEADS), [line for column in found.columns for line in lines_of(column)], NUMBERS),
        "<h2>Changed rows</h2>",
        table_html(["some of them"], [[example] for example in rows.examples]),
        "<h2>Partitions</h2>",
        table_html(["path", "is"], [[change.path, change.kind] for change in found.partitions]),
    ]
    for place, column in enumerate(found.columns):
        body += [f"<h2>{escape(column.name)}</h2>", figure_html(_figure(column, states), first=place == 0)]
    write_page(page, title, body)


def _figure(column: ColumnDifference, states: "list[pd.DataFrame]") -> "go.Figure":
    import plotly.graph_objects as go

    figure, state = go.Figure(), column.after or column.before
    is_category = state is not None and state.minimum is None
    for values, label, colour in zip(_shares(column.name, is_category, states), WHEN, COLOURS, strict=True):
        figure.add_bar(x=list(values.index), y=list(values), name=label, marker_color=colour)
    figure.update_xaxes(type="category" if is_category else "-")
    figure.update_yaxes(title="share of rows", tickformat=".1~%")
    return figure


def _shares(name: str, is_category: bool, states: "list[pd.DataFrame]") -> "list[pd.Series[float]]":
    """Give the share of rows by value; of more than 40 values, by the 40 most frequent or by 40 equal bins."""
    import pandas as pd

    columns = [means_of_lists(state[name]) if name in state else pd.Series(dtype="float64") for state in states]
    both = pd.concat([column for column in columns if len(column)] or columns, ignore_index=True)
    if both.nunique() > MOST_BARS:
        if is_category:
            kept = both.value_counts().index[:MOST_BARS]
            columns = [column[column.isin(kept)] for column in columns]
        else:
            edges = pd.cut(both, MOST_BARS, retbins=True)[1]
            columns = [pd.cut(column, edges, labels=edges[:-1]) for column in columns]
    rows = [max(len(state), 1) for state in states]
    return [column.value_counts().sort_index() / count for column, count in zip(columns, rows, strict=True)]
