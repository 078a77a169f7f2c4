"""A training that is killed wherever it is, and started again, ends with the bytes of one that was left alone."""

import os
import random
import signal
import subprocess
from pathlib import Path
from threading import Event

import pytest

from infra import registry
from infra.lake.embedded.store import EmbeddedLake
from models.bundle import Bundle
from tests.flows.test_cli import OKRUH, Desk

KILLS = 8
TRAIN = ("train", "digits", "--as-of", "2100-01-01T00:00:00+00:00", "--set", "training.epochs=12")
EVERY_EPOCH = {"OKRUH_TRAIN_CHECKPOINT_S": "0.001"}


def trained(desk: Desk) -> Bundle:
    """Train to the end, and give what came of it."""
    done = desk.okruh(*TRAIN, **EVERY_EPOCH)
    assert done.returncode == 0, done.stderr
    lake = EmbeddedLake(desk.place / "okruh" / "lake" / "digits")
    (version,) = registry.versions(lake, "main")
    return registry.load_bundle(lake, "main", version)


def reports(desk: Desk) -> int:
    """Count what all runs have said of their steps."""
    return sum(file.read_bytes().count(b"\n") for file in (desk.place / "okruh" / "runs" / "digits").glob("*.jsonl"))


def kill_after(desk: Desk, more: int) -> None:
    """Train until so much more is reported, and kill the process with all that it has started."""
    wanted = reports(desk) + more
    environment = desk.environment | EVERY_EPOCH
    with subprocess.Popen([*OKRUH, *TRAIN], cwd=desk.place, env=environment, start_new_session=True) as process:
        while reports(desk) < wanted and process.poll() is None:
            Event().wait(0.01)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.proof
def test_kills_change_nothing(tmp_path: Path) -> None:
    alone, killed = Desk(tmp_path / "alone"), Desk(tmp_path / "killed")
    for desk in (alone, killed):
        desk.place.mkdir()
        assert desk.okruh("ingest", "digits").returncode == 0
    draw = random.Random(0)

    for _ in range(KILLS):
        kill_after(killed, draw.randint(1, 4))
    assert reports(killed) > KILLS
    again, undisturbed = trained(killed), trained(alone)

    assert again.onnx == undisturbed.onnx
    assert again.state == undisturbed.state
    assert list((killed.place / "okruh" / "checkpoints").rglob("train-*")) == []
