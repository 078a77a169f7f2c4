"""The `okruh` command as its user runs it: child processes, their exit codes, what they print and what they leave.

A verb that runs a flow costs about ten seconds with a Prefect server of its own and three without, so most tests share
one server and one home (`Desk`), which they do no harm.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest

from flows.cli import DONE, FAILED, REFUSED, WRONG_USE
from infra import registry
from infra.lake.embedded.store import EmbeddedLake
from infra.serving_process import free_port
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer

TRIPS = Path(__file__).parents[2] / "models" / "catalog" / "taxi_eta" / "trips"
MONTHS = ("2018-01", "2018-02")
OKRUH = (str(Path(sys.executable).with_name("okruh")),)
QUICK = ("--set", "training.epochs=2", "--set", "training.validation_days=10", "--set", "training.test_days=10")
SERVER = (sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "error")
WITHIN_S = 120.0
INTERRUPTED = "okruh: interrupted; run the same command again to go on\n"
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


@dataclass(frozen=True)
class Desk:
    """A place to run commands at: OKRUH_HOME, HOME and TMPDIR lie below it."""

    place: Path
    changes: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a command."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OKRUH_", "PREFECT_"))}
        folders = {"OKRUH_HOME": "okruh", "HOME": "home", "TMPDIR": "tmp"}
        for name in ("HOME", "TMPDIR"):
            (self.place / folders[name]).mkdir(exist_ok=True)
        source = {"PYTHONPATH": str(Path(__file__).parents[2])}
        return inherited | source | {key: str(self.place / name) for key, name in folders.items()} | self.changes

    def okruh(self, *words: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return self.run(*OKRUH, *words, **changes)

    def run(self, *command: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        """Run any command to its end."""
        return subprocess.run(
            command,
            cwd=self.place,
            env=self.environment | changes,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )


@pytest.fixture
def fresh(tmp_path: Path) -> Desk:
    """A desk with nothing in it."""
    return Desk(tmp_path)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real months."""
    folder = tmp_path_factory.mktemp("raw")
    for month in MONTHS:
        shutil.copy(TRIPS / f"trips_{month}.parquet", folder)
    return folder


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server."""
    port, home = free_port(), tmp_path_factory.mktemp("prefect")
    command = [*SERVER, "--host", "127.0.0.1", "--port", str(port)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = inherited | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/api/health", server)
            yield f"http://127.0.0.1:{port}/api"
        finally:
            server.terminate()


def wait_until_healthy(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Ask again and again until a server answers."""
    deadline = monotonic() + WITHIN_S
    while True:
        assert server.poll() is None
        assert monotonic() < deadline
        with suppress(OSError), urlopen(url, timeout=5) as answer:
            assert answer.status == 200
            return
        Event().wait(0.1)


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, raw: Path, prefect_server: str) -> tuple[Desk, dict[str, Any]]:
    """A desk whose lake has two months, and what ingesting them said."""
    server = {"PREFECT_API_URL": prefect_server, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    desk = Desk(tmp_path_factory.mktemp("desk"), server)
    return desk, only_object(desk.okruh("ingest", "taxi_eta", str(raw), "--json"))


@pytest.fixture(scope="module")
def without_room(ingested: tuple[Desk, dict[str, Any]]) -> "subprocess.CompletedProcess[str] | None":
    """A training there whose checkpoint found no room; None where no small disk can be mounted."""
    if not can_mount():
        return None
    desk = ingested[0]
    (desk.place / "okruh" / "checkpoints").mkdir(exist_ok=True)
    small = 'mount -t tmpfs -o size=64k none "$OKRUH_HOME/checkpoints"'
    command = " ".join((*OKRUH, "train", "taxi_eta", *QUICK))
    return desk.run(*UNSHARE, f"{small} && {command}", OKRUH_TRAIN_CHECKPOINT_S="1e-9")


@pytest.fixture(scope="module")
def trained(
    ingested: tuple[Desk, dict[str, Any]], without_room: "subprocess.CompletedProcess[str] | None"
) -> tuple[Desk, dict[str, Any]]:
    """The desk with a bundle that has lost on too few rows, and what the training of it said that found room."""
    desk, _ = ingested
    registered = only_object(desk.okruh("train", "taxi_eta", *QUICK, "--json"))
    return desk, registered


@pytest.fixture(scope="module")
def promoted(trained: tuple[Desk, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, str]:
    """A desk of its own with that bundle as champion, and its version."""
    desk, registered = trained
    desk = Desk(tmp_path_factory.mktemp("promoted"), desk.changes)
    shutil.copytree(trained[0].place / "okruh", desk.place / "okruh")
    done = desk.okruh("promote", "taxi_eta")
    assert (done.returncode, done.stderr) == (DONE, "")
    assert done.stdout.startswith(f"{registered['version']} promoted\n  error ")
    return desk, registered["version"]


def only_object(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Read the one object that a command printed, and nothing else anywhere."""
    assert (done.returncode, done.stderr) == (DONE, ""), done.stderr
    (line,) = done.stdout.splitlines()
    answer: dict[str, Any] = json.loads(line)
    return answer


def only_line(done: "subprocess.CompletedProcess[str]") -> str:
    """Read the one line of a command that failed."""
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("okruh: ")
    return line


def head_of(desk: Desk) -> str:
    """Say where `main` is."""
    return lake_of(desk).resolve("main")


def lake_of(desk: Desk) -> EmbeddedLake:
    return EmbeddedLake(desk.place / "okruh" / "lake" / "taxi-eta")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Usage: okruh"),
        (("levitate",), "No such command 'levitate'"),
        (("train",), "Missing argument 'MODEL'"),
        (("train", "pizza_eta"), "no model 'pizza_eta'; the catalog has digits, flight_delay, taxi_eta"),
        (
            ("train", "taxi_eta", "--set", "training.colour=red"),
            "no training setting is called colour; there are epoch",
        ),
        (("train", "taxi_eta", "--set", "training.epochs=2.5"), "training.epochs must be a whole number, not '2.5'"),
        (("train", "taxi_eta", "--set", "training.epochs=0"), "training.epochs must be greater than 0"),
        (("train", "taxi_eta", "--set", "training.device=tpu"), "where networks are trained, OKRUH_DEVICE says"),
        (("train", "taxi_eta", "--set", "epochs=2"), "--set epochs=2: write it as training.NAME=VALUE or network.N"),
        (("train", "taxi_eta", "--set", "network.depth=2"), "no network setting is called depth; there are zone_size,"),
        (("train", "taxi_eta", "--set", "network.width=wide"), "network.width must be a whole number, not 'wide'"),
        (("train", "taxi_eta", "--as-of", "yesterday"), "'yesterday' is not an ISO 8601 time"),
        (("serve", "taxi_eta", "--port", "70000"), "Invalid value for '--port'"),
        (("rollout", "taxi_eta"), "taxi_eta has no champion on branch 'main' yet"),
        (("rollout", "taxi_eta", "--abort", "--promote"), "one thing at a time: not --promote and --abort"),
        (("rollout", "taxi_eta", "--p99-ms", "9"), "--p99-ms: these are terms of a trial"),
        (("rollout", "taxi_eta", "--canary", "v1", "--weight", "2"), "weight must be above 0 and at most 1, not 2.0"),
        (("rollout", "taxi_eta", "--shadow", "v1", "--ramp", "1"), "'1' is no step of a ramp"),
        (("ingest", "taxi_eta", "a\x1b[2Jb.csv"), "okruh: a\\x1b[2Jb.csv does not exist"),
        (("lineage", "taxi_eta", "nothing"), "'nothing' is neither a version nor a prediction of taxi_eta"),
    ],
)
def test_refuses_wrong_use_before_it_starts_anything(fresh: Desk, words: tuple[str, ...], said: str) -> None:
    done = fresh.okruh(*words)

    assert (done.returncode, "Traceback" in done.stderr) == (WRONG_USE, False)
    assert said in done.stderr + done.stdout
    assert not (fresh.place / "okruh" / "prefect").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"OKRUH_TRACKING": "maybe"}, "OKRUH_TRACKING: "),
        ({"OKRUH_TRAIN_THREADS": "0", "OKRUH_DEVICE": "abacus"}, "OKRUH_DEVICE: "),
        ({"OKRUH_BRANCH": "a b"}, "'a b' cannot name a branch"),
    ],
)
def test_names_a_wrong_setting(ingested: tuple[Desk, Any], changes: dict[str, str], said: str) -> None:
    done = ingested[0].okruh("status", "taxi_eta", **changes)

    assert said in only_line(done)
    assert done.returncode == WRONG_USE


def test_lists_commits_for_a_comparison(ingested: tuple[Desk, Any]) -> None:
    desk, _ = ingested
    found = only_object(desk.okruh("lake", "log", "taxi_eta", "--under", "data/trips/2018-01.parquet", "--json"))
    everything = desk.okruh("lake", "log", "taxi_eta", "--most", "2")
    folder = only_object(desk.okruh("lake", "log", "taxi_eta", "--under", "data/trips/", "--json"))["commits"]
    part = only_object(desk.okruh("lake", "log", "taxi_eta", "--under", "data/trips/2018-0", "--json"))["commits"]

    (january,) = found["commits"]
    assert january["metadata"]["kind"] == "ingest"
    assert len(everything.stdout.splitlines()) == 2
    assert (len(folder), part) == (2, [])
    (start,) = january["parents"][:1]
    compared = only_object(desk.okruh("data-diff", "taxi_eta", start, january["id"], "--json"))
    assert compared["rows_before"] < compared["rows_after"]
    assert "no branch, tag or commit 'nothing'" in only_line(desk.okruh("lake", "log", "taxi_eta", "--ref", "nothing"))


def test_names_what_is_damaged_in_a_lake(ingested: tuple[Desk, Any], tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    shutil.copytree(ingested[0].place / "okruh", tmp_path / "okruh")
    whole = desk.okruh("lake", "verify", "taxi_eta")
    january = EmbeddedLake(tmp_path / "okruh" / "lake" / "taxi-eta").stat("main", "data/trips/2018-01.parquet")
    file = tmp_path / "okruh" / "lake" / "taxi-eta" / "objects" / january.digest[:2] / january.digest[2:]
    file.chmod(0o644)
    file.write_bytes(b"X" + file.read_bytes()[1:])

    damaged = desk.okruh("lake", "verify", "taxi_eta", "--json")

    assert (whole.returncode, whole.stdout) == (DONE, "the lake of taxi_eta is whole\n")
    (problem,) = json.loads(damaged.stdout)["problems"]
    assert problem.startswith("data/trips/2018-01.parquet: its content differs from its digest")
    assert damaged.returncode == FAILED


def test_collects_what_an_ended_writer_left(ingested: tuple[Desk, Any], tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    shutil.copytree(ingested[0].place / "okruh", tmp_path / "okruh")
    lake = EmbeddedLake(tmp_path / "okruh" / "lake" / "taxi-eta")
    lake.create_branch("tx-20200101000000-0123abcd", "main")
    left = lake.put("tx-20200101000000-0123abcd", "left", b"7 bytes")
    file = lake.root / "objects" / left.digest[:2] / left.digest[2:]
    os.utime(file, (0, 0))

    done = desk.okruh("lake", "gc", "taxi_eta", "--json")

    assert only_object(done) == {"commits": 0, "objects": 1, "bytes": 7}
    assert list(lake.branches()) == ["main"]
    assert desk.okruh("lake", "verify", "taxi_eta").returncode == DONE


def test_forgets_rows_for_a_reason(ingested: tuple[Desk, Any], tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    shutil.copytree(ingested[0].place / "okruh", tmp_path / "okruh")
    asked = ("lake", "forget", "taxi_eta", "--where", "pickup_zone=132", "--by", "me", "--why", "asked for")

    nothing = desk.okruh("lake", "forget", "taxi_eta", "--by", "me", "--why", "asked for")
    would = desk.okruh(*asked, "--dry-run")
    done = only_object(desk.okruh(*asked, "--json"))
    again = desk.okruh(*asked)

    assert "name what to forget: --object PATH" in only_line(nothing)
    assert nothing.returncode == WRONG_USE
    assert would.stdout.startswith(f"would erase {done['rows']:,} rows: data/trips/2018-01.parquet, ")
    assert done["rows"] > 100
    assert again.stdout == "nothing in the lake of taxi_eta is what was asked for\n"
    assert desk.okruh("lake", "verify", "taxi_eta").returncode == DONE


def test_moves_house_to_a_server_and_back(ingested: tuple[Desk, Any], lakefs: LakeFSServer, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    shutil.copytree(ingested[0].place / "okruh", tmp_path / "okruh")
    server = f"lakefs+{lakefs.address}/team-{secrets.token_hex(4)}"
    keys = {"OKRUH_LAKEFS_ACCESS_KEY_ID": KEY_ID, "OKRUH_LAKEFS_SECRET_ACCESS_KEY": SECRET}

    there = desk.okruh("lake", "copy", "embedded/taxi_eta", f"{server}/taxi_eta", "--json", **keys)
    again = desk.okruh("lake", "copy", "embedded/taxi_eta", f"{server}/taxi_eta", **keys)
    shutil.rmtree(tmp_path / "okruh")
    whole = desk.okruh("lake", "verify", "taxi_eta", OKRUH_LAKE=server, **keys)
    back = desk.okruh("lake", "copy", f"{server}/taxi_eta", "embedded/taxi_eta", "--json", **keys)

    assert only_object(there)["branches"] == ["main"]
    assert again.stdout.startswith("copied 0 commits with 0 objects of 0.0 MB\n")
    assert whole.stdout == "the lake of taxi_eta is whole\n"
    assert only_object(back)["commits"] == only_object(there)["commits"]
    assert "data/trips/2018-01.parquet" in [entry.path for entry in lake_of(desk).list("main")]
    assert lake_of(desk).protected() == {"main"}
    assert all(SECRET not in done.stdout + done.stderr for done in (there, again, whole, back))


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("embedded/taxi_eta", "taxi_eta", "a place is LAKE/MODEL"),
        ("embedded/taxi_eta", "embedded/taxi_eta", "onto itself"),
        ("embedded/taxi-eta", "embedded/taxi_eta", "use a small letter"),
        ("embedded/absent", "embedded/taxi_eta", "absent has no lake yet"),
        ("embedded/taxi_eta", "lakefs+https://me:sesame@host/taxi_eta", "an address holds no keys"),
        ("embedded/taxi_eta", "lakefs+https://host/taxi_eta", "wants OKRUH_LAKEFS_ACCESS_KEY_ID"),
    ],
)
def test_copies_nothing_where_a_place_is_wrong(fresh: Desk, source: str, target: str, said: str) -> None:
    done = fresh.okruh("lake", "copy", source, target)

    assert said in only_line(done)
    assert "sesame" not in done.stderr
    assert (done.returncode, (fresh.place / "okruh").exists()) == (WRONG_USE, False)


@pytest.mark.parametrize("verb", ["verify", "gc"])
def test_looks_after_no_lake_that_is_not_there(fresh: Desk, verb: str) -> None:
    done = fresh.okruh("lake", verb, "taxi_eta")

    assert only_line(done) == "okruh: taxi_eta has no lake yet; run `okruh ingest taxi_eta` first"
    assert (done.returncode, (fresh.place / "okruh").exists()) == (WRONG_USE, False)


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("status", "taxi_eta"),
        ("runs", "taxi_eta"),
        ("lineage", "taxi_eta", "VERSION"),
        ("card", "taxi_eta"),
    ],
)
def test_only_reading_starts_neither_prefect_nor_torch_nor_bentoml(
    promoted: tuple[Desk, str], words: tuple[str, ...]
) -> None:
    desk, version = promoted
    words = tuple(version if word == "VERSION" else word for word in words)
    script = (
        "import atexit, sys; from flows.cli import main\n"
        "heavy = {'prefect', 'torch', 'bentoml', 'wandb'}\n"
        "atexit.register(lambda: print(*heavy & sys.modules.keys(), file=sys.stderr))\n"
        "main()"
    )

    done = desk.run(sys.executable, "-c", script, *words)

    assert (done.returncode, done.stderr.strip()) == (DONE, "")


def test_ingest_says_what_became_of_each_file(ingested: tuple[Desk, dict[str, Any]]) -> None:
    _, answer = ingested

    assert [one["partition"] for one in answer["files"]] == list(MONTHS)
    assert all(one["rows"] + one["refused"] == 10_000 and len(one["commit"]) == 64 for one in answer["files"])


def test_ingest_of_unchanged_files_needs_no_prefect_server(
    ingested: tuple[Desk, dict[str, Any]], raw: Path, tmp_path: Path
) -> None:
    desk, answer = ingested
    for file in raw.iterdir():
        os.utime(shutil.copyfile(file, tmp_path / file.name), (0, 0))
    before = head_of(desk)
    desk.okruh("ingest", "taxi_eta", str(tmp_path))

    done = desk.okruh("ingest", "taxi_eta", str(tmp_path), "--json", PREFECT_API_URL="http://127.0.0.1:9/api")

    assert only_object(done)["files"] == [one | {"cached": True} for one in answer["files"]]
    assert head_of(desk) == before


def test_refuses_a_file_with_a_renamed_column_by_name_and_changes_nothing(
    ingested: tuple[Desk, Any], tmp_path: Path
) -> None:
    desk, _ = ingested
    renamed = pd.read_parquet(TRIPS / "trips_2018-03.parquet").rename(columns={"trip_distance": "distance"})
    renamed.to_parquet(tmp_path / "march.parquet")
    before = head_of(desk)

    done = desk.okruh("ingest", "taxi_eta", str(tmp_path / "march.parquet"))

    assert only_line(done).startswith("okruh: march.parquet: columns ['trip_distance'] are missing; the file has [")
    assert (done.returncode, head_of(desk)) == (FAILED, before)


def test_fails_without_registering_when_training_diverges(ingested: tuple[Desk, Any]) -> None:
    desk, _ = ingested
    before = head_of(desk)

    done = desk.okruh("train", "taxi_eta", *QUICK, "--set", "training.learning_rate=1e30")

    assert "the loss is nan by step" in only_line(done)
    assert (done.returncode, head_of(desk)) == (FAILED, before)


def test_exits_3_with_reasons_when_a_candidate_does_not_win(trained: tuple[Desk, dict[str, Any]]) -> None:
    desk, registered = trained
    test_from = registry.load_card(lake_of(desk), "main", registered["version"]).data.test_from
    assert test_from is not None
    known_few = test_from + timedelta(minutes=20)

    done = desk.okruh("promote", "taxi_eta", registered["version"], "--as-of", known_few.isoformat(), "--json")

    verdict = json.loads(done.stdout)
    assert (done.returncode, done.stderr, verdict["allowed"]) == (REFUSED, "", False)
    assert "test rows" in verdict["reasons"][0]
    assert "no champion" in desk.okruh("status", "taxi_eta").stdout


def test_status_shows_champion_age_data_alarm_and_traffic(promoted: tuple[Desk, str]) -> None:
    desk, version = promoted

    for_people = desk.okruh("status", "taxi_eta", COLUMNS="80")
    (line,) = only_object(desk.okruh("status", "taxi_eta", "--json"))["lines"]

    shown = dict(
        row.split(maxsplit=1) for row in for_people.stdout.splitlines() if row.startswith(("champion", "serves"))
    )
    assert shown["champion"] == line["champion"] == version
    assert shown["serves"].startswith("for ")
    for said in (line["trained_on_commit"], "last alarm    none", "traffic       0 predictions, 0 labels"):
        assert said in for_people.stdout


def test_lineage_leads_from_a_version_to_its_data(
    ingested: tuple[Desk, dict[str, Any]], promoted: tuple[Desk, str]
) -> None:
    desk, version = promoted

    answer = only_object(desk.okruh("lineage", "taxi_eta", version, "--json"))
    for_people = desk.okruh("lineage", "taxi_eta", version, COLUMNS="40")

    assert answer["data_commit"] == ingested[1]["files"][-1]["commit"]
    assert answer["partitions"] == [f"data/trips/{month}.parquet" for month in MONTHS]
    for name in ("version", "onnx_digest", "data_commit", "registered_by", "flow_run", "tracker_run"):
        assert answer[name] in for_people.stdout


def test_a_card_is_shown_with_its_page_and_given_whole(promoted: tuple[Desk, str]) -> None:
    desk, version = promoted

    for_people, for_programs = desk.okruh("card", "taxi_eta"), only_object(desk.okruh("card", "taxi_eta", "--json"))
    unknown = desk.okruh("card", "taxi_eta", "nobody")

    page = desk.place / "okruh" / "reports" / f"taxi_eta-card-{version}.html"
    assert for_people.stdout.splitlines()[0] == f"taxi_eta {version} on branch main"
    assert for_people.stdout.splitlines()[-1] == f"page: {page}"
    assert page.read_text().startswith("<!doctype html>")
    mean = for_programs["evaluation"]["intervals"]["mae"]
    assert mean["low"] < for_programs["metrics"]["mae"] < mean["high"]
    assert any(line.startswith("mean error, trip_miles from 8 ") for line in for_people.stdout.splitlines())
    assert (unknown.returncode, unknown.stdout) == (WRONG_USE, "")


def test_runs_are_listed_compared_and_drawn(trained: tuple[Desk, dict[str, Any]]) -> None:
    desk, registered = trained

    runs = only_object(desk.okruh("runs", "taxi_eta", "--json"))["runs"]
    (listed,) = (run for run in runs if run["version"] == registered["version"])
    (chosen,) = only_object(desk.okruh("runs", "taxi_eta", registered["version"], "--json"))["runs"]
    drawn = desk.okruh("runs", "taxi_eta", "--html")
    unknown = desk.okruh("runs", "taxi_eta", "nobody")

    assert (listed["version"], listed["status"]) == (registered["version"], "finished")
    assert (listed["changed"], listed["metrics"]) == (["epochs", "validation_days", "test_days"], registered["metrics"])
    assert (listed["curves"], chosen["curves"] != {}) == ({}, True)
    assert drawn.stdout.splitlines()[-1] == f"page: {desk.place / 'okruh' / 'reports' / 'taxi_eta-runs.html'}"
    assert (unknown.returncode, unknown.stdout) == (WRONG_USE, "")
    assert only_line(unknown) == "okruh: no run is called 'nobody'; `okruh runs` without a name lists them"


def test_has_nothing_to_roll_back_to_after_one_promotion(promoted: tuple[Desk, str]) -> None:
    desk, version = promoted

    done = desk.okruh("rollback", "taxi_eta")

    assert only_line(done).endswith(
        f"no version was ever champion of taxi_eta before {version}; former champions: none"
    )
    assert done.returncode == WRONG_USE


def test_tries_nobody_against_himself_and_shows_who_serves(promoted: tuple[Desk, str]) -> None:
    desk, version = promoted
    before = head_of(desk)

    tried, aborted = (desk.okruh("rollout", "taxi_eta", *words) for words in (("--canary", version), ("--abort",)))
    shown = only_object(desk.okruh("rollout", "taxi_eta", "--json"))

    assert (tried.returncode, aborted.returncode) == (WRONG_USE, WRONG_USE)
    assert only_line(tried) == f"okruh: {version} is champion, and cannot be tried against itself"
    assert only_line(aborted) == f"okruh: nobody is tried beside {version}; see `okruh rollout taxi_eta`"
    assert (shown["champion"], shown["challenger"], head_of(desk)) == (version, None, before)


def test_retrains_nothing_without_an_alarm(promoted: tuple[Desk, str]) -> None:
    done = promoted[0].okruh("retrain", "taxi_eta")

    assert (done.returncode, done.stderr) == (REFUSED, "")
    assert done.stdout.startswith("nothing trained: ")


def test_serves_until_ctrl_c_and_leaves_no_process(promoted: tuple[Desk, str]) -> None:
    desk, port = Desk(promoted[0].place), free_port()

    with serving(desk, port) as process:
        taken = promoted[0].okruh("serve", "taxi_eta", "--port", str(port))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=WITHIN_S)

    assert (taken.returncode, only_line(taken)) == (
        FAILED,
        f"okruh: port {port} is taken: end what listens there, or choose another port",
    )
    assert (process.returncode, said) == (128 + signal.SIGINT, INTERRUPTED)
    assert processes_of(desk) == []
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("tell", [os.kill, pytest.param(os.killpg, marks=pytest.mark.proof)])
def test_ends_its_service_when_it_is_told_to_end(promoted: tuple[Desk, str], tell: Callable[[int, int], None]) -> None:
    desk, _ = promoted
    alone = Desk(desk.place)  # with a Prefect server of its own, which must not end before it

    with serving(alone, free_port()) as process:
        tell(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=WITHIN_S)

    assert (process.returncode, said) == (128 + signal.SIGTERM, INTERRUPTED)
    assert processes_of(desk) == []


@contextmanager
def serving(desk: Desk, port: int) -> Iterator["subprocess.Popen[str]"]:
    """Serve in a process group of its own, from when it answers until it is ended or the block is."""
    process = subprocess.Popen(
        [*OKRUH, "serve", "taxi_eta", "--port", str(port)],
        cwd=desk.place,
        env=desk.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert f"http://127.0.0.1:{port}" in process.stdout.readline()
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=WITHIN_S) as answer:
                assert answer.status == 200
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def processes_of(desk: Desk) -> list[str]:
    """List the commands of running processes whose OKRUH_HOME is the desk's."""
    wanted = f"OKRUH_HOME={desk.place / 'okruh'}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [command for command in found if command]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "localhost"), "host 'localhost' is no IP address"),
        (("--ssl-certfile", "cert.pem"), "https wants a certificate and its key"),
        (("--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem"), "No such file"),
    ],
)
def test_refuses_to_serve_where_it_cannot_before_anything_is_started(
    fresh: Desk, words: tuple[str, ...], said: str
) -> None:
    refused = fresh.okruh("serve", "taxi_eta", *words)

    assert (refused.returncode, said in only_line(refused)) == (WRONG_USE, True)
    assert not (fresh.place / "okruh" / "prefect").exists()


def test_makes_lists_and_revokes_keys(fresh: Desk) -> None:
    made = fresh.okruh("keys", "add", "app", "--scope", "predict", "--scope", "feedback", "--rate", "100")
    second = only_object(fresh.okruh("keys", "add", "app", "--scope", "predict", "--json"))
    shown = fresh.okruh("keys", "list")
    listed = only_object(fresh.okruh("keys", "list", "--json"))
    revoked = only_object(fresh.okruh("keys", "revoke", "app", "--older", "--json"))
    left = only_object(fresh.okruh("keys", "list", "--json"))["keys"]

    file = fresh.place / "okruh" / "keys.json"
    (key,) = made.stdout.splitlines()
    assert key.startswith("okruh_")
    assert made.stderr == f"the key of app, shown once: {file} keeps its digest alone\n"
    assert key not in shown.stdout + json.dumps(listed) + file.read_text()
    assert second["key"] not in json.dumps(listed) + file.read_text()
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["name", "app", "app"]
    assert "predict, feedback  100/s" in shown.stdout
    assert [(one["scopes"], one["rate"]) for one in listed["keys"]] == [
        (["predict", "feedback"], 100),
        (["predict"], None),
    ]
    assert revoked == {"name": "app", "revoked": 1}
    assert left == listed["keys"][1:]
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "app"), "Missing option '--scope'"),
        (("add", "app", "--scope", "everything"), "Invalid enum value 'everything'"),
        (("add", "app", "--scope", "predict", "--rate", "0"), "> 0"),
        (("revoke", "nobody"), "no key is called 'nobody'"),
    ],
)
def test_refuses_keys_that_mean_nothing(fresh: Desk, words: tuple[str, ...], said: str) -> None:
    refused = fresh.okruh("keys", *words)

    assert (refused.returncode, refused.stdout, said in refused.stderr) == (WRONG_USE, "", True)


