"""Ingest: raw files, validated against the contract, become commits of the lake."""

import hashlib
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd

from flows import catalog
from flows.orchestration import as_json, cached_step, flow, run_cached, step_key
from flows.sync import Ingested, Sync, contract_digest, files_to_ingest, quarantine_path
from infra import tables
from infra.assembly import assemble
from infra.dataset import INGESTED_AT, partition_path
from infra.errors import NotFound, Unavailable
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.repeats import rows_elsewhere
from infra.seen_files import look_at
from infra.settings import load_settings
from models.errors import ContractError
from models.model import Model

if TYPE_CHECKING:
    from models.contract.table import Validated


@flow("ingest")
def ingest(model: str, source: str | None = None, branch: str | None = None) -> list[Ingested]:
    """Bring raw Parquet files into the lake, one commit a file.

    Rows that break the model's contract go to quarantine with their reasons; a file that breaks it as a whole is
    refused by name and changes nothing. Files that were ingested before are found again: by size and times, without
    being read, where those are as they were, and by their content otherwise. Where partitions are files with a
    time, rows that another file has already are refused if the contract says what is unique, and counted if not;
    once that other file's rows have changed, this one is read again.

    Args:
        model: name in the catalog.
        source: a file or a folder of files; without it, the sample that comes with the model.
        branch: lake branch; without it, OKRUH_BRANCH.
    """
    definition = catalog.load(model)
    branch = branch or load_settings().branch
    files = files_to_ingest(definition, source)
    with Sync(definition, branch) as sync:
        done = [_ingest_file(definition, file, branch, sync) for file in files]
        # once more those whose rows were found in a file that has come after them, and changed
        return [
            _ingest_file(definition, file, branch, sync) if sync.is_outdated(one) else one
            for file, one in zip(files, done, strict=True)
        ]


def _ingest_file(definition: Model, file: Path, branch: str, sync: Sync) -> Ingested:
    try:
        look = look_at(file)  # before it is read, so that a change meanwhile shows the next time
        if found := sync.recall(file, look):
            return found
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise Unavailable(f"{file} cannot be read: {error.strerror}") from error
    key = step_key("ingest", definition.name, branch, digest, contract_digest(definition))

    def is_in_the_lake(found: dict[str, Any]) -> bool:
        return sync.holds(msgspec.convert(found, Ingested))

    what = {"model": definition.name, "file": str(file), "digest": digest, "branch": branch}
    result, cached = run_cached(ingest_file, key, is_in_the_lake, **what)
    ingested = msgspec.convert({**result, "file": file.name, "cached": cached}, Ingested)
    sync.remember(file, look, ingested)
    return ingested


def _compared(
    definition: Model, lake: Lake, branch: str, checked: "Validated", name: str
) -> tuple["Validated", int, dict[str, str]]:
    """Refuse rows that other files of the table have, or, where nothing says that rows are unique, count them.

    Returns:
        What is left, how many of its rows others have, and in which partitions any were found: path and digest.
    """
    from models.contract.table import set_apart

    contract = definition.contract
    if contract.time is None or contract.is_monthly or checked.accepted.empty:
        return checked, 0, {}
    found = rows_elsewhere(definition, lake, lake.resolve(branch), checked.partition, checked.accepted)
    if not found:
        return checked, 0, {}
    shared_with = {entry.path: entry.digest for entry in found}
    if not contract.unique:
        return checked, int(np.logical_or.reduce(list(found.values())).sum()), shared_with
    reasons = {
        int(row): f"duplicate of a row in {entry.path}" for entry, again in found.items() for row in again.nonzero()[0]
    }
    try:
        return set_apart(contract, checked, reasons, name), 0, shared_with
    except ContractError as error:  # where the lake has both files already, each is refused for the other
        raise ContractError(
            f"{error}; leave out a file whose rows another has: `okruh lake forget {definition.name} --object PATH "
            "--by NAME --why TEXT` erases what the lake has of it"
        ) from error


def _content(definition: Model, lake: Lake, commit: str, path: str, accepted: pd.DataFrame) -> bytes:
    """Write accepted rows as they are kept; without a time, the same rows again keep the moment at which they came."""
    if definition.contract.time is not None:
        return tables.encode(accepted)  # in the order of time: who wants the newest rows leaves the others unread
    if (kept := _digest(lake, commit, path)) is not None:
        with tables.opened(lake, commit, path) as table:
            has_moment = INGESTED_AT in table.schema_arrow.names and table.metadata.num_rows
        if has_moment:
            before = tables.read(lake, commit, path, [INGESTED_AT])[INGESTED_AT]
            again = tables.encode(accepted.assign(**{INGESTED_AT: before.iloc[0]}))
            if hashlib.sha256(again).hexdigest() == kept:
                return again
    now = pd.Timestamp.now(UTC).floor("s").as_unit("us")
    return tables.encode(accepted.assign(**{INGESTED_AT: now}))


def _digest(lake: Lake, ref: str, path: str) -> str | None:
    try:
        return lake.stat(ref, path).digest
    except NotFound:
        return None


@cached_step("ingest one file")
def ingest_file(model: str, file: str, digest: str, branch: str, key: str) -> dict[str, Any]:  # noqa: ARG001 - the cache key
    """Validate one raw file of a digest and commit the accepted and the refused rows."""
    from models.contract.table import validate

    definition = catalog.load(model)
    path = Path(file)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise Unavailable(f"{file} changed while it was read: ingest it again once it is whole")
    raw = tables.read_raw(path.name, content, dict(definition.raw_kinds))
    checked = validate(definition.contract, definition.prepared(raw), path.name)
    lake = assemble(load_settings()).lake(model)
    checked, repeated_rows, shared_with = _compared(definition, lake, branch, checked, path.name)
    accepted = partition_path(definition, checked.partition)
    note = {
        "kind": "ingest",
        "file": path.name,
        "rows": str(len(checked.accepted)),
        "refused": str(len(checked.refused)),
    }
    with transaction(lake, branch, f"ingest {path.name}", note) as work:
        stored = work.put(accepted, _content(definition, lake, work.base, accepted, checked.accepted))
        refused, quarantined = quarantine_path(definition, checked.partition), None
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
            repeated_rows=repeated_rows,
            shared_with=shared_with,
        )
    )
