"""Ingest: raw files, validated against the contract, become commits of the lake."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from flows.orchestration import as_json, cached_step, flow, run_cached, step_key
from infra import tables
from infra.assembly import assemble
from infra.dataset import partition_path
from infra.errors import NotFound, Unavailable
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
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
    refused by name and changes nothing. Files that were ingested before are found again and cost nothing.

    Args:
        model: name in the catalog.
        source: a file or a folder of files; without it, the sample that comes with the model.
        branch: lake branch; without it, OKRUH_BRANCH.
    """
    definition = definitions.load(model)
    branch = branch or load_settings().branch
    return [_ingest_file(definition, file, branch) for file in _files(definition, source)]


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
    files = sorted(place.glob("*.parquet"))
    if not files:
        raise NotFound(f"{place} holds no .parquet file")
    return files


def _ingest_file(definition: Model, file: Path, branch: str) -> Ingested:
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise Unavailable(f"{file} cannot be read: {error.strerror}") from error
    contract = hashlib.sha256(msgspec.json.encode(definition.contract)).hexdigest()
    key = step_key("ingest", definition.name, branch, digest, contract)
    lake = assemble(load_settings()).lake(definition.name)

    def is_in_the_lake(found: dict[str, Any]) -> bool:
        accepted, refused = partition_path(definition, found["partition"]), _quarantine(definition, found["partition"])
        kept = (_digest(lake, branch, accepted), _digest(lake, branch, refused))
        return kept == (found["digest"], found["refused_digest"])

    result, cached = run_cached(ingest_file, key, is_in_the_lake, model=definition.name, file=str(file), branch=branch)
    return msgspec.convert({**result, "file": file.name, "cached": cached}, Ingested)


def _quarantine(definition: Model, partition: str) -> str:
    return f"quarantine/{definition.table}/{partition}.parquet"


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