@pytest.mark.parametrize("words", [("status", "taxi_eta"), ("status", "taxi_eta", "--json")])
def test_says_so_when_nobody_reads_its_output(promoted: tuple[Desk, str], words: tuple[str, ...]) -> None:
    desk, _ = promoted
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [*OKRUH, *words], env=desk.environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (
        FAILED,
        "okruh: standard output was closed before everything was written\n",
    )


def test_says_so_when_its_output_finds_no_space(promoted: tuple[Desk, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*OKRUH, "status", "taxi_eta"],
            env=promoted[0].environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (done.returncode, done.stderr.startswith("okruh: no space left on ")) == (FAILED, True)
    assert len(done.stderr.splitlines()) == 1


def test_says_so_when_its_home_cannot_be_written(fresh: Desk, raw: Path) -> None:
    (fresh.place / "file").write_text("in the way")
    home = fresh.place / "file" / "home"

    done = fresh.okruh("ingest", "taxi_eta", str(raw), OKRUH_HOME=str(home))

    line = only_line(done)
    assert line.startswith(f"okruh: {home} cannot be written: ")
    assert line.endswith("set OKRUH_HOME to a folder that can")
    assert done.returncode == FAILED


def can_mount() -> bool:
    """Say whether this machine lets a user mount a disk of his own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode == 0


def on_a_small_disk(desk: Desk, size: str, command: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell command whose OKRUH_HOME is a disk of that size."""
    (desk.place / "okruh").mkdir()
    mount = f'mount -t tmpfs -o size={size} none "$OKRUH_HOME"'
    return desk.run(*UNSHARE, f"{mount} && {command}")


@pytest.mark.skipif(not can_mount(), reason="no small disk can be mounted")
def test_says_so_where_a_home_can_only_be_read(promoted: tuple[Desk, str]) -> None:
    read_only = 'mount --bind "$OKRUH_HOME" "$OKRUH_HOME" && mount -o remount,ro,bind "$OKRUH_HOME"'

    trained, shown = (
        promoted[0].run(*UNSHARE, f"{read_only} && {' '.join((*OKRUH, verb, 'taxi_eta'))}")
        for verb in ("train", "status")
    )

    assert only_line(trained).startswith(f"okruh: {promoted[0].place / 'okruh'} cannot be written: see its permissions")
    assert "cannot be opened for writing, which who only reads needs as well" in only_line(shown)
    assert (trained.returncode, shown.returncode) == (FAILED, FAILED)


@pytest.mark.skipif(not can_mount(), reason="no small disk can be mounted")
def test_starts_nothing_on_a_disk_that_is_full(fresh: Desk, raw: Path) -> None:
    done = on_a_small_disk(fresh, "6m", f"{' '.join(OKRUH)} ingest taxi_eta {raw}")

    assert "okruh has 6.0 MiB free and a run needs 8; free some, or set OKRUH_HOME" in only_line(done)
    assert done.returncode == FAILED


def test_a_checkpoint_that_finds_no_room_ends_a_training_which_the_same_command_does_again(
    without_room: "subprocess.CompletedProcess[str] | None", trained: tuple[Desk, dict[str, Any]]
) -> None:
    if without_room is None:
        pytest.skip("no small disk can be mounted")
    desk, again = trained

    runs = only_object(desk.okruh("runs", "taxi_eta", "--json"))["runs"]

    assert "a checkpoint of" in only_line(without_room)
    assert "No space left on device; make room and run the same again" in only_line(without_room)
    assert without_room.returncode == FAILED
    (failed,) = (run for run in runs if "No space left on device" in (run["reason"] or ""))
    assert (failed["status"], again["version"] in [run["version"] for run in runs]) == ("failed", True)


@pytest.mark.skipif(not can_mount(), reason="no small disk can be mounted")
def test_a_disk_that_fills_loses_nothing_that_was_there(prefect_server: str, raw: Path, tmp_path: Path) -> None:
    desk = Desk(tmp_path, {"PREFECT_API_URL": prefect_server, "PREFECT_LOGGING_LEVEL": "CRITICAL"})
    many = tmp_path / "many"
    many.mkdir()
    shutil.copy(raw / f"trips_{MONTHS[1]}.parquet", many / "february.parquet")
    incompressible_month(many / "january.parquet", rows=120_000)
    okruh = " ".join(OKRUH)

    done = on_a_small_disk(
        desk, "2m", f"{okruh} ingest taxi_eta {many}; echo $?; find $OKRUH_HOME/lake -size +100k | wc -l"
    )

    assert [line.strip() for line in done.stdout.splitlines()] == ["1", "1"], "february is there, january is not"
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"okruh: no space left for lake {desk.place / 'okruh' / 'lake' / 'taxi-eta'}: free some")


