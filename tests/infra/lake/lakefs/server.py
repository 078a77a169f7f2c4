"""A small lakeFS server over the embedded store: the part of lakeFS's REST API that the adapter speaks.

As in lakeFS, what is versioned is a record of each object (checksum, size, user metadata), and content lies beside it
in an object store, to which URLs can be signed. Where lakeFS and the embedded store differ, this does as lakeFS does:
answers have its status codes and messages, differences of refs show commits only, a path that was written leaves its
branch dirty even if it holds what it held, and the log of a prefix leaves merges out.
"""

import base64
import fnmatch
import hashlib
import json
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from infra.errors import Conflict, Misconfigured, NotFound
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import Commit

KEY_ID, SECRET = "AKIAFOLKORUH", "a secret key that is never printed"
_SIGNED_FOR_S = 900
_BRANCH_ID = re.compile(r"\w[-\w]*", re.ASCII)


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.response = JSONResponse(body or {"message": message}, status)


class Record(msgspec.Struct, frozen=True):
    """What is versioned of an object; two of one content and metadata are one, wherever their content lies."""

    checksum: str
    size: int
    metadata: dict[str, str]
    content_type: str


class Repository:
    """One repository: records in an embedded lake, and what that has no place for."""

    def __init__(self, lake: EmbeddedLake, namespace: str) -> None:
        self.lake = lake
        self.namespace = namespace
        self.created = int(time.time())
        self.patterns: list[str] = []
        self.written: dict[str, set[str]] = {}
        """Paths written since the last commit or reset, by branch, whether or not they differ."""
        self._records: dict[str, Record] = {}
        self.addresses: dict[str, str] = {}
        """Where content lies, by the digest of its record."""

    def stage(self, branch: str, path: str, record: Record, address: str) -> Record:
        entry = self.lake.put(branch, path, msgspec.json.encode(record, order="sorted"))
        self.addresses[entry.digest] = address
        self.written.setdefault(branch, set()).add(path)
        return record

    def record(self, ref: str, path: str) -> tuple[Record, str]:
        return self.recorded(self.lake.stat(ref, path).digest, ref, path)

    def recorded(self, digest: str, ref: str, path: str) -> tuple[Record, str]:
        if digest not in self._records:
            self._records[digest] = msgspec.json.decode(self.lake.get(ref, path), type=Record)
        return self._records[digest], self.addresses[digest]

    def clean(self, branch: str) -> None:
        self.written.pop(branch, None)

    def check_clean(self, branch: str) -> None:
        if self.written.get(branch):
            raise Refused(400, "uncommitted changes (dirty branch)")

    def check_writable(self, branch: str, what: str) -> None:
        if branch not in self.lake.branches():
            raise Refused(404, f"branch '{branch}' not found")
        if any(fnmatch.fnmatchcase(branch, pattern) for pattern in self.patterns):
            raise Refused(403, f"cannot {what} protected branch")


