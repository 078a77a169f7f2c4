"""A lakeFS server, through `lakefs-client`: the one module that imports it.

What goes wrong is translated here, once. Only an answer that says that nothing was done and that asks for patience is
tried again, after a growing, random pause: 429, 503, and 500 of a locked branch. A connection that breaks is not: what
was asked for may have been done.

The client's own up- and downloads hold whole objects in memory; `send` streams through its connections instead.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from lakefs_client import ApiException, Configuration, models
from lakefs_client.client import LakeFSClient
from lakefs_client.exceptions import OpenApiException
from urllib3 import exceptions
from urllib3.exceptions import HTTPError

from infra.errors import Conflict, Corrupt, InfraError, Misconfigured, NotFound, Unavailable
from infra.lake.blocks import Content

CONNECT_S = 10.0
"""How long a connection may take to come about."""

PAGE = 1000
"""Most entries that a page may have."""

# It would write a URL with its signature to the log where an answer's headers are not well formed
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)

_TRIES = 6
_LONGEST_PAUSE_S = 8.0
_CONNECTIONS = 32

Body = Callable[[], Iterable[bytes]]
"""Gives what is sent, from its start, as often as it is asked."""


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, outside: bool = False) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.outside = outside
        """Whether the object store gave it, and not the server."""

    @property
    def asks_for_patience(self) -> bool:
        """Whether nothing was done, and trying again may help."""
        locked = self.status == HTTPStatus.INTERNAL_SERVER_ERROR and "currently locked" in self.message
        return locked or self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class Server:
    """Connections to one server.

    Args:
        address: `http[s]://host[:port]`, without a path.
        first_pause_s: at most how long to wait before a second try; doubled with each further one.
        answer_s: at most how long to wait for an answer, and for each further part of it.
    """

    models = models
    """The client's classes of what is sent."""

    def __init__(
        self,
        address: str,
        access_key_id: str,
        secret_access_key: str,
        first_pause_s: float = 0.25,
        answer_s: float = 60.0,
    ) -> None:
        self.host = urlsplit(address).netloc
        self._base = f"{address}/api/v1"
        self._first_pause_s = first_pause_s
        self._answer_s = answer_s
        configuration = Configuration(host=self._base, username=access_key_id, password=secret_access_key)
        # Not `False`: with that, a TLS error would leave the client as an AttributeError
        configuration.retries = urllib3.Retry(0, redirect=False)
        configuration.connection_pool_maxsize = _CONNECTIONS
        self.client = LakeFSClient(configuration)
        self._authorization = configuration.get_basic_auth_token()
        self.described: dict[str, Content] = {}
        """What is known of content that somebody else stored, by its address in the object store."""
        self._pool: urllib3.PoolManager = self.client._api.rest_client.pool_manager

    @cached_property
    def storage(self) -> Any:
        """What the server says of its object store (`StorageConfig`)."""
        return self.call("configuration", self.client.config_api.get_config).storage_config

    def close(self) -> None:
        """Close the connections; a later use opens new ones."""
        self._pool.clear()

    def call(self, what: str, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do an operation of the client. Raises: `InfraError`, naming `what` where there is no such thing."""
        try:
            return self.ask(operation, *args, **kwargs)
        except Refusal as refusal:
            raise self.error(refusal, what) from refusal

    def ask(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do an operation of the client. Raises: `Refusal` for the caller to look at, `Unavailable`."""

        def attempt() -> Any:
            try:
                return operation(*args, _request_timeout=(CONNECT_S, self._answer_s), **kwargs)
            except ApiException as error:
                raise self._refusal(error.status, error.body, error.reason) from error
            except OpenApiException as error:
                said = str(error).splitlines()[0]
                raise Unavailable(f"{self.host} answers what lakefs-client does not understand: {said}") from error
            except HTTPError as error:
                raise self._silence(error) from error

        return self._patiently(attempt)

    def pages(self, what: str, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Give all results of an operation that answers in pages. Raises: `InfraError`."""
        after = ""
        while True:
            page = self.call(what, operation, *args, amount=PAGE, after=after, **kwargs)
            yield from page.results
            if not page.pagination.has_more:
                return
            after = page.pagination.next_offset

    def send(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: Body, size: int
    ) -> Any:
        """Send content to an operation of the server, and give its answer, read from JSON.

        Raises: `Refusal`, `Unavailable`, and what `body` raises.
        """
        url = f"{self._base}{quote(path)}?{urlencode(query, quote_via=quote)}"
        own = {"Authorization": self._authorization, "Content-Type": "application/octet-stream"}
        response = self._stream(method, url, {**own, **headers}, body, size, outside=False)
        try:
            return json.loads(response.data)
        except ValueError as error:
            raise self._no_lakefs() from error

    def put_outside(self, url: str, headers: Mapping[str, str], body: Body, size: int) -> str:
        """Send content to the object store, by a URL that the server has signed, and give its ETag.

        Raises: `Refusal`, `Unavailable`, and what `body` raises.
        """
        response = self._stream("PUT", url, dict(headers), body, size)
        if not (etag := response.headers.get("ETag")):
            raise Unavailable(f"the object store at {urlsplit(url).netloc} names no ETag of what it stored")
        return etag.strip('"')

    def get_outside(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Open content of the object store, by a URL that the server has signed. Raises: `Refusal`, `Unavailable`."""
        return self._stream("GET", url, dict(headers), None, 0, read=False)

    def read(self, response: urllib3.BaseHTTPResponse, most: int) -> bytes:
        """Read on in an answer. Raises: `Unavailable` where the connection breaks."""
        try:
            return response.read(most)
        except HTTPError as error:
            raise self._silence(error) from None  # the error of a signed URL shows its signature

    def error(self, refusal: Refusal, what: str) -> InfraError:
        """Translate a refusal.

        Args:
            what: what was asked for, as in "there is no ...".
        """
        who = "the object store" if refusal.outside else f"lakeFS at {self.host}"
        said = f"{who} says: {refusal.message}"
        match refusal.status:
            case HTTPStatus.UNAUTHORIZED:
                return Misconfigured(
                    f"the keys have no access to {what} ({said}): "
                    "check OKRUH_LAKEFS_ACCESS_KEY_ID, OKRUH_LAKEFS_SECRET_ACCESS_KEY and the user's policies"
                )
            case HTTPStatus.FORBIDDEN:
                return Misconfigured(f"no access to {what} ({said})")
            case HTTPStatus.NOT_FOUND:
                return NotFound(f"no {what} ({said})")
            case HTTPStatus.CONFLICT:
                return Conflict(f"{what} ({said})")
            case HTTPStatus.GONE:
                return Corrupt(f"the content of {what} was removed by the server's garbage collection")
            case HTTPStatus.PRECONDITION_FAILED:
                return Misconfigured(f"a hook of the server refuses {what} ({said})")
            case HTTPStatus.BAD_REQUEST | HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE | HTTPStatus.NOT_IMPLEMENTED:
                return Misconfigured(f"{what} is refused ({said})")
            case _:
                return Unavailable(f"{what} cannot be had ({refusal.status}; {said}): try again")

    def _stream(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body | None,
        size: int,
        outside: bool = True,
        read: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        if body is not None:
            headers["Content-Length"] = str(size)

        def attempt() -> urllib3.BaseHTTPResponse:
            try:
                response = self._pool.request(
                    method,
                    url,
                    body=body() if body else None,
                    headers=headers,
                    timeout=urllib3.Timeout(connect=CONNECT_S, read=self._answer_s),
                    preload_content=False,
                    redirect=False,
                    decode_content=False,
                )
                failed = response.status >= HTTPStatus.MULTIPLE_CHOICES
                if failed or read:
                    response.read(cache_content=True)
            except HTTPError as error:
                raise self._silence(
                    error, urlsplit(url).netloc
                ) from None  # the error of a signed URL shows its signature
            if failed and outside:
                raise Refusal(response.status, str(response.reason), outside=True)
            if failed:
                raise self._refusal(response.status, response.data, response.reason)
            return response

        answer: urllib3.BaseHTTPResponse = self._patiently(attempt)
        return answer

    def _patiently(self, attempt: Callable[[], Any]) -> Any:
        for pause in (self._first_pause_s * 2**number for number in range(_TRIES - 1)):
            try:
                return attempt()
            except Refusal as refusal:
                if not refusal.asks_for_patience:
                    raise
            time.sleep(random.uniform(0, min(pause, _LONGEST_PAUSE_S)))  # noqa: S311
        return attempt()

    def _refusal(self, status: int, body: str | bytes | None, reason: str | None) -> Refusal:
        """Read an answer that is no success. Raises: `Misconfigured` where something else than lakeFS answers."""
        try:
            return Refusal(status, str(json.loads(body or b"")["message"]))
        except (ValueError, KeyError, TypeError) as error:
            if status == HTTPStatus.NOT_FOUND:
                raise self._no_lakefs() from error
            return Refusal(status, str(reason))

    def _no_lakefs(self) -> Misconfigured:
        return Misconfigured(f"what answers at {self.host} is no lakeFS server: check OKRUH_LAKE")

    def _silence(self, error: HTTPError, host: str | None = None) -> Unavailable:
        # An error's own text may show a URL and with it a signature: only its kind is told
        reason = getattr(error, "reason", None) or error
        said = next((text for kind, text in _SILENCES.items() if isinstance(reason, kind)), type(reason).__name__)
        return Unavailable(f"{host or self.host} does not answer ({said}): check OKRUH_LAKE and the network, try again")


# The first that fits: a new connection that fails is a timeout as well, to urllib3
_SILENCES: dict[type[Exception], str] = {
    exceptions.NameResolutionError: "no host has this name",
    exceptions.NewConnectionError: "nothing listens there",
    exceptions.TimeoutError: "it took too long",
    exceptions.SSLError: "its TLS certificate is not trusted, or it speaks no TLS",
    exceptions.ProtocolError: "the connection broke",
}
