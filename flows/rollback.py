"""Rollback: an earlier rollout serves again, by a new commit."""

from datetime import UTC, datetime

import msgspec

from flows import catalog
from flows.orchestration import flow
from infra import registry
from infra.assembly import assemble
from infra.errors import NotFound
from infra.settings import load_settings
from models.deciding.rollout import Rollout


class RolledBack(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollback has done."""

    champion: str
    """Who serves again."""
    since: datetime
    previous: str
    """Who served until then."""
    ended_trial: str | None
    """The challenger whose trial it ended: it was tried against the one that serves no more."""


@flow("rollback")
def rollback(
    model: str, version: str | None = None, as_of: datetime | None = None, branch: str | None = None
) -> RolledBack:
    """Let an earlier champion serve again, by itself: a challenger's trial ends. Nothing of history is rewritten.

    Args:
        model: name in the catalog.
        version: a former champion; without it, the one before the present one.
        as_of: moment of the rollback; without it, now.
        branch: lake branch; without it, OKRUH_BRANCH.
    """
    catalog.load(model)
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
    ended = present.challenger.version if present.challenger else None
    note = {"kind": "rollback", "version": wanted, "from": present.champion}
    note |= {"ended-trial": ended} if ended else {}
    registry.load_card(lake, branch, wanted)
    registry.change_rollout(lake, branch, present, restored, f"roll back to {wanted}", note)
    return RolledBack(champion=wanted, since=restored.since, previous=present.champion, ended_trial=ended)
