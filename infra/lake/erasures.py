"""The records of what was erased from a lake, why and by whom: `erasures/<time>.json` on `main`.

A record names objects and columns, and how many rows were meant, but no value that was asked for, nor a digest of one:
a number is found by trying.
"""

import re
from datetime import datetime

import msgspec

from infra.errors import Corrupt, Misconfigured
from infra.lake.protocol import MAIN, Entry, Lake

FOLDER = "erasures/"
_NAME = re.compile(rf"{FOLDER}\d{{8}}T\d{{12}}Z\.json")


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


def recorded(lake: Lake, known: dict[Entry, Record] | None = None) -> set[tuple[str, str]]:
    """Give path and digest of all that was erased.

    Args:
        known: the records that were read before, which are not read again; those that are new are added.

    Raises: `Corrupt` naming what is no record.
    """
    known = {} if known is None else known
    entries = [entry for entry in lake.list(MAIN, FOLDER) if _NAME.fullmatch(entry.path)]
    known.update({entry: _read(lake, entry.path) for entry in entries if entry not in known})
    return {(one.path, one.digest) for entry in entries for one in known[entry].erased}


def refused(path: str) -> Misconfigured:
    """Say that a lake does not take content that was erased from it."""
    return Misconfigured(
        f"{path} has content that was erased from the lake, which does not take it again: "
        "take out of its source what was erased"
    )


def _read(lake: Lake, path: str) -> Record:
    try:
        return msgspec.json.decode(lake.get(MAIN, path), type=Record)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{path} is no record of an erasure ({error}): nothing else belongs there") from error
