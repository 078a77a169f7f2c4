"""Compares what goes over the wire with lakeFS's own OpenAPI document, where LAKEFS_OPENAPI names one.

Left out, for the document is wrong there: `Content-Range` (its pattern matches nothing). What differs from something
compared before in ids and large numbers alone is not compared again: to the document they are all alike, and it takes
milliseconds.
"""

import os
import re
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from werkzeug.datastructures import Headers, ImmutableMultiDict

_NOT_READ = b"content"
"""Stands for a body that is neither JSON nor a form."""


_IDS = re.compile(rb"[0-9a-f]{8,}|[0-9]{4,}")


@cache
def _document() -> OpenAPI | None:
    path = os.environ.get("LAKEFS_OPENAPI")
    return OpenAPI.from_file_path(path) if path else None


class Documented:
    """Passes requests on to an app, and notes what of them and of its answers breaks the document."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.problems: list[str] = []
        self.checked = 0
        """Answers that were compared, or were like one that was."""
        self._seen = set[tuple[object, ...]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = _document()
        if document is None or scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        sent, answered = bytearray(), _Answer()
        is_kept = _header(scope["headers"], b"content-type").startswith(("application/json", "multipart/form-data"))

        async def receive_and_keep() -> Message:
            message = await receive()
            if is_kept:
                sent.extend(message.get("body", b""))
            return message

        async def send_and_keep(message: Message) -> None:
            answered.add(message)
            await send(message)

        await self._app(scope, receive_and_keep, send_and_keep)
        self.checked += 1
        like = _without_ids(scope, bytes(sent), answered)
        if like not in self._seen:
            self._seen.add(like)
            self._compare(document, _Request(scope, bytes(sent) if is_kept else None), answered)

    def _compare(self, document: OpenAPI, request: "_Request", answered: "_Answer") -> None:
        try:
            # Wrong requests are sent on purpose, too; they are refused, and the refusal is what is compared
            if answered.status_code < 400:
                document.validate_request(request)
            document.validate_response(request, answered)
        except (OpenAPIError, AssertionError) as error:  # the latter where a form has no parts
            cause = error.__cause__ or error
            self.problems.append(f"{request.method} {request.path} -> {answered.status_code}: {error!r} {cause!s}")


class _Request:
    """A request as openapi-core wants it."""

    def __init__(self, scope: Scope, body: bytes | None) -> None:
        self.method = scope["method"].lower()
        self.path = scope["path"]
        self.host_url = "http://localhost"
        self.content_type = _header(scope["headers"], b"content-type")
        self.body = _NOT_READ if body is None and self.content_type else body
        query = parse_qsl(scope["query_string"].decode(), keep_blank_values=True)
        headers = Headers([(name.decode(), value.decode()) for name, value in scope["headers"]])
        self.parameters = RequestParameters(query=ImmutableMultiDict(query), header=headers)


class _Answer:
    """An answer as openapi-core wants it."""

    def __init__(self) -> None:
        self.status_code = 0
        self.headers: Any = Headers()
        self.content_type = ""
        self._body = bytearray()

    def add(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status_code = message["status"]
            self.content_type = _header(message["headers"], b"content-type")
            kept = [(name.decode(), value.decode()) for name, value in message["headers"] if name != b"content-range"]
            self.headers = Headers(kept)
        elif self.content_type.startswith(("application/json", "text/")):
            self._body += message.get("body", b"")

    @property
    def data(self) -> bytes | None:
        return bytes(self._body) or (_NOT_READ if self.content_type else None)


def _without_ids(scope: Scope, sent: bytes, answered: _Answer) -> tuple[object, ...]:
    names = tuple(sorted(name for name, _ in scope["headers"]))
    given = (scope["path"].encode(), scope["query_string"], sent, answered.data or b"")
    kind = _header(scope["headers"], b"content-type")
    about = (scope["method"], kind, names, answered.status_code, tuple(sorted(answered.headers.keys())))
    return (*about, *(_IDS.sub(b"0", one) for one in given))


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    return next((value.decode() for key, value in headers if key == name), "")
