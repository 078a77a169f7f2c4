"""Forgetting: named rows or objects are erased from every commit, and a signed-off record says what and why.

In order: every object of every commit is looked through; branches get the tables without the rows, in one commit with
the record, `erasures/<id>.json`, on `main`; then what held the rows is erased from the store (see `Lake.erase`). Killed
at any moment, the same command goes on. The record holds no value that was asked for, only the digest of the selection.

Bundles are left alone: weights hold no rows. Those trained on what was erased are named, for somebody to decide.
"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pandas as pd

from infra import registry, tables
from infra.assembly import assemble
from infra.errors import Conflict, Misconfigured, NotFound
from infra.lake.protocol import MAIN, Entry, Erasure, Lake
from infra.lake.transaction import PRIVATE, transaction
from infra.settings import load_settings

ERASURES = "erasures/"


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased, and what is left to do."""

    model: str
    record: str | None
    """Path of the record in the lake; None where nothing was to be erased, or nothing was done yet."""
    rows: int
    """Removed from the tables that branches show or showed, each version of a table counted."""
    paths: list[str]
    """Objects of which a version was erased."""
    trained_on: list[str]
    """Versions of bundles that were trained on what was erased."""
    still_at: list[str]
    """Addresses at which a server keeps the content until it is removed there."""


