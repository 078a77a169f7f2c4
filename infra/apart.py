"""A process apart, which is told everything by its arguments and its environment, and tells by lines as it goes on."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from infra.guard import Guard


def run_apart(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], errors: Path, hear: Callable[[str], None]
) -> int:
    """Run a command to its end and give its exit status; negative, it is the signal that ended it.

    It ends with this process, in whatever way that does. What it starts itself is of its group, unless that leaves it.

    Args:
        folder: where it runs.
        errors: a file for what it writes to standard error.
        hear: takes each line that it writes to standard output.
    """
    with (
        errors.open("wb") as output,
        subprocess.Popen(  # noqa: S603 (our own command)
            list(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        guard = Guard.of_group(process.pid)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                hear(line)
            return process.wait()
        finally:
            if process.poll() is None:  # something went wrong on this side
                os.killpg(process.pid, signal.SIGTERM)
            guard.release()
