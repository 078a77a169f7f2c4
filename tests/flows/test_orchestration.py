"""Orchestration: a step's result is found again only where it still holds; nothing is written outside of the home."""

import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from flows.orchestration import cached_step, flow, flow_run_name, run_cached, step_key, task
from infra import bentos

_calls = count(1)


@cached_step("count")
def counted(word: str, key: str) -> dict[str, object]:
    """Say how often a step ran."""
    if word == "fail":
        raise ValueError(word)
    return {"word": word, "call": next(_calls)}


def holds(found: dict[str, object]) -> bool:
    return True


def holds_no_more(found: dict[str, object]) -> bool:
    return False


@pytest.fixture
def key(orchestrated: None, request: pytest.FixtureRequest) -> str:
    """A key that no other test has."""
    return step_key("count", request.node.name)


def test_a_step_runs_once_for_a_key(key: str) -> None:
    first, found_at_first = run_cached(counted, key, holds, word="one")
    second, found_then = run_cached(counted, key, holds, word="one")

    assert (found_at_first, found_then) == (False, True)
    assert second == first


def test_another_key_runs_again(key: str) -> None:
    first, _ = run_cached(counted, key, holds, word="one")
    second, found = run_cached(counted, step_key(key, "other"), holds, word="one")

    assert (found, second["call"] != first["call"]) == (False, True)


def test_a_result_that_holds_no_more_is_computed_again_and_then_found(key: str) -> None:
    first, _ = run_cached(counted, key, holds, word="one")

    again, found = run_cached(counted, key, holds_no_more, word="one")
    later, found_later = run_cached(counted, key, holds, word="one")

    assert (found, again["call"] != first["call"]) == (False, True)
    assert (found_later, later) == (True, again)


def test_a_failure_is_its_callers_and_is_not_kept(key: str) -> None:
    with pytest.raises(ValueError, match="fail"):
        run_cached(counted, key, holds, word="fail")

    result, found = run_cached(counted, key, holds, word="one")

    assert (result["word"], found) == ("one", False)


def test_a_key_names_the_step_each_part_by_its_place_and_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    key = step_key("train", "a", "b")
    monkeypatch.setattr("flows.catalog.sources", lambda _: "other sources")
    with_other_sources = step_key("train", "a", "b")
    monkeypatch.undo()

    others = [step_key("train", "b", "a"), step_key("train", "ab"), step_key("train", "a", "b", "")]

    assert step_key("train", "a", "b") == key
    assert len({key, with_other_sources, step_key("ingest", "a", "b"), *others}) == 6
    assert key.startswith("train-")


def test_a_plain_step_always_runs(orchestrated: None) -> None:
    calls = count(1)

    @task("always")
    def always() -> int:
        """Count."""
        return next(calls)

    assert (always(), always()) == (1, 2)


def test_a_run_has_a_name_inside_of_a_flow_alone(orchestrated: None) -> None:
    @flow("named")
    def named() -> str:
        """Give the run's name."""
        return flow_run_name()

    name, _, number = named().rpartition(" ")

    assert name
    assert len(number) == len("00000000-0000-0000-0000-000000000000")
    assert flow_run_name() == "none"


def python(script: str, home: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OKRUH_", "PREFECT_"))}
    own = {"OKRUH_HOME": str(home), "PYTHONPATH": str(bentos.SOURCES)}
    return subprocess.run(
        [sys.executable, "-c", script],
        env=inherited | own | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_product_keeps_its_files_under_the_home(tmp_path: Path) -> None:
    script = (
        "import flows.orchestration, os, tempfile\n"
        "from prefect.settings import PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH\n"
        "print(PREFECT_HOME.value(), PREFECT_LOCAL_STORAGE_PATH.value(), sep='\\n')\n"
        "print(os.environ['BENTOML_HOME'], os.environ['TMPDIR'], tempfile.gettempdir(), sep='\\n')"
    )

    done = python(script, tmp_path / "okruh")

    assert done.stderr == ""
    places = done.stdout.splitlines()
    assert len(places) == 5
    assert all(Path(place).is_relative_to(tmp_path / "okruh") for place in places)


def test_says_so_when_the_home_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    done = python("import flows.orchestration", tmp_path / "file" / "okruh")

    assert "infra.errors.Unavailable" in done.stderr
    assert "set OKRUH_HOME to a folder that can" in done.stderr


def test_a_named_server_is_used_and_none_started(tmp_path: Path) -> None:
    script = (
        "from flows.orchestration import on_a_laptop\n"
        "from prefect.server.api.server import SubprocessASGIServer\n"
        "with on_a_laptop():\n    print(len(SubprocessASGIServer._instances))"
    )

    done = python(script, tmp_path / "okruh", PREFECT_API_URL="http://127.0.0.1:9/api")

    assert (done.stdout.strip(), done.stderr) == ("0", "")
