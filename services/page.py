"""The page at `/`, where a person tries the model: a form made from the contract, the answer, its interval, the card.

One HTML document that asks for nothing else, so that it works offline and behind any prefix. Nothing runs in it but
what it was sent with: its policy names the digests of its one style and its one script, and all that comes from a card
is escaped. What is predicted here is recorded like every other prediction. Where keys are asked for, who has none sees
a field for it, and nothing of contract and card.

Of a category the answer is its most likely value, with the probabilities of the likeliest. Of a number, the interval is
what the card supports, and no more: its prediction interval of nine of ten rows, as wide as answers of that size need;
where it has none, the answer give or take the error that nine of ten test rows kept to, the same for every row. Either
is cut off at the target's range. A card with neither shows its mean error, as such.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape

import msgspec

from models.bundle import Card
from models.contract import images
from models.contract.columns import Category, Image, Input, Number, Time, described
from models.contract.rows import example_row
from models.pages import words
from services.browser import SCRIPT, STYLE

CONTENT_TYPE = b"text/html; charset=utf-8"

_SHARE = 0.9
"""Of rows, that an interval shall hold."""
_SELECTED_FROM = 12
"""Categories of more values are searched by typing."""


def _policy() -> bytes:
    style, script = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (STYLE, SCRIPT)
    )
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).encode()


HEADERS = (
    (b"content-security-policy", _policy()),
    (b"referrer-policy", b"no-referrer"),
)
"""What goes with the page."""


def page(card: Card) -> bytes:
    """Write the page of a champion."""
    target = card.contract.target
    example = example_row(card.contract)
    fields = "\n".join(
        _field(f"c{place}", column, example[column.name]) for place, column in enumerate(card.contract.inputs)
    )
    about = f", {escape(target.description)}" if target.description else ""
    unit = f", in {escape(target.unit)}" if isinstance(target, Number) else ""
    return _document(
        card.model,
        f"""<p>Predicts <strong>{escape(target.name)}</strong>{about}{unit}. Version <code
>{escape(card.version)}</code>.</p>
</header>
<main>
<form class="sheet" novalidate autocomplete="off" aria-labelledby="asked">
<h2 id="asked">What is asked</h2>
<p class="alert" id="alert" role="alert" hidden></p>
{_key_field("hidden")}
{fields}
<div class="buttons"><button type="submit">Predict</button><button type="reset">Example again</button></div>
</form>
<section class="sheet" aria-labelledby="answered">
<h2 id="answered">Answer: {escape(target.name)}</h2>
<div id="answer" role="status">
<p class="quiet">None yet. Answers are recorded, like those to any other caller.</p>
</div>
</section>
<section class="sheet card" aria-labelledby="card">
<h2 id="card">Card of {escape(card.version)}</h2>
<div class="tables">
{_tables(card)}
</div>
</section>
</main>
<script type="application/json" id="about">{_json(_about(card))}</script>""",
    )


def locked_page(model: str) -> bytes:
    """Write the page that asks for a key and then, with it, for the page itself."""
    return _document(
        model,
        f"""<p>Whoever tries this model needs a key.</p>
</header>
<main>
<form class="sheet" novalidate autocomplete="off">
{_key_field()}
<div class="buttons"><button type="submit">Open</button></div>
</form>
</main>""",
    )


def _document(model: str, content: str) -> bytes:
    """Write a document of which `content` is what follows the title, within the header."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(model)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(model)}</h1>
{content}
<noscript><p class="alert">The form needs JavaScript; the service itself does not: POST /v1/predict.</p></noscript>
<script>{SCRIPT}</script>
</body>
</html>
""".encode()


def _key_field(hidden: str = "") -> str:
    return f"""<div class="field" id="key-field" {hidden}>
<label for="key">API key</label>
<input id="key" type="password" autocomplete="off" aria-describedby="key-hint key-error">
<p class="hint" id="key-hint">Stays in this field; closing the page forgets it.</p>
<p class="error" id="key-error" hidden></p>
</div>"""


def _about(card: Card) -> dict[str, object]:
    """Say what the script must know: the target, and the error that the card supports."""
    return {"version": card.version, "target": card.contract.target, "error": _error(card)}


def _error(card: Card) -> dict[str, object]:
    made = card.evaluation.prediction_intervals if card.evaluation else None
    level = next((one for one in made.levels if one.share == _SHARE), None) if made else None
    if made and level:
        return {"kind": "interval", "edges": made.edges, "half_widths": level.half_widths, "held": level.coverage}
    if (size := card.metrics.get("absolute_error_90")) is not None:
        return {"kind": "interval", "edges": (), "half_widths": (size,), "held": _SHARE}
    if (size := card.metrics.get("mae")) is not None:
        return {"kind": "mean", "size": size}
    return {"kind": "none"}


def _json(value: object) -> str:
    """Write JSON that ends no script element."""
    return msgspec.json.encode(value).decode().replace("<", "\\u003c")


def _field(name: str, column: Input, example: object) -> str:
    optional = isinstance(column, Number | Category) and column.nullable
    note = ", ".join(part for part in (_unit(column), "may be empty" if optional else "") if part)
    hint = "; ".join(part for part in (described(column), _range(column)) if part)
    return f"""<div class="field">