def incompressible_month(path: Path, rows: int) -> None:
    """Write a month of trips that no two share anything."""
    random = np.random.default_rng(0)
    trips = pd.read_parquet(TRIPS / f"trips_{MONTHS[0]}.parquet")
    trips = trips.iloc[random.integers(0, len(trips), rows)].reset_index(drop=True)
    begins = np.sort(random.integers(0, 31 * 86_400 - 7_200, rows))
    trips["pickup_datetime"] = pd.Timestamp("2018-01-01") + pd.to_timedelta(begins, unit="s")
    trips["dropoff_datetime"] = trips["pickup_datetime"] + pd.to_timedelta(random.integers(60, 7_200, rows), unit="s")
    trips["trip_distance"] = random.uniform(0.1, 50, rows).astype("float32")
    trips["fare_amount"] = random.uniform(3, 200, rows).astype("float32")
    trips.to_parquet(path)


def test_writes_nothing_outside_its_home(promoted: tuple[Desk, str]) -> None:
    desk, _ = promoted

    assert [path for name in ("home", "tmp") for path in (desk.place / name).rglob("*")] == []


@pytest.mark.parametrize(
    ("verb", "size", "said"),
    [("retrain", "2", "2 processes run `okruh retrain`"), ("train", "two", "WORLD_SIZE is 'two', which is no number")],
)
def test_only_a_training_is_done_by_several_processes(fresh: Desk, verb: str, size: str, said: str) -> None:
    done = fresh.okruh(verb, "taxi_eta", WORLD_SIZE=size, RANK="0")

    assert (done.returncode, done.stdout) == (2, "")
    assert only_line(done).startswith(f"okruh: {said}")
    assert list((fresh.place / "okruh").glob("*")) == []
