"""The loop's outcome as one HTML page that needs no network: plots, tables, verdicts with their reasons."""

from html import escape
from pathlib import Path

import plotly.graph_objects as go

from flows.pages import figure_html, write_page
from flows.story import Story, Told
from models.contract.answers import shown
from models.contract.columns import Contract
from models.model import Model
from models.pages.markup import table_html
from models.pages.words import counted

_FIRST, _SERVED, _ALARM, _PROMOTED = "#c05621", "#2b6cb0", "#c53030", "#2f855a"


def write_report(definition: Model, told: Told, path: Path) -> Path:
    """Write the page. Raises: `Unavailable`."""
    story = told.story
    contract = definition.contract
    body = [
        f"<h1>{escape(definition.name)}: the loop</h1><p>{escape(definition.description)}</p>",
        _summary(story, contract, definition.sample.caveat if definition.sample else ""),
        "<h2>Error by month</h2>",
        figure_html(_months_figure(story, contract), first=True),
        _months_table(story),
        "<h2>What monitoring saw</h2>",
        figure_html(_windows_figure(told, contract)),
        "<h2>Drift of the requests</h2><p>Jensen-Shannon distance (0 to 1) of each week's requests to the rows that "
        "judged the champion.</p>",
        figure_html(_drift_figure(told)),
        "<h2>Alarms</h2>",
        table_html(
            ["at", "log10 M", "what was seen"],
            [[f"{alarm.at:%Y-%m-%d}", f"{alarm.statistic:.1f}", alarm.detail] for alarm in story.alarms],
        ),
        "<h2>Verdicts</h2>",
        table_html(
            ["at", "version", "promoted", "reasons"],
            [
                [
                    f"{verdict.at:%Y-%m-%d}",
                    verdict.version,
                    "yes" if verdict.allowed else "no",
                    "; ".join(verdict.reasons),
                ]
                for verdict in story.verdicts
            ],
        ),
        "<h2>Promotions, 30 days on</h2>",
        _promotions_table(story, contract),
        "<h2>Requests</h2>",
        _requests(story),
    ]
    return write_page(path, definition.name, body)


def _summary(story: Story, contract: Contract, caveat: str) -> str:
    later = story.months[1:] or story.months
    first = sum(month.error_first_model for month in later) / len(later)
    served = sum(month.error_served for month in later) / len(later)
    return (
        f"<p>{counted(story.requests.sent, 'request')} played; {contract.error_name} over the months after the first: "
        f"<b>{escape(shown(served, contract.error_unit))}</b> as served, {shown(first)} had the first model been left "
        f"alone. {counted(len(story.alarms), 'alarm')}, "
        f"{counted(sum(v.allowed for v in story.verdicts), 'promotion')}.</p>"
        f"<p><small>{escape(caveat)}</small></p>"
    )


def _months_figure(story: Story, contract: Contract) -> go.Figure:
    months = [month.month for month in story.months]
    figure = go.Figure()
    figure.add_bar(
        x=months,
        y=[month.error_first_model for month in story.months],
        name="first model left alone",
        marker_color=_FIRST,
    )
    figure.add_bar(x=months, y=[month.error_served for month in story.months], name="served", marker_color=_SERVED)
    figure.update_xaxes(type="category")
    figure.update_yaxes(title=_axis(contract))
    return figure


def _windows_figure(told: Told, contract: Contract) -> go.Figure:
    judged = [window for window in told.windows if window.mean_error is not None]
    figure = go.Figure()
    figure.add_scatter(
        x=[window.end for window in judged],
        y=[window.mean_error for window in judged],
        mode="lines+markers",
        name="error of the week's champion",
        line_color=_SERVED,
    )
    figure.add_scatter(
        x=[window.end for window in judged],
        y=[window.reference_error for window in judged],
        mode="lines",
        name="its reference",
        line={"color": "#829ab1", "dash": "dot", "shape": "hv"},
    )
    for alarm in told.story.alarms:
        figure.add_vline(x=alarm.at, line_color=_ALARM, line_width=2)
    for promotion in told.story.promotions[1:]:
        figure.add_vline(x=promotion.at, line_color=_PROMOTED, line_dash="dot", line_width=1)
    for name, colour in (("alarm", _ALARM), ("promotion", _PROMOTED)):
        figure.add_scatter(x=[None], y=[None], mode="lines", name=name, line_color=colour)
    figure.update_yaxes(title=_axis(contract), rangemode="tozero")
    return figure


def _drift_figure(told: Told) -> go.Figure:
    judged = [window for window in told.windows if window.drift]
    figure = go.Figure()
    for column in sorted({name for window in judged for name in window.drift}):
        figure.add_scatter(
            x=[window.end for window in judged],
            y=[window.drift.get(column) for window in judged],
            mode="lines",
            name=column,
        )
    figure.update_yaxes(title="distance", range=[0, 1])
    return figure


def _months_table(story: Story) -> str:
    return table_html(
        ["month", "trips", "first model", "served", "versions"],
        [
            [
                month.month,
                f"{month.trips:,}",
                shown(month.error_first_model),
                shown(month.error_served),
                ", ".join(month.versions),
            ]
            for month in story.months
        ],
        numbers=(1, 2, 3),
    )


def _promotions_table(story: Story, contract: Contract) -> str:
    rows = []
    for line in story.promotions:
        after, before = _or_nothing(line.error_next_month), _or_nothing(line.error_previous_champion)
        waited = "" if line.seconds_to_first_answer is None else f"{line.seconds_to_first_answer:.2f} s"
        rows.append([f"{line.at:%Y-%m-%d}", line.version, after, before, waited])
    heads = ["at", "version", _axis(contract), "champion before would have had", "to first answer"]
    return table_html(heads, rows, numbers=(2, 3, 4))


def _axis(contract: Contract) -> str:
    return ", ".join(filter(None, (contract.error_name, contract.error_unit)))


def _or_nothing(loss: float | None) -> str:
    return "" if loss is None else shown(loss)


def _requests(story: Story) -> str:
    refusals = [[reason, f"{count:,}"] for reason, count in list(story.requests.refusals.items())[:10]]
    return (
        f"<p>{story.requests.sent:,} sent, {story.requests.refused:,} refused by the contract, {story.requests.failed} "
        f"failed; {counted(story.labels.sent, 'label')} sent, {story.labels.joined:,} joined. "
        f"{counted(story.journal.rows, 'journalled prediction')} scored again in batches: the largest difference is "
        f"{story.journal.largest_difference:.2g}.</p>" + table_html(["refused because", "rows"], refusals, numbers=(1,))
    )
