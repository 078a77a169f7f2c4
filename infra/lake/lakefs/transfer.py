"""Content on its way to and from a lakeFS server, in constant memory.

An object has its sha256 and the digests of its blocks as user metadata, written with it and compared on every read:
lakeFS's own checksum is an MD5, or whatever the object store calls an ETag.

Small content goes through the server, in one request. Larger content goes to the object store itself, where the server
signs URLs for that: in parts, several at a time, where it signs those. A signed URL that has expired is asked for anew.
Content comes from the object store itself wherever the server signs URLs.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from http import HTTPStatus
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import IO, Any

from infra.errors import Conflict, Corrupt, InfraError, NotFound, Unavailable
from infra.lake.blocks import Content, VerifiedFile, digested
from infra.lake.lakefs.server import Body, Refusal, Server
from infra.lake.protocol import Entry
from infra.lake.targets import aside

_PIECE_BYTES = 2**18
"""What is sent or received at once; as many times as there are transfers, and parts of them, at a time."""

_DIGEST = "okruh-sha256"
_BLOCKS = "okruh-blocks-"
_SHA256 = re.compile("[0-9a-f]{64}")
_LINE = 4000
"""Characters of one header: proxies take at most 8 KiB."""

_DIRECT = 4 * 2**20
_LARGEST_PUT = 5 * 10**9
_PART_BYTES, _MOST_PARTS, _PARTS_AT_A_TIME = 16 * 2**20, 10_000, 5
"""Object stores want parts of at least 5 MiB, and at most 10,000."""


class Outgoing:
    """Content to be stored: bytes, or a file, which is read again for every try. Raises: `NotFound` for no file."""

    def __init__(self, source: bytes | Path) -> None:
        self._source = source
        try:
            with self._open() as file:
                size = file.seek(0, 2)
                file.seek(0)
                self.content = digested(file, size)  # type: ignore[arg-type]  # a file opened for reading bytes
        except OSError as error:
            raise NotFound(f"{source!s} cannot be read as a file to store: {error.strerror}") from error

    def body(self, start: int, end: int) -> Body:
        """Give what is to be sent; `start` is where a block starts, `end` where one ends.

        Each block is compared with its digest before its last byte leaves: a file that changes meanwhile is an
        `Unavailable`, and the server is left with half a request, which it drops.
        """
        return lambda: self._pieces(start, end)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        block = self.content.block_bytes
        with self._open() as file:
            file.seek(start)
            for first in range(start, end, block):
                yield from self._block(file, first // block, min(block, end - first))

    def _block(self, file: IO[bytes], number: int, missing: int) -> Iterator[bytes]:
        hasher = self.content.hasher()
        while missing:
            piece = file.read(min(_PIECE_BYTES, missing))
            hasher.update(piece)
            missing -= len(piece)
            if not piece or (not missing and hasher.digest() != self.content.block_digest(number)):
                raise Unavailable(f"{self._source!s} changed while it was stored: try again")
            yield piece

    def _open(self) -> IO[bytes]:
        return BytesIO(self._source) if isinstance(self._source, bytes) else self._source.open("rb")


def upload(server: Server, repository: str, branch: str, path: str, outgoing: Outgoing) -> None:
    """Store content under a path of a branch. Raises: `Refusal`, `Unavailable`."""
    storage, size, place = server.storage, outgoing.content.size, (repository, branch, path)
    try:
        if size > _DIRECT and storage.pre_sign_support and storage.get("pre_sign_multipart_upload"):
            _in_parts(server, place, outgoing)
        elif _DIRECT < size <= _LARGEST_PUT and storage.pre_sign_support:
            _past_the_server(server, place, outgoing)
        else:
            _through_the_server(server, place, outgoing)
    except Refusal as refusal:
        if not _has_expired(refusal):
            raise
        # It takes longer than signatures last, which are all made when it begins
        _through_the_server(server, place, outgoing)


def _through_the_server(server: Server, place: tuple[str, str, str], outgoing: Outgoing) -> None:
    repository, branch, path = place
    headers = {f"x-lakefs-meta-{name}": value for name, value in _metadata(outgoing.content).items()}
    size = outgoing.content.size
    url = f"/repositories/{repository}/branches/{branch}/objects"
    stored = server.send("POST", url, {"path": path}, headers, outgoing.body(0, size), size)
    _check_size(server, path, stored["size_bytes"], size)


def _past_the_server(server: Server, place: tuple[str, str, str], outgoing: Outgoing) -> None:
    models, size = server.models, outgoing.content.size

    location = server.ask(server.client.staging_api.get_physical_address, *place, presign=True)
    headers = {"x-ms-blob-type": "BlockBlob"} if server.storage.blockstore_type == "azure" else {}
    etag = server.put_outside(location.presigned_url, headers, outgoing.body(0, size), size)
    staged = models.StagingMetadata(
        staging=models.StagingLocation(physical_address=location.physical_address),
        checksum=etag,
        size_bytes=size,
        user_metadata=_metadata(outgoing.content),
    )
    server.ask(server.client.staging_api.link_physical_address, *place, staged)


def _in_parts(server: Server, place: tuple[str, str, str], outgoing: Outgoing) -> None:
    models, api, size = server.models, server.client.experimental_api, outgoing.content.size
    repository, branch, path = place
    block = outgoing.content.block_bytes
    part = block * -(-max(_PART_BYTES, -(-size // _MOST_PARTS)) // block)

    count = -(-size // part)
    begun = server.ask(api.create_presign_multipart_upload, *place, parts=count)
    upload = (repository, branch, begun.upload_id, path)

    def put_part(number: int) -> Any:
        start, end = number * part, min((number + 1) * part, size)
        etag = server.put_outside(begun.presigned_urls[number], {}, outgoing.body(start, end), end - start)
        return models.UploadPart(part_number=number + 1, etag=etag)

    try:
        if len(begun.presigned_urls) != count:
            raise Unavailable(
                f"{server.host} signs {len(begun.presigned_urls)} parts of {path} where {count} are needed"
            )
        with ThreadPoolExecutor(_PARTS_AT_A_TIME) as threads:
            parts = list(threads.map(put_part, range(count)))
        done = models.CompletePresignMultipartUpload(
            physical_address=begun.physical_address, parts=parts, user_metadata=_metadata(outgoing.content)
        )
        stored = server.ask(api.complete_presign_multipart_upload, *upload, complete_presign_multipart_upload=done)
    except BaseException:
        dropped = models.AbortPresignMultipartUpload(physical_address=begun.physical_address)
        # Where the parts cannot be dropped now, the object store's own rules for leftovers apply
        with suppress(Refusal, InfraError):
            server.ask(api.abort_presign_multipart_upload, *upload, abort_presign_multipart_upload=dropped)
        raise
    _check_size(server, path, stored.size_bytes, size)


def _check_size(server: Server, path: str, stored: int, size: int) -> None:
    if stored != size:
        raise Unavailable(f"{server.host} stored {stored} of the {size} bytes of {path}: try again")


def _has_expired(refusal: Refusal) -> bool:
    """Say whether the object store answers as it does to a signature that has expired."""
    return refusal.outside and refusal.status == HTTPStatus.FORBIDDEN


class Stored:
    """An object as it is under a ref now.

    Args:
        presign: whether to have a URL signed, where the server does, since it will be read.

    Raises, when it is made: `NotFound` and what else the server says.
    """

    def __init__(self, server: Server, repository: str, ref: str, path: str, presign: bool) -> None:
        self._server = server
        self._place = (repository, ref, path)
        self._signed = ""
        """A URL of the content; empty where none was asked for, or it has expired."""
        self.name = f"{path} at {ref}"
        self._stats = self._look(presign and server.storage.pre_sign_support)
        self.content = content_of(self._stats)
        """None where somebody else stored it, without our digests."""

    @property
    def size(self) -> int:
        """Bytes."""
        size: int = self._stats.size_bytes
        return size

    @property
    def address(self) -> str:
        """Where its content lies in the object store, without a signature."""
        return str(self._stats.physical_address).partition("?")[0]

    def entry(self) -> Entry:
        """Describe it; what somebody else stored is read, once, to be digested. Raises: `Unavailable`, `Conflict`."""
        content = self.content or self._described()
        return Entry(self._stats.path, content.digest, content.size)

    def _described(self) -> Content:
        """Digest what somebody else stored; read once, and known from then on by its address."""
        address = self.address
        if address not in self._server.described:
            self._server.described[address] = digested(_Arriving(self), self.size)
        return self._server.described[address]

    def verify(self) -> str:
        """Read it, keeping nothing, and give its digest. Raises: `Corrupt`, `Unavailable`, `Conflict`."""
        return self._each(lambda _: None)

    def read(self) -> bytes:
        """Read it whole, verified. Raises: `Corrupt`, `Unavailable`, `Conflict`."""
        content = bytearray()
        self._each(content.extend)
        return bytes(content)

    def fetch(self, target: Path) -> Entry:
        """Copy it into a file, verified. Raises: `Corrupt`, `Unavailable`, `Conflict`."""
        with aside(target) as temporary:
            with temporary.open("xb") as file:
                digest = self._each(file.write)
            temporary.replace(target)
        return Entry(self._stats.path, digest, self.size)

    def _each(self, take: Callable[[bytes], object]) -> str:
        """Hand on all of it, piece by piece, and give its digest, compared."""
        whole = sha256()
        for piece in self.pieces(0, self.size):
            whole.update(piece)
            take(piece)
        digest = whole.hexdigest()
        if self.content is not None and digest != self.content.digest:
            raise Corrupt(f"{self.name} differs from its digest {self.content.digest}: store the same content again")
        return digest

    def open(self) -> VerifiedFile:
        """Open it for reading in parts. Raises, and so does reading: `Corrupt`, `Unavailable`, `Conflict`."""
        return _FileInParts(self.content or self._described(), self)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Read a part of it, not verified. Raises: `Unavailable`, `Conflict` where it was replaced meanwhile."""
        if start == end:
            return
        response = self._request(f"bytes={start}-{end - 1}")
        missing = end - start
        try:
            if response.status == HTTPStatus.OK and missing != self.size:
                raise Unavailable(f"{self._server.host} sends the whole of {self.name} where a part was asked for")
            while missing:
                piece = self._server.read(response, min(_PIECE_BYTES, missing))
                if not piece:
                    raise Unavailable(f"{self._server.host} ended {missing} bytes before the end of {self.name}")
                missing -= len(piece)
                yield piece
        finally:
            # Read to its end it goes back to the others; else its connection is of no use any more
            response.release_conn() if not missing else response.close()

    def _request(self, part: str) -> Any:
        if not self._server.storage.pre_sign_support:
            ask = self._server.client.objects_api.get_object
            response = self._server.call(self.name, ask, *self._place, range=part, _preload_content=False)
            if response.headers.get("ETag", "").strip('"') not in ("", self._stats.checksum):
                response.close()
                raise self._replaced()
            return response
        try:
            return self._signed_request(part)
        except Refusal as refusal:
            raise self._server.error(refusal, self.name) from refusal

    def _signed_request(self, part: str) -> Any:
        try:
            return self._server.get_outside(self._address(), {"Range": part})
        except Refusal as refusal:
            if not _has_expired(refusal):
                raise
        self._signed = ""
        return self._server.get_outside(self._address(), {"Range": part})

    def _address(self) -> str:
        """Give a signed URL of the content, which nothing can replace under it."""
        if not self._signed:
            fresh = self._look(presign=True)
            if fresh.checksum != self._stats.checksum:
                raise self._replaced()
        return self._signed

    def _look(self, presign: bool) -> Any:
        ask = self._server.client.objects_api.stat_object
        stats = self._server.call(self.name, ask, *self._place, presign=presign)
        if presign:
            self._signed = stats.physical_address
        return stats

    def _replaced(self) -> Conflict:
        return Conflict(f"{self.name} was replaced while it was read: read a commit instead of a branch")


