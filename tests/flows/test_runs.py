"""Runs beside each other: what was trained here, what others registered, what failed, and the page in a browser."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from flows import screens
from flows.runs import Line, Runs, runs
from flows.runs_page import with_page, write_runs
from flows.train import train
from infra import registry
from infra.assembly import assemble
from infra.errors import Misconfigured, NotFound
from infra.settings import load_settings
from models.errors import TrainingDiverged
from models.setting_names import together
from tests.flows.conftest import AS_OF, EPOCHS, add_scaled, champion, lake
from tests.flows.test_report import EVIL, Page
from tests.infra.test_runs import BEGUN

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless Chromium that writes below a folder of its own; it makes a socket there, whose path must be short."""
    folder = tmp_path_factory.mktemp("b")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", f"user-data-dir={folder / 'chromium'}"):
        options.add_argument(f"--{argument}")
    home = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER, env={"PATH": "/usr/bin:/bin", **home}))
    yield driver
    driver.quit()


def only(found: Runs) -> Line:
    (line,) = found.runs
    return line


def test_a_training_is_a_run_with_its_curve_and_what_it_came_from(trained: Path) -> None:
    line = only(runs("taxi_eta", curves=True))

    card = registry.load_card(lake(), "main", champion())
    assert (line.status, line.version, line.branch, line.reason) == ("finished", card.version, "main", None)
    assert (line.settings, line.changed) == (together(card.settings, card.network_settings), ("epochs",))
    assert (line.metrics, line.as_of) == (card.metrics, AS_OF)
    assert (line.data_commit, line.code_commit) == (card.data.commit, card.origin.code_commit)
    assert (line.tracker_run, line.flow_run) == (card.origin.tracker_run, card.origin.flow_run)
    assert line.tracker_run == f"okruh-taxi_eta/{line.id}"
    assert (line.device, line.warm_start) == ("cpu", None)
    assert line.seconds is not None
    assert len(line.curves["validation_error"].values) == EPOCHS["epochs"]
    assert "learning_rate" in line.curves


def test_a_training_that_is_found_again_is_no_further_run(trained: Path) -> None:
    assert train("taxi_eta", AS_OF, overrides=EPOCHS).cached

    assert len(runs("taxi_eta").runs) == 1


def test_a_training_that_failed_is_a_run_with_its_reason(trained: Path) -> None:
    with pytest.raises(TrainingDiverged):
        train("taxi_eta", AS_OF, overrides={"epochs": 1, "learning_rate": 1e30})

    failed, first = runs("taxi_eta").runs

    assert (failed.status, failed.version, failed.metrics) == ("failed", None, {})
    assert failed.reason is not None
    assert "lower the learning_rate" in failed.reason
    assert failed.changed == ("epochs", "learning_rate")
    assert first.status == "finished"


def test_what_others_registered_is_seen_with_its_curve(trained: Path) -> None:
    here = only(runs("taxi_eta", curves=True))
    shutil.rmtree(trained / "runs")

    assert only(runs("taxi_eta", curves=True)) == here


def test_a_bundle_without_a_record_is_a_run_as_its_card_tells(trained: Path) -> None:
    add_scaled("20200302-scaled", 1.5)

    made = next(line for line in runs("taxi_eta").runs if line.version == "20200302-scaled")

    assert (made.id, made.status, made.seconds, made.device) == ("20200302-scaled", "finished", None, "")


def test_names_what_differs_between_chosen_runs(trained: Path) -> None:
    made = train("taxi_eta", AS_OF, overrides=EPOCHS | {"seed": 1})
    first = champion()

    found = runs("taxi_eta", [first, made.version])

    assert [line.version for line in found.runs] == [first, made.version]
    assert found.differing == ["seed"]
    assert all(line.curves for line in found.runs)


def test_a_run_is_named_by_its_id_its_beginning_or_its_version(trained: Path) -> None:
    line = only(runs("taxi_eta"))

    for name in (line.id, line.id[:-2], str(line.version)):
        assert only(runs("taxi_eta", [name])).id == line.id
    with pytest.raises(NotFound, match="no run is called 'x'"):
        runs("taxi_eta", ["x"])


def test_a_beginning_of_several_runs_names_none(home: Path) -> None:
    index = assemble(load_settings()).runs("taxi_eta")
    for end in ("beef", "cafe"):
        index.begin(msgspec.structs.replace(BEGUN, id=f"20200301-000000-{end}"))

    with pytest.raises(Misconfigured, match="2 runs begin with '20200301'"):
        runs("taxi_eta", ["20200301"])