class LakeFSServer:
    """The server and what a test may set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = ""
        self.repositories: dict[str, Repository] = {}
        self.reset()

    def reset(self) -> None:
        """Empty the object store and take back what a test has set."""
        self.presign = False
        self.multipart = False
        self.default_namespace: str | None = "local://okruh"
        self.expired = 0
        """How many of the next signed URLs shall have expired when they are given."""
        self.withheld = 0
        """How many of the signed URLs of parts are not given."""
        self.sent = 0
        """Bytes of content in answers."""
        self._uploads: dict[str, list[str]] = {}
        shutil.rmtree(self.root / "store", ignore_errors=True)
        (self.root / "store").mkdir(parents=True)

    def close(self) -> None:
        for repository in self.repositories.values():
            repository.lake.close()

    @property
    def app(self) -> Starlette:
        repository, branch = "/api/v1/repositories/{repository}", "/api/v1/repositories/{repository}/branches/{branch}"
        ref = f"{repository}/refs/{{ref}}"
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", "/api/v1/config", self.get_config),
            ("POST", "/api/v1/repositories", self.create_repository),
            ("GET", repository, self.get_repository),
            ("DELETE", repository, self.delete_repository),
            ("GET", f"{repository}/settings/branch_protection", self.get_protection),
            ("PUT", f"{repository}/settings/branch_protection", self.set_protection),
            ("GET", f"{repository}/branches", self.list_branches),
            ("POST", f"{repository}/branches", self.create_branch),
            ("GET", branch, self.get_branch),
            ("DELETE", branch, self.delete_branch),
            ("PUT", branch, self.reset_branch),
            ("GET", f"{branch}/diff", self.diff_branch),
            ("POST", f"{branch}/commits", self.commit),
            ("POST", f"{branch}/revert", self.revert),
            ("DELETE", f"{branch}/objects", self.delete_object),
            ("GET", f"{branch}/staging/backing", self.get_physical_address),
            ("PUT", f"{branch}/staging/backing", self.link_physical_address),
            ("POST", f"{branch}/staging/pmpu", self.create_multipart),
            ("PUT", f"{branch}/staging/pmpu/{{upload}}", self.complete_multipart),
            ("DELETE", f"{branch}/staging/pmpu/{{upload}}", self.abort_multipart),
            ("GET", f"{repository}/tags", self.list_tags),
            ("POST", f"{repository}/tags", self.create_tag),
            ("GET", f"{repository}/tags/{{tag}}", self.get_tag),
            ("GET", f"{repository}/commits/{{ref}}", self.get_commit),
            ("GET", f"{ref}/commits", self.log),
            ("GET", f"{ref}/diff/{{right}}", self.diff),
            ("POST", f"{ref}/merge/{{branch}}", self.merge),
            ("GET", f"{ref}/objects/stat", self.stat_object),
            ("GET", f"{ref}/objects/ls", self.list_objects),
        ]
        own = [
            Route(f"{branch}/objects", self._guarded(self.upload_object), methods=["POST"]),
            Route(f"{ref}/objects", self._guarded(self.get_object), methods=["GET", "HEAD"]),
            Route("/store/{key:path}", self.put_stored, methods=["PUT"]),
            Route("/store/{key:path}", self.get_stored, methods=["GET"]),
        ]
        plain = [Route(path, self._guarded(_answering(do)), methods=[method]) for method, path, do in routes]
        return Starlette(routes=own + plain)

    # Configuration and repositories

    def get_config(self, request: Request) -> Any:
        storage: dict[str, Any] = {
            "blockstore_type": "s3" if self.presign else "local",
            "blockstore_namespace_example": "local://example",
            "blockstore_namespace_ValidityRegex": "^local://",
            "pre_sign_support": self.presign,
            "pre_sign_support_ui": self.presign,
            "import_support": False,
            "import_validity_regex": "^local://",
            "pre_sign_multipart_upload": self.multipart,
        }
        if self.default_namespace:
            storage["default_namespace_prefix"] = self.default_namespace
        return {"version_config": {"version": "1.84.0"}, "storage_config": storage}

    def create_repository(self, request: Request, body: dict[str, Any]) -> Any:
        name = body["name"]
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{2,62}", name):
            raise Refused(400, "repository id: invalid value")
        if not re.match(r"(s3|gs|https?|mem|local|transient)://", body["storage_namespace"]):
            raise Refused(400, "storage namespace: invalid value")
        if name in self.repositories:
            raise Refused(409, "error creating repository: not unique")
        lake = EmbeddedLake(self.root / f"{name}-{secrets.token_hex(4)}")
        self.repositories[name] = Repository(lake, body["storage_namespace"])
        return self._described(name), 201

    def get_repository(self, request: Request) -> Any:
        self._repository(request)
        return self._described(request.path_params["repository"])

    def delete_repository(self, request: Request) -> Any:
        self._repository(request).lake.close()
        del self.repositories[request.path_params["repository"]]

    def get_protection(self, request: Request) -> Response:
        patterns = self._repository(request).patterns
        return JSONResponse([{"pattern": one} for one in patterns], headers={"ETag": _etag(patterns)})

    def set_protection(self, request: Request, body: Iterable[dict[str, str]]) -> Any:
        repository = self._repository(request)
        if request.headers.get("If-Match", _etag(repository.patterns)) != _etag(repository.patterns):
            raise Refused(412, "Precondition failed")
        repository.patterns = [rule["pattern"] for rule in body]

    # Branches and tags

    def list_branches(self, request: Request) -> Any:
        return _page(request, _refs(self._repository(request).lake.branches()), "id")

    def create_branch(self, request: Request, body: dict[str, str]) -> Response:
        if not _BRANCH_ID.fullmatch(body["name"]):
            raise Refused(400, "branch id: invalid value")
        with _conflicts(409, "branch already exists: not unique"):
            return HTMLResponse(self._repository(request).lake.create_branch(body["name"], body["source"]), 201)

    def get_branch(self, request: Request) -> Any:
        return _named(request.path_params["branch"], self._repository(request).lake.branches(), "branch")

    def delete_branch(self, request: Request) -> Any:
        repository, branch = self._repository(request), request.path_params["branch"]
        if branch == "main":
            raise Refused(403, "cannot delete repository default branch")
        repository.lake.delete_branch(branch)
        repository.clean(branch)

    def reset_branch(self, request: Request, body: dict[str, str]) -> Any:
        repository, branch = self._repository(request), request.path_params["branch"]
        repository.check_writable(branch, "write to")
        if body["type"] == "reset":
            repository.lake.reset(branch)
            repository.clean(branch)
            return
        if body["type"] != "object":
            raise Refused(400, "unknown reset type")
        path, head = body["path"], repository.lake.resolve(branch)
        if path in repository.written.get(branch, ()):
            try:
                repository.lake.put(branch, path, repository.lake.get(head, path))
            except NotFound:
                repository.lake.delete(branch, path)
            repository.written[branch].discard(path)

    def list_tags(self, request: Request) -> Any:
        return _page(request, _refs(self._repository(request).lake.tags()), "id")

    def create_tag(self, request: Request, body: dict[str, str]) -> Any:
        lake = self._repository(request).lake
        if body["id"] in lake.tags():
            raise Refused(409, "tag already exists: not unique")
        lake.tag(body["id"], body["ref"])
        return _named(body["id"], lake.tags(), "tag"), 201

    def get_tag(self, request: Request) -> Any:
        return _named(request.path_params["tag"], self._repository(request).lake.tags(), "tag")

    # Commits

    def commit(self, request: Request, body: dict[str, Any]) -> Any:
        repository, branch = self._repository(request), request.path_params["branch"]
        repository.check_writable(branch, "commit to")
        with _conflicts(400, "commit: no changes"):
            made = repository.lake.commit(branch, body["message"], body.get("metadata", {}))
        repository.clean(branch)
        return _commit(made), 201

    def revert(self, request: Request, body: dict[str, Any]) -> Any:
        repository, branch = self._repository(request), request.path_params["branch"]
        repository.check_writable(branch, "commit to")
        repository.check_clean(branch)
        undone = next(repository.lake.log(body["ref"]))
        if len(undone.parents) > 1 and body["parent_number"] != 1:
            raise Refused(409, "must specify 1-based parent number for reverting merge commit")
        overrides = body.get("commit_overrides", {})
        message = overrides.get("message", f"Revert {body['ref']}")
        try:
            repository.lake.revert(branch, body["ref"], message, overrides.get("metadata", {}))
        except Conflict as error:
            nothing = "nothing to undo" in str(error)
            raise Refused(*((400, "revert: no changes") if nothing else (409, "revert: conflict found"))) from error

    def merge(self, request: Request, body: dict[str, Any]) -> Any:
        repository, into = self._repository(request), request.path_params["branch"]
        repository.check_clean(into)
        metadata = {**body.get("metadata", {}), ".lakefs.merge.strategy": "default"}
        try:
            made = repository.lake.merge(request.path_params["ref"], into, body.get("message", "Merge"), metadata)
        except Conflict as error:
            if "nothing to merge" in str(error):
                raise Refused(400, "merge: no changes") from error
            raise Refused(409, "conflict", {"reference": ""}) from error
        return {"reference": made.id}

    def get_commit(self, request: Request) -> Any:
        return _commit(next(self._repository(request).lake.log(request.path_params["ref"])))

    def log(self, request: Request) -> Any:
        lake, prefixes = self._repository(request).lake, request.query_params.getlist("prefixes")
        found = lake.log(request.path_params["ref"], prefixes[0] if prefixes else None)
        commits = [_commit(one) for one in found if not prefixes or len(one.parents) == 1]
        amount = int(request.query_params.get("amount", 100))
        after = request.query_params.get("after")
        start = [one["id"] for one in commits].index(after) + 1 if after else 0
        results = commits[start : start + amount]
        more = len(commits) > start + amount and not _asked(request, "limit")
        return {"results": results, "pagination": _pagination(results, more, "id")}

    def diff_branch(self, request: Request) -> Any:
        lake, branch = self._repository(request).lake, request.path_params["branch"]
        if branch not in lake.branches():
            raise Refused(404, "branch not found")
        while True:
            head = lake.resolve(branch)
            page = self._diff_page(request, lake, head, branch)
            if lake.resolve(branch) == head:  # else it moved, and what was merged would look uncommitted
                return page

    def diff(self, request: Request) -> Any:
        lake = self._repository(request).lake
        left, right = (lake.resolve(request.path_params[side]) for side in ("ref", "right"))
        if request.query_params.get("type", "three_dot") == "two_dot":
            return self._diff_page(request, lake, left, right)
        base = next(one.id for one in lake.log(left) if one.id in {other.id for other in lake.log(right)})
        mine = {change.path for change in lake.diff(base, left)} & {change.path for change in lake.diff(left, right)}
        found = [(one.path, "conflict" if one.path in mine else one.kind) for one in lake.diff(base, right)]
        return _page(request, [{"path": path, "type": kind, "path_type": "object"} for path, kind in found], "path")

    def _diff_page(self, request: Request, lake: EmbeddedLake, before: str, after: str) -> Any:
        found = lake.diff(before, after, request.query_params.get("prefix", ""))
        return _page(request, [{"path": one.path, "type": one.kind, "path_type": "object"} for one in found], "path")

    # Objects

    async def upload_object(self, request: Request) -> Response:
        repository, branch, path = self._repository(request), request.path_params["branch"], _path(request)
        if branch not in repository.lake.branches():
            raise Refused(404, f"branch '{branch}' not found")
        content_type = request.headers.get("Content-Type", "application/octet-stream")
        if content_type.startswith("multipart/form-data"):
            async with request.form() as form:
                part = form["content"]
                assert isinstance(part, UploadFile)
                content_type = part.content_type or "application/octet-stream"
                key, checksum, size = await self._store(_pieces(part))
        else:
            key, checksum, size = await self._store(request.stream())
        prefix = "x-lakefs-meta-"
        metadata = {
            name.removeprefix(prefix): value for name, value in request.headers.items() if name.startswith(prefix)
        }

        def stage() -> Response:
            repository.check_writable(branch, "write to")
            record = repository.stage(branch, path, Record(checksum, size, metadata, content_type), key)
            return JSONResponse(self._stats(request, path, record, key), 201)

        return await run_in_threadpool(stage)

    async def get_object(self, request: Request) -> Response:
        repository, path = self._repository(request), _path(request)
        record, key = await run_in_threadpool(repository.record, request.path_params["ref"], path)
        return self._content(request, record, key)

    def stat_object(self, request: Request) -> Any:
        repository, path = self._repository(request), _path(request)
        record, key = repository.record(request.path_params["ref"], path)
        if not (self.root / "store" / key).exists():
            raise Refused(410, "No data")
        return self._stats(request, path, record, key)

    def list_objects(self, request: Request) -> Any:
        repository, ref = self._repository(request), request.path_params["ref"]
        entries = repository.lake.list(ref, request.query_params.get("prefix", ""))
        page = _page(request, [{"path": entry.path, "digest": entry.digest} for entry in entries], "path")
        page["results"] = [
            self._stats(request, one["path"], *repository.recorded(one["digest"], ref, one["path"]))
            for one in page["results"]
        ]
        return page

    def delete_object(self, request: Request) -> Any:
        repository, branch, path = self._repository(request), request.path_params["branch"], _path(request)
        repository.check_writable(branch, "write to")
        repository.lake.delete(branch, path)
        repository.written.setdefault(branch, set()).add(path)

    # Signed transfers

    def get_physical_address(self, request: Request) -> Any:
        self._repository(request)
        key = f"signed/{secrets.token_hex(8)}"
        location: dict[str, Any] = {"physical_address": f"s3://bucket/{key}"}
        if _asked(request, "presign"):
            if not self.presign:
                raise Refused(400, "operation not supported")
            location |= {
                "presigned_url": self._signed(key),
                "presigned_url_expiry": int(time.time()) + _SIGNED_FOR_S,
            }
        return location

    def link_physical_address(self, request: Request, body: dict[str, Any]) -> Any:
        key = body["staging"]["physical_address"].removeprefix("s3://bucket/")
        return self._link(request, key, body["checksum"], body["size_bytes"], body)

    def create_multipart(self, request: Request) -> Any:
        self._repository(request)
        parts, key = int(request.query_params["parts"]), f"signed/{secrets.token_hex(8)}"
        upload = secrets.token_hex(8)
        self._uploads[upload] = [f"{key}.{number}" for number in range(1, parts + 1)]
        signed = [self._signed(part) for part in self._uploads[upload]]
        urls = signed[self.withheld :]
        return {"upload_id": upload, "physical_address": f"s3://bucket/{key}", "presigned_urls": urls}, 201

    def complete_multipart(self, request: Request, body: dict[str, Any]) -> Any:
        keys, etags = self._uploads.pop(request.path_params["upload"]), [part["etag"] for part in body["parts"]]
        parts = [self.root / "store" / key for key in keys]
        if etags != [_md5(part) for part in parts]:
            raise Refused(400, "invalid part")
        if any(part.stat().st_size < 5 * 2**20 for part in parts[:-1]):
            raise Refused(400, "EntityTooSmall")
        key = body["physical_address"].removeprefix("s3://bucket/")
        with (self.root / "store" / key).open("wb") as whole:
            for part in parts:
                with part.open("rb") as opened:
                    shutil.copyfileobj(opened, whole)
            size = whole.tell()
        checksum = hashlib.md5(b"".join(bytes.fromhex(etag) for etag in etags)).hexdigest()
        self._drop(keys)
        return self._link(request, key, f"{checksum}-{len(keys)}", size, body)

    def abort_multipart(self, request: Request, body: dict[str, Any]) -> Any:
        self._drop(self._uploads.pop(request.path_params["upload"], []))

    async def put_stored(self, request: Request) -> Response:
        if refused := self._not_signed(request):
            return refused
        _, checksum, _ = await self._store(request.stream(), request.path_params["key"])
        return Response(headers={"ETag": f'"{checksum}"'})

    def get_stored(self, request: Request) -> Response:
        if refused := self._not_signed(request):
            return refused
        key = request.path_params["key"]
        file = self.root / "store" / key
        return self._content(request, Record("of the store", file.stat().st_size, {}, "binary/octet-stream"), key)

    @property
    def stored(self) -> list[str]:
        """The keys of all content."""
        files = (file for file in (self.root / "store").rglob("*") if file.is_file())
        return [str(file.relative_to(self.root / "store")) for file in files]

    @property
    def unfinished(self) -> list[str]:
        """Multipart uploads that were neither completed nor dropped."""
        return list(self._uploads)

    def _link(self, request: Request, key: str, checksum: str, size: int, body: dict[str, Any]) -> Any:
        repository, branch, path = self._repository(request), request.path_params["branch"], _path(request)
        repository.check_writable(branch, "write to")
        if not (self.root / "store" / key).exists():
            raise Refused(400, "bad address token (expired or invalid)")
        record = Record(checksum, size, body.get("user_metadata", {}), "application/octet-stream")
        return self._stats(request, path, repository.stage(branch, path, record, key), key)

    def _signed(self, key: str) -> str:
        until = int(time.time()) + (-1 if self.expired > 0 else _SIGNED_FOR_S)
        self.expired -= 1
        return f"{self.address}/store/{quote(key)}?expires={until}&signature={self._signature(key, until)}"

    def _signature(self, key: str, until: int) -> str:
        return hashlib.sha256(f"{key} {until} {SECRET}".encode()).hexdigest()

    def _not_signed(self, request: Request) -> Response | None:
        until = int(request.query_params.get("expires", 0))
        good = request.query_params.get("signature") == self._signature(request.path_params["key"], until)
        if "Authorization" in request.headers:
            return Response("<Error>Only one auth mechanism allowed</Error>", 400, media_type="application/xml")
        if not good or until < time.time():
            return Response("<Error>Request has expired</Error>", 403, media_type="application/xml")
        return None

    async def _store(self, stream: AsyncIterator[bytes], key: str | None = None) -> tuple[str, str, int]:
        checksum, size = hashlib.md5(), 0
        received = self.root / f"received-{secrets.token_hex(8)}"
        with received.open("wb") as file:
            async for piece in stream:
                checksum.update(piece)
                size += len(piece)
                file.write(piece)
        stored = self.root / "store" / (key or f"data/{secrets.token_hex(10)}")
        stored.parent.mkdir(exist_ok=True)
        received.rename(stored)
        return str(stored.relative_to(self.root / "store")), checksum.hexdigest(), size

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.root / "store" / key).unlink(missing_ok=True)

    def _content(self, request: Request, record: Record, key: str) -> Response:
        file = self.root / "store" / key
        if not file.exists():
            raise Refused(410, "No data")
        start, end, status = 0, record.size, 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            start, end, status = int(asked[1]), min(int(asked[2] or record.size - 1) + 1, record.size), 206
            if start >= record.size:
                raise Refused(416, "Requested Range Not Satisfiable")
        headers = {
            "Content-Length": str(end - start),
            "ETag": f'"{record.checksum}"',
            "Last-Modified": formatdate(usegmt=True),
            "Content-Disposition": "attachment",
        }
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{record.size}"

        def pieces() -> Iterable[bytes]:
            with file.open("rb") as opened:
                opened.seek(start)
                missing = end - start
                while missing and (piece := opened.read(min(2**18, missing))):
                    missing -= len(piece)
                    self.sent += len(piece)
                    yield piece

        return StreamingResponse(pieces(), status, headers, record.content_type)

    def _stats(self, request: Request, path: str, record: Record, key: str) -> dict[str, Any]:
        presign = _asked(request, "presign") and self.presign
        stats = {
            "path": path,
            "path_type": "object",
            "physical_address": self._signed(key) if presign else f"s3://bucket/{key}",
            "checksum": record.checksum,
            "size_bytes": record.size,
            "mtime": int(time.time()),
            "content_type": record.content_type,
        }
        if _asked(request, "user_metadata", "true"):
            stats["metadata"] = record.metadata
        return stats

    def _repository(self, request: Request) -> Repository:
        found = self.repositories.get(request.path_params["repository"])
        if found is None:
            raise Refused(404, "repository not found")
        return found

    def _described(self, name: str) -> dict[str, Any]:
        repository = self.repositories[name]
        return {
            "id": name,
            "creation_date": repository.created,
            "default_branch": "main",
            "storage_namespace": repository.namespace,
        }

    def _guarded(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        expected = "Basic " + base64.b64encode(f"{KEY_ID}:{SECRET}".encode()).decode()

        async def guarded(request: Request) -> Response:
            if request.headers.get("Authorization") != expected:
                return JSONResponse({"message": "error authenticating request"}, 401)
            try:
                return await answer(request)
            except Refused as refused:
                return refused.response
            except NotFound as error:
                return JSONResponse({"message": f"not found: {error}"}, 404)
            except Misconfigured as error:
                return JSONResponse({"message": f"invalid value: {error}"}, 400)

        return guarded


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """Serve an app on a free port of the loopback, and give its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app,
            log_level="critical",
            lifespan="off",
            ws="none",
            timeout_keep_alive=120,  # or a client that was idle for 5 s asks at the moment at which it is let go
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _answering(do: Callable[..., Any]) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint of a function of the request, and of its JSON body where it wants one."""
    wants_body = do.__code__.co_argcount == 3

    async def answer(request: Request) -> Response:
        arguments = [await request.json()] if wants_body and await request.body() else [{}] if wants_body else []
        found = await run_in_threadpool(do, request, *arguments)
        if isinstance(found, Response):
            return found
        if found is None:
            return Response(status_code=204)
        content, status = found if isinstance(found, tuple) else (found, 200)
        return JSONResponse(content, status)

    return answer


@contextmanager
def _conflicts(status: int, message: str) -> Iterator[None]:
    try:
        yield
    except Conflict as error:
        raise Refused(status, message) from error


def _path(request: Request) -> str:
    path = request.query_params["path"]
    if not path:
        raise Refused(400, "path: required value")
    return path


async def _pieces(part: UploadFile) -> AsyncIterator[bytes]:
    while piece := await part.read(2**20):
        yield piece


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def _asked(request: Request, name: str, default: str = "false") -> bool:
    return request.query_params.get(name, default).lower() == "true"  # lakefs-client sends Python's spelling


def _etag(patterns: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(patterns)).encode()).hexdigest()


def _refs(found: dict[str, str]) -> list[dict[str, str]]:
    return [{"id": name, "commit_id": found[name]} for name in sorted(found)]


def _named(name: str, found: dict[str, str], kind: str) -> dict[str, str]:
    if name not in found:
        raise Refused(404, f"{kind} not found")
    return {"id": name, "commit_id": found[name]}


def _commit(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.id,
        "parents": list(commit.parents),
        "committer": "okruh",
        "message": commit.message,
        "creation_date": int(commit.created_at.timestamp()),
        "meta_range_id": hashlib.sha256(commit.id.encode()).hexdigest(),
        "metadata": commit.metadata,
    }


def _page(request: Request, found: list[dict[str, Any]], key: str) -> dict[str, Any]:
    after, amount = request.query_params.get("after", ""), int(request.query_params.get("amount", 100))
    prefix = request.query_params.get("prefix", "")
    rest = [one for one in found if one[key] > after and one[key].startswith(prefix)]
    results = rest[:amount]
    return {"results": results, "pagination": _pagination(results, len(rest) > amount, key)}


def _pagination(results: list[dict[str, Any]], more: bool, key: str) -> dict[str, Any]:
    following = results[-1][key] if more else ""
    return {"has_more": more, "next_offset": following, "results": len(results), "max_per_page": 1000}
