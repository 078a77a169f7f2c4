"""Upkeep of a lake: is everything there and whole, and what may go? Reads and removes; no flow, for nothing is made."""

from datetime import timedelta

import msgspec

from infra.assembly import assemble
from infra.lake.protocol import Collected
from infra.lake.transaction import sweep
from infra.settings import load_settings


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of a whole lake has found."""

    model: str
    problems: list[str]
    """A line each, naming paths and digests; none where all is well."""


def verify(model: str) -> Verified:
    """Read every object that a branch or tag reaches and compare it with its digest. Raises: `NotFound`."""
    return Verified(model=model, problems=assemble(load_settings()).existing_lake(model).verify())


def collect(model: str, grace: timedelta) -> Collected:
    """Remove what nothing reaches any more and what is older than the grace. Raises: `NotFound`, `Corrupt`."""
    lake = assemble(load_settings()).existing_lake(model)
    sweep(lake)
    return lake.collect(grace)
