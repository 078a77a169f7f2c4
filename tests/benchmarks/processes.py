"""What Linux says of processes, in /proc."""

import os
from pathlib import Path

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PARENT, _USER, _SYSTEM = 1, 11, 12  # places behind the name in `stat`; see proc_pid_stat(5), where the first is 3


def children(pid: int) -> list[int]:
    """List the processes that a process has started and that live."""
    found = []
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                parent = int(_stat(int(folder.name))[_PARENT])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            if parent == pid:
                found.append(int(folder.name))
    return sorted(found)


def cpu_s(pid: int) -> float:
    """Give the processor's seconds that a process has used, the kernel's for it among them."""
    stat = _stat(pid)
    return (int(stat[_USER]) + int(stat[_SYSTEM])) * _TICK_S


def rss_bytes(pid: int) -> int:
    """Give a process's resident memory."""
    return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE


def descriptors(pid: int) -> int:
    """Count a process's open files and sockets."""
    return sum(1 for _ in os.scandir(_PROC / str(pid) / "fd"))


def _stat(pid: int) -> list[str]:
    """Give the fields behind the name, which may hold blanks and brackets."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
