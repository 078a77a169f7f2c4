"""Checkpoints of a training under OKRUH_HOME: one file a training, replaced whole, so that a kill leaves the last one.

Cost: a write, a digest and two flushes of what the training holds (a network of a million weights: some 20 MB, 60 ms),
at most every `every_s` seconds.
"""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from infra.errors import Unavailable
from infra.folders import make_folder, sync_folder

logger = logging.getLogger(__name__)

_DIGEST_BYTES = blake3().digest_size
_LEFT_S = 30 * 86_400
"""Nobody goes on with a training that has stood so long."""


class FileCheckpoints:
    """Those of one training."""

    def __init__(self, path: Path, every_s: float) -> None:
        self._path = path
        self._every_s = every_s
        self._last_s = time.monotonic()

    def load(self) -> bytes | None:
        """Give the newest; None where there is none, or a damaged one, which the log says."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be read: {error}; remove it to train from the start") from error
        if blake3(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
            logger.warning("%s is damaged: the training begins again", self._path)
            return None
        return content[_DIGEST_BYTES:]

    def due(self) -> bool:
        """Say whether the last one is old enough."""
        return time.monotonic() - self._last_s >= self._every_s

    def save(self, content: bytes) -> None:
        """Keep one in the place of the last, which stays where this one cannot be written. Raises: `Unavailable`."""
        written = self._path.with_suffix(f".{os.getpid()}")
        try:
            make_folder(self._path.parent)
            with written.open("wb") as file:
                file.write(blake3(content).digest())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            written.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            written.unlink(missing_ok=True)
            goes_on = "from the checkpoint before" if self._path.exists() else "from the start"
            raise Unavailable(
                f"a checkpoint of {len(content) >> 20} MiB cannot be written to {self._path.parent}: {error.strerror}; "
                f"make room and run the same again: it goes on {goes_on}"
            ) from error
        self._last_s = time.monotonic()

    def remove(self) -> None:
        """Forget a training that is over, what kills have left unfinished, and others that were left for a month."""
        self._path.unlink(missing_ok=True)
        for other in self._path.parent.glob("*"):
            with suppress(FileNotFoundError):  # another process may remove it first
                if time.time() - other.stat().st_mtime > _LEFT_S:
                    other.unlink()
        for unfinished in self._path.parent.glob(f"{self._path.name}.*"):
            unfinished.unlink(missing_ok=True)
