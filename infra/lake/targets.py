"""Writing files outside of a lake: whole, or not at all; and folders for what is on its way."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import Unavailable

_ABANDONED_AFTER_S = 86400.0


@contextmanager
def workspace(parent: Path, purpose: str) -> Iterator[Path]:
    """Make a folder that is gone afterwards; those that killed processes left more than a day ago go as well.

    Raises: `Unavailable` where no folder can be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f"{purpose}-", dir=parent)
    except OSError as error:
        raise Unavailable(
            f"no folder can be made in {parent} ({error.strerror}): make room or set its rights"
        ) from error
    oldest = time.time() - _ABANDONED_AFTER_S
    for left in parent.glob(f"{purpose}-*"):
        with suppress(OSError):  # somebody else was quicker, or will be
            if left.stat().st_mtime < oldest:
                shutil.rmtree(left)
    with folder as name:
        yield Path(name)


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
