"""Forgetting: named rows or objects are erased from every commit, and a signed-off record says what and why.

In order: every version of every object is looked through; the record is committed to `main`; the store erases (see
`Lake.erase`); branches that still show what shall be gone, as on a server, get the tables without the rows by commits.
Then all of it again, until nothing new is found, for others write meanwhile. Killed at any moment, the same command
goes on.

Bundles are left alone: weights hold no rows. Those trained on what was erased are named, for somebody to decide.
"""

import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from infra import registry, tables
from infra.assembly import assemble
from infra.errors import Conflict, Corrupt, Misconfigured, NotFound
from infra.lake import copying, erasures
from infra.lake.erasures import Erased, Record
from infra.lake.protocol import MAIN, Entry, Erasure, Lake
from infra.lake.reach import reachable
from infra.lake.targets import workspace
from infra.lake.transaction import PRIVATE, sweep, transaction
from infra.selection import Selection
from infra.settings import load_settings

_ROUNDS = 5


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased, and what is left to do."""

    model: str
    record: str | None
    """Path of the record in the lake; None where nothing new was to be erased, or nothing was done yet."""
    rows: int
    """Taken out of tables, each version of a table counted."""
    objects: int
    """Versions of objects that went as a whole."""
    paths: list[str]
    """Objects of which a version was erased."""
    trained_on: list[str]
    """Versions of bundles that were trained on what was erased."""
    still_at: list[str]
    """Addresses at which a server keeps the content until it is removed there."""


class _Hit(msgspec.Struct, frozen=True):
    """A version of an object that has what shall be gone."""

    entry: Entry
    refs: list[str]
    """Commits that brought it, or branches on which it is uncommitted."""
    replacement: Path | None
    rows: int

    @property
    def version(self) -> tuple[str, str]:
        """What it is known by in records."""
        return self.entry.path, self.entry.digest


def forget(
    model: str, objects: Sequence[str], selection: Selection | None, by: str, why: str, dry_run: bool = False
) -> Forgotten:
    """Erase objects by path, and from all tables the rows of a selection.

    Args:
        by: who signs it off.
        dry_run: say what would be erased, and change nothing.

    Raises: `NotFound` where there is no lake, path or column of that name, `Misconfigured` for a value that a column
    cannot have, `Conflict` where uncommitted changes have it, or another object has the content of a named one.
    """
    if not (by.strip() and why.strip()):
        raise Misconfigured("an erasure is signed off: say who does it and why")
    if kept := [path for path in objects if path.startswith(erasures.FOLDER)]:
        raise Misconfigured(f"{kept[0]} is a record of what was erased, and stays")
    settings = load_settings()
    lake = assemble(settings).existing_lake(model)
    with workspace(settings.home / "tmp", "forget") as folder:
        search = _Search(lake, objects, selection, folder)
        hits = search.run(strict=True)
        versions = _trained_on(lake, hits)
        if dry_run:
            return _report(model, None, search.fresh(hits), versions, [])
        return _erase(model, lake, search, hits, versions, by, why)


def _erase(
    model: str, lake: Lake, search: "_Search", hits: list[_Hit], versions: list[str], by: str, why: str
) -> Forgotten:
    fresh = search.fresh(hits)
    _check_uncommitted(lake, fresh)
    # What the store, or a branch, still shows of what is recorded, an earlier run was killed in erasing
    shown = set() if lake.collects else {entry for name in lake.branches() for entry in lake.list(name)}
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
        hits = search.run(strict=False)
        fresh = search.fresh(hits)
        if not fresh:
            return _report(model, records[0] if records else None, erased, versions, list(still_at))
        erased += fresh
    raise Conflict(f"others keep writing what shall be gone to the lake of {model}: stop them and try again")


class _Search:
    """Looks through every version of every object for what shall be gone."""

    def __init__(self, lake: Lake, objects: Sequence[str], selection: Selection | None, folder: Path) -> None:
        self._lake = lake
        self.objects = objects
        self.selection = selection
        self._folder = folder
        self._numbers = count()
        self.known = erasures.recorded(lake)
        """Path and digest of what records say."""

    def fresh(self, hits: list[_Hit]) -> list[_Hit]:
        """Give those that no record has."""
        return [hit for hit in hits if hit.version not in self.known]

    def run(self, strict: bool) -> list[_Hit]:
        """Find what shall be gone, and write what shall be read instead; `strict`: unknown names are errors."""
        versions = _versions(self._lake)
        hits = [_Hit(entry, refs, None, 0) for entry, refs in versions.items() if entry.path in self.objects]
        if strict and (missing := sorted(set(self.objects) - {hit.entry.path for hit in hits})):
            raise NotFound(f"no commit has {', '.join(missing)}")
        gone = {hit.entry.digest: hit.entry.path for hit in hits}
        for entry in versions:
            if entry.digest in gone and entry.path not in self.objects:
                raise Conflict(f"{entry.path} has the same content as {gone[entry.digest]}: name it as well")
        others = {entry: refs for entry, refs in versions.items() if entry.path not in self.objects}
        return hits if self.selection is None else hits + self._in_tables(others, self.selection, strict)

    def _in_tables(self, versions: dict[Entry, list[str]], selection: Selection, strict: bool) -> list[_Hit]:
        hits, columns, asked, has_columns, fits = list[_Hit](), set[str](), set(selection.columns), False, False
        for entry, refs in versions.items():
            if not entry.path.endswith(".parquet"):
                continue
            table = self._table(refs[0], entry)
            columns |= set(table.column_names)
            if not asked <= set(table.column_names):
                continue
            has_columns, fits = True, fits or selection.fits(table.schema)
            named = selection.mask(table)
            if rows := pc.sum(named).as_py():
                hits.append(_Hit(entry, refs, self._written(table.filter(pc.invert(named))), rows))
        names = ", ".join(sorted(asked))
        if strict and not has_columns:
            raise NotFound(f"no table has all of the columns {names}; there are {', '.join(sorted(columns))}")
        if strict and not fits:
            raise Misconfigured(f"in no table can {names} have the values that were asked for")
        return hits

    def _table(self, ref: str, entry: Entry) -> pa.Table:
        try:
            return tables.read_arrow(self._lake, ref, entry.path)
        except Corrupt:
            if (entry.path, entry.digest) not in self.known:
                raise
            return pa.table({})  # it was erased before, and a server's garbage collection has removed it

    def _written(self, table: pa.Table) -> Path:
        # Its bytes must be its own: equal ones may have been erased, or may be later
        marked = table.replace_schema_metadata({"okruh.erasure": secrets.token_hex(16)})
        file = self._folder / str(next(self._numbers))
        file.write_bytes(tables.encode_arrow(marked))
        return file


def _versions(lake: Lake) -> dict[Entry, list[str]]:
    """Give each content of each path, with the commits that brought it and the branches that have it uncommitted."""
    found: dict[Entry, list[str]] = {}
    for commit in reachable(lake):
        paths = _brought(lake, commit.parents[0], commit.id) if commit.parents else _all(lake, commit.id)
        _note(lake, commit.id, paths, found)
    for name, head in lake.branches().items():
        _note(lake, name, _brought(lake, head, name), found)
    return found


def _note(lake: Lake, ref: str, paths: list[str], found: dict[Entry, list[str]]) -> None:
    for path in paths:
        try:
            found.setdefault(lake.stat(ref, path), []).append(ref)
        except (NotFound, Corrupt):
            continue  # it was erased, here or by a server's garbage collection


def _all(lake: Lake, commit_id: str) -> list[str]:
    return [entry.path for entry in lake.list(commit_id)]


def _brought(lake: Lake, before: str, after: str) -> list[str]:
    return [change.path for change in lake.diff(before, after) if change.kind != "removed"]


def _check_uncommitted(lake: Lake, hits: list[_Hit]) -> None:
    branches = lake.branches()
    if not lake.collects:
        gone = {hit.entry for hit in hits}
        for name, head in branches.items():
            if gone & set(lake.list(name)) and (pending := lake.diff(head, name)):
                raise Conflict(
                    f"branch {name!r} has uncommitted changes of {pending[0].path}: commit or reset them first"
                )
    for hit in hits:
        if names := [ref for ref in hit.refs if ref in branches]:
            raise Conflict(
                f"branch {names[0]!r} has uncommitted changes of {hit.entry.path}: commit or reset them, "
                "or wait for the writer whose branch it is"
            )


def _rewrite(lake: Lake, hits: list[_Hit]) -> None:
    """Have no branch show what shall be gone; where the store has erased it, none does."""
    replacements = {hit.entry: hit.replacement for hit in hits}
    for name in lake.branches():
        if name.startswith(PRIVATE) or not any(entry in replacements for entry in lake.list(name)):
            continue
        with transaction(lake, name, "forget", {"kind": "forget"}) as work:
            for entry in lake.list(work.base):
                if entry not in replacements:
                    continue
                if (replacement := replacements[entry]) is None:
                    work.delete(entry.path)
                else:
                    work.put(entry.path, replacement)
    for name in lake.branches():
        if name.startswith(PRIVATE) and any(entry in replacements for entry in lake.list(name)):
            raise Conflict(f"branch {name!r} of a writer still has it: wait until that has ended, and do this again")


def _drop_unnamed(lake: Lake) -> None:
    """Remove what no branch or tag reaches, at once, whoever may read it: it may have what shall be gone.

    Writers are in no danger without a grace: who stores content looks, when naming it, whether it is there still.
    """
    sweep(lake)
    if lake.collects:
        lake.collect(timedelta(0))


def _record(lake: Lake, by: str, why: str, search: _Search, hits: list[_Hit]) -> str:
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


def _erasures(hit: _Hit) -> Iterator[Erasure]:
    for ref in hit.refs:
        yield Erasure(ref=ref, path=hit.entry.path, digest=hit.entry.digest, replacement=hit.replacement)


def _trained_on(lake: Lake, hits: list[_Hit]) -> list[str]:
    gone = {hit.entry for hit in hits}
    found = set[str]()
    for branch in lake.branches() if gone else ():
        for version in () if branch.startswith(PRIVATE) else registry.versions(lake, branch):
            data = registry.load_card(lake, lake.resolve(branch), version).data
            if any(entry in gone for entry in _entries(lake, copying.known_as(lake, data.commit), data.paths)):
                found.add(version)
    return sorted(found)


def _entries(lake: Lake, commit_id: str, paths: Sequence[str]) -> Iterator[Entry]:
    for path in paths:
        try:
            yield lake.stat(commit_id, path)
        except NotFound:
            continue  # the commit was collected, or the object erased


def _report(model: str, record: str | None, hits: list[_Hit], versions: list[str], still_at: list[str]) -> Forgotten:
    return Forgotten(
        model=model,
        record=record,
        rows=sum(hit.rows for hit in hits),
        objects=sum(1 for hit in hits if hit.replacement is None),
        paths=sorted({hit.entry.path for hit in hits}),
        trained_on=versions,
        still_at=still_at,
    )
