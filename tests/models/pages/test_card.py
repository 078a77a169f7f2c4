"""The page of a card: what it says, that nothing of a card becomes markup, and that it is whole by itself."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

from models.bundle import PAGE, Bundle, Card
from models.contract.columns import Category, Contract, Number, Slice, Time, TimePart
from models.evaluating.evaluation import Answered, evaluate
from models.figures import Epoch
from models.inference import GraphInputs, Predictor
from models.pages.card import card_page

BundleMaker = Callable[..., Bundle]
ROWS = 600


class Read(HTMLParser):
    """A page's elements, opened and closed in order, and its text."""

    EMPTY = frozenset({"meta", "link"})

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html.decode())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if "style" in self.open else data


def rows() -> GraphInputs:
    draw = np.random.default_rng(0)
    weights = draw.uniform(0, 50, ROWS).astype(np.float32)
    weights[::7] = np.nan
    start = int(np.datetime64("2020-02-03T00:00:00", "s").astype(np.int64))
    return {
        "starts_at": start + np.arange(ROWS) * 3600,
        "distance": draw.uniform(0, 100, ROWS).astype(np.float32),
        "weight": weights,
        "kind": draw.choice(np.array(["bike", "car"], object), ROWS),
        "zone": draw.integers(1, 4, ROWS),
    }


def judged(bundle: Bundle, validation: int = ROWS) -> Card:
    """Give a bundle's card with an evaluation of its graph on simulated rows."""
    draw, contract = np.random.default_rng(1), bundle.card.contract
    columns, predict = rows(), Predictor(bundle.onnx, contract).predict
    answers = predict(columns)
    if isinstance(contract.target, Category):
        values = contract.target.values
        truth = [values[draw.choice(len(values), p=one / one.sum())] for one in answers.astype(np.float64)]
        naive: npt.NDArray[np.float32] = np.full(answers.shape, 1 / len(values), np.float32)
    else:
        truth, naive = (answers + draw.normal(0, 5, ROWS)).tolist(), np.full(ROWS, 100.0, np.float32)
    epochs = [Epoch(train_loss=3.0 - epoch, validation_error=3.5 - epoch) for epoch in (1, 2)]
    stopped = Answered(answers[:validation], truth[:validation])
    found = evaluate(contract, Answered(answers, truth), columns, stopped, naive, predict, epochs)
    return replace(bundle.card, evaluation=found, description="A ride.", caveat="It is simulated.")


@pytest.fixture
def regression(make_bundle: BundleMaker) -> Card:
    return judged(make_bundle())


@pytest.fixture
def classification(make_classifier: BundleMaker) -> Card:
    return judged(make_classifier())


def test_a_card_of_a_regression_says_how_good_it_is_and_how_surely(regression: Card) -> None:
    text = Read(card_page(regression)).text

    for told in (
        "A ride.",
        "It is simulated.",
        "Predicts minutes. On 1 row that it had not seen",
        "its mean error is 1.50 min (95 %: ",
        "Without learning it would be",
        "made from 600 rows that stopped the training",
        "by 25 spans of time",
        "How it did over time",
        "Kept: epoch 2.",
        "0 to 100 km",
        "wall time of America/New_York",
        regression.onnx_digest,
    ):
        assert told in " ".join(text.split()), told


def test_a_card_of_a_classifier_shows_its_calibration(classification: Card) -> None:
    text = " ".join(Read(card_page(classification)).text.split())

    assert "Of the event that the likeliest pace is right: told and found are" in text
    assert "as often as told" in text
    assert "prediction intervals" not in text


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_page_is_whole_by_itself_and_runs_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    html = card_page(request.getfixturevalue(kind)).decode()

    assert not re.search(r"<script|javascript:|@import|url\(", html)
    assert not re.search(r'(src|href)="(?!data:,)', html)
    assert "default-src 'none'" in html
    assert not re.search(r"\b(nan|inf)\b", Read(html.encode()).text)