class _Hit(msgspec.Struct, frozen=True):
    """An object that has what shall be gone."""

    ref: str
    entry: Entry
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
    cannot have, `Conflict` where somebody changes the same meanwhile, or has uncommitted changes of it.
    """
    if not (by.strip() and why.strip()):
        raise Misconfigured("an erasure is signed off: say who does it and why")
    lake = assemble(load_settings()).existing_lake(model)
    hits = _search(lake, objects, selection)
    record, versions = None, _trained_on(lake, hits)
    if dry_run:
        return _report(model, None, hits, versions, [])
    if hits:
        now = datetime.now(UTC)
        record = f"{ERASURES}{now:%Y%m%dT%H%M%S%fZ}.json"
        _write(lake, hits, record, _record(now, by, why, objects, selection, hits))
    # Also where nothing was found: to end what an earlier run was killed in
    still_at = lake.erase([_erasure(hit) for hit in hits])
    return _report(model, record, hits, versions, list(still_at))


def read_selection(where: Sequence[str], rows: Path | None) -> pd.DataFrame | None:
    """Read which rows are meant: one line of `COLUMN=VALUE`, or the lines of a CSV file. Raises: `Misconfigured`."""
    if where and rows:
        raise Misconfigured("name rows by --where or by --rows, not by both")
    if rows:
        try:
            return pd.read_csv(rows, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise Misconfigured(f"{rows} cannot be read as CSV: {error}") from error
    pairs = [one.partition("=") for one in where]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise Misconfigured(f"--where {wrong[0]}: rows are named by COLUMN=VALUE")
    return pd.DataFrame({name: [value] for name, _, value in pairs}) if pairs else None


def _search(lake: Lake, objects: Sequence[str], selection: pd.DataFrame | None) -> list[_Hit]:
    hits: list[_Hit] = []
    missing, asked = set(objects), list(selection.columns) if selection is not None else []
    unknown = bool(asked)
    for ref, entry in _versions(lake):
        if entry.path in objects:
            missing.discard(entry.path)
            hits.append(_Hit(ref, entry, None, 0))
        elif selection is not None and entry.path.endswith(".parquet") and not entry.path.startswith(ERASURES):
            table = tables.read(lake, ref, entry.path)
            if not set(asked) <= set(table.columns):
                continue
            unknown = False
            named = _named(table, selection)
            if named.any():
                hits.append(_Hit(ref, entry, tables.encode(table[~named]), int(named.sum())))
    if missing:
        raise NotFound(f"no commit has {', '.join(sorted(missing))}")
    if unknown:
        raise NotFound(f"no table has columns {asked}")
    return hits


def _versions(lake: Lake) -> Iterator[tuple[str, Entry]]:
    """Give each content of each path once, with a commit that has it."""
    seen_commits, seen = set[str](), set[Entry]()
    for head in {**lake.branches(), **lake.tags()}.values():
        for commit in lake.log(head):
            if commit.id in seen_commits:
                continue
            seen_commits.add(commit.id)
            for path in _brought(lake, commit.id, commit.parents):
                try:
                    entry = lake.stat(commit.id, path)
                except NotFound:
                    continue  # it was erased
                if entry not in seen:
                    seen.add(entry)
                    yield commit.id, entry


def _brought(lake: Lake, commit_id: str, parents: tuple[str, ...]) -> list[str]:
    if not parents:
        return [entry.path for entry in lake.list(commit_id)]
    return [change.path for change in lake.diff(parents[0], commit_id) if change.kind != "removed"]


def _named(table: pd.DataFrame, selection: pd.DataFrame) -> pd.Series:
    keys = {name: _as_in(table[name], selection[name]) for name in selection.columns}
    wanted = pd.MultiIndex.from_frame(pd.DataFrame(keys))
    return pd.Series(pd.MultiIndex.from_frame(table[list(keys)]).isin(wanted), index=table.index)


def _as_in(column: pd.Series, values: pd.Series) -> pd.Series:
    try:
        if pd.api.types.is_datetime64_any_dtype(column):
            return pd.to_datetime(values, utc=getattr(column.dt, "tz", None) is not None)
        if pd.api.types.is_numeric_dtype(column):
            return pd.to_numeric(values)
    except (ValueError, TypeError) as error:
        raise Misconfigured(f"column {column.name} holds {column.dtype}, and cannot have a value asked for") from error
    return values.astype(str)


def _write(lake: Lake, hits: list[_Hit], record: str, content: bytes) -> None:
    """Have no branch show what shall be gone, and `main` show the record and what is read instead."""
    replacements = {hit.entry: hit.replacement for hit in hits}
    folder = record.removesuffix(".json")
    for name in sorted(lake.branches(), key=lambda one: one != MAIN):
        if name.startswith(PRIVATE):
            continue
        if pending := {change.path for change in lake.diff(lake.resolve(name), name)} & {
            one.path for one in replacements
        }:
            raise Conflict(f"branch {name!r} has uncommitted changes of {min(pending)}: commit or reset them first")
        shown = [entry for entry in lake.list(name) if entry in replacements]
        if not shown and name != MAIN:
            continue
        with transaction(lake, name, f"forget: see {record}", {"kind": "forget", "record": record}) as work:
            for entry in shown:
                if (replacement := replacements[entry]) is None:
                    work.delete(entry.path)
                else:
                    work.put(entry.path, replacement)
            if name == MAIN:
                older = [one for entry, one in replacements.items() if entry not in shown and one is not None]
                work.put_all(
                    {f"{folder}/{number}.parquet": one for number, one in enumerate(older)} | {record: content}
                )


def _record(
    now: datetime,
    by: str,
    why: str,
    objects: Sequence[str],
    selection: pd.DataFrame | None,
    hits: list[_Hit],
) -> bytes:
    lines = (
        sorted("\x1f".join(line) for line in selection.astype(str).to_numpy().tolist()) if selection is not None else []
    )
    plain = {
        "at": now,
        "by": by,
        "why": why,
        "objects": list(objects),
        "columns": list(selection.columns) if selection is not None else [],
        "selected": len(lines),
        "selection_digest": hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else None,
        "erased": [
            {
                "path": hit.entry.path,
                "rows": hit.rows,
                "digest": hit.entry.digest,
                "replacement": _erasure(hit).replacement,
            }
            for hit in hits
        ],
    }
    return msgspec.json.format(msgspec.json.encode(plain), indent=1)


def _erasure(hit: _Hit) -> Erasure:
    digest = hashlib.sha256(hit.replacement).hexdigest() if hit.replacement is not None else None
    return Erasure(ref=hit.ref, path=hit.entry.path, digest=hit.entry.digest, replacement=digest)


def _trained_on(lake: Lake, hits: list[_Hit]) -> list[str]:
    gone = {hit.entry for hit in hits}
    found = set[str]()
    for branch in lake.branches() if gone else ():
        for version in () if branch.startswith(PRIVATE) else registry.versions(lake, branch):
            data = registry.load_card(lake, lake.resolve(branch), version).data
            if any(entry in gone for entry in _entries(lake, data.commit, data.paths)):
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
        paths=sorted({hit.entry.path for hit in hits}),
        trained_on=versions,
        still_at=still_at,
    )
