"""Writing files outside of a lake: whole, or not at all."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import Unavailable


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
