"""Requests to a service: asked again where the service, or what is between, may answer the next time.

That is where a connection does not come about or breaks, and on 429, 502, 503 and 504; after the pause that
`Retry-After` asks for, and a random one that may double each time (full jitter), so that callers who were turned away
together do not come back together. Whoever asks sees to it that being asked twice does no harm. All tries together stay
within one deadline, which the service is told. Redirections are not followed: they would take the key elsewhere.
"""

import random
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import count
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import urllib3
from urllib3 import exceptions
from urllib3.exceptions import HTTPError

from infra.errors import InfraError, Misconfigured, NotFound, Unavailable
from models.errors import Violation

DEADLINE = "x-envoy-expected-rq-timeout-ms"
"""The header that says how many milliseconds a caller will still wait; Envoy, and meshes made of it, set it as well."""

MAXIMUM_BODY_BYTES = 16 << 20
"""A request's body holds at most this."""

JSON = "application/json"

_WORTH_REPEATING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_CONNECT_S = 5.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_SHOWN_BYTES = 120
_KEY = re.compile(r"[!-~]+")


class _Place(msgspec.Struct):
    field: str
    rule: str
    row: int | None = None


class Fault(msgspec.Struct):
    """What a service says of a request that it does not answer."""

    message: str
    violations: list[_Place] = []
    unknown: list[str] = []
    conflicting: list[str] = []
    kept: int = 0


class _Refusal(msgspec.Struct):
    error: Fault


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes

    @property
    def fault(self) -> Fault:
        """What is wrong, if something is; in the service's words where it is one of ours that speaks."""
        try:
            return msgspec.json.decode(self.body, type=_Refusal).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Fault(f"status {self.status}, {self.body[:_SHOWN_BYTES]!r}")

    @property
    def violations(self) -> list[Violation]:
        """Broken rules, by the rows of the request."""
        return [Violation(one.field, one.rule, one.row) for one in self.fault.violations]


class Connection:
    """Connections to one service, kept open. Thread-safe."""

    def __init__(self, url: str, key: str | None, timeout_s: float, retries: int, most: int) -> None:
        """Prepare, without a connection yet; see `infra.client.Client`. Raises: `Misconfigured`."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
            raise Misconfigured("a service's address is like http://127.0.0.1:3000 or https://host/path")
        if key is not None and not _KEY.fullmatch(key):
            raise Misconfigured("the key has characters that no key has (its value is not shown)")
        if timeout_s <= 0 or retries < 0:
            raise Misconfigured(f"timeout_s is above 0 and retries 0 or more, not {timeout_s:g} and {retries}")
        self.url = url.rstrip("/")
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._timeout_s = timeout_s
        self._retries = retries
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=most, retries=False)

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = JSON) -> Reply:
        """Send a request and give the reply; none that is worth repeating.

        Raises: `Unavailable` where none came in time, `Misconfigured` where the other side is not who the address says.
        """
        deadline = time.monotonic() + self._timeout_s
        for attempt in count():
            pause_s = 0.0
            try:
                reply, pause_s = self._send(method, path, body, kind, max(0.001, deadline - time.monotonic()))
                if reply.status not in _WORTH_REPEATING:
                    return reply
                reason = reply.fault.message
            except exceptions.SSLError as error:
                raise Misconfigured(f"{self.url} cannot be trusted: {error}") from error
            except (exceptions.NewConnectionError, exceptions.ProtocolError, exceptions.TimeoutError) as error:
                reason = _plainly(error)
            except HTTPError as error:
                raise InfraError(f"{self.url} cannot be asked: {error}") from error
            pause_s += random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt))  # noqa: S311
            if attempt == self._retries or time.monotonic() + pause_s >= deadline:
                raise Unavailable(f"{self.url} does not answer ({reason}); asked {attempt + 1} times")
            time.sleep(pause_s)
        raise AssertionError

    def error(self, reply: Reply) -> InfraError:
        """Turn a reply that nobody expects of a service into an error."""
        message = f"{self.url}: {reply.fault.message}"
        match reply.status:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                return Misconfigured(message)
            case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED:
                return NotFound(f"{message}; is this the address of a service of Okruh?")
            case _:
                return InfraError(message)

    def close(self) -> None:
        """Close what is open."""
        self._pool.clear()

    def _send(self, method: str, path: str, body: bytes, kind: str, left_s: float) -> tuple[Reply, float]:
        """Send a request once; give the reply and the pause that it asks for."""
        headers = self._headers | {"content-type": kind, DEADLINE: str(max(1, int(left_s * 1000)))}
        answer = self._pool.request(
            method,
            f"{self.url}{path}",
            body=body or None,
            headers=headers,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=min(left_s, _CONNECT_S), total=left_s),
        )
        return Reply(answer.status, answer.data), _asked_pause_s(answer.headers.get("retry-after"))


def _asked_pause_s(retry_after: str | None) -> float:
    """Read `Retry-After`, seconds or a date; 0 for what is neither."""
    if retry_after is None:
        return 0.0
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _plainly(error: HTTPError) -> str:
    """Say what happened to a connection, without the objects that urllib3 names."""
    if isinstance(error, exceptions.TimeoutError) and not isinstance(error, exceptions.NewConnectionError):
        return "no answer in time"
    return str(error.__cause__ or error.__context__ or error)
