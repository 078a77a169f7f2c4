"""Translates what SQLite and the file system raise into `infra.errors`, in one place.

Programming errors (a wrong statement, a broken constraint) pass through untranslated: they are ours, not the disk's.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import Corrupt, InfraError, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
_OURS = (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.InterfaceError)


@contextmanager
def translated(root: Path) -> Iterator[None]:
    """Raise the lake's own errors for what goes wrong below it in the folder `root`."""
    try:
        yield
    except sqlite3.Error as error:
        if isinstance(error, _OURS):
            raise
        raise _from_sqlite(error, root) from error
    except OSError as error:
        raise _from_system(error, root) from error


def _from_sqlite(error: sqlite3.Error, root: Path) -> InfraError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _LOCKED:
        return Unavailable(f"lake {root} is locked by another process: try again, or end the process that holds it")
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(f"no space left for lake {root}: free some and try again")
    if code in _UNWRITABLE:
        return Unavailable(
            f"lake {root} cannot be opened for writing, which who only reads needs as well, for the log beside its "
            "database: check that it exists and its permissions, or copy it into a folder that can be written"
        )
    if code in _DAMAGED:
        return Corrupt(f"the database of lake {root} is damaged ({error}): restore the folder from a backup")
    return Unavailable(f"lake {root} does not answer ({error}): check its disk and try again")


def _from_system(error: OSError, root: Path) -> InfraError:
    if error.errno in _FULL:
        return Unavailable(f"no space left for lake {root}: free some, or raise the limit on file size, and try again")
    if error.errno in _FORBIDDEN:
        return Unavailable(f"lake {root} cannot be written: check the permissions of {error.filename or root}")
    if error.errno in _IN_THE_WAY:
        return Unavailable(f"lake {root} needs a folder where {error.filename or root} is a file: move it away")
    return Unavailable(f"lake {root} does not answer ({error}): check its disk and try again")
