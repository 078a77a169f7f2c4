"""Keys of those who call a service: one file, which services notice when it changes.

A key is 256 random bits, shown once, when it is made. The file keeps its sha256, which is enough: what nobody can guess
needs no slow digest, and one would cost more than a prediction. The file is written whole or not at all, for its owner
alone; several keys of one name allow a change of keys without an interruption.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from infra.errors import Misconfigured, NotFound, Unavailable

Scope = Literal["predict", "feedback", "admin"]
"""What a key allows: predictions, labels, or metrics and the rest of BentoML's paths. None contains another."""

_BITS = 256
_PREFIX = "okruh_"  # so that those who look for leaked secrets find them

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Key(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept of a key."""

    name: Name
    """Who calls."""
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    """sha256 of the key, in hexadecimal."""
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    created_at: Annotated[datetime, Meta(tz=True)]
    rate: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    """Requests a second, over all workers of one service; None: no bound."""


class _Content(Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[Key]


class KeyFile:
    """The keys in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> tuple[int, int, int] | None:
        """Give what differs when the file has changed; None where there is none. Raises: `Unavailable`."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be read: {error.strerror}") from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> list[Key]:
        """Give all keys, the oldest first; none where there is no file. Raises: `Misconfigured`, `Unavailable`."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Content).keys
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be read: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Misconfigured(f"{self.path} is no file of keys, as `okruh keys add` writes it: {error}") from error

    def add(self, name: str, scopes: Sequence[str], rate: float | None = None) -> str:
        """Make a key and give it; it is kept nowhere.

        Raises: `Misconfigured` for a name, a scope or a rate that there is not; `Unavailable`.
        """
        secret = _PREFIX + secrets.token_urlsafe(_BITS // 8)
        made = {"name": name, "digest": digest(secret.encode()).hex(), "scopes": list(dict.fromkeys(scopes))}
        try:
            key = msgspec.convert({**made, "created_at": datetime.now(UTC), "rate": rate}, Key)
        except msgspec.ValidationError as error:
            raise Misconfigured(f"no such key can be made: {error}") from error
        with self._locked():
            self._write([*self.read(), key])
        return secret

    def revoke(self, name: str, older: bool = False) -> list[Key]:
        """Remove the keys of a name, or all of them but the newest; give what was removed.

        Raises: `NotFound` where there is none, `Misconfigured`, `Unavailable`.
        """
        with self._locked():
            keys = self.read()
            named = [key for key in keys if key.name == name]
            if not named:
                raise NotFound(f"no key is called {name!r} in {self.path}; there are {_names(keys)}")
            revoked = named[:-1] if older else named
            self._write([key for key in keys if key not in revoked])
        return revoked

    def _write(self, keys: list[Key]) -> None:
        """Replace the file, on the disk before this returns."""
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_Content(keys))) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be written: {error.strerror}") from error
        finally:
            new.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers out, and see that what they find afterwards is on the disk."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY)
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
            os.fsync(folder)
        finally:
            os.close(folder)


def digest(key: bytes) -> bytes:
    """Give what is kept of a key."""
    return hashlib.sha256(key).digest()


def _names(keys: list[Key]) -> str:
    return ", ".join(sorted({key.name for key in keys})) or "none"
