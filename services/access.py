"""May this request go on? Asked before a body is read, for our own paths and for those that are BentoML's alike.

Five questions: is its body no pickle, which would run what it likes; is it not compressed, and so of a size that nobody
knows; how long does its caller still wait; and, where keys are asked for, does its key allow this path, at this rate.
Where none are, no page of another origin makes its visitor's browser predict and label: a browser sends that without
asking us first. Who needs no key: whoever asks how the service is doing. A path of BentoML's that is not named here is
for administrators.

The file of keys is looked at by the requests themselves, at most twice a second, so that a change needs no restart and
an idle service does nothing. A file that cannot be read changes nothing: the last good keys go on, and `/readyz` says
so. A file that is gone allows nobody. Cost a request: half a microsecond without keys, two more with them.
"""

import hmac
import ipaddress
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

from infra import connection
from infra.errors import Misconfigured, Unavailable
from infra.keys import Key, KeyFile, Scope, digest
from models.errors import OkruhError
from services.observing import note

logger = logging.getLogger("bentoml.okruh.service")

Headers = Sequence[tuple[bytes, bytes]]

DEADLINE = connection.DEADLINE.encode()

MOST_MS = 10**9

ANYBODY = "anybody"
ANY_KEY = "any key"

_WANTED: dict[str, Scope | str] = {
    "/": ANYBODY,  # the page asks for the key itself, as no browser can send one
    "/livez": ANYBODY,
    "/readyz": ANYBODY,
    "/healthz": ANYBODY,
    "/v2/health/live": ANYBODY,
    "/v2/health/ready": ANYBODY,
    "/v1/predict": "predict",
    "/v2/models/infer": "predict",
    "/predict": "predict",
    "/v1/feedback": "feedback",
    "/metrics": "admin",
    "/schema.json": ANY_KEY,
}
"""What a path asks for, by what metrics call it. Others: `ANY_KEY` where they are ours, `admin` where BentoML's."""

_LOOK_S = 0.5
_PICKLE = re.compile(rb"pickle|vnd\.bentoml", re.IGNORECASE)  # BentoML's own, those of its runners, and anybody's
_PICKLED_PART = re.compile(rb"^content-type[ \t]*:[^\r\n]*(?:pickle|vnd\.bentoml)", re.IGNORECASE | re.MULTILINE)
_BEARER = b"bearer "
_HOW = "`okruh keys add NAME --scope predict` makes one"


class NotAdmitted(OkruhError):
    """A request that does not go on, and how HTTP says why."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Unauthenticated(NotAdmitted):
    """No key, or none that is known."""

    status = 401
    headers = ((b"www-authenticate", b"Bearer"),)


class Forbidden(NotAdmitted):
    """The key is known, and not for this."""

    status = 403


class TooOften(NotAdmitted):
    """The key's rate is used up."""

    status = 429

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.headers = ((b"retry-after", str(retry_after_s).encode()),)


class Pickled(NotAdmitted):
    """The body is of a type that runs code when it is read."""

    status = 415


class Compressed(NotAdmitted):
    """The body is not sent as it is."""

    status = 415
    headers = ((b"accept-encoding", b"identity"),)


class NoDeadline(NotAdmitted):
    """What stands for a deadline is none."""

    status = 400


class Foreign(NotAdmitted):
    """A page of another origin asks, of whose visitor no key is wanted."""

    status = 403


class _Caller:
    """A key, and what is left of its rate: one second's worth at most. It costs one a request, whatever its size."""

    def __init__(self, key: Key, workers: int, now: float) -> None:
        self.key = key
        self.digest = bytes.fromhex(key.digest)
        self.scopes = frozenset(key.scopes)
        self._rate = key.rate / workers if key.rate else math.inf
        self._left = self._most = max(1.0, self._rate)
        self._at = now

    def spend(self, now: float) -> None:
        """Take one request of the rate. Raises: `TooOften`."""
        if self._rate == math.inf:
            return
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            wait_s = math.ceil((1 - self._left) / self._rate)
            raise TooOften(f"{self.key.name} may ask {self.key.rate:g} times a second: try again", wait_s)
        self._left -= 1


