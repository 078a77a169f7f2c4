"""Where in the history of a lake named objects and rows are, and what the tables are without the rows.

Where predictions of the journal are meant, their labels are as well, and what challengers answered in the
shadow, by the ids that all have.
"""

import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import tables
from infra.dataset import LABELS, PREDICTIONS, SHADOWS
from infra.errors import Conflict, Corrupt, Misconfigured, NotFound
from infra.lake import erasures
from infra.lake.names import some
from infra.lake.protocol import Commit, Entry, Lake
from infra.lake.reach import reachable
from infra.selection import Selection
from models.errors import ContractError

_AT_A_TIME = 8
_TABLES = (".parquet", ".parq", ".pq")
_OF_PREDICTIONS = (LABELS, SHADOWS)
"""What is found by the ids of predictions."""


class Hit(msgspec.Struct, frozen=True):
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


class _Looked(msgspec.Struct, frozen=True):
    """What a look into a table has found."""

    columns: frozenset[str] = frozenset()
    """All that it has."""
    possible: frozenset[int] | None = None
    """Lines of the selection whose values it can have; None where it lacks a column of them."""
    found: frozenset[int] = frozenset()
    rows: int = 0
    replacement: Path | None = None
    ids: frozenset[str] = frozenset()
    """Of predictions that shall be gone."""


