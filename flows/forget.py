"""Forgetting: named rows or objects are erased from every commit, and a signed-off record says what and why.

In order: every version of every object is looked through (`infra.search`); the record is committed to `main`; the store
erases (see `Lake.erase`); branches that still show what shall be gone, as on a server, get the tables without the rows
by commits. Then all of it again, until nothing new is found and no branch shows any of it, for others write meanwhile.
Killed at any moment, the same command goes on.

Bundles are left alone: weights hold no rows. Those trained on what was erased are named, for somebody to decide.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from infra import registry
from infra.assembly import assemble
from infra.errors import Conflict, Corrupt, Misconfigured, NotFound
from infra.lake import copying, erasures
from infra.lake.erasures import Erased, Record
from infra.lake.protocol import MAIN, Entry, Erasure, Lake
from infra.lake.targets import workspace
from infra.lake.transaction import is_private, sweep, transaction
from infra.search import Hit, Search
from infra.selection import Selection
from infra.settings import load_settings

_ROUNDS = 5


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased, and what is left to do."""

    model: str
    dry_run: bool
    """Whether it would be erased, and was not."""
    records: list[str]
    """Paths of the records in the lake; none where nothing new was to be erased."""
    rows: int
    """Taken out of tables, each version of a table counted."""
    objects: int
    """Versions of objects that went as a whole."""
    paths: list[str]
    """Objects of which a version was erased."""
    names_nothing: list[str]
    """Lines of the selection that name no row."""
    trained_on: list[str]
    """Versions of bundles that were trained on what was erased."""
    still_at: list[str]
    """Addresses at which a server keeps the content until it is removed there."""
    still_on: list[str]
    """Branches of writers that still show it; once they have ended, the same has to be done again."""


def forget(
    model: str, objects: Sequence[str], selection: Selection | None, by: str, why: str, dry_run: bool = False
) -> Forgotten:
    """Erase objects by path, and from all tables the rows of a selection.

    Args:
        by: who signs it off.
        dry_run: say what would be erased, and change nothing.

    Raises: `NotFound` where there is no lake, path or column of that name, `Misconfigured` for values that no table can
    have, `Conflict` where uncommitted changes have it, or another object has the content of a named one.
    """
    if not (by.strip() and why.strip()):
        raise Misconfigured("an erasure is signed off: say who does it and why")
    if kept := [path for path in objects if path.startswith(erasures.FOLDER)]:
        raise Misconfigured(f"{kept[0]} is a record of what was erased, and stays")
    settings = load_settings()
    lake = assemble(settings).existing_lake(model)
    with workspace(settings.home / "tmp", "forget") as folder:
        search = Search(lake, objects, selection, folder)
        hits = search.run()
        search.check_names()
        versions = _trained_on(lake, hits)
        erased, records, still_at, still_on = search.fresh(hits), list[str](), list[str](), list[str]()
        nothing = search.names_nothing()
        if not dry_run:
            erased, records, still_at, still_on = _erase(model, lake, search, hits, by, why)
    return Forgotten(
        model=model,
        dry_run=dry_run,
        records=records,
        rows=sum(hit.rows for hit in erased),
        objects=sum(1 for hit in erased if hit.replacement is None),
        paths=sorted({hit.entry.path for hit in erased}),
        names_nothing=nothing,
        trained_on=versions,
        still_at=still_at,
        still_on=still_on,
    )


def _erase(
    model: str, lake: Lake, search: Search, hits: list[Hit], by: str, why: str
) -> tuple[list[Hit], list[str], list[str], list[str]]:
    """Give what was erased, the records of it, and where a server keeps it: addresses, and branches of writers."""
    fresh = search.fresh(hits)
    _check_uncommitted(lake, fresh)
    # What the store, or a branch, still shows of what is recorded, an earlier run was killed in erasing
    shown = {entry for name in _showing(lake, hits) for entry in lake.list(name)}
    erased = [hit for hit in hits if lake.collects or hit in fresh or hit.entry in shown]
    records, still_at = list[str](), dict[str, None]()
    for _ in range(_ROUNDS):
        if fresh or (hits and lake.collects):
            records.append(_record(lake, by, why, search, fresh or hits))
        # Also where nothing is new: to end what an earlier run was killed in
        still_at.update(dict.fromkeys(lake.erase([one for hit in hits for one in _erasures(hit)])))
        _rewrite(lake, hits)
        _drop_unnamed(lake)
        search.known |= {hit.version for hit in hits}
        hits = search.run()
        fresh = search.fresh(hits)
        showing = _showing(lake, hits)
        if not fresh and all(is_private(name) for name in showing):
            return erased, records, list(still_at), showing
        erased += fresh
    raise Conflict(f"others keep writing what shall be gone to the lake of {model}: stop them and try again")


