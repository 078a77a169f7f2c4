"""Who serves: the file `rollout.json` in the lake. Changing it is promotion; restoring an earlier one is rollback."""

from datetime import datetime
from typing import Annotated

import msgspec

from models.errors import BundleError

PATH = "rollout.json"


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The versions that answer requests."""

    champion: str
    """Bundle version."""
    since: Annotated[datetime, msgspec.Meta(tz=True)]
    """Event time of the promotion, aware, UTC."""
    previous: str | None = None
    """The champion before it."""


def encode(rollout: Rollout) -> bytes:
    """Write `rollout.json`."""
    return msgspec.json.format(msgspec.json.encode(rollout), indent=2)


def decode(content: bytes) -> Rollout:
    """Read `rollout.json`. Raises: `BundleError`."""
    try:
        return msgspec.json.decode(content, type=Rollout)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{PATH} is not a rollout: {error}") from error