<label for="{name}">{escape(column.name)} <span>{escape(note)}</span></label>
{_input(name, column, str(example), optional=optional)}
<p class="hint" id="{name}-hint">{escape(hint)}</p>
<p class="error" id="{name}-error" hidden></p>
</div>"""


def _unit(column: Input) -> str:
    match column:
        case Time():
            return column.zone or "UTC"
        case Number() | Image():
            return column.unit
    return ""


def _range(column: Input) -> str:
    match column:
        case Time():
            return "wall time there" if column.zone else ""
        case Number():
            return f"{column.minimum:.12g} to {column.maximum:.12g}"
        case Image():
            return f"{images.expected(column)}, as JSON"
        case Category() if len(column.values) > _SELECTED_FROM:
            return f"one of {len(column.values)} values: type to search"
    return ""


def _input(name: str, column: Input, example: str, *, optional: bool) -> str:
    about = f'id="{name}" name="{escape(column.name)}" aria-describedby="{name}-hint {name}-error"'
    about += "" if optional else ' aria-required="true"'
    match column:
        case Time():
            kind = "local" if column.zone else "instant"
            value = escape(example.removesuffix("Z"))
            return f'<input {about} data-kind="{kind}" type="datetime-local" step="1" value="{value}">'
        case Number():
            keys = "decimal" if column.minimum >= 0 else "text"  # keyboards for decimals have no minus
            return f'<input {about} data-kind="number" inputmode="{keys}" value="{escape(f"{float(example):g}")}">'
        case Image():
            return f'<textarea {about} data-kind="image" rows="8" spellcheck="false">{escape(example)}</textarea>'
    about += f' data-kind="{"text" if column.is_text else "integer"}"'
    if len(column.values) > _SELECTED_FROM:
        options = "".join(f'<option value="{escape(str(value))}"></option>' for value in column.values)
        datalist = f'<datalist id="{name}-list">{options}</datalist>'
        return f'<input {about} list="{name}-list" value="{escape(example)}">{datalist}'
    options = "".join(f'<option value="{escape(str(value))}">{escape(str(value))}</option>' for value in column.values)
    none = '<option value="">none</option>' if optional else ""
    return f"<select {about}>{none}{options}</select>"


def _tables(card: Card) -> str:
    unit, what = card.contract.error_unit, card.contract.error_name.capitalize()
    metrics = {
        words.METRICS.get(name, name): f"{value:,.0f}" if name == words.COUNT else _with_unit(value, unit)
        for name, value in card.metrics.items()
    }
    return "\n".join(
        (
            _table("On rows that the model had not seen", metrics),
            *(
                _table(f"{what} by {name}", {value: _with_unit(error, unit) for value, error in errors.items()})
                for name, errors in card.slices.items()
            ),
            _table("Where it comes from", _origin(card)),
        )
    )


def _with_unit(value: float, unit: str) -> str:
    return f"{value:#.3g} {unit}".rstrip()


def _origin(card: Card) -> dict[str, str]:
    data = card.data
    return {
        "trained as of": _moment(card.as_of),
        "made": _moment(card.created_at),
        "judged on": "a share of the rows" if data.test_from is None else f"rows from {_moment(data.test_from)} on",
        "rows: learned, tuned by, judged": f"{data.rows_train:,}, {data.rows_validation:,}, {data.rows_test:,}",
        "data commit": data.commit,
        "code commit": card.origin.code_commit,
        "weights it started from": card.warm_start or "none",
        "model.onnx sha256": card.onnx_digest,
        "contract's signature": card.contract.signature,
    }


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _table(caption: str, rows: Mapping[str, str]) -> str:
    return f"<table><caption>{escape(caption)}</caption>{''.join(_lines(rows.items()))}</table>"


def _lines(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
