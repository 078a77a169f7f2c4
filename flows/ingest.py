"""Ingest: raw files, validated against the contract, become commits of the lake."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from flows.orchestration import as_json, cached_step, flow, run_cached, step_key
from infra import tables
from infra.assembly import assemble
from infra.dataset import partition_path, table_prefix
from infra.errors import NotFound, Unavailable
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.seen_files import Look, SeenFiles, look_at
from infra.settings import load_settings
from models import definitions
from models.errors import DefinitionError
from models.model import Model


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one raw file."""

    file: str
    partition: str
    rows: int
    refused: int
    reasons: dict[str, int]
    """How many refused rows broke each rule, the most frequent first."""
    quarantine: str | None
    """Where in the lake the refused rows are; None where there are none."""
    commit: str
    """The commit that made the partition as it is now."""
    digest: str
    """sha256 of the partition's accepted rows."""
    refused_digest: str | None
    """sha256 of its refused rows; None where there are none."""
    cached: bool = False


@flow("ingest")
def ingest(model: str, source: str | None = None, branch: str | None = None) -> list[Ingested]:
    """Bring raw Parquet files into the lake, one commit a file.

    Rows that break the model's contract go to quarantine with their reasons; a file that breaks it as a whole is
    refused by name and changes nothing. Files that were ingested before are found again: by size and times, without
    being read, where those are as they were, and by their content otherwise.

    Args:
        model: name in the catalog.
        source: a file or a folder of files; without it, the sample that comes with the model.
        branch: lake branch; without it, OKRUH_BRANCH.
    """
    definition = definitions.load(model)
    branch = branch or load_settings().branch
    files = _files(definition, source)
    with seen_files(definition, branch) as seen:
        sync = _Sync(definition, branch, seen)
        return [sync.ingest(file) for file in files]


def seen_files(definition: Model, branch: str) -> SeenFiles:
    """Open the index of the files that were ingested into a branch by this contract and these sources."""
    settings = load_settings()
    basis = step_key("seen", settings.lake, _contract_digest(definition))
    return assemble(settings).seen_files(definition.name, branch, basis)


def _files(definition: Model, source: str | None) -> list[Path]:
    if source is not None:
        place = Path(source)
    elif definition.sample is not None:
        place = definition.sample.folder
    else:
        raise DefinitionError(f"model {definition.name} has no sample data; name a file or folder to ingest")
    if place.is_file():
        return [place]
    if not place.exists():
        raise NotFound(f"{place} does not exist; name a Parquet file or a folder of them")
    files = sorted(place.glob("*.parquet"), key=lambda file: file.name)  # paths themselves compare slowly
    if not files:
        raise NotFound(f"{place} holds no .parquet file")
    return files


class _Sync:
    """One run: what is remembered of files, and what the lake holds, which is listed once and then kept up."""

    def __init__(self, definition: Model, branch: str, seen: SeenFiles) -> None:
        self._definition = definition
        self._branch = branch
        self._seen = seen
        self._contract = _contract_digest(definition)
        self._lake = assemble(load_settings()).lake(definition.name)
        self._held: dict[str, str] | None = None

    def ingest(self, file: Path) -> Ingested:
        """Find a file again or bring it into the lake. Raises: `Unavailable`, and what its validation raises."""
        try:
            look = look_at(file)  # before it is read, so that a change meanwhile shows the next time
            if found := self._remembered(file, look):
                return found
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise Unavailable(f"{file} cannot be read: {error.strerror}") from error
        key = step_key("ingest", self._definition.name, self._branch, digest, self._contract)

        def is_in_the_lake(found: dict[str, Any]) -> bool:
            return self._holds(msgspec.convert(found, Ingested))

        arguments = {"model": self._definition.name, "file": str(file), "branch": self._branch}
        result, cached = run_cached(ingest_file, key, is_in_the_lake, **arguments)
        ingested = msgspec.convert({**result, "file": file.name, "cached": cached}, Ingested)
        if not cached:
            self._keep_up(ingested)
        self._seen.remember(file, look, ingested.partition, msgspec.json.encode(ingested))
        return ingested

    def _remembered(self, file: Path, look: Look) -> Ingested | None:
        found = self._seen.recall(file, look)
        if found is None:
            return None
        ingested = msgspec.structs.replace(msgspec.json.decode(found, type=Ingested), cached=True)
        return ingested if self._holds(ingested) else None

    def _holds(self, found: Ingested) -> bool:
        if self._held is None:
            commit = self._lake.resolve(self._branch)
            folders = (table_prefix(self._definition), _quarantine_prefix(self._definition))
            self._held = {entry.path: entry.digest for folder in folders for entry in self._lake.list(commit, folder)}
        accepted, refused = self._places(found)
        return (self._held.get(accepted), self._held.get(refused)) == (found.digest, found.refused_digest)

    def _keep_up(self, ingested: Ingested) -> None:
        """Take note of a partition that is another now: files that made it before do not hold any more."""
        self._seen.forget(ingested.partition)
        if self._held is not None:
            for place, digest in zip(self._places(ingested), (ingested.digest, ingested.refused_digest), strict=True):
                if digest:
                    self._held[place] = digest
                else:
                    self._held.pop(place, None)

    def _places(self, found: Ingested) -> tuple[str, str]:
        return partition_path(self._definition, found.partition), _quarantine(self._definition, found.partition)


def _contract_digest(definition: Model) -> str:
    return hashlib.sha256(msgspec.json.encode(definition.contract)).hexdigest()


def _quarantine_prefix(definition: Model) -> str:
    return f"quarantine/{definition.table}/"


def _quarantine(definition: Model, partition: str) -> str:
    return f"{_quarantine_prefix(definition)}{partition}.parquet"


def _digest(lake: Lake, ref: str, path: str) -> str | None:
    try:
        return lake.stat(ref, path).digest
    except NotFound:
        return None


@cached_step("ingest one file")
def ingest_file(model: str, file: str, branch: str, key: str) -> dict[str, Any]:  # noqa: ARG001 - the cache key
    """Validate one raw file and commit the accepted and the refused rows."""
    from models.contract.table import validate

    definition = definitions.load(model)
    path = Path(file)
    raw = tables.read_raw(path.name, path.read_bytes(), dict(definition.raw_columns))
    checked = validate(definition.contract, definition.prepared(raw), path.name)
    lake = assemble(load_settings()).lake(model)
    accepted = partition_path(definition, checked.partition)
    note = {
        "kind": "ingest",
        "file": path.name,
        "rows": str(len(checked.accepted)),
        "refused": str(len(checked.refused)),
    }
    with transaction(lake, branch, f"ingest {path.name}", note) as work:
        stored = work.put(accepted, tables.encode(checked.accepted))
        refused, quarantined = _quarantine(definition, checked.partition), None
        if len(checked.refused):
            quarantined = work.put(refused, tables.encode(checked.refused)).digest
        elif _digest(lake, work.base, refused):
            work.delete(refused)
    commit = work.committed.id if work.committed else next(lake.log(branch, accepted)).id
    return as_json(
        Ingested(
            file=path.name,
            partition=checked.partition,
            rows=len(checked.accepted),
            refused=len(checked.refused),
            reasons=checked.reasons,
            quarantine=refused if quarantined else None,
            commit=commit,
            digest=stored.digest,
            refused_digest=quarantined,
        )
    )
