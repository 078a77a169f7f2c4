"""Rollout: a challenger is tried beside the champion, becomes champion, or goes; each is one atomic commit.

A trial is what a person begins and ends. At its end the gate is asked as well and its verdict is kept, but it decides
nothing: who wants it to decide says `okruh promote`. Whatever else changes the champion (a promotion, a rollback, a
retraining that won) ends the trial, for there is nobody left to try the challenger against.
"""

import getpass
import os
from datetime import UTC, datetime

import msgspec

from flows import catalog
from flows.orchestration import flow
from flows.promote import judge, record
from flows.status import Standing, standing_of
from infra import registry
from infra.assembly import assemble
from infra.errors import Conflict, Misconfigured, NotFound
from infra.lake.protocol import Lake
from infra.settings import load_settings
from models.deciding.rollout import Act, Challenger, Rollout, challenge
from models.errors import BundleError
from models.model import Model


@flow("rollout")
def rollout(
    model: str,
    act: Act,
    version: str | None = None,
    weight: float | None = None,
    ramp: str | None = None,
    error_rate: float | None = None,
    p99_ms: float | None = None,
    by: str | None = None,
    why: str | None = None,
    as_of: datetime | None = None,
    branch: str | None = None,
) -> Standing:
    """Try a version beside the champion, change the terms of its trial, or end it.

    Args:
        model: name in the catalog.
        act: `shadow`: the version answers as well, for nobody to get; `canary`: it answers instead of the champion, for
            a share of the keys; `promote`: the challenger becomes champion; `abort`: it goes.
        version: whom to try; at the end of a trial it may be left out.
        weight: share of the keys at first; without it, 1 in shadow and 0.05 as canary.
        ramp: later shares, as `0.25@30m,1@2h`: a quarter half an hour after the beginning, all after two hours.
        error_rate: share of failed answers above which the trial ends by itself; without it, 0.01.
        p99_ms: bound of the answers' 99th percentile, likewise; without it, 100.
        by: who does it, for the record; without it, who is logged in.
        why: the reason, for the record.
        as_of: moment of the change; without it, now.
        branch: lake branch; without it, OKRUH_BRANCH.
    """
    definition = catalog.load(model)
    branch, at = branch or load_settings().branch, as_of or datetime.now(UTC)
    lake = assemble(load_settings()).lake(model)
    serving = registry.read_rollout(lake, branch)
    if serving is None:
        raise NotFound(f"{model} has no champion on branch {branch!r} yet; run `okruh promote {model}` first")
    note = {"by": by or _user()} | ({"why": why} if why else {})
    if act == "shadow" or act == "canary":
        challenger = challenge(act, version, at, weight=weight, ramp=ramp, error_rate=error_rate, p99_ms=p99_ms)
        return _begin(model, lake, branch, serving, challenger, note)
    if {weight, ramp, error_rate, p99_ms} != {None}:
        raise Misconfigured("weight, ramp, error_rate and p99_ms belong to the beginning of a trial, not to its end")
    tried = serving.challenger
    if tried is None or version not in (None, tried.version):
        named = f"{version} is not" if version else "nobody is"
        raise NotFound(f"{named} tried beside {serving.champion}; see `okruh rollout {model}`")
    if act == "promote":
        return _promote(definition, lake, branch, serving, tried, at, note)
    return _abort(model, lake, branch, serving, tried, at, note)


def _begin(
    model: str, lake: Lake, branch: str, serving: Rollout, challenger: Challenger, note: dict[str, str]
) -> Standing:
    """Commit a trial, or other terms of the one that goes on.

    Raises: `Conflict` while another version is tried; `NotFound`, `BundleError` for what could not be tried.
    """
    version, tried = challenger.version, serving.challenger
    begun = msgspec.structs.replace(serving, challenger=challenger)
    if tried is not None and tried.version != version:
        raise Conflict(f"{tried.version} is tried at this time; end that with --promote or --abort, then try {version}")
    card = registry.load_bundle(lake, branch, version).card
    if card.contract.signature != registry.load_card(lake, branch, serving.champion).contract.signature:
        raise BundleError(
            f"{version} takes other inputs than the champion {serving.champion}, so that no request suits both: let "
            f"`okruh promote {model} {version}` judge it, and build a Bento for it"
        )
    note = {"kind": challenger.mode, "version": version, "champion": serving.champion, **note}
    registry.change_rollout(lake, branch, serving, begun, f"{challenger.mode}: {version}", note)
    return standing_of(model, branch, begun, challenger.since)


def _promote(
    definition: Model,
    lake: Lake,
    branch: str,
    serving: Rollout,
    tried: Challenger,
    at: datetime,
    note: dict[str, str],
) -> Standing:
    """Let the challenger serve; the verdict that is kept says who wanted it and what the gate says."""
    gate = judge(definition, lake, lake.resolve(branch), tried.version, serving, at)
    wanted = f"{note['by']} wanted it, after {tried.mode} since {tried.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    reasons = (
        f"{wanted}: {note['why']}" if "why" in note else wanted,
        f"the gate, which was not needed, says {'yes' if gate.allowed else 'no'}",
        *gate.reasons,
    )
    report = msgspec.structs.replace(gate, allowed=True, reasons=reasons, ends_episode=False)
    report = record(lake, branch, report, serving, note)
    promoted = Rollout(champion=report.version, since=report.at, previous=serving.champion)
    return msgspec.structs.replace(
        standing_of(definition.name, branch, promoted, at), ended_trial=tried.version, verdict=report
    )


def _abort(
    model: str, lake: Lake, branch: str, serving: Rollout, tried: Challenger, at: datetime, note: dict[str, str]
) -> Standing:
    alone = msgspec.structs.replace(serving, challenger=None)
    note = {"kind": "abort", "version": tried.version, "champion": serving.champion, **note}
    registry.change_rollout(lake, branch, serving, alone, f"abort: {tried.version}", note)
    return msgspec.structs.replace(standing_of(model, branch, alone, at), ended_trial=tried.version)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in a container whose user has no name
        return f"user {os.getuid()}"
