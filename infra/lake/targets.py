"""Writing files outside of a lake: whole, or not at all; and folders for what is on its way."""

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import Unavailable

_WORKSPACE = re.compile(r"[a-z]+-(\d+)-\w+")


@contextmanager
def workspace(parent: Path, purpose: str) -> Iterator[Path]:
    """Make a folder that is gone afterwards; those that killed processes left, for whatever purpose, go as well.

    Raises: `Unavailable` where no folder can be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f"{purpose}-{os.getpid()}-", dir=parent)
    except OSError as error:
        raise Unavailable(
            f"no folder can be made in {parent} ({error.strerror}): make room or set its rights"
        ) from error
    for left in parent.iterdir():
        if (named := _WORKSPACE.fullmatch(left.name)) and not _is_alive(int(named[1])):
            shutil.rmtree(left, ignore_errors=True)  # somebody else may be at it
    with folder as name:
        yield Path(name)


def _is_alive(process: int) -> bool:
    with suppress(PermissionError):  # another user's
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """Give a name beside a file, for writing what shall replace it; what has that name at the end is removed.

    Raises: `Unavailable` for what the system says in the block.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
    except OSError as error:
        raise Unavailable(f"{target} cannot be written ({error.strerror}): choose another place") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
