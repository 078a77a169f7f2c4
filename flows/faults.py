"""Failures of the machine (disk, permissions, Prefect's server), told apart from bugs.

What an adapter foresees it raises as `infra.errors`. This is for the rest: a disk fills under any write, Prefect's own
database included. A failure counts as the machine's by its error number or its origin, wherever in the chain of causes
it stands; everything else is a bug and keeps its traceback. What an error was raised beside is no
cause of it, with one exception: on a full disk whatever tidies up fails as well.
"""

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from infra.errors import Unavailable
from infra.settings import load_settings
from models.errors import OkruhError, first_line

ROOM_BYTES = 8 * 2**20
"""What a run may write before it has done anything of use: Prefect's database takes 6 MB, a tracked run 1 MB."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTDIR}
_DATABASE_MACHINE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
}
_NEARLY_FULL_BYTES = 2**20


def check_room(home: Path) -> None:
    """Raise `Unavailable` where a flow would fill the disk; Prefect's server would take minutes to say so."""
    if os.environ.get("PREFECT_API_URL"):
        return
    if (free := shutil.disk_usage(home).free) < ROOM_BYTES:
        raise Unavailable(
            f"no space left: the disk of {home} has {free / 2**20:.1f} MiB free and a run needs {ROOM_BYTES >> 20}; "
            "free some, or set OKRUH_HOME to a folder on another disk"
        )


def explain(error: BaseException) -> str | None:
    """Say in one line what failed on this machine and what to do; None for a bug."""
    for one, is_cause in _chain(error):
        if isinstance(one, OkruhError) and is_cause:
            return str(one)
        if is_cause and (reason := _of_torch(one)):
            return reason
        if isinstance(one, sqlite3.Error) and (is_cause or _code(one) == sqlite3.SQLITE_FULL):
            if _code(one) in _DATABASE_MACHINE:
                return f"a database fails ({one}): check space and permissions of {_home()}, and try again"
        elif isinstance(one, OSError) and (is_cause or one.errno in _FULL) and (reason := _of_system(one)):
            return reason
        elif is_cause and _is_prefects(one):
            return _of_prefect(one)
    return None


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """Walk an error and all that it was raised from or beside, the nearest first; say whether each is a cause."""
    waiting: list[tuple[BaseException | None, bool]] = [(error, True)]
    seen: set[int] = set()
    while waiting:
        one, is_cause = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one, is_cause
            waiting += ((one.__cause__, is_cause), (one.__context__, False))


def _code(error: sqlite3.Error) -> int | None:
    """Give SQLite's primary result code; None where the error is not the database's."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _of_system(error: OSError) -> str | None:
    place = error.filename or "the disk"
    if error.errno in _FULL:
        return f"no space left on {place}: free some and run the same command again"
    if error.errno in _MACHINE:
        return f"{place}: {error.strerror}; mend that and run the same command again"
    return None


def _of_torch(error: BaseException) -> str | None:
    """Say what torch found too little of; by its classes' names, for it may not be imported here."""
    kind = type(error)
    if kind.__module__.startswith(("torch._dynamo.", "torch._inductor.")):
        return f"torch.compile fails: {first_line(error)}; mend that, or leave training.compiled at no"
    if kind.__name__ == "OutOfMemoryError":
        return f"{first_line(error)}; set training.batch_rows or training.memory_mb to less, or OKRUH_DEVICE to cpu"
    return None


def _is_prefects(error: BaseException) -> bool:
    import httpx  # Prefect's client; nothing else of the command uses it

    return isinstance(error, httpx.HTTPError) or "ephemeral Prefect API server" in str(error)


def _of_prefect(error: BaseException) -> str:
    home = _home()
    if home.exists() and shutil.disk_usage(home).free < _NEARLY_FULL_BYTES:
        return f"no space left for Prefect's database in {home}: free some and run the same command again"
    server = os.environ.get("PREFECT_API_URL", "on this machine")
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"Prefect's server {server} fails ({reason}): see that it runs, and run the same command again"


def _home() -> Path:
    return load_settings().home
