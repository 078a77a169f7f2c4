"""The records of what was erased from a lake, why and by whom: `erasures/<time>.json` on `main`.

A record names objects and columns, and how many rows were meant, but no value that was asked for, nor a digest of one:
a number is found by trying.
"""

from datetime import datetime

import msgspec

from infra.errors import Corrupt
from infra.lake.protocol import MAIN, Lake

FOLDER = "erasures/"


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an object."""

    path: str
    digest: str
    rows: int
    """How many were taken out; 0 where the whole object went."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One erasure."""

    at: datetime
    by: str
    why: str
    objects: tuple[str, ...]
    columns: tuple[str, ...]
    """By which rows were named."""
    lines: int
    """How many combinations of their values were named."""
    erased: tuple[Erased, ...]


def path_of(record: Record) -> str:
    """Say where a record lies."""
    return f"{FOLDER}{record.at:%Y%m%dT%H%M%S%fZ}.json"


def encode(record: Record) -> bytes:
    """Write a record for people and programs."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1)


def recorded(lake: Lake) -> set[tuple[str, str]]:
    """Give path and digest of all that was erased. Raises: `Corrupt` naming what is no record."""
    found = (_read(lake, entry.path) for entry in lake.list(MAIN, FOLDER))
    return {(one.path, one.digest) for record in found for one in record.erased}


def _read(lake: Lake, path: str) -> Record:
    try:
        return msgspec.json.decode(lake.get(MAIN, path), type=Record)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{path} is no record of an erasure ({error}): nothing else belongs there") from error