def test_says_that_nothing_has_been_trained(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screens.runs(runs("taxi_eta"))

    assert capsys.readouterr().out == "taxi_eta has not been trained yet; run `okruh train taxi_eta`\n"
    assert not home.exists()


def line(number: int, **changes: object) -> Line:
    at = datetime(2020, 3, 1, 10, number, tzinfo=UTC)
    told = {
        "id": f"20200301-10{number:02}00-beef",
        "status": "finished",
        "reason": None,
        "version": f"20200301-v{number}",
        "branch": "main",
        "began_at": at,
        "seconds": 90.0 * number,
        "as_of": at - timedelta(hours=number),
        "learn_from": None,
        "settings": {"epochs": number, "clip_norm": None},
        "changed": ("epochs",),
        "warm_start": None,
        "device": "cpu",
        "data_commit": "c0" * 32,
        "data_digest": "d1" * 8,
        "code_commit": "g",
        "source_digest": "s",
        "environment_digest": "e",
        "flow_run": "f",
        "tracker_run": "t",
        "study": None,
        "trial": None,
        "metrics": {"brier": 0.125 * number, "rows": 2000.0},
        "curves": {
            "train_loss": {"steps": [1, 2, 3], "values": [3.0, 2.0, None]},
            "validation_error": {"steps": [3], "values": [1.0]},
        },
    }
    return msgspec.convert(json.loads(msgspec.json.encode(told | changes)), Line)


FAILED: dict[str, object] = {
    "status": "failed",
    "version": None,
    "metrics": {},
    "reason": "no rows to train on",
    "curves": {},
}


def test_shows_a_run_a_line_and_why_one_failed(capsys: pytest.CaptureFixture[str]) -> None:
    screens.runs(Runs(model="tiny", runs=[line(2), line(1, **FAILED)], chosen=False, differing=[]))

    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["run", "status", "version", "began", "took", "brier", "rows", "settings"],
        [
            "20200301-100200-beef",
            "finished",
            "20200301-v2",
            "2020-03-01",
            "10:02",
            "3.0",
            "min",
            "0.25",
            "2,000",
            "epochs=2",
        ],
        ["20200301-100100-beef", "failed", "2020-03-01", "10:01", "90.0", "s", "epochs=1"],
        ["20200301-100100-beef", "failed:", "no", "rows", "to", "train", "on"],
    ]


def test_shows_chosen_runs_a_column_each_with_what_differs_marked(capsys: pytest.CaptureFixture[str]) -> None:
    screens.runs(Runs(model="tiny", runs=[line(1), line(2)], chosen=True, differing=["epochs", "as_of"]))

    said = capsys.readouterr().out
    rows = [row.split() for row in said.splitlines()]
    assert ["*", "epochs", "1", "2"] in rows
    assert ["clip_norm", "none", "none"] in rows
    assert ["brier", "0.125", "0.25"] in rows
    assert ["data", "commit", "c0" * 32, "c0" * 32] in rows
    assert said.splitlines()[-1] == "* not the same in all: epochs, as_of"


def test_the_page_lies_in_the_state_folder_and_needs_no_network(trained: Path) -> None:
    told = with_page(runs("taxi_eta", curves=True))

    assert told.page == trained / "reports" / "taxi_eta-runs.html"
    page = Page(told.page.read_text())
    assert page.fetched == []
    assert champion() in page.text


def test_the_page_shows_texts_as_they_are_and_runs_none(tmp_path: Path) -> None:
    told = Runs(model="tiny", runs=[line(2), line(1, **FAILED | {"reason": EVIL})], chosen=False, differing=[])
    plain = Runs(model="tiny", runs=[line(2), line(1, **FAILED)], chosen=False, differing=[])

    page, expected = (Page(write_runs(one, tmp_path / "page.html").read_text()) for one in (told, plain))

    assert (page.tags, page.fetched) == (expected.tags, [])
    assert EVIL in page.text


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="wants a browser: apt-get install chromium chromium-driver")
def test_a_person_sees_curves_metrics_and_what_differs(tmp_path: Path, browser: webdriver.Chrome) -> None:
    told = Runs(model="tiny", runs=[line(2), line(1), line(3, **FAILED)], chosen=True, differing=["epochs", "as_of"])
    browser.get(write_runs(told, tmp_path / "page.html").as_uri())

    heads = [head.text for head in browser.find_elements(By.TAG_NAME, "h2")]
    assert heads == ["validation_error", "train_loss", "Metrics", "Parameters"]
    assert len(browser.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .main-svg:first-of-type")) >= 3
    legend = browser.find_elements(By.CSS_SELECTOR, ".js-plotly-plot")[1].find_elements(By.CLASS_NAME, "legendtext")
    assert [one.text for one in legend] == ["20200301-v2", "20200301-v1"]
    marked = browser.find_elements(By.CSS_SELECTOR, "tr.m td:first-child")
    assert [one.text for one in marked] == ["epochs", "as_of"]
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
