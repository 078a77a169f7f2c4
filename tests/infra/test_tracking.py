"""Tracking: everything below the given folder, one run's figures apart from another's, and never in the way.

The product runs offline in a child process whose home, temporary and working folders are empty: what it would write
elsewhere is seen there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra import tracking
from infra.errors import Misconfigured
from infra.settings import Settings
from infra.tracking import WandbTracker, make_tracker

SOURCES = Path(tracking.__file__).parents[1]
ELSEWHERE = ("home", "temporary", "working")

CHILD = """
import logging, sys
from pathlib import Path
from infra.settings import Settings
from infra.tracking import SilentTracker, WandbTracker, make_tracker
logging.basicConfig(format="%(message)s")
folder = Path(sys.argv[1])
tracker = WandbTracker(folder, "offline")
"""


def track(folder: Path, code: str) -> tuple[list[str], list[str]]:
    """Run `code` with a `tracker` of `folder`. Gives the lines that it prints, and those that it warns of."""
    homes = {name: folder.parent / name for name in ELSEWHERE}
    for home in homes.values():
        home.mkdir()
    child = subprocess.run(
        [sys.executable, "-c", CHILD + code, str(folder)],
        cwd=homes["working"],
        env={
            "HOME": str(homes["home"]),
            "TMPDIR": str(homes["temporary"]),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SOURCES),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines(), child.stderr.splitlines()


def written_elsewhere(folder: Path) -> list[Path]:
    """What a child left outside its folder."""
    return [path for name in ELSEWHERE for path in (folder.parent / name).rglob("*")]


def record(folder: Path, reference: str) -> bytes:
    """What was recorded of a run: small ones hold their figures as text."""
    (path,) = folder.rglob(f"run-{reference.rpartition('/')[2]}.wandb")
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_keeps_a_run_and_the_bytes_of_its_files_below_home_and_nothing_elsewhere(folder: Path) -> None:
    code = """
tracker = make_tracker(Settings(home=folder, tracking="offline"))
run = tracker.start("tiny", "first try", {"seed": 4711})
run.log({"loss": 0.8125}, 1)
run.finish({"mae": 1.4375}, {"model.onnx": b"graph", "card.json": b"{}"})
print(run.reference)
"""
    (reference,), warnings = track(folder, code)

    assert warnings == []
    assert reference.startswith("tiny/")
    for part in (b"first try", b"4711", b"0.8125", b"1.4375", b"model.onnx", b"card.json"):
        assert part in record(folder, reference)
    kept = [path.read_bytes() for path in (folder / "wandb" / "artifacts").rglob("*") if path.is_file()]
    assert sorted(kept) == [b"graph", b"{}"]
    assert [path.name for path in folder.iterdir()] == ["wandb"]
    assert written_elsewhere(folder) == []


def test_a_run_that_was_broken_off_does_not_take_the_figures_of_the_next(folder: Path) -> None:
    code = """
broken_off = tracker.start("tiny", "first", {})
broken_off.log({"loss": 0.8125}, 1)
following = tracker.start("tiny", "second", {})
following.log({"loss": 0.3125}, 1)
following.finish({}, {})
print(broken_off.reference)
print(following.reference)
"""
    (broken_off, following), warnings = track(folder, code)

    assert warnings == []
    assert b"0.8125" in record(folder, broken_off)
    assert b"0.3125" not in record(folder, broken_off)
    assert b"0.3125" in record(folder, following)
    assert b"0.8125" not in record(folder, following)


def test_a_process_that_ends_in_the_middle_of_a_run_keeps_its_figures(folder: Path) -> None:
    code = """
run = tracker.start("tiny", "first", {})
run.log({"loss": 0.8125}, 1)
print(run.reference)
"""
    (reference,), _ = track(folder, code)

    assert b"0.8125" in record(folder, reference)


@pytest.mark.parametrize("in_the_way", [".", "wandb"])
def test_a_folder_that_cannot_be_written_gives_a_silent_run(folder: Path, in_the_way: str) -> None:
    (folder / in_the_way).parent.mkdir(exist_ok=True)
    (folder / in_the_way).write_text("a file where the folder belongs")
    code = """
run = tracker.start("tiny", "first", {})
run.log({"loss": 0.8125}, 1)
run.finish({"mae": 1.4375}, {"card.json": b"{}"})
print(isinstance(run, SilentTracker), repr(run.reference))
"""
    printed, warnings = track(folder, code)

    assert printed == ["True ''"]
    (warning,) = warnings
    assert warning.startswith("tracking is off for this run: ")
    assert written_elsewhere(folder) == []


def test_files_that_cannot_be_kept_are_said_once_and_cost_no_figures(folder: Path) -> None:
    folder.mkdir()
    (folder / "artifacts").write_text("a file where the folder belongs")
    code = """
run = tracker.start("tiny", "first", {})
run.log({"loss": 0.8125}, 1)
run.finish({"mae": 1.4375}, {"card.json": b"{}"})
print(run.reference)
"""
    (reference,), warnings = track(folder, code)

    (warning,) = warnings
    assert warning.startswith("tracking stopped: ")
    assert b"0.8125" in record(folder, reference)
    assert b"1.4375" in record(folder, reference)
    assert written_elsewhere(folder) == []


def test_a_run_that_is_not_wanted_keeps_nothing_and_imports_nothing(folder: Path) -> None:
    code = """
tracker = make_tracker(Settings(home=folder, tracking="disabled"))
run = tracker.start("tiny", "first", {})
run.log({"loss": 0.8125}, 1)
run.finish({"mae": 1.4375}, {"card.json": b"{}"}, failed=True)
make_tracker(Settings(home=folder, tracking="offline"))  # as cheap, before a run starts
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
