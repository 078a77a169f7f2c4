"""Tracking: everything below the given folder, one run's figures apart from another's, and never in the way.

Runs are tracked from a child process whose home, temporary and working folders are empty: what the product would write
elsewhere is seen there. A small server stands for W&B's, and `wandb sync` for whoever sends runs later.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import Misconfigured
from infra.provenance import ROOT
from infra.settings import Settings
from infra.tracking.tracker import WandbTracker, make_tracker
from tests.infra.tracking.wandb_server import KEY, WandbServer, serving

ELSEWHERE = ("home", "temporary", "working")
WITHIN_S = 60.0

CHILD = """
import logging, os, sys
from pathlib import Path
from threading import Event
import psutil
from infra.settings import Settings
from infra.tracking.messages import Outcome
from infra.tracking.tracker import SilentTracker, WandbTracker, make_tracker
logging.basicConfig(format="%(message)s")
folder, mode, wait_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
tracker = WandbTracker(folder, mode, wait_s)

def outcome(**changes):
    usual = {"model": "tiny", "version": "v2", "summary": {"mae": 1.4375}, "files": {"model.onnx": b"graph"}}
    return Outcome(**(usual | {"references": {}, "warm_start": None, "plots": {}} | changes))

def processes(name):
    while not (found := [one for one in psutil.Process().children(recursive=True) if name in " ".join(one.cmdline())]):
        Event().wait(0.05)
    return found
"""
UNTIL_STARTED = """
while not any("run started" in log.read_text() for log in folder.glob("wandb/offline-run-*/logs/debug.log")):
    Event().wait(0.05)
"""
UNTIL_LIVE = """
from urllib.request import urlopen
while not (seen := urlopen(os.environ["WANDB_BASE_URL"] + "/lines").read()) or b"system.proc.memory.rssMB" not in seen:
    Event().wait(0.2)
