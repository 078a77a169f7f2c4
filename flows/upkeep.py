"""Upkeep of a lake: its history, is everything there and whole, what may go, moving house. No flows: nothing new."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice

import msgspec

from infra.assembly import Platform, assemble
from infra.errors import Misconfigured
from infra.lake import copying
from infra.lake.copying import Copied
from infra.lake.lakefs import address
from infra.lake.protocol import MAIN, Collected, Commit, Lake
from infra.lake.transaction import sweep
from infra.settings import EMBEDDED, load_settings


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The newest states of a branch."""

    model: str
    ref: str
    commits: list[Commit]
    """From newest to oldest."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of a whole lake has found."""

    model: str
    problems: list[str]
    """A line each, naming paths and digests; none where all is well."""


def log(model: str, ref: str | None, prefix: str | None, most: int) -> History:
    """Give the newest commits of a branch's own line: merges, and not what they merge.

    Args:
        ref: a branch, tag or commit; without it, the branch of the settings.
        prefix: only commits that changed this path or one below it, relative to their first parent.

    Raises: `NotFound`, `Misconfigured` for a prefix that is no part of a path.
    """
    settings = load_settings()
    start = ref or settings.branch
    lake = assemble(settings).existing_lake(model)
    return History(model=model, ref=start, commits=list(islice(_own_line(lake, start, prefix), most)))


def verify(model: str) -> Verified:
    """Read every object that a branch or tag reaches and compare it with its digest. Raises: `NotFound`."""
    return Verified(model=model, problems=assemble(load_settings()).existing_lake(model).verify())


def collect(model: str, grace: timedelta) -> Collected:
    """Remove what nothing reaches any more and what is older than the grace. Raises: `NotFound`, `Corrupt`."""
    lake = assemble(load_settings()).existing_lake(model)
    sweep(lake)
    return lake.collect(grace)


def copy(source: str, target: str, tell: Callable[[int, int], None] | None = None) -> Copied:
    """Copy a model's repository with its history into another lake, or bring there what came since.

    Args:
        source: a lake and a model, such as `embedded/taxi_eta`.
        target: the same, such as `lakefs+https://lakefs.example.com/taxi_eta`.
        tell: is told, after each commit, how many of how many are done.

    Raises: `Misconfigured`, `NotFound`, `Conflict`, `Corrupt`, `Unavailable`.
    """
    (origin, model), (destination, name) = _place(source), _place(target)
    if source == target:
        raise Misconfigured("a lake cannot be copied onto itself: name another lake, or another model")
    lake = destination.unprotected_lake(name) if origin.has_lake(model) else origin.existing_lake(model)
    done = copying.copy(origin.existing_lake(model), lake, origin.settings.home / "tmp", tell)
    if MAIN in origin.existing_lake(model).protected():
        lake.protect(MAIN)
    return done


def _own_line(lake: Lake, ref: str, prefix: str | None) -> Iterator[Commit]:
    head = lake.resolve(ref)
    expected: str | None = head
    everything, on_line = lake.log(head), False
    for touching in lake.log(head, prefix):
        for commit in everything:  # in the same order
            if on_line := commit.id == expected:
                expected = next(iter(commit.parents), None)
            if commit.id == touching.id:
                break
        if on_line and (prefix is None or _changes(lake, touching, prefix)):
            yield touching


def _changes(lake: Lake, commit: Commit, path: str) -> bool:
    """Say whether a commit changed a path or what is below it, and not just a longer name."""
    if not commit.parents:
        found = [entry.path for entry in lake.list(commit.id, path)]
    else:
        found = [change.path for change in lake.diff(commit.parents[0], commit.id, path)]
    return any(f"{one}/".startswith(f"{path.removesuffix('/')}/") for one in found)


def _place(text: str) -> tuple[Platform, str]:
    lake, _, model = text.rpartition("/")
    try:
        if lake != EMBEDDED:
            address.parse(lake)
    except ValueError as error:
        # It may hold a secret, and is not shown
        raise Misconfigured(
            f"a place is LAKE/MODEL, such as embedded/taxi_eta or lakefs+https://host/taxi_eta: {error}"
        ) from error
    return assemble(load_settings(lake=lake)), model
