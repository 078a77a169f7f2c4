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
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from infra import registry, tables
from infra.assembly import assemble
from infra.errors import Conflict, Corrupt, Misconfigured, NotFound
from infra.lake import copying, erasures
from infra.lake.erasures import Erased, Record
from infra.lake.protocol import MAIN, Entry, Erasure, Lake
from infra.lake.transaction import PRIVATE, sweep, transaction
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
    replacement: bytes | None
    rows: int


def forget(
    model: str,
    objects: Sequence[str],
    selection: pd.DataFrame | None,
    by: str,
    why: str,
    dry_run: bool = False,
) -> Forgotten:
    """Erase objects by path, and rows of all tables that equal a line of a selection in all its columns.

    Args:
        selection: text, by column; None for no rows.
        by: who signs it off.
        dry_run: say what would be erased, and change nothing.

    Raises: `NotFound` where there is no lake, path or column of that name, `Misconfigured` for a value that a column
    cannot have, `Conflict` where uncommitted changes have it, or another object has the content of a named one.
    """
    if not (by.strip() and why.strip()):
        raise Misconfigured("an erasure is signed off: say who does it and why")
    if kept := [path for path in objects if path.startswith(erasures.FOLDER)]:
        raise Misconfigured(f"{kept[0]} is a record of what was erased, and stays")
    lake = assemble(load_settings()).existing_lake(model)
    known = erasures.recorded(lake)
    hits = _search(lake, objects, selection, known, strict=True)
    fresh = [hit for hit in hits if (hit.entry.path, hit.entry.digest) not in known]
    versions = _trained_on(lake, hits)
    if dry_run:
        return _report(model, None, fresh, versions, [])
    _check_uncommitted(lake, fresh)
    # What the store, or a branch, still shows of what is recorded, an earlier run was killed in erasing
    shown = set() if lake.collects else {entry for name in lake.branches() for entry in lake.list(name)}
    erased = [hit for hit in hits if lake.collects or hit in fresh or hit.entry in shown]
    records, still_at = list[str](), dict[str, None]()
    for _ in range(_ROUNDS):
        if fresh or (hits and lake.collects):
            records.append(_record(lake, by, why, objects, selection, fresh or hits))
        # Also where nothing is new: to end what an earlier run was killed in
        still_at.update(dict.fromkeys(lake.erase([one for hit in hits for one in _erasures(hit)])))
        _rewrite(lake, hits)
        _drop_unnamed(lake)
        known |= {(hit.entry.path, hit.entry.digest) for hit in hits}
        hits = _search(lake, objects, selection, known, strict=False)
        fresh = [hit for hit in hits if (hit.entry.path, hit.entry.digest) not in known]
        if not fresh:
            return _report(model, records[0] if records else None, erased, versions, list(still_at))
        erased += fresh
    raise Conflict(f"others keep writing what shall be gone to the lake of {model}: stop them and try again")