"""
A_RUN = """
run = tracker.start("tiny", "run-1", "first try", {"seed": 4711})
run.log({"loss": 0.8125}, 1)
"""
WHOLE = """
run.finish(outcome(
    files={"model.onnx": b"graph", "card.json": b"{}"},
    references={"model.onnx": "lake://tiny/c0ffee/bundles/v2/model.onnx"},
    warm_start="v1",
    plots={"error by hour": {"8": 1.5, "9": 2.5}},
))
print(run.reference)
"""


def track(
    folder: Path, code: str, mode: str = "offline", server: WandbServer | None = None, wait_s: float = 30.0
) -> tuple[list[str], list[str]]:
    """Run `code` with a `tracker` of `folder`. Gives the lines that it prints, and those that it warns of."""
    homes = {name: folder.parent / name for name in ELSEWHERE}
    for home in homes.values():
        home.mkdir()
    child = subprocess.run(
        [sys.executable, "-c", CHILD + code, str(folder), mode, str(wait_s)],
        cwd=homes["working"],
        env={
            "HOME": str(homes["home"]),
            "TMPDIR": str(homes["temporary"]),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            **({"WANDB_BASE_URL": server.address, "WANDB_API_KEY": KEY} if server else {}),
        },
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines(), child.stderr.splitlines()


def sync(folder: Path, server: WandbServer) -> None:
    """Send what is recorded, as a person would."""
    keys = {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": KEY, "WANDB_DIR": str(folder)}
    homes = {"HOME": str(folder), "TMPDIR": str(folder / "tmp"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "wandb", "sync", str(folder / "wandb")]
    subprocess.run(command, cwd=folder, env=homes | keys, capture_output=True, timeout=WITHIN_S, check=True)


def written_elsewhere(folder: Path) -> list[Path]:
    """What a child left outside its folder."""
    return [path for name in ELSEWHERE for path in (folder.parent / name).rglob("*")]


def record(folder: Path, run: str) -> bytes:
    """What was recorded of a run: small ones hold their figures as text."""
    (path,) = folder.rglob(f"run-{run}.wandb")
    return path.read_bytes()


def check_whole(server: WandbServer) -> None:
    """See that a server has all of `A_RUN` and `WHOLE`."""
    first, last = server.runs[0], server.runs[-1]
    assert (first["name"], first["project"], first["displayName"]) == ("run-1", "tiny", "first try")
    assert json.loads(last["config"])["seed"]["value"] == 4711
    assert [line["loss"] for line in server.lines["wandb-history.jsonl"] if line["_step"] == 1] == [0.8125]
    assert json.loads(server.files["wandb-summary.json"])["mae"] == 1.4375
    (bundle,) = (one for one in server.artifacts if one["artifactTypeName"] == "model")
    assert {alias["alias"] for alias in bundle["aliases"]} == {"latest", "v2"}
    assert (server.files["tiny/model.onnx"], server.files["tiny/card.json"]) == (b"graph", b"{}")
    manifest = json.loads(server.files["tiny/wandb_manifest.json"])["contents"]
    assert manifest["lake/model.onnx"]["ref"] == "lake://tiny/c0ffee/bundles/v2/model.onnx"
    assert any(name.startswith("media/table/error%20by%20hour_table") for name in server.files)
    assert server.exit_codes == [0]
    assert server.unknown == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with serving() as made:
        yield made


def test_keeps_a_run_and_the_bytes_of_its_files_below_home_and_nothing_elsewhere(folder: Path) -> None:
    make = 'tracker = make_tracker(Settings(home=folder, tracking="offline"))'

    (reference,), warnings = track(folder, make + A_RUN + WHOLE)

    assert (reference, warnings) == ("tiny/run-1", [])
    for part in (b"first try", b"4711", b"0.8125", b"1.4375", b"model.onnx", b"card.json", b"lake://tiny/c0ffee"):
        assert part in record(folder, "run-1")
    kept = [path.read_bytes() for path in (folder / "wandb" / "artifacts").rglob("*") if path.is_file()]
    assert {b"graph", b"{}"} < set(kept)
    assert [path.name for path in folder.iterdir()] == ["wandb"]
    assert written_elsewhere(folder) == []


def test_a_run_that_was_tracked_offline_is_sent_later_whole(folder: Path, server: WandbServer) -> None:
    track(folder, A_RUN + WHOLE)

    sync(folder, server)

    check_whole(server)


def test_a_run_is_sent_while_it_is_tracked_and_linked_to_what_it_started_from(
    folder: Path, server: WandbServer
) -> None:
    printed, warnings = track(folder, A_RUN + UNTIL_LIVE + WHOLE, "online", server)

    assert (printed, warnings) == (["tiny/run-1"], [])
    check_whole(server)
    assert server.used == ["tiny:v1"]
    assert written_elsewhere(folder) == []


@pytest.mark.parametrize("behaviour", ["stalls", "refuses"])
def test_a_server_that_takes_nothing_costs_nothing_but_the_wait_at_the_end(
    folder: Path, server: WandbServer, behaviour: str
) -> None:
    server.behaviour = behaviour

    printed, (warning,) = track(folder, A_RUN + WHOLE, "online", server, wait_s=8)

    assert printed == ["tiny/run-1"]
    assert "tracking has not ended within 8 s and was broken off; `wandb sync " in warning
    assert written_elsewhere(folder) == []
    server.behaviour = "takes"
    sync(folder, server)
    check_whole(server)


def test_a_server_that_stalls_in_the_middle_of_a_run_gets_all_of_it_later(folder: Path, server: WandbServer) -> None:
    server.stalls_after_a_run = True

    printed, (warning,) = track(folder, A_RUN + WHOLE, "online", server, wait_s=12)

    assert (printed, len(server.runs), server.behaviour) == (["tiny/run-1"], 1, "stalls")
    assert "tracking has not ended within 12 s" in warning
    server.stalls_after_a_run, server.behaviour = False, "takes"
    sync(folder, server)
    check_whole(server)


@pytest.mark.parametrize(
    ("victim", "said"),
    [
        ("wandb-core", "tracking: nothing more is recorded of this run: "),
        ("infra.tracking.recorder", "tracking: the process that records this run has ended before it"),
    ],
)
def test_a_product_that_dies_in_the_middle_is_said_once(folder: Path, victim: str, said: str) -> None:
    code = f"""
for victim in processes({victim!r}):
    victim.kill()
for step in range(5_000):
    run.log({{"loss": 0.5}}, step + 2)
run.finish(outcome())
print("over")
"""
    printed, (warning,) = track(folder, A_RUN + UNTIL_STARTED + code)

    assert printed == ["over"]
    assert warning.startswith(said)


def test_a_product_that_hangs_from_the_start_drops_figures_and_is_broken_off_and_named_no_more(folder: Path) -> None:
    code = """