class _Arriving:
    """An object as a source that is read in order."""

    def __init__(self, stored: Stored) -> None:
        self._pieces = stored.pieces(0, stored.size)
        self._piece = b""

    def readinto(self, buffer: Any, /) -> int:
        self._piece = self._piece or next(self._pieces, b"")
        part = self._piece[: len(buffer)]
        buffer[: len(part)] = part
        self._piece = self._piece[len(part) :]
        return len(part)


class _FileInParts(VerifiedFile):
    """Reads whole blocks, as many as a read touches, and keeps those of the last read."""

    def __init__(self, content: Content, stored: Stored) -> None:
        super().__init__(content, stored.name)
        self._stored = stored
        self._start = 0
        self._blocks = memoryview(b"")

    def verified(self, start: int, end: int) -> memoryview:
        if not (self._start <= start and end <= self._start + len(self._blocks)):
            block = self.content.block_bytes
            touched = self.touched(start, end)
            first, last = touched.start * block, min(touched.stop * block, self.content.size)
            blocks = memoryview(b"".join(self._stored.pieces(first, max(first, last))))
            for number in touched:
                self.content.check(number, blocks[(number - touched.start) * block :][:block], self.name)
            self._start, self._blocks = first, blocks
        return self._blocks[start - self._start : end - self._start]


def content_of(stats: Any) -> Content | None:
    """Read what we wrote beside an object; None where somebody else stored it."""
    metadata: Mapping[str, str] = stats.get("metadata") or {}
    digest = metadata.get(_DIGEST, "")
    if not _SHA256.fullmatch(digest):
        return None
    lines = (metadata.get(f"{_BLOCKS}{number}") for number in count())
    text = "".join(iter(lambda: next(lines) or "", ""))
    try:
        return Content(digest, stats.size_bytes, base64.b64decode(text, validate=True))
    except binascii.Error:
        return None


def _metadata(content: Content) -> dict[str, str]:
    text = base64.b64encode(content.blocks).decode()
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return {_DIGEST: content.digest} | {f"{_BLOCKS}{number}": line for number, line in enumerate(lines)}
