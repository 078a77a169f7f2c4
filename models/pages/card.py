"""The page of a card: what a model is for, how good it is and how surely, for whom it is worse, and where it is from.

One document without scripts that asks for nothing, and says so to the browser. It follows from the card alone, and says
nothing of when and by which run the card was made: the same training makes the same page.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from models.contract import images
from models.contract.answers import mean_loss
from models.contract.columns import Category, Contract, Image, Input, Number, Time
from models.figures import Calibration, Evaluation, Interval, PredictionIntervals
from models.pages import drawing
from models.pages.drawing import Axis, Range, Series, chart_html, ranges_html
from models.pages.look import LOOK
from models.pages.markup import facts_html, table_html
from models.pages.words import COUNT, METRICS, counted, number, percent, span, with_unit
from models.setting_names import together

if TYPE_CHECKING:
    from models.bundle import Card

_MOST_COLUMNS = 20
"""Columns whose importance is drawn."""
_SHOWN_VALUES = 12
_FEW_EPOCHS = 40
"""Of so many each is a dot."""

_STYLE = (
    LOOK
    + drawing.STYLE
    + """
main > section { margin-bottom: 1.25rem; }
section > p, section > ul { margin: 0 0 1rem; max-width: 46rem; }
section > :last-child { margin-bottom: 0; }
h3 { margin: 1.5rem 0 .25rem; font-size: 1rem; }
.lead { font-size: 1.125rem; color: var(--ink); max-width: 46rem; }
.wide { overflow-x: auto; overflow-wrap: normal; margin-bottom: 1.5rem; }
.wide table { margin: 0; }
.n { text-align: right; white-space: nowrap; }
td { padding-right: 1rem; }
.n:last-child, td:last-child { padding-right: 0; }
details { margin-bottom: 1rem; }
summary { min-height: 0; }
@media (max-width: 40rem) { .wide .n { white-space: normal; } }
@media (min-width: 52rem) { .two { columns: 2; column-gap: 2.5rem; } }
"""
)


def card_page(card: "Card") -> bytes:
    """Write the page of a card."""
    sections = "\n".join(f'<section class="sheet">{section}</section>' for section in _sections(card))
    about = f'<p class="lead">{escape(card.description)}</p>' if card.description else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="content-security-policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{escape(card.model)} {escape(card.version)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(card.model)}</h1>
<p>Card of version <code>{escape(card.version)}</code></p>
{about}
</header>
<main>
{sections}
</main>
</body>
</html>
""".encode()


def _sections(card: "Card") -> Iterator[str]:
    found = card.evaluation
    yield _overall(card)
    yield _caveats(card)
    if found is not None:
        yield from _slices(card.contract, found)
        yield from _of_target(card.contract, found)
        yield from _over_time(card.contract, found)
        yield _importance(card.contract, found)
    elif card.slices:
        yield _old_slices(card)
    yield _training(card)
    yield _contract(card.contract)
    yield _origin(card)


def _overall(card: "Card") -> str:
    contract, found = card.contract, card.evaluation
    unit, main = contract.error_unit, mean_loss(contract.target)
    intervals = found.intervals if found else {}
    asked = f"Predicts <b>{escape(contract.target.name)}</b>"
    asked += f", {escape(contract.target.description)}" if contract.target.description else ""
    judged = f"On {counted(card.data.rows_test, 'row')} that it had not seen ({escape(_judged_on(card))})"
    if main in card.metrics:
        loss = escape(with_unit(card.metrics[main], unit))
        judged += f" its {contract.error_name} is <b>{loss}</b>{_between(intervals.get(main))}"
    naive = ""
    if found is not None:
        loss = escape(with_unit(found.naive_loss, unit))
        naive = f" Without learning it would be {loss}{_between(found.naive_interval)}."
    rows = [
        [METRICS.get(name, name), f"{value:,.0f}" if name == COUNT else number(value), _ends(intervals.get(name))]
        for name, value in card.metrics.items()
    ]
    table = table_html(["", unit, "95 % interval" if intervals else ""], rows, numbers=(1, 2))
    return f"<h2>How good it is</h2><p>{asked}. {judged}.{naive}</p>{_wide(table)}"


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f" (95\u00a0%: {_ends(interval)})"


def _ends(interval: Interval | None) -> str:
    return "" if interval is None else span(interval.low, interval.high)


def _judged_on(card: "Card") -> str:
    data = card.data
    if data.test_from is None:
        return "a share of all, chosen by what they hold"
    return f"known from {_moment(data.test_from)} to {_moment(card.as_of)}"