(recorder,) = processes("infra.tracking.recorder")
recorder.suspend()
for step in range(20_000):
    run.log({"loss": 0.5}, step + 2)
print(run.reference)
run.settle()
print(repr(run.reference))
run.finish(outcome())
print(recorder.is_running(), repr(run.reference))
"""
    printed, (dropped, broken_off) = track(folder, A_RUN + code, wait_s=1)

    assert printed == ["tiny/run-1", "''", "False ''"]
    assert dropped.startswith("tracking is slower than the training: figures are dropped, from step ")
    assert broken_off == "tracking has not started within 1 s and was broken off; nothing is kept"


def test_a_run_that_was_broken_off_does_not_take_the_figures_of_the_next(folder: Path) -> None:
    code = """
broken_off = tracker.start("tiny", "run-1", "first", {})
broken_off.log({"loss": 0.8125}, 1)
following = tracker.start("tiny", "run-2", "second", {})
following.log({"loss": 0.3125}, 1)
following.finish(outcome())
broken_off.finish(None)
"""
    _, warnings = track(folder, code)

    assert warnings == []
    assert b"0.8125" in record(folder, "run-1")
    assert b"0.3125" not in record(folder, "run-1")
    assert b"0.3125" in record(folder, "run-2")
    assert b"0.8125" not in record(folder, "run-2")


def test_a_process_that_ends_in_the_middle_of_a_run_leaves_a_failed_one_with_its_figures(
    folder: Path, server: WandbServer
) -> None:
    code = 'recorder = processes("infra.tracking.recorder")[0]; print(recorder.pid)'
    (pid,), _ = track(folder, A_RUN + code)
    subprocess.run(["tail", "--pid", pid, "-f", os.devnull], timeout=WITHIN_S, check=True)  # until it has ended

    sync(folder, server)

    assert [line["loss"] for line in server.lines["wandb-history.jsonl"]] == [0.8125]
    assert server.exit_codes == [1]


@pytest.mark.parametrize("in_the_way", [".", "wandb"])
def test_a_folder_that_cannot_be_written_gives_a_silent_run(folder: Path, in_the_way: str) -> None:
    (folder / in_the_way).parent.mkdir(exist_ok=True)
    (folder / in_the_way).write_text("a file where the folder belongs")
    code = """
run.finish(outcome())
print(isinstance(run, SilentTracker), repr(run.reference))
"""
    printed, warnings = track(folder, A_RUN + code)

    assert printed == ["True ''"]
    (warning,) = warnings
    assert warning.startswith("tracking is off for this run: ")
    assert written_elsewhere(folder) == []


def test_files_that_cannot_be_kept_are_said_once_and_cost_no_figures(folder: Path) -> None:
    folder.mkdir()
    (folder / "artifacts").write_text("a file where the folder belongs")

    _, warnings = track(folder, A_RUN + "run.finish(outcome())")

    (warning,) = warnings
    assert warning.startswith("tracking: the bundle is not kept: ")
    assert b"0.8125" in record(folder, "run-1")
    assert b"1.4375" in record(folder, "run-1")
    assert written_elsewhere(folder) == []


def test_a_run_that_is_not_wanted_keeps_nothing_and_nothing_imports_the_product(folder: Path) -> None:
    code = """
tracker = make_tracker(Settings(home=folder, tracking="disabled"))
run = tracker.start("tiny", "run-1", "first", {})
run.log({"loss": 0.8125}, 1)
run.finish(None)
make_tracker(Settings(home=folder, tracking="offline"))
print("wandb" in sys.modules, repr(run.reference))
"""
    printed, warnings = track(folder, code)

    assert (printed, warnings) == (["False ''"], [])
    assert not folder.exists()
    assert written_elsewhere(folder) == []


def test_online_needs_a_key(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    online = settings.model_copy(update={"tracking": "online"})

    with pytest.raises(Misconfigured, match="OKRUH_TRACKING=online needs WANDB_API_KEY"):
        make_tracker(online)

    monkeypatch.setenv("WANDB_API_KEY", "a key")
    assert isinstance(make_tracker(online), WandbTracker)


def test_is_offline_where_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OKRUH_TRACKING", raising=False)

    assert isinstance(make_tracker(Settings(home=tmp_path)), WandbTracker)
