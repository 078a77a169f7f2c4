"""Keys: who may call a service, made and revoked while it runs."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from infra.assembly import assemble
from infra.keys import KeyFile
from infra.settings import load_settings


class Made(Struct, frozen=True):
    """A new key."""

    key: str
    """Kept nowhere."""
    name: str
    file: str


class Known(Struct, frozen=True):
    """What is known of a key."""

    name: str
    scopes: tuple[str, ...]
    rate: float | None
    created_at: datetime


class Listed(Struct, frozen=True):
    """Whose keys there are."""

    file: str
    keys: list[Known]


class Revoked(Struct, frozen=True):
    """How many keys of a name were removed."""

    name: str
    revoked: int


def add(name: str, scopes: Sequence[str], rate: float | None = None) -> Made:
    """Make a key. Raises: `Misconfigured`, `Unavailable`."""
    file = _file()
    return Made(file.add(name, scopes, rate), name, str(file.path))


def listed() -> Listed:
    """Say whose keys there are. Raises: `Misconfigured`, `Unavailable`."""
    file = _file()
    return Listed(str(file.path), [Known(key.name, key.scopes, key.rate, key.created_at) for key in file.read()])


def revoke(name: str, older: bool = False) -> Revoked:
    """Remove the keys of a name, or all of them but the newest. Raises: `NotFound`, `Misconfigured`, `Unavailable`."""
    return Revoked(name, len(_file().revoke(name, older)))


def _file() -> KeyFile:
    return assemble(load_settings()).keys()
