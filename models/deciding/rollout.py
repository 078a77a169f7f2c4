"""Who serves, and who is tried beside it: the file `rollout.json` in the lake. Changing it is promotion.

A challenger is tried in `shadow` (it answers as well, and nobody gets it) or as a `canary` (it answers instead), for a
share of the keys that requests bear. What a key's lot is follows from the file and the clock alone: the ramp advances
by itself, no writer is needed for it, and every worker says the same. A key keeps its place, so that what was the
challenger's at 5 % is still its at 20 %; another challenger draws anew.
"""

import re
from datetime import datetime
from hashlib import blake2b
from itertools import compress, pairwise
from typing import Annotated, Literal

import msgspec

from models.deciding.verdict import Verdict
from models.errors import BundleError, DefinitionError

PATH = "rollout.json"

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Mode = Literal["shadow", "canary"]
Act = Literal["shadow", "canary", "promote", "abort"]
"""How a trial begins, and how it ends."""

_SHARE_AT_FIRST: dict[Mode, float] = {"shadow": 1.0, "canary": 0.05}
_PLACE_BYTES = 6
_PLACES = float(1 << 8 * _PLACE_BYTES)
"""As many as a float tells apart: no place is rounded up to 1."""

_SLOW_RATE = 0.01
_AT_LEAST = 100
"""Answers that shares are taken of, at least, so that one failure among the first ends nothing."""

