"""Writers that are killed lose nothing that was acknowledged; writers beside each other lose nothing at all."""

import os
import secrets
import subprocess
import sys
from contextlib import ExitStack, closing, suppress
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

import infra
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import MAIN
from infra.lake.transaction import transaction

WRITER = Path(__file__).with_name("lake_writer.py")
COLLECTOR = Path(__file__).with_name("lake_collector.py")
SOURCES = Path(infra.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCES)}
ENDLESS = 10**6


def start(root: Path, count: int) -> subprocess.Popen[str]:
    """Start a writer under a name of its own."""
    return subprocess.Popen(
        [sys.executable, WRITER, root, secrets.token_hex(4), str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def acknowledged(output: str) -> list[str]:
    """Take the whole lines of a writer's output that are commit ids."""
    return [line.strip() for line in output.splitlines(keepends=True) if len(line) == 65]


def kill_two(root: Path, random: Random) -> list[str]:
    """Let two writers run beside each other, kill them at a random moment, and give what they acknowledged."""
    with ExitStack() as started:
        writers = [started.enter_context(start(root, ENDLESS)) for _ in range(2)]
        first = writers[0].stdout
        assert first is not None
        seen = [first.readline() for _ in range(1 + random.choice([0, 0, 1, 3, 8]))]
        with suppress(subprocess.TimeoutExpired):
            writers[0].wait(timeout=random.uniform(0, 0.03))
        for writer in writers:
            assert writer.poll() is None
            writer.kill()
        outputs = [writer.communicate()[0] for writer in writers]
    return [commit_id for output in ["".join(seen), *outputs] for commit_id in acknowledged(output)]


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.proof)])
def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path, kills: int) -> None:
    root, random, promised = tmp_path / "lake", Random(kills), set[str]()
    for _ in range(kills):
        promised.update(kill_two(root, random))

        with closing(EmbeddedLake(root)) as lake:
            assert promised <= {found.id for found in lake.log(MAIN)}
            assert lake.verify() == []
            with transaction(lake, MAIN, "the next writer", {}) as work:
                work.put("next", secrets.token_bytes(8))
            assert work.committed is not None
    assert promised


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.proof)])
def test_killed_collectors_remove_only_what_nothing_reaches(tmp_path: Path, kills: int) -> None:
    root, random, removed = tmp_path / "lake", Random(kills), 0
    with closing(EmbeddedLake(root)) as lake:
        for number in range(kills):
            lake.create_branch("dropped", MAIN)
            lake.put_all("dropped", {f"{place:03}": secrets.token_bytes(100) for place in range(200)})
            lake.commit("dropped", "change", {})
            lake.delete_branch("dropped")
            with transaction(lake, MAIN, "change", {}) as work:
                work.put(f"kept/{number}", secrets.token_bytes(100))

            with subprocess.Popen(
                [sys.executable, COLLECTOR, root], stdout=subprocess.PIPE, env=ENVIRONMENT
            ) as process:
                assert process.stdout is not None
                if random.random() < 0.5:
                    removed += int(process.stdout.readline())
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=random.uniform(0, 0.3))
                assert process.poll() is None
                process.kill()

            assert lake.verify() == []
            assert len(lake.list(MAIN, "kept/")) == number + 1
        removed += lake.collect(timedelta(0)).objects
        assert 0 < removed <= kills * 200
        assert len([file for file in (root / "objects").rglob("*") if file.is_file()]) == kills


@pytest.mark.parametrize(("writers", "count"), [(4, 25), pytest.param(8, 50, marks=pytest.mark.proof)])
def test_writers_beside_each_other_lose_nothing(tmp_path: Path, writers: int, count: int) -> None:
    root = tmp_path / "lake"
    with ExitStack() as started:
        processes = [started.enter_context(start(root, count)) for _ in range(writers)]
        outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * writers

    promised = [commit_id for output in outputs for commit_id in acknowledged(output)]
    with closing(EmbeddedLake(root)) as lake:
        assert len(set(promised)) == writers * count
        assert set(promised) <= {found.id for found in lake.log(MAIN)}
        assert len(lake.list(MAIN, "data/")) == writers * count
        assert list(lake.branches()) == [MAIN]
        assert lake.verify() == []
