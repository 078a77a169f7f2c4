"""The story of a played period: exact numbers from the lake, and one page that needs no network."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from flows.monitor import monitor
from flows.report import write_report
from flows.retrain import retrain
from flows.story import Told, tell
from infra import registry
from infra.dataset import labelled_predictions
from infra.errors import Unavailable
from infra.traffic import Counts
from models.catalog.taxi_eta import CONTRACT, MODEL
from models.contract.table import to_columns
from models.inference import Predictor
from tests.flows.conftest import AS_OF, Answers, champion, lake
from tests.flows.test_monitor import A_WEEK_OF_HOURS, FIRST_MONDAY, TWO_WEEKS_LATER, WEEK

COUNTS = Counts(sent=340, refused=6, refusals={"trip_miles: out of range": 6}, labels_sent=334)


@pytest.fixture(scope="module")
def told(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Two weeks in which trips took half as long as predicted, an alarm and a promotion."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OKRUH_HOME", str(shutil.copytree(trained_home, tmp_path_factory.mktemp("played") / ".okruh")))
        yield play_two_weeks()


def play_two_weeks() -> Told:
    for start in (FIRST_MONDAY, FIRST_MONDAY + WEEK):
        Answers(start, A_WEEK_OF_HOURS, minutes=9.0, wrong_by=9.0, version=champion()).journal()
    monitor(MODEL.name, TWO_WEEKS_LATER, announce=False)
    retrain(MODEL.name, TWO_WEEKS_LATER)
    Answers(TWO_WEEKS_LATER, 10, minutes=9.0, wrong_by=-1.0, version=champion()).journal()
    monitor(MODEL.name, TWO_WEEKS_LATER + WEEK, announce=False)
    return tell(MODEL, lake(), "main", COUNTS, {champion(): 0.25})


def test_tells_errors_promotions_and_counts_as_they_were(told: Told) -> None:
    story = told.story
    first, second = story.versions
    rows, _ = labelled_predictions(CONTRACT, lake(), "main")
    answered_N = Predictor(registry.load_bundle(lake(), "main", first).onnx, CONTRACT).predict(
        to_columns(CONTRACT, rows)
    )
    (month,) = story.months

    assert (month.month, month.trips, month.versions) == ("2020-03", 2 * A_WEEK_OF_HOURS + 10, (first, second))
    assert month.mae_served == pytest.approx((2 * A_WEEK_OF_HOURS * 9 + 10) / month.trips)
    assert month.mae_first_model == pytest.approx(float(np.abs(answered_N - 9.0).mean()), rel=1e-5)
    assert [line.version for line in story.promotions] == [first, second]
    assert (story.promotions[0].mae_previous_champion, story.promotions[0].seconds_to_first_answer) == (None, None)
    assert story.promotions[1].seconds_to_first_answer == 0.25
    assert [alarm.window for alarm in story.alarms] == [(FIRST_MONDAY, datetime(2020, 3, 9, 4, tzinfo=UTC))]
    assert [(verdict.at, verdict.allowed) for verdict in story.verdicts] == [(AS_OF, True), (TWO_WEEKS_LATER, True)]
    assert (story.requests.sent, story.requests.refused, story.requests.failed) == (340, 6, 0)
    assert (story.labels.sent, story.labels.joined) == (334, month.trips)
    assert story.journal.rows == month.trips
    assert story.journal.largest_difference > 1  # these answers were made up


def test_writes_one_page_that_needs_no_network(told: Told, tmp_path: Path) -> None:
    page = write_report(MODEL, told, tmp_path / "reports" / "page.html").read_text()

    outside = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?http", page)
    assert outside == []
    assert page.count("Plotly.newPlot(") == 3
    assert all(version in page for version in told.story.versions)
    assert "trip_miles: out of range" in page


def test_escapes_what_a_definition_says(told: Told, tmp_path: Path) -> None:
    odd = replace(MODEL, description="<script>alert(1)</script>")

    page = write_report(odd, told, tmp_path / "page.html").read_text()

    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_says_when_the_page_cannot_be_written(told: Told, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(Unavailable, match="cannot be written"):
        write_report(MODEL, told, tmp_path / "file" / "page.html")
