"""Rollback: an earlier rollout serves again, by a new commit."""

from datetime import UTC, datetime

from flows.orchestration import flow
from infra import registry
from infra.assembly import assemble
from infra.errors import Conflict, NotFound
from infra.lake.transaction import transaction
from infra.settings import load_settings
from models import definitions
from models.deciding import rollout
from models.deciding.rollout import Rollout


@flow("rollback")
def rollback(
    model: str, version: str | None = None, as_of: datetime | None = None, branch: str | None = None
) -> Rollout:
    """Let an earlier champion serve again; nothing of history is rewritten.

    Args:
        model: name in the catalog.
        version: a former champion; without it, the one before the present one.
        as_of: moment of the rollback; without it, now.
        branch: lake branch; without it, OKRUH_BRANCH.
    """
    definitions.load(model)
    branch = branch or load_settings().branch
    lake = assemble(load_settings()).lake(model)
    present = registry.read_rollout(lake, branch)
    if present is None:
        raise NotFound(f"{model} has no champion on branch {branch!r}; there is nothing to roll back")
    former = {found.champion for _, found in registry.rollout_history(lake, branch)} - {present.champion}
    wanted = version or present.previous
    if wanted is None or wanted not in former:
        raise NotFound(
            f"{wanted or 'no version'} was {'ever ' if wanted is None else 'never '}champion of {model} before "
            f"{present.champion}; former champions: {', '.join(sorted(former)) or 'none'}"
        )
    restored = Rollout(champion=wanted, since=as_of or datetime.now(UTC), previous=present.champion)
    note = {"kind": "rollback", "version": wanted, "from": present.champion}
    with transaction(lake, branch, f"roll back to {wanted}", note) as work:
        registry.load_card(lake, work.base, wanted)
        if registry.read_rollout(lake, work.base) != present:
            raise Conflict(f"the champion of {model} has changed meanwhile; see who serves, and roll back again")
        work.put(rollout.PATH, rollout.encode(restored))
    return restored