def _slices(contract: Contract, found: Evaluation) -> Iterator[str]:
    if not found.slices:
        return
    unit, parts = contract.error_unit, []
    for name, groups in found.slices.items():
        ranges = [
            Range(
                group,
                one.loss,
                one.interval.low if one.interval else None,
                one.interval.high if one.interval else None,
                (number(one.loss), _ends(one.interval), f"{one.rows:,}"),
            )
            for group, one in groups.items()
        ]
        overall = sum(one.loss * one.rows for one in groups.values()) / sum(one.rows for one in groups.values())
        drawn = ", ".join(filter(None, (contract.error_name, unit)))
        table = ranges_html((name, drawn, "", "95 % interval", "rows"), ranges, mark=overall)
        parts.append(_wide(table))
    yield f"<h2>For whom it is worse</h2><p>The dashed line is the error over all rows.</p>{''.join(parts)}"


def _old_slices(card: "Card") -> str:
    unit = card.contract.error_unit
    tables = (
        facts_html(
            f"{card.contract.error_name} by {name}", ((group, with_unit(loss, unit)) for group, loss in one.items())
        )
        for name, one in card.slices.items()
    )
    return f'<h2>For whom it is worse</h2><div class="two">{"".join(tables)}</div>'


def _of_target(contract: Contract, found: Evaluation) -> Iterator[str]:
    target = contract.target
    if found.calibration is not None:
        yield _calibration(found.calibration)
    if isinstance(target, Number):
        yield _intervals(target, found)
        yield _spread(target, found)


def _calibration(found: Calibration) -> str:
    bins = found.bins
    bands = [(one.told, one.interval.low, one.interval.high) for one in bins if one.interval]
    ends = [*(one.told for one in bins), *(one.came for one in bins), *(high for _, _, high in bands)]
    most = min(1.0, 1.05 * max(ends))
    ticks = tuple((share, percent(share)) for share in drawing.round_numbers(0.0, most))
    series = (
        Series("as often as told", [(0.0, 0.0), (most, most)], "quiet"),
        Series("found, with 95 % intervals", [(one.told, one.came) for one in bins], dots=True, band=bands),
    )
    chart = chart_html("How often it came", Axis("told", 0.0, most, ticks), Axis("came", 0.0, most, ticks), series)
    rows = [[percent(one.told), percent(one.came), _percents(one.interval), f"{one.rows:,}"] for one in bins]
    table = table_html(["told", "came", "95 % interval", "rows"], rows, numbers=(0, 1, 2, 3))
    return f"""<h2>Whether its probabilities can be taken at their word</h2>
<p>Of the event that {escape(found.event)}: told and found are {percent(found.expected_error)} apart in the mean
(expected calibration error); as many rows would show {percent(found.error_by_chance)} by chance if it came as often as
told. The event's Brier score is made of reliability, {number(found.reliability)} (what better calibration would save),
less resolution, {number(found.resolution)} (what telling rows apart has saved), plus uncertainty,
{number(found.uncertainty)}.</p>
{chart}
<details><summary>In figures</summary>{_wide(table)}</details>"""


def _percents(interval: Interval | None) -> str:
    return "" if interval is None else f"{percent(interval.low)} to {percent(interval.high)}"


def _intervals(target: Number, found: Evaluation) -> str:
    made = found.prediction_intervals
    head = "<h2>How far off a single prediction may be</h2>"
    if made is None:
        return f"{head}<p>There are no prediction intervals: {escape(found.no_prediction_intervals)}.</p>"
    rows = [
        [percent(one.share), percent(one.coverage), _percents(one.interval), with_unit(one.mean_width, target.unit)]
        for one in made.levels
    ]
    heads = ["asked", "held", "95 % interval", "mean width"]
    parts = "rows that stopped the training, and measured on those that judge"
    if made.made_from == "test":
        parts = "of the rows that judge, the earlier half, and measured on the later one"
    return f"""{head}
<p>Intervals about a prediction, made from {made.rows:,} {parts}: of which share of them
the truth was asked to lie within, and did. Their size goes by what is predicted.</p>
{_wide(table_html(heads, rows, numbers=(0, 1, 2, 3)))}
{_half_widths(target, made)}"""


def _half_widths(target: Number, made: PredictionIntervals) -> str:
    heads = [_called("predicted", target.unit), *(percent(one.share) for one in made.levels)]
    said = [number(edge) for edge in made.edges]
    between = [f"{low} to {high}" for low, high in pairwise(said)]
    names = [f"under {said[0]}", *between, f"from {said[-1]}"] if said else ["any"]
    rows = [[name, *(f"± {number(one.half_widths[place])}" for one in made.levels)] for place, name in enumerate(names)]
    return _wide(table_html(heads, rows, numbers=tuple(range(1, len(heads)))))