class Search:
    """Looks through every version of every object for what shall be gone."""

    def __init__(self, lake: Lake, objects: Sequence[str], selection: Selection | None, folder: Path) -> None:
        self._lake = lake
        self.objects = objects
        self.selection = selection
        self._folder = folder
        self._numbers = count()
        self._versions: dict[Entry, list[str]] = {}
        self._looked: dict[tuple[Entry, frozenset[str]], _Looked] = {}
        """What was found in tables, with the ids of predictions that were looked for."""
        self.known = erasures.recorded(lake)
        """Path and digest of what records say."""

    def fresh(self, hits: list[Hit]) -> list[Hit]:
        """Give those that no record has."""
        return [hit for hit in hits if hit.version not in self.known]

    def run(self) -> list[Hit]:
        """Find what shall be gone, and write what shall be read instead."""
        self._versions = _versions(self._lake, {path for path, _ in self.known})
        named, others = dict[Entry, list[str]](), dict[Entry, list[str]]()
        for entry, refs in self._versions.items():
            (named if entry.path in self.objects else others)[entry] = refs
        gone = {entry.digest: entry.path for entry in named}
        if same := next((entry for entry in others if entry.digest in gone), None):
            raise Conflict(f"{same.path} has the same content as {gone[same.digest]}: name it as well")
        hits = [Hit(entry, refs, None, 0) for entry, refs in named.items()]
        return hits if self.selection is None else hits + self._in_tables(others, self.selection)

    def check_names(self) -> None:
        """Refuse what names nothing that there could be. Raises: `NotFound`, `Misconfigured`."""
        present = {entry.path for entry in self._versions} | {path for path, _ in self.known}
        if missing := sorted(set(self.objects) - present):
            raise NotFound(f"no commit has {', '.join(missing)}")
        if self.selection is None:
            return
        columns, names = self.selection.columns, self.selection.names
        possible = [looked.possible for looked in self._looked.values() if looked.possible is not None]
        asked = ", ".join(columns)
        if not possible:
            there = sorted({name for looked in self._looked.values() for name in looked.columns})
            raise NotFound(f"no table has all of the columns {asked}; there are {', '.join(there) or 'no tables'}")
        if lost := [name for number, name in enumerate(names) if not any(number in one for one in possible)]:
            raise Misconfigured(
                f"in no table can {asked} have the values of {some(lost)}: write them as the tables have them, "
                "wall times without an offset; nulls, durations and lists cannot be named"
            )

    def names_nothing(self) -> list[str]:
        """Give the lines of the selection that name no row."""
        found = {number for looked in self._looked.values() for number in looked.found}
        names = self.selection.names if self.selection else ()
        return [name for number, name in enumerate(names) if number not in found]

    def _in_tables(self, versions: dict[Entry, list[str]], selection: Selection) -> list[Hit]:
        hits, ids = list[Hit](), set[str]()
        # What is found by their ids last, when it is known which predictions go
        for entry in sorted(versions, key=lambda one: one.path.startswith(_OF_PREDICTIONS)):
            if not entry.path.lower().endswith(_TABLES):
                continue
            wanted = frozenset(ids) if entry.path.startswith(_OF_PREDICTIONS) else frozenset[str]()
            if (entry, wanted) not in self._looked:
                self._looked[entry, wanted] = self._look(entry, versions[entry][0], selection, wanted)
            looked = self._looked[entry, wanted]
            ids |= looked.ids
            if looked.rows:
                hits.append(Hit(entry, versions[entry], looked.replacement, looked.rows))
        found = {hit.entry.digest: hit for hit in hits}
        # The same content under other names, such as a table that does not say that it is one
        for entry in versions.keys() - {hit.entry for hit in hits}:
            if hit := found.get(entry.digest):
                hits.append(Hit(entry, versions[entry], hit.replacement, hit.rows))
        return hits

    def _look(self, entry: Entry, ref: str, selection: Selection, predictions: frozenset[str]) -> _Looked:
        try:
            with tables.opened(self._lake, ref, entry.path) as table:
                return self._look_into(table, entry.path, selection, predictions)
        except pa.ArrowNotImplementedError as error:
            raise ContractError(f"{entry.path} at {ref} cannot be searched: {error}") from error
        except Corrupt:
            if (entry.path, entry.digest) not in self.known:
                raise
            return _Looked()  # it was erased before, and a server's garbage collection has removed it

    def _look_into(
        self, table: pq.ParquetFile, path: str, selection: Selection, predictions: frozenset[str]
    ) -> _Looked:
        columns = frozenset(table.schema_arrow.names)
        match = selection.match(table.read(list(selection.columns))) if columns.issuperset(selection.columns) else None
        rows = match.rows if match else pa.nulls(table.metadata.num_rows, pa.bool_()).fill_null(False)  # noqa: FBT003
        has_ids = path.startswith((PREDICTIONS, *_OF_PREDICTIONS)) and "id" in columns
        ids = table.read(["id"])["id"].combine_chunks() if has_ids else None
        if predictions and ids is not None:
            rows = pc.or_(rows, pc.is_in(ids, pa.array(predictions, ids.type)))
        meant = pc.sum(rows).as_py() or 0
        return _Looked(
            columns,
            match.possible if match else None,
            match.found if match else frozenset(),
            meant,
            self._without(table.read(), rows) if meant else None,
            frozenset(ids.filter(rows).drop_null().to_pylist())
            if ids is not None and path.startswith(PREDICTIONS)
            else frozenset(),
        )

    def _without(self, table: pa.Table, rows: pa.Array) -> Path:
        left = tables.without_unused(table.filter(pc.invert(rows)))
        # Its bytes must be its own: equal ones may have been erased, or may be later
        marked = left.replace_schema_metadata({"okruh.erasure": secrets.token_hex(16)})
        file = self._folder / str(next(self._numbers))
        file.write_bytes(tables.encode_arrow(marked))
        return file


def _versions(lake: Lake, erased: set[str]) -> dict[Entry, list[str]]:
    """Give each content of each path, with the commits that brought it and the branches that have it uncommitted.

    Args:
        erased: paths of which a content may be gone.
    """

    def brought_by(commit: Commit) -> list[Entry]:
        if not commit.parents:
            return lake.list(commit.id)
        return _changed(lake, commit.parents[0], commit.id, erased)

    found: dict[Entry, list[str]] = {}
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        commits = list(reachable(lake))
        for commit, entries in zip(commits, threads.map(brought_by, commits), strict=True):
            for entry in entries:
                found.setdefault(entry, []).append(commit.id)
        for name, head in lake.branches().items():
            for entry in _changed(lake, head, name, erased):
                found.setdefault(entry, []).append(name)
    return found


def _changed(lake: Lake, before: str, after: str, erased: set[str]) -> list[Entry]:
    entries = list[Entry]()
    for change in lake.diff(before, after):
        try:
            if change.kind != "removed":
                entries.append(lake.stat(after, change.path))
        except NotFound:
            continue  # it was erased
        except Corrupt:
            if change.path not in erased:
                raise  # what cannot be read cannot be searched
    return entries
