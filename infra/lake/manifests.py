"""Keeps the manifest of a commit: every path with its digest and size.

One compressed blob a manifest, named by the sha256 of its canonical form, so that equal states are stored once. Reading
verifies that name. Costs time and space in proportion to the whole manifest for each commit; decoded manifests are
cached, up to a number of entries in all. Only this module knows the form.
"""

import sqlite3
import threading
import zlib
from collections import OrderedDict
from hashlib import sha256

import msgspec

from infra.errors import Corrupt
from infra.lake.merge import Manifest
from infra.lake.protocol import Entry

_CACHED_ENTRIES = 300_000
_FAST = 1
"""zlib's level: digests do not compress, so a higher one buys nothing."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[str, bytes, int]])


class Manifests:
    """The manifests of one lake, with a cache of the decoded ones. Safe in threads."""

    def __init__(self) -> None:
        self._cache: OrderedDict[str, Manifest] = OrderedDict()
        self._cached_entries = 0
        self._lock = threading.Lock()

    def store(self, connection: sqlite3.Connection, manifest: Manifest) -> str:
        """Store a manifest and give its digest."""
        ordered = dict(sorted(manifest.items()))
        rows = [(path, bytes.fromhex(entry.digest), entry.size) for path, entry in ordered.items()]
        content = _encoder.encode(rows)
        digest = sha256(content).hexdigest()
        connection.execute("INSERT OR IGNORE INTO manifests VALUES (?, ?)", (digest, zlib.compress(content, _FAST)))
        self._remember(digest, ordered)
        return digest

    def load(self, connection: sqlite3.Connection, digest: str) -> Manifest:
        """Read a manifest, sorted by path; not to be changed. Raises: `Corrupt`."""
        with self._lock:
            if (cached := self._cache.get(digest)) is not None:
                self._cache.move_to_end(digest)
                return cached
        manifest = self.read(connection, digest)
        self._remember(digest, manifest)
        return manifest

    def read(self, connection: sqlite3.Connection, digest: str) -> Manifest:
        """Read a manifest past the cache. Raises: `Corrupt`."""
        row = connection.execute("SELECT content FROM manifests WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise Corrupt(f"manifest {digest} is missing: restore the lake from a backup")
        try:
            content = zlib.decompress(row[0])
        except zlib.error:
            content = b""
        if sha256(content).hexdigest() != digest:
            raise Corrupt(f"manifest {digest} differs from its digest: restore the lake from a backup")
        return {path: Entry(path, name.hex(), size) for path, name, size in _decoder.decode(content)}

    def _remember(self, digest: str, manifest: Manifest) -> None:
        with self._lock:
            if digest in self._cache:
                return
            self._cache[digest] = manifest
            self._cached_entries += len(manifest)
            while self._cached_entries > _CACHED_ENTRIES and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._cached_entries -= len(dropped)