def _spread(target: Number, found: Evaluation) -> str:
    spread = found.spread
    x = Axis.of(_called("predicted", target.unit), [one.predicted for one in spread])
    y = Axis.of(
        _called(target.name, target.unit), [end for one in spread for end in (one.low, one.high, one.predicted)]
    )
    ends = [max(x.least, y.least), min(x.most, y.most)]
    series = (
        Series("as predicted", [(end, end) for end in ends], "quiet"),
        Series(
            "middle of what came, and where eight of ten lay",
            [(one.predicted, one.middle) for one in spread],
            dots=True,
            band=[(one.predicted, one.low, one.high) for one in spread],
        ),
    )
    return f"<h2>What was predicted, and what came</h2>{chart_html('The truth by what was predicted', x, y, series)}"


def _called(name: str, unit: str) -> str:
    return ", ".join(filter(None, (name, unit)))


def _over_time(contract: Contract, found: Evaluation) -> Iterator[str]:
    spans = found.over_time
    if len(spans) < 2:
        return
    times = [one.start.replace(tzinfo=UTC).timestamp() for one in spans]
    ticks = tuple((times[place], f"{spans[place].start:%d %b}") for place in (0, len(spans) // 2, len(spans) - 1))
    gap = times[1] - times[0]
    days = dict.fromkeys(f"{spans[place].start:%Y-%m-%d}" for place in (0, -1))
    x = Axis(" to ".join(days), times[0] - gap / 2, times[-1] + gap / 2, ticks)
    losses = [one.loss for one in spans]
    y = Axis.of(_called(contract.error_name, contract.error_unit), [*losses, 0.0])
    charts = [chart_html("The error over time", x, _from(0.0, y), [Series("", list(zip(times, losses, strict=True)))])]
    biases = [(at, one.bias) for at, one in zip(times, spans, strict=True) if one.bias is not None]
    if biases:
        y = Axis.of(_called("mean of predicted - true", contract.error_unit), [*(bias for _, bias in biases), 0.0])
        zero = Series("", [(x.least, 0.0), (x.most, 0.0)], "quiet")
        charts.append(chart_html("Predicted less true over time", x, y, [zero, Series("", biases)]))
    rows = [one.rows for one in spans]
    each = counted(max(rows), "row") if min(rows) == max(rows) else f"{min(rows):,} to {max(rows):,} rows"
    said = f"{len(spans)} spans of equal length, of {each}; those of few rows say little."
    yield f"<h2>How it did over time</h2><p>{said}</p>{''.join(charts)}"


def _from(least: float, axis: Axis) -> Axis:
    return Axis(axis.label, least, axis.most, axis.ticks)


def _importance(contract: Contract, found: Evaluation) -> str:
    ordered = sorted(found.importance.items(), key=lambda one: -one[1].loss_increase)
    ranges = [
        Range(
            name,
            one.loss_increase,
            one.interval.low if one.interval else None,
            one.interval.high if one.interval else None,
            (number(one.loss_increase), _ends(one.interval)),
        )
        for name, one in ordered[:_MOST_COLUMNS]
    ]
    more = len(ordered) - len(ranges)
    rest = f"<p>{counted(more, 'further column')} {'matters' if more == 1 else 'matter'} less.</p>" if more else ""
    heads = ("column", _called(f"rise of the {contract.error_name}", contract.error_unit), "", "95 % interval")
    return f"""<h2>What it rests on</h2>
<p>By how much the error rises where a column's values are shuffled among {found.importance_rows:,} of the rows. Columns
that say much the same share what they are worth; a column may matter to the model and not to the world.</p>
{_wide(ranges_html(heads, ranges, as_bars=True))}
{rest}"""


def _training(card: "Card") -> str:
    data, found = card.data, card.evaluation
    held = "a share of all" if data.test_from is None else None
    first = f"about moments from {_moment(data.learn_from)} on, " if data.learn_from else ""
    rows = [
        ["learned from", f"{data.rows_train:,}", held or f"{first}known before {_moment(data.validation_from)}"],
        ["stopped it", f"{data.rows_validation:,}", held or f"known from then to {_moment(data.test_from)}"],
        ["judged it", f"{data.rows_test:,}", _judged_on(card)],
    ]
    curve = _curve(found) if found is not None and len(found.epochs) > 1 else ""
    settings = [
        (name, "none" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value))
        for name, value in together(card.settings, card.network_settings).items()
    ]
    warm = (
        f"Training went on from the weights of {escape(card.warm_start)}."
        if card.warm_start
        else "Trained from scratch."
    )
    return f"""<h2>How it was trained</h2>
<p>{warm} Only what was known at {_moment(card.as_of)} was read.</p>
{_wide(table_html(["", "rows", ""], rows, numbers=(1,)))}
{curve}
<details><summary>Settings</summary><div class="two">{facts_html("Settings", settings)}</div></details>"""


def _curve(found: Evaluation) -> str:
    epochs = list(enumerate(found.epochs, start=1))
    learned = [(float(epoch), one.train_loss) for epoch, one in epochs]
    stopping = [(float(epoch), one.validation_error) for epoch, one in epochs if one.validation_error is not None]
    ticks = tuple((float(epoch), f"{epoch}") for epoch in sorted({1, (len(epochs) + 1) // 2, len(epochs)}))
    x = Axis("epoch", 1.0, float(len(epochs)), ticks)
    y = Axis.of("what is made small", [value for _, value in (*learned, *stopping)])
    series = [Series("on rows learned from", learned, "quiet"), Series("on rows that stop", stopping)]
    kept = ""
    if stopping:
        best = min(stopping, key=lambda one: one[1])
        kept = f"<p>Kept: epoch {best[0]:.0f}.</p>"
    return chart_html("The loss by epoch", x, y, series if stopping else series[:1]) + kept


def _contract(contract: Contract) -> str:
    rows = [_column(column, "input") for column in contract.inputs]
    rows += [_column(contract.target, "target"), *(_column(column, "check of tables") for column in contract.checks)]
    table = table_html(["column", "is", "allowed", "may be empty", "meaning"], rows)
    return f"""<h2>What it is asked and answers</h2>
{_wide(table)}"""


def _column(column: Input, role: str) -> list[str]:
    match column:
        case Time():
            allowed = f"wall time of {column.zone}" if column.zone else "moment, UTC"
        case Number():
            allowed = f"{column.minimum:.12g} to {column.maximum:.12g} {column.unit}".rstrip()
        case Image():
            allowed = images.expected(column)
        case Category():
            shown = ", ".join(map(str, column.values[:_SHOWN_VALUES]))
            allowed = f"{counted(len(column.values), 'value')}: {shown}" + (
                ", ..." if len(column.values) > _SHOWN_VALUES else ""
            )
    nullable = isinstance(column, Number | Category) and column.nullable
    return [column.name, role, allowed, "yes" if nullable else "no", " ".join(column.description.split())]


def _origin(card: "Card") -> str:
    origin, data = card.origin, card.data
    facts = {
        "code": origin.code_commit,
        "sources": origin.source_digest,
        "data": data.commit,
        "environment": origin.environment_digest,
        "seed": str(card.seed),
        "model.onnx, sha256": card.onnx_digest,
        "contract's signature": card.contract.signature,
        "graph and network apart by": f"{card.parity.largest_difference:.2g} at most, on "
        + counted(card.parity.rows, "row"),
    }
    if (on := origin.computed) is not None:
        facts["computed on"] = f"{on.device} ({on.processor}), threads {on.threads}, processes {on.processes}"
        facts["by"] = f"torch {on.torch}, Python {on.python}"
    objects = "".join(f"<li><code>{escape(path)}</code></li>" for path in data.paths)
    installed = "".join(f"<li><code>{escape(one)}</code></li>" for one in origin.distributions)
    lists = [
        (f"{counted(len(data.paths), 'object')} of the lake read", objects),
        (f"{counted(len(origin.distributions), 'distribution')} installed", installed),
    ]
    more = "".join(
        f'<details><summary>{head}</summary><ul class="two">{body}</ul></details>' for head, body in lists if body
    )
    return f"<h2>Where it comes from</h2>{facts_html('Origin', facts.items())}{more}"


def _caveats(card: "Card") -> str:
    found, until = card.evaluation, _moment(card.as_of)
    said = [card.caveat] if card.caveat else []
    if card.data.test_from is not None:
        said.append(
            f"It was judged by what was known until {until}; of a world that has changed since it says nothing."
        )
    if found is not None:
        rows = "as if each were independent of the others"
        how = (
            rows
            if card.contract.time is None
            else f"by {counted(found.blocks, 'span')} of time, for rows near in time are alike"
        )
        said.append(
            f"Intervals are of 95 %, from rows drawn again and again, {how}. They say how surely a figure is "
            "known of such rows, not how it would change with another seed."
        )
    if card.settings.get("class_weights") == "balanced":
        said.append(
            "Rare values were given the weight of frequent ones: probabilities are those of a world in which all are "
            "as frequent."
        )
    items = "".join(f"<li>{escape(one)}</li>" for one in said) or "<li>Nothing was recorded.</li>"
    return f"<h2>What to bear in mind</h2><ul>{items}</ul>"


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _wide(table: str) -> str:
    """Let a table be wider than the page."""
    return f'<div class="wide">{table}</div>'
