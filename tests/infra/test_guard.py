"""A guarded child ends with its starter, however that ended, and is left alone once it is released."""

import signal
import subprocess
import sys

import pytest

from infra import bentos

STARTER = """
import subprocess, sys
from infra.guard import Guard

child = subprocess.Popen(["sleep", "100"], start_new_session=True)
guard = {guard}
print(child.pid, flush=True)
sys.stdin.read()
"""


def start(guard: str) -> "subprocess.Popen[str]":
    """Start a process that starts a child, which shares its standard output, and guards it."""
    return subprocess.Popen(
        [sys.executable, "-c", STARTER.format(guard=guard)],
        cwd=bentos.SOURCES,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("guard", ["Guard.of_process(child.pid)", "Guard.of_group(child.pid)"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_does_not_outlive_its_starter(guard: str, number: signal.Signals) -> None:
    with start(guard) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline()

        starter.send_signal(number)

        assert starter.stdout.read() == ""  # ends when the child has


def test_a_released_child_is_left_alone() -> None:
    with start("Guard.of_process(child.pid); guard.release()") as starter:
        assert starter.stdout is not None
        pid = starter.stdout.readline().strip()

        starter.kill()
        starter.wait()

        child = subprocess.run(["/bin/kill", "-TERM", pid], check=False)
        assert child.returncode == 0  # it was there to be ended
        assert starter.stdout.read() == ""


ENDING = "from infra.guard import end_with_parent; end_with_parent({named!r}); print('there', flush=True); input()"
PARENT = """
import os, subprocess, sys
read, written = os.pipe()
child = subprocess.Popen([sys.executable, "-c", {code!r}], stdin=read)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_process_ends_with_its_parent() -> None:
    parent = [sys.executable, "-c", PARENT.format(code=ENDING.format(named="python"))]
    with subprocess.Popen(
        parent, cwd=bentos.SOURCES, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "there\n"

        starter.kill()

        assert starter.stdout.read() == ""  # ends when the child has


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_process_whose_parent_has_gone_ends_at_once() -> None:
    command = [sys.executable, "-c", ENDING.format(named="some other command")]

    done = subprocess.run(command, cwd=bentos.SOURCES, capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (-signal.SIGTERM, b"")
