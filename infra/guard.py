"""Children that do not outlive whoever started them, not even where that was killed (`kill -9`).

A guard is a shell, in a session of its own, that waits for the end of a pipe whose other end only the starter holds.
When the starter is gone, in whatever way, it ends the child. Cost: one idle shell a guarded child.
"""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

# A process id that now names a process of another birth is not the child's any more
_SCRIPT = """
target=$1
birth() { ps -o lstart= -p "${target#-}" 2>/dev/null; }
end() { now=$(birth); if [ -z "$now" ] || [ "$now" = "$born" ]; then kill -s "$1" -- "$target"; fi; }
born=$(birth)
while read -r _; do :; done
end TERM; sleep 5; end KILL
"""


_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent(named: str) -> None:
    """Have Linux end this process, as by SIGTERM, when the one that started it is gone; nothing elsewhere.

    Where it has gone already, which shows by a parent whose command lacks the word `named`, this is the end.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    with suppress(OSError):  # of processes that show nobody their commands
        if named.encode() not in Path(f"/proc/{os.getppid()}/cmdline").read_bytes():
            os.kill(os.getpid(), signal.SIGTERM)


class Guard:
    """Ends one process, or one process group, when this process ends."""

    def __init__(self, target: int) -> None:
        self._shell = subprocess.Popen(  # noqa: S603 (our own script)
            ["/bin/sh", "-c", _SCRIPT, "guard", str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @classmethod
    def of_process(cls, pid: int) -> Self:
        """Guard one process."""
        return cls(pid)

    @classmethod
    def of_group(cls, group: int) -> Self:
        """Guard a process group."""
        return cls(-group)

    def release(self) -> None:
        """Guard no longer: the child has ended, and its id may soon be another's."""
        self._shell.kill()
        self._shell.wait()
        assert self._shell.stdin is not None
        self._shell.stdin.close()
