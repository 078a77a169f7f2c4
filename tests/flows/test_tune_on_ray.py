"""Tune on Ray: the same trials, several at a time, on a cluster of two nodes or on one that is started for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from infra.provenance import ROOT
from infra.serving_process import free_port
from tests.flows.test_cli import OKRUH, Desk

pytestmark = pytest.mark.proof

RAY = str(Path(sys.executable).with_name("ray"))
QUIET = {"OKRUH_TRACKING": "disabled"}
TUNE = ("tune", "digits", "--as-of", "2100-01-01T00:00:00+00:00", "--set", "training.epochs=6", "--json")


class PatientDesk(Desk):
    """A place to run commands at that take their time."""

    def tune(self, trials: int, *words: str, **changes: str) -> dict[str, Any]:
        """Search, and give what was found."""
        done = subprocess.run(
            [*OKRUH, *TUNE, "--trials", str(trials), *words],
            cwd=self.place,
            env=self.environment | changes,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def runs(self) -> list[dict[str, Any]]:
        """Read the index."""
        listed = self.okruh("runs", "digits", "--json")
        assert listed.returncode == 0, listed.stderr
        found: list[dict[str, Any]] = json.loads(listed.stdout)["runs"]
        return found


@pytest.fixture
def desk(tmp_path: Path) -> PatientDesk:
    """A desk with `digits` in its lake."""
    made = PatientDesk(tmp_path, QUIET)
    assert made.okruh("ingest", "digits").returncode == 0
    return made


@pytest.fixture
def cluster(desk: PatientDesk) -> Iterator[str]:
    """The address of two nodes, each with a core."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, for its sockets
    address = f"127.0.0.1:{free_port()}"
    variables = desk.environment | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    parts = "--node-ip-address=127.0.0.1", "--num-cpus=1", "--block", "--disable-usage-stats"
    head = "--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={folder}"
    with ExitStack() as nodes:
        for words in (head, (f"--address={address}",)):
            process = subprocess.Popen(
                [RAY, "start", *words, *parts], env=variables, start_new_session=True, stdout=subprocess.PIPE, text=True
            )
            nodes.callback(end, process)
            assert process.stdout is not None
            assert any("Ray runtime started" in line for line in process.stdout)
        yield address
    shutil.rmtree(folder)


def end(process: "subprocess.Popen[str]") -> None:
    with process:
        os.killpg(process.pid, signal.SIGTERM)


def settled(found: dict[str, Any]) -> dict[str, float]:
    """Give the error of each trial that came to its end, by its settings."""
    return {json.dumps(one["settings"]): one["error"] for one in found["trials"] if one["status"] == "finished"}


def test_two_nodes_run_trials_at_the_same_time_and_stop_those_that_are_worse(
    desk: PatientDesk, cluster: str, tmp_path: Path
) -> None:
    found = desk.tune(10, "--on", "ray", OKRUH_RAY_ADDRESS=cluster)

    assert sorted(one["number"] for one in found["trials"]) == list(range(10))
    assert {one["status"] for one in found["trials"]} == {"finished", "pruned"}
    spans = [
        (began := datetime.fromisoformat(line["began_at"]), began + timedelta(seconds=line["seconds"]))
        for line in sorted(desk.runs(), key=lambda line: str(line["began_at"]))
        if line["study"] == found["study"]
    ]
    assert len(spans) == 10
    at_once = [sum(began <= start < ended for began, ended in spans) for start, _ in spans]
    assert max(at_once) == 2  # each node has room for one
    elsewhere = PatientDesk(tmp_path / "elsewhere", QUIET)
    elsewhere.place.mkdir()
    assert elsewhere.okruh("ingest", "digits").returncode == 0
    alone = elsewhere.tune(4)
    same = settled(alone).keys() & settled(found).keys()
    assert len(same) >= 2
    assert {name: settled(alone)[name] for name in same} == {name: settled(found)[name] for name in same}


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def test_a_trial_whose_process_is_killed_is_run_again(desk: PatientDesk) -> None:
    command = [*OKRUH, *TUNE, "--trials", "2", "--on", "ray", "--jobs", "1", "--set", "training.patience=90"]
    with subprocess.Popen(command, cwd=desk.place, env=desk.environment, stdout=subprocess.PIPE, text=True) as search:
        victim = wait_for_trial(search)
        victim.kill()
        output, _ = search.communicate(timeout=400)

    assert search.returncode == 0
    statuses = [one["status"] for one in json.loads(output)["trials"]]
    assert statuses.count("broken off") == 1
    assert sum(status in ("finished", "pruned") for status in statuses) == 2


def test_a_search_that_is_killed_leaves_no_process_behind_and_goes_on(desk: PatientDesk) -> None:
    command = [*OKRUH, *TUNE, "--trials", "2", "--on", "ray", "--jobs", "1"]
    with subprocess.Popen(command, cwd=desk.place, env=desk.environment, stdout=subprocess.DEVNULL) as search:
        wait_for_trial(search)
        started = psutil.Process(search.pid).children(recursive=True)
        search.kill()

    _, alive = psutil.wait_procs(started, timeout=180)  # Ray's agents look for their parents for a minute
    assert alive == []
    found = desk.tune(2, "--on", "ray")
    assert found["taken_up"] == 1
    left = {path.name for path in (desk.place / "okruh" / "tmp").iterdir()}
    assert not any(name.startswith("ray-") for name in left)
    assert {path.name for path in (desk.place / "home").iterdir()} == set()
    assert not any("ray" in path.name for path in (desk.place / "tmp").iterdir())


def wait_for_trial(search: "subprocess.Popen[Any]") -> psutil.Process:
    """Wait until a trial runs, and give its process."""
    while search.poll() is None:
        for one in psutil.Process(search.pid).children(recursive=True):
            if title(one).startswith("ray::trial"):
                return one
        Event().wait(0.02)
    raise AssertionError(search.returncode)