def _check_uncommitted(lake: Lake, hits: list[Hit]) -> None:
    """Refuse to touch what somebody has not committed yet; writers' own branches are not touched."""
    gone = {hit.entry for hit in hits}
    for name, head in lake.branches().items():
        pending = [] if is_private(name) else lake.diff(head, name)
        # A server's branch is changed by a commit, which would take all of it along
        shown = gone.intersection(lake.list(name)) if pending else set()
        if shown and not lake.collects:
            raise _uncommitted(name, pending[0].path)
        if named := {change.path for change in pending} & {entry.path for entry in shown}:
            raise _uncommitted(name, min(named))


def _uncommitted(branch: str, path: str) -> Conflict:
    return Conflict(f"branch {branch!r} has uncommitted changes of {path}: commit or reset them first")


def _showing(lake: Lake, hits: list[Hit]) -> list[str]:
    """Name the branches that show what shall be gone; where the store has erased it, none does."""
    gone = {hit.entry for hit in hits}
    return [name for name in lake.branches() if gone and not gone.isdisjoint(lake.list(name))]


def _rewrite(lake: Lake, hits: list[Hit]) -> None:
    """Have no branch show what shall be gone, but those that others are writing."""
    replacements = {hit.entry: hit.replacement for hit in hits}
    for name in _showing(lake, hits):
        if is_private(name):
            continue
        with transaction(lake, name, "forget", {"kind": "forget"}) as work:
            for entry in lake.list(work.base):
                if entry not in replacements:
                    continue
                if (replacement := replacements[entry]) is None:
                    work.delete(entry.path)
                else:
                    work.put(entry.path, replacement)


def _drop_unnamed(lake: Lake) -> None:
    """Remove what no branch or tag reaches, at once, whoever may read it: it may have what shall be gone.

    Writers are in no danger without a grace: who stores content looks, when naming it, whether it is there still.
    """
    sweep(lake)
    if lake.collects:
        lake.collect(timedelta(0))


def _record(lake: Lake, by: str, why: str, search: Search, hits: list[Hit]) -> str:
    record = Record(
        at=datetime.now(UTC),
        by=by,
        why=why,
        objects=tuple(search.objects),
        columns=search.selection.columns if search.selection else (),
        lines=len(search.selection) if search.selection else 0,
        erased=tuple(Erased(path=hit.entry.path, digest=hit.entry.digest, rows=hit.rows) for hit in hits),
    )
    path = erasures.path_of(record)
    with transaction(lake, MAIN, f"forget: see {path}", {"kind": "forget", "record": path}) as work:
        work.put(path, erasures.encode(record))
    return path


def _erasures(hit: Hit) -> Iterator[Erasure]:
    for ref in hit.refs:
        yield Erasure(ref=ref, path=hit.entry.path, digest=hit.entry.digest, replacement=hit.replacement)


def _trained_on(lake: Lake, hits: list[Hit]) -> list[str]:
    gone = {hit.entry for hit in hits}
    found = set[str]()
    for branch in lake.branches() if gone else ():
        for version in () if is_private(branch) else registry.versions(lake, branch):
            data = registry.load_card(lake, lake.resolve(branch), version).data
            if any(entry in gone for entry in _entries(lake, copying.known_as(lake, data.commit), data.paths)):
                found.add(version)
    return sorted(found)


def _entries(lake: Lake, commit_id: str, paths: Sequence[str]) -> Iterator[Entry]:
    for path in paths:
        try:
            yield lake.stat(commit_id, path)
        except (NotFound, Corrupt):
            continue  # the commit was collected, or the object erased, here or on a server
