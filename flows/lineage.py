"""Lineage: from a prediction or a version back to model, data, code, environment and runs. Reads only."""

from datetime import datetime

import msgspec

from flows import catalog
from infra import registry
from infra.assembly import assemble
from infra.dataset import archived_label, archived_prediction
from infra.errors import NotFound
from infra.journal.answers import prediction
from infra.journal.index import Label
from infra.journal.journal import Journal
from infra.lake import copying
from infra.lake.protocol import Lake
from infra.settings import load_settings
from models.bundle import Computed, bundle_folder
from models.contract.answers import recorded, told


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The prediction that was asked for."""

    id: str
    event_at: datetime
    row: msgspec.Raw
    value: float | int | str
    """The number, or the most likely value."""
    label: float | int | str | None
    label_known_at: datetime | None


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where an answer comes from."""

    model: str
    branch: str
    prediction: Answered | None
    version: str
    warm_start: str | None
    onnx_digest: str
    registered_by: str
    """Lake commit that registered the bundle."""
    data_commit: str
    partitions: tuple[str, ...]
    as_of: datetime
    seed: int
    code_commit: str
    source_digest: str
    environment_digest: str
    computed: Computed | None
    """On what it was computed; None where the card is of before it was kept."""
    flow_run: str
    tracker_run: str
    promoted_at: datetime | None
    promoted_because: tuple[str, ...]


def lineage(model: str, subject: str, branch: str | None = None) -> Lineage:
    """Trace a prediction id or a version; on the settings' branch first, then on replays, the newest first.

    Raises: `NotFound`.
    """
    catalog.check(model)
    settings = load_settings()
    platform = assemble(settings)
    unknown = NotFound(f"{subject!r} is neither a version nor a prediction of {model}; see `okruh status {model}`")
    if not platform.has_lake(model):
        raise unknown
    lake = platform.lake(model)
    for name in [branch] if branch else registry.branches_to_search(lake, settings.branch):
        if subject in registry.versions(lake, name):
            return _of_version(model, lake, name, subject, None)
        if (found := _answered(platform.journal(model, name), lake, name, subject)) is not None:
            version, answered = found
            return _of_version(model, lake, name, version, answered)
    raise unknown


def _answered(journal: Journal, lake: Lake, branch: str, name: str) -> tuple[str, Answered] | None:
    """Find a prediction, and the version that made it, in the journal or in what is archived of it."""
    commit = lake.resolve(branch)
    try:
        found = journal.find(name)
    except NotFound:
        try:
            row = archived_prediction(lake, commit, name, journal.answered_at(name))
        except NotFound:
            return None
        found = prediction(row)
    target = registry.load_card(lake, commit, found.version).contract.target
    label = journal.label(name)
    if label is None and (archived := archived_label(lake, commit, name)):
        label = Label(**archived)
    return found.version, Answered(
        id=found.id,
        event_at=found.event_at,
        row=msgspec.Raw(msgspec.json.encode(found.row)),
        value=told(target, recorded(target, [found.value]))[0],
        label=label.value if label else None,
        label_known_at=label.known_at if label else None,
    )


def _of_version(model: str, lake: Lake, branch: str, version: str, prediction: Answered | None) -> Lineage:
    commit = lake.resolve(branch)
    card = registry.load_card(lake, commit, version)
    verdict = registry.promotion_of(lake, commit, version)
    return Lineage(
        model=model,
        branch=branch,
        prediction=prediction,
        version=version,
        warm_start=card.warm_start,
        onnx_digest=card.onnx_digest,
        registered_by=next(lake.log(commit, bundle_folder(version))).id,
        data_commit=copying.known_as(lake, card.data.commit),
        partitions=card.data.paths,
        as_of=card.as_of,
        seed=card.seed,
        code_commit=card.origin.code_commit,
        source_digest=card.origin.source_digest,
        environment_digest=card.origin.environment_digest,
        computed=card.origin.computed,
        flow_run=card.origin.flow_run,
        tracker_run=card.origin.tracker_run,
        promoted_at=verdict.at if verdict else None,
        promoted_because=verdict.reasons if verdict else (),
    )
