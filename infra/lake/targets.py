"""Writing files outside of a lake: whole, or not at all; and folders for what is on its way."""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from infra.errors import Unavailable

_WORKSPACE = ".work"


@contextmanager
def workspace(parent: Path, purpose: str) -> Iterator[Path]:
    """Make a folder that is gone afterwards; those that killed processes left, for whatever purpose, go as well.

    Who works in one holds a lock on it, which the system lets go when the process ends.

    Raises: `Unavailable` where no folder can be made.
    """
    with ExitStack() as held:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.glob(f"*{_WORKSPACE}"):
                _remove_left(left)
            made = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=parent))
            held.callback(shutil.rmtree, made, ignore_errors=True)
            _lock(made, held)
            folder = made.rename(f"{made}{_WORKSPACE}")  # from now on others may look whether it is left
            held.callback(shutil.rmtree, folder, ignore_errors=True)
        except OSError as error:
            raise Unavailable(
                f"no folder can be made in {parent} ({error.strerror}): make room or set its rights"
            ) from error
        yield folder


def _remove_left(folder: Path) -> None:
    with ExitStack() as held, suppress(OSError):  # somebody is at work in it, or at removing it
        _lock(folder, held)
        shutil.rmtree(folder)


def _lock(folder: Path, held: ExitStack) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    held.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
