"""The report: one page that needs no network, whatever texts it is given."""

from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from flows.report import write_report
from flows.story import (
    AlarmLine,
    JournalCheck,
    Labels,
    Month,
    PromotionLine,
    Requests,
    Story,
    Told,
    VerdictLine,
)
from infra.errors import Unavailable
from models.catalog.taxi_eta import MODEL
from models.model import MonthlySample
from models.watching.alarms import DetectorState
from models.watching.windows import WindowReport

AT = datetime(2020, 3, 16, 4, tzinfo=UTC)
EVIL = "</script><script src='http://evil'>alert(1)</script><b>&"


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        """Where it would ask for something."""
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]

    def handle_data(self, data: str) -> None:
        """Note a text."""
        if self.tags[-1:] != ["script"]:
            self.text += data


def told(text: str = "plain") -> Told:
    """A story of two months, an alarm and a promotion, with a text wherever there is room for one."""
    story = Story(
        model="taxi_eta",
        branch="loop-1",
        data_commit="c",
        versions=("first", "second"),
        months=(
            Month(month="2020-03", trips=1234, error_first_model=5.0, error_served=4.0, versions=("first", text)),
            Month(month="2020-04", trips=7, error_first_model=6.5, error_served=2.25, versions=("second",)),
        ),
        alarms=(AlarmLine(at=AT, window=(AT, AT), statistic=7.5, detail=f"alarm {text}"),),
        verdicts=(VerdictLine(at=AT, version="second", allowed=False, reasons=(f"reason {text}",)),),
        promotions=(
            PromotionLine(
                at=AT, version="first", error_next_month=3.5, error_previous_champion=None, seconds_to_first_answer=None
            ),
            PromotionLine(
                at=AT, version=text, error_next_month=None, error_previous_champion=None, seconds_to_first_answer=0.25
            ),
        ),
        requests=Requests(sent=1300, refused=59, failed=0, during_swaps=0, refusals={f"refusal {text}": 59}),
        labels=Labels(sent=1241, joined=1241),
        journal=JournalCheck(rows=1241, largest_difference=0.0),
    )
    window = WindowReport(
        start=AT,
        end=AT,
        version="first",
        labels=3,
        mean_error=2.0,
        reference_error=1.0,
        statistic=0.5,
        drift={text: 0.1},
        alarm=None,
        state=DetectorState(null_mean=0.1, log_m=(0.0,)),
    )
    return Told(story=story, windows=[window])


def test_needs_no_network(tmp_path: Path) -> None:
    page = Page(write_report(MODEL, told(), tmp_path / "reports" / "page.html").read_text())

    assert page.fetched == []
    assert not {"link", "img", "iframe"} & set(page.tags)


def test_shows_the_figures(tmp_path: Path) -> None:
    content = write_report(MODEL, told(), tmp_path / "page.html").read_text()
    text = Page(content).text

    assert content.count("Plotly.newPlot(") == 3
    for said in (
        "1,300 requests played",
        "2.25 minutes as served, 6.50 had the first model been left alone",
        "1 alarm, 0 promotions",
        "1,234",
        "59 refused by the contract",
        "alarm plain",
        "reason plain",
        "refusal plain",
        "0.25 s",
        MODEL.description,
    ):
        assert said in text
    assert "None" not in text
    assert "nan" not in text


@pytest.mark.parametrize("text", [EVIL, "<!--", "]]>", "'\"`${x}"])
def test_shows_texts_as_they_are_and_runs_none(tmp_path: Path, text: str) -> None:
    assert isinstance(MODEL.sample, MonthlySample)
    target = msgspec.structs.replace(MODEL.contract.target, unit=text)
    model = replace(
        MODEL,
        description=f"description {text}",
        sample=replace(MODEL.sample, caveat=f"caveat {text}"),
        contract=msgspec.structs.replace(MODEL.contract, target=target),
    )

    page = Page(write_report(model, told(text), tmp_path / "page.html").read_text())

    expected = Page(write_report(MODEL, told(), tmp_path / "plain.html").read_text())
    assert (page.tags, page.fetched) == (expected.tags, [])
    for place in ("alarm", "reason", "refusal", "description", "caveat"):
        assert f"{place} {text}" in page.text


def test_tells_of_a_quiet_period(tmp_path: Path) -> None:
    quiet = msgspec.structs.replace(told().story, months=told().story.months[:1], alarms=(), promotions=())

    text = Page(write_report(MODEL, Told(story=quiet, windows=[]), tmp_path / "page.html").read_text()).text

    assert "0 alarms, 0 promotions" in text
    assert "AlarmsNone." in text


def test_says_when_the_page_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(Unavailable, match="cannot be written"):
        write_report(MODEL, told(), tmp_path / "file" / "page.html")