def test_every_drawing_is_named_and_its_places_are_within_it(regression: Card) -> None:
    html = card_page(regression).decode()

    assert html.count('class="chart" role="img" aria-label="') == 4
    shares = [float(share) for share in re.findall(r'(?:x1|x2|cx|x)="(-?[\d.]+)%"', html)]
    assert len(shares) > 40
    assert all(0 <= share <= 100 for share in shares)
    points = [float(value) for path in re.findall(r'd="([^"]+)"', html) for value in re.findall(r"-?[\d.]+", path)]
    assert all(0 <= value <= 1000 for value in points)


def test_the_same_card_made_at_another_moment_by_another_run_has_the_same_page(regression: Card) -> None:
    origin = replace(regression.origin, flow_run="other", tracker_run="other")
    again = replace(regression, created_at=datetime(2030, 1, 1, tzinfo=UTC), origin=origin)

    assert card_page(again) == card_page(regression)


def test_intervals_of_a_training_that_nothing_stopped_are_of_the_earlier_test_rows(make_bundle: BundleMaker) -> None:
    text = Read(card_page(judged(make_bundle(), validation=0))).text

    told = "made from 300 of the rows that judge, the earlier half, and measured on the later one"
    assert told in " ".join(text.split())


def test_spans_of_as_many_rows_each_are_said_to_be_so(regression: Card) -> None:
    assert "25 spans of equal length, of 24 rows; those" in Read(card_page(regression)).text


def test_without_intervals_it_says_why(regression: Card) -> None:
    assert regression.evaluation is not None
    without = replace(regression.evaluation, prediction_intervals=None, no_prediction_intervals="they want more rows")

    text = Read(card_page(replace(regression, evaluation=without))).text

    assert "There are no prediction intervals: they want more rows." in text


def test_a_card_of_before_an_evaluation_was_kept_has_a_page(make_bundle: BundleMaker) -> None:
    card = replace(make_bundle().card, slices={"hour": {"0-5": 2.0}})

    text = Read(card_page(card)).text

    for told in ("mean error1.50", "mean error by hour", "0-52.00 min"):
        assert told in text


def test_nothing_of_a_card_becomes_markup(make_bundle: BundleMaker) -> None:
    nasty = "</style><script>alert(1)</script>\"'&<img src=x>"
    steering = f"{nasty}\n\u202e"
    contract = Contract(
        time=Time(name="starts_at", zone="America/New_York", parts=(TimePart.HOUR,), description=nasty),
        features=(
            Number(name="distance", unit=nasty, minimum=0, maximum=100, description=nasty),
            Category(name="kind", values=("bike", steering), description=nasty),
        ),
        target=Number(name=nasty.replace("/", ""), unit=nasty, minimum=0, maximum=1000, description=nasty),
        slices=(Slice(column="kind"),),
    )
    columns = {name: values for name, values in rows().items() if name in ("starts_at", "distance")}
    kinds = np.where(np.arange(ROWS) % 2 == 0, "bike", steering).astype(object)
    answers = columns["distance"].astype(np.float32)
    tested = Answered(answers, (answers + 1).tolist())
    found = evaluate(contract, tested, {**columns, "kind": kinds}, tested, answers, lambda found: found["distance"])
    card = make_bundle().card
    origin = replace(card.origin, code_commit=nasty, distributions=(nasty,))
    data = replace(card.data, paths=(nasty,), commit=nasty)
    changes = {"model": nasty, "version": nasty, "description": nasty, "caveat": nasty, "warm_start": nasty}
    whole = {"evaluation": found, "contract": contract, "origin": origin, "data": data, "settings": {nasty: nasty}}

    read = Read(card_page(replace(card, metrics={nasty: 1.0, "mae": 1.0}, **changes, **whole)))

    assert not {"script", "img"} & set(read.tags)
    assert read.text.count("<script>alert(1)</script>") > 15
    assert (read.text.count(f"{nasty}\\n\\u202e"), "\u202e" in read.text) == (2, False)


def test_a_bundle_comes_with_the_page_and_needs_none(make_bundle: BundleMaker) -> None:
    bundle = make_bundle()
    files = bundle.files()

    assert files[PAGE] == card_page(bundle.card)
    assert Bundle.from_files({name: content for name, content in files.items() if name != PAGE}) == bundle
