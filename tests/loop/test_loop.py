"""The whole circuit as a user runs it: killed in the middle, run to its end, run again."""

import json
from contextlib import closing
from pathlib import Path
from random import Random
from subprocess import Popen, TimeoutExpired
from typing import Any, NamedTuple

import pytest

from infra import registry
from infra.assembly import repository
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import MAIN
from tests.loop.conftest import Laptop

STEP = Path(__file__).with_name("begun_step.py")
LOOP = ("loop", "taxi_eta", "--history-from", "2019-12", "--play-from", "2020-03", "--play-to", "2020-03", "--json")
LONGEST_S = {"train": 9.0, "promote": 0.8}
"""About what each step takes, so that kills fall anywhere in it."""


class Run(NamedTuple):
    """One `okruh loop`."""

    exit_code: int
    output: str
    errors: str

    @property
    def story(self) -> dict[str, Any]:
        """What it printed."""
        found: dict[str, Any] = json.loads(self.output)
        return found


def kill_in(laptop: Laptop, step: str, random: Random) -> None:
    """Kill a process at a random moment of a step."""
    with laptop.start(STEP, step) as process:
        wait_until_ready(process)
        try:
            process.wait(random.uniform(0, LONGEST_S[step]))
        except TimeoutExpired:
            process.kill()


def wait_until_ready(process: Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line == "ready\n", line or process.stderr.read()


def assert_whole(laptop: Laptop) -> None:
    """The lake verifies; every bundle on main is whole, and a rollout names one that a verdict allowed."""
    with closing(EmbeddedLake(laptop.home / "lake" / repository("taxi_eta"))) as lake:
        assert lake.verify() == []
        bundles = {version: registry.load_bundle(lake, MAIN, version) for version in registry.versions(lake, MAIN)}
        serving = registry.read_rollout(lake, MAIN)
        if serving is not None:
            assert serving.champion in bundles
            assert registry.promotion_of(lake, MAIN, serving.champion) is not None


@pytest.fixture(scope="module", params=[2, pytest.param(10, marks=pytest.mark.proof)])
def kills(request: pytest.FixtureRequest) -> int:
    """How often each step is killed."""
    return int(request.param)


@pytest.fixture(scope="module")
def interrupted(laptop: Laptop, kills: int) -> Laptop:
    """A laptop on which training and promotion were killed; what each kill left is checked."""
    random = Random(kills)
    for step in ("train", "promote"):
        for _ in range(kills):
            kill_in(laptop, step, random)
            assert_whole(laptop)
    return laptop


@pytest.fixture(scope="module")
def first(interrupted: Laptop) -> Run:
    """The loop, run after the kills."""
    return Run(*interrupted.okruh(*LOOP))


@pytest.fixture(scope="module")
def second(interrupted: Laptop, first: Run) -> Run:
    """The loop, run again."""
    assert first.exit_code == 0
    return Run(*interrupted.okruh(*LOOP))


def test_goes_on_after_kills(interrupted: Laptop, first: Run) -> None:
    assert (first.exit_code, first.errors.count("Traceback")) == (0, 0), first.errors
    assert_whole(interrupted)


def test_prints_one_object_and_nothing_else(first: Run) -> None:
    asked = "model data_commit versions months alarms verdicts promotions requests labels report seconds"

    assert first.output.count("\n") == 1
    assert set(asked.split()) <= first.story.keys()


def test_sees_the_world_change_and_recovers(first: Run) -> None:
    story = first.story

    (month,) = story["months"]
    assert "2020-03-16" <= story["alarms"][0]["at"][:10] <= "2020-03-31"
    assert month["error_served"] < month["error_first_model"]
    after_alarm = [line for line in story["promotions"] if line["at"] >= story["alarms"][0]["at"]]
    assert after_alarm
    assert all(line["error_next_month"] < line["error_previous_champion"] for line in after_alarm)
    assert story["versions"] == [line["version"] for line in story["promotions"]]
    assert all(verdict["reasons"] for verdict in story["verdicts"])


def test_loses_no_request_and_no_label(first: Run) -> None:
    requests, labels, journal = (first.story[key] for key in ("requests", "labels", "journal"))

    assert requests["failed"] == 0
    assert requests["sent"] > 9_900
    assert requests["refused"] == sum(requests["refusals"].values()) > 0
    assert journal["rows"] == requests["sent"] - requests["refused"]
    assert labels["sent"] == labels["joined"] > 9_500
    assert journal["largest_difference"] < 1e-3


def test_writes_a_report_that_needs_no_network(first: Run) -> None:
    page = Path(first.story["report"]).read_text()

    assert "Plotly.newPlot" in page
    assert 'src="http' not in page
    assert first.story["versions"][-1] in page


def test_writes_nothing_outside_its_home(interrupted: Laptop, second: Run) -> None:
    assert second.exit_code == 0
    assert interrupted.written_outside() == []


def test_a_second_loop_finds_its_steps_cached_and_gives_the_same_numbers(first: Run, second: Run) -> None:
    same = ("model", "data_commit", "versions", "months", "alarms", "verdicts", "labels", "journal")
    requests = ("sent", "refused", "failed", "refusals")

    assert {key: second.story[key] for key in same} == {key: first.story[key] for key in same}
    assert [second.story["requests"][key] for key in requests] == [first.story["requests"][key] for key in requests]
    lines = {line.split()[0]: line for line in second.errors.splitlines() if line.strip()}
    assert all("cached" in lines[step] for step in ("ingest", "train", "promote", "build"))


def test_keeps_the_first_loop_for_those_who_ask(interrupted: Laptop, first: Run, second: Run) -> None:
    code, output, errors = interrupted.okruh("status", "taxi_eta", "--json")

    assert (code, errors) == (0, "")
    champions = {line["branch"]: line["champion"] for line in json.loads(output)["lines"]}
    assert champions == {
        "main": first.story["versions"][0],
        second.story["branch"]: second.story["versions"][-1],
        first.story["branch"]: first.story["versions"][-1],
    }