_STEP = re.compile(r"(\d+(?:\.\d+)?)@(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A further step of a ramp."""

    after_s: int
    """Seconds since the trial began."""
    weight: float


class AbortRule(msgspec.Struct, frozen=True, kw_only=True):
    """What ends a trial without anybody's doing: too many answers failed, or were slow."""

    error_rate: float = 0.01
    """Share of answers that may fail."""
    p99_ms: float = 100.0
    """What the 99th percentile of its answers may take: one in a hundred may take longer."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant. Raises: `DefinitionError` naming the field."""
        if not 0 <= self.error_rate < 1:
            raise DefinitionError(f"abort.error_rate must be at least 0 and less than 1, not {self.error_rate!r}")
        if not 0 < self.p99_ms < float("inf"):
            raise DefinitionError(f"abort.p99_ms must be a number greater than 0, not {self.p99_ms!r}")


class Challenger(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is tried beside the champion, and on which terms."""

    version: str
    """Bundle version."""
    mode: Mode
    since: Moment
    """Event time of the trial's beginning, aware, UTC; the ramp counts from it."""
    weight: float
    """Share of keys at first, above 0 and at most 1."""
    ramp: tuple[Step, ...] = ()
    """Later, larger shares."""
    abort: AbortRule = AbortRule()

    def __post_init__(self) -> None:
        """Refuse what cannot be meant. Raises: `DefinitionError` naming the field."""
        for weight in (self.weight, *(step.weight for step in self.ramp)):
            if not 0 < weight <= 1:
                raise DefinitionError(f"a challenger's weight must be above 0 and at most 1, not {weight!r}")
        steps = (Step(after_s=0, weight=self.weight), *self.ramp)
        for before, after in pairwise(steps):
            if after.after_s <= before.after_s or after.weight <= before.weight:
                raise DefinitionError(
                    "a ramp must rise from step to step, in time and in weight, not from "
                    f"{before.weight:g} after {before.after_s} s to {after.weight:g} after {after.after_s} s"
                )


class Rollout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The versions that answer requests."""

    champion: str
    """Bundle version."""
    since: Moment
    """Event time of the promotion, aware, UTC."""
    previous: str | None = None
    """The champion before it."""
    challenger: Challenger | None = None
    """Who is tried beside it."""

    def __post_init__(self) -> None:
        """Refuse a champion that challenges itself. Raises: `DefinitionError`."""
        if self.challenger is not None and self.challenger.version == self.champion:
            raise DefinitionError(f"{self.champion} is champion, and cannot be tried against itself")


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger's answers in the shadow against the champion's on the same rows; see `models.contract.answers`."""

    unit: str
    rows: int
    """Rows that it was shown."""
    failed: int
    """Those of which it gave no finite number; they are left out below."""
    mean_difference: float | None = None
    """Null without rows."""
    largest_difference: float | None = None
    labels: int
    """Rows whose label has come, and is within the target's range."""
    champion_error: float | None = None
    challenger_error: float | None = None
    """Mean loss on these; null without any."""


def encode(rollout: Rollout) -> bytes:
    """Write `rollout.json`."""
    return msgspec.json.format(msgspec.json.encode(rollout), indent=2)


def decode(content: bytes) -> Rollout:
    """Read `rollout.json`. Raises: `BundleError`."""
    try:
        return msgspec.json.decode(content, type=Rollout)
    except (msgspec.DecodeError, UnicodeDecodeError, DefinitionError) as error:
        raise BundleError(f"{PATH} is not a rollout: {error}") from error


def challenge(
    mode: Mode,
    version: str | None,
    since: datetime,
    *,
    weight: float | None = None,
    ramp: str | None = None,
    error_rate: float | None = None,
    p99_ms: float | None = None,
) -> Challenger:
    """Make a challenger of what a person says; what is left out has its default.

    Args:
        mode: how it is tried.
        version: whom.
        since: when the trial begins.
        weight: the share of keys at first; without it, 1 in shadow and 0.05 as canary.
        ramp: later shares, as `0.25@30m,1@2h`: a quarter half an hour after the beginning, all after two hours.
        error_rate: as in `AbortRule`.
        p99_ms: as in `AbortRule`.

    Raises: `DefinitionError` naming what cannot be meant.
    """
    if not version:
        raise DefinitionError(f"a {mode} needs the version that is tried")
    bounds = {"error_rate": error_rate, "p99_ms": p99_ms}
    return Challenger(
        version=version,
        mode=mode,
        since=since,
        weight=_SHARE_AT_FIRST[mode] if weight is None else weight,
        ramp=() if ramp is None else tuple(_step(text.strip()) for text in ramp.split(",")),
        abort=AbortRule(**{name: bound for name, bound in bounds.items() if bound is not None}),
    )


def _step(text: str) -> Step:
    found = _STEP.fullmatch(text)
    if found is None:
        raise DefinitionError(
            f"{text!r} is no step of a ramp: give the share and the time since the beginning, in s, m, h or d, such as "
            "0.25@30m,1@2h"
        )
    share, count, unit = found.groups()
    return Step(after_s=int(count) * _SECONDS[unit], weight=float(share))


def weight_at(challenger: Challenger, at: datetime) -> float:
    """Give the share of keys at a moment; 0 before the trial begins."""
    passed_s = (at - challenger.since).total_seconds()
    if passed_s < 0:
        return 0.0
    return next((step.weight for step in reversed(challenger.ramp) if step.after_s <= passed_s), challenger.weight)


def place_of(version: str, key: bytes) -> float:
    """Give a key's place in a challenger's draw, in [0, 1): the same in every process, and fair over keys."""
    digest = blake2b(version.encode() + b"\0" + key, digest_size=_PLACE_BYTES).digest()
    return int.from_bytes(digest, "big") / _PLACES


def is_drawn(challenger: Challenger, key: bytes, at: datetime) -> bool:
    """Say whether a key is among the challenger's at a moment."""
    return place_of(challenger.version, key) < weight_at(challenger, at)


def may_go_on(rule: AbortRule, answers: int, failed: int, slow: int) -> Verdict:
    """Decide whether a trial goes on, after so many of the challenger's answers; few are taken for a hundred.

    Args:
        rule: the trial's.
        answers: all, the failed ones among them.
        failed: those that are none.
        slow: those that took longer than `p99_ms`.
    """
    counted = max(answers, _AT_LEAST)
    reasons = (
        f"{failed} of {answers} answers failed, {rule.error_rate:.2%} may",
        f"{slow} of {answers} answers took longer than {rule.p99_ms:g} ms, {_SLOW_RATE:.2%} may",
    )
    broken = (failed > rule.error_rate * counted, slow > _SLOW_RATE * counted)
    return Verdict(not any(broken), tuple(compress(reasons, broken)) or reasons)