def read_selection(where: Sequence[str], rows: Path | None) -> pd.DataFrame | None:
    """Read which rows are meant: one line of `COLUMN=VALUE`, or the lines of a CSV file. Raises: `Misconfigured`."""
    if where and rows:
        raise Misconfigured("name rows by --where or by --rows, not by both")
    if rows:
        try:
            found = pd.read_csv(rows, dtype=str, keep_default_na=False)
        except OSError as error:
            raise Misconfigured(f"{rows} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise Misconfigured(f"{rows} cannot be read as CSV: {error}") from error
        if found.empty or found.isna().any(axis=None):
            raise Misconfigured(
                f"{rows} names no rows, or a line of it has too few values: a head of columns, then lines"
            )
        return found
    pairs = [one.partition("=") for one in where]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise Misconfigured(f"--where {wrong[0]}: rows are named by COLUMN=VALUE")
    return pd.DataFrame({name: [value] for name, _, value in pairs}) if pairs else None


def _search(
    lake: Lake, objects: Sequence[str], selection: pd.DataFrame | None, known: set[tuple[str, str]], strict: bool
) -> list[_Hit]:
    """Find what shall be gone; `strict`: names that nothing bears are errors."""
    versions = _versions(lake)
    hits = [_Hit(entry, refs, None, 0) for entry, refs in versions.items() if entry.path in objects]
    if strict and (missing := sorted(set(objects) - {hit.entry.path for hit in hits})):
        raise NotFound(f"no commit has {', '.join(missing)}")
    gone = {hit.entry.digest: hit.entry.path for hit in hits}
    for entry in versions:
        if entry.digest in gone and entry.path not in objects:
            raise Conflict(f"{entry.path} has the same content as {gone[entry.digest]}: name it as well")
    others = {entry: refs for entry, refs in versions.items() if entry.path not in objects}
    return hits if selection is None else hits + _search_tables(lake, others, selection, known, strict)


def _search_tables(
    lake: Lake, versions: dict[Entry, list[str]], selection: pd.DataFrame, known: set[tuple[str, str]], strict: bool
) -> list[_Hit]:
    hits, columns, asked, has_columns, fits = list[_Hit](), set[str](), set(selection.columns), False, False
    for entry, refs in versions.items():
        if not entry.path.endswith(".parquet"):
            continue
        table = _table(lake, refs[0], entry, known)
        columns |= set(table.column_names)
        if not asked <= set(table.column_names):
            continue
        lines = _lines(table.schema, selection)
        has_columns, fits = True, fits or any(lines.values())
        named = _named(table, lines)
        if rows := pc.sum(named).as_py():
            hits.append(_Hit(entry, refs, tables.encode_arrow(_marked(table.filter(pc.invert(named)))), rows))
    names = ", ".join(sorted(asked))
    if strict and not has_columns:
        raise NotFound(f"no table has all of the columns {names}; there are {', '.join(sorted(columns))}")
    if strict and not fits:
        raise Misconfigured(f"in no table can {names} have the values that were asked for")
    return hits


def _marked(table: pa.Table) -> pa.Table:
    """Have a table's bytes be its own: equal ones may have been erased, or may be later."""
    return table.replace_schema_metadata({"okruh.erasure": secrets.token_hex(16)})


def _table(lake: Lake, ref: str, entry: Entry, known: set[tuple[str, str]]) -> pa.Table:
    try:
        return tables.read_arrow(lake, ref, entry.path)
    except Corrupt:
        if (entry.path, entry.digest) not in known:
            raise
        return pa.table({})  # it was erased before, and a server's garbage collection has removed it


def _versions(lake: Lake) -> dict[Entry, list[str]]:
    """Give each content of each path, with the commits that brought it and the branches that have it uncommitted."""
    found: dict[Entry, list[str]] = {}
    seen = set[str]()
    branches = lake.branches()
    for head in {*branches.values(), *lake.tags().values()}:
        for commit in lake.log(head):
            if commit.id not in seen:
                seen.add(commit.id)
                paths = _brought(lake, commit.parents[0], commit.id) if commit.parents else _all(lake, commit.id)
                _note(lake, commit.id, paths, found)
    for name, head in branches.items():
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


def _named(table: pa.Table, lines: "dict[str, list[Any]]") -> pa.ChunkedArray:
    """Say which rows equal one of the lines, given by column in the types of the table."""
    mask = pa.chunked_array([pa.array([True] * len(table), pa.bool_())])
    for name, values in lines.items():
        column = _plain(table[name])
        mask = pc.and_(mask, pc.is_in(column, value_set=pa.array(values, column.type)))
    if len(lines) == 1:
        return mask
    wanted = set(zip(*lines.values(), strict=True))
    columns = [_plain(table[name]).to_pylist() for name in lines]
    exact = pa.array([line in wanted for line in zip(*columns, strict=True)], pa.bool_())
    return pc.and_(mask, pa.chunked_array([exact]))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _lines(schema: pa.Schema, selection: pd.DataFrame) -> "dict[str, list[Any]]":
    """Give the lines of a selection of which the columns can have every value, in the types of the columns."""
    values = {name: _as_in(schema.field(name).type, selection[name].tolist()) for name in selection.columns}
    fit = [place for place in range(len(selection)) if all(column[place] is not None for column in values.values())]
    return {name: [column[place] for place in fit] for name, column in values.items()}


def _as_in(kind: pa.DataType, values: list[str]) -> list[Any]:
    """Read text as values of a type; None where it cannot be one."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    try:
        if pa.types.is_timestamp(kind):
            moments = pd.to_datetime(pd.Series(values), utc=kind.tz is not None, format="ISO8601")
            return pa.array(moments, kind).to_pylist()  # type: ignore[no-any-return]
        return pa.array(values, pa.string()).cast(kind).to_pylist()  # type: ignore[no-any-return]
    except (ValueError, TypeError, pa.ArrowNotImplementedError):
        return [None] if len(values) == 1 else [one for value in values for one in _as_in(kind, [value])]


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


def _record(
    lake: Lake, by: str, why: str, objects: Sequence[str], selection: pd.DataFrame | None, hits: list[_Hit]
) -> str:
    record = Record(
        at=datetime.now(UTC),
        by=by,
        why=why,
        objects=tuple(objects),
        columns=tuple(selection.columns) if selection is not None else (),
        lines=len(selection) if selection is not None else 0,
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
