"""Folders whose names outlive a power cut, and reports, which may be made again."""

import os
from pathlib import Path

from infra.errors import Unavailable


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, durably. Raises: `OSError`."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises: `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_report(path: Path, content: bytes) -> Path:
    """Write what people read. Raises: `Unavailable`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written: {error.strerror}; free some space, or name another place"
        ) from error
    return path