class Access:
    """Says which requests go on. For one event loop.

    Args:
        keys: where keys are; None: nobody needs one.
        workers: how many of us share a key's rate.
        loopback: only this machine calls; its names are the only ones by which a page may then know the service.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        keys: KeyFile | None = None,
        workers: int = 1,
        *,
        loopback: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._workers = workers
        self._loopback = loopback
        self._clock = clock
        self._looked_at = -math.inf
        self._stamp: object = ...
        self._callers: dict[bytes, _Caller] = {}
        self._failure: str | None = None

    @property
    def asks_for_keys(self) -> bool:
        """Whether who is not anybody needs a key."""
        return self._keys is not None

    @property
    def failure(self) -> str | None:
        """Why keys cannot be read, or that there are none; None where all is well, or none are asked for."""
        if self._keys is None:
            return None
        self._look(self._clock())
        return self._failure or (None if self._callers else f"there is no key; {_HOW}")

    def admit(self, name: str, headers: Headers, *, ours: bool) -> float | None:
        """Let a request go on; give the seconds within which its caller wants an answer, None where it does not say.

        Args:
            name: the path, or for a path of ours what metrics call it.
            headers: names in small letters.
            ours: whether the path is ours.

        Raises: `Pickled`, `Compressed`, `NoDeadline`, `Unauthenticated`, `Forbidden`, `TooOften`, `Foreign`.
        """
        within_s, authorization, origin = None, b"", None
        for header, value in headers:
            if header == b"content-type":
                if value != b"application/json" and _PICKLE.search(value):
                    raise Pickled("pickle is refused, for reading it runs code; send JSON")
            elif header == b"content-encoding" and value.lower() != b"identity":
                raise Compressed("a body is sent as it is, without a Content-Encoding")
            elif header == b"authorization":
                authorization = value
            elif header == DEADLINE:
                within_s = _seconds(value)
            elif header == b"origin":
                origin = value
        if self._keys is not None:
            self._check(wanted(name, ours), authorization)
        elif origin is not None and wanted(name, ours) not in (ANYBODY, ANY_KEY):
            self._refuse_foreign(origin, headers)
        return within_s

    def _refuse_foreign(self, origin: bytes, headers: Headers) -> None:
        if not _is_own(origin, headers):
            raise Foreign("a page of another origin may not write here; a program sends no Origin")
        if self._loopback and not _names_this_machine(headers):  # but is a name that somebody has point here
            raise Foreign("a page writes here by localhost only; behind a proxy set OKRUH_ACCESS=keys")

    def _check(self, scope: str, authorization: bytes) -> None:
        if scope == ANYBODY:
            return
        now = self._clock()
        self._look(now)
        if authorization[:7].lower() != _BEARER:
            raise Unauthenticated(
                "send your key as `Authorization: Bearer KEY`" if self._callers else f"a key is needed; {_HOW}"
            )
        sent = digest(authorization[7:].strip())
        # Found by eight bytes, which tell nothing of a key, and compared in full: known and unknown cost the same
        caller = self._callers.get(sent[:8], _NOBODY)
        if not hmac.compare_digest(caller.digest, sent):
            raise Unauthenticated("this key is not known, or was revoked")
        note(key=caller.key.name)
        if scope != ANY_KEY and scope not in caller.scopes:
            raise Forbidden(f"{caller.key.name}'s key is not for this: it wants the scope {scope}")
        caller.spend(now)

    def _look(self, now: float) -> None:
        """Read the file of keys where it has changed."""
        if now - self._looked_at < _LOOK_S:
            return
        assert self._keys is not None
        self._looked_at = now
        try:
            stamp = self._keys.stamp()
            if stamp == self._stamp and self._failure is None:
                return
            keys = self._keys.read()
        except (Misconfigured, Unavailable) as error:
            if str(error) != self._failure:
                logger.error("keys are as they were: %s", error)
            self._failure = str(error)
            return
        self._stamp, self._failure = stamp, None
        known = {caller.key: caller for caller in self._callers.values()}
        callers = [known.get(key) or _Caller(key, self._workers, now) for key in keys]
        self._callers = {caller.digest[:8]: caller for caller in callers}
        logger.info("%d keys are known", len(keys))


def wanted(name: str, ours: bool = True) -> str:
    """Give the scope that a path asks for, `ANYBODY` or `ANY_KEY`."""
    return _WANTED.get(name) or (ANY_KEY if ours else "admin")


def refuse_pickled_parts(headers: Headers, body: bytes) -> None:
    """Refuse a body of several parts of which one is a pickle. Raises: `Pickled`."""
    several = any(name == b"content-type" and b"multipart" in value.lower() for name, value in headers)
    if several and _PICKLED_PART.search(body):
        raise Pickled("pickle is refused, in parts as well, for reading it runs code")


def _is_own(origin: bytes, headers: Headers) -> bool:
    """Say whether a page of ours asks. Browsers say it themselves, unless they ask over plain HTTP of another host."""
    said = dict(headers)
    site = said.get(b"sec-fetch-site")
    return site in {b"same-origin", b"none"} if site else origin.partition(b"://")[2] == said.get(b"host")


def _names_this_machine(headers: Headers) -> bool:
    """Say whether a request was sent to a name that nobody elsewhere can have."""
    try:
        host = urlsplit(f"//{dict(headers).get(b'host', b'').decode('latin-1')}").hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def within_s(headers: Headers) -> float | None:
    """Give the seconds within which a caller that was admitted wants an answer; None where it does not say."""
    return next((_seconds(value) for name, value in headers if name == DEADLINE), None)


def _seconds(value: bytes) -> float:
    if not value.isdigit() or len(value) > 15 or int(value) > MOST_MS:
        shown = value[:40].decode("latin-1")
        raise NoDeadline(f"{DEADLINE.decode()} is a number of milliseconds, at most {MOST_MS}, not {shown!r}")
    return int(value) / 1000


_NOBODY = _Caller(Key("nobody", "00" * 32, (), datetime.min.replace(tzinfo=UTC)), 1, 0.0)
