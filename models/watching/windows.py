"""Which spans are judged, and what a judgement leaves behind."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt

from models.contract.columns import Contract
from models.inference import GraphInputs
from models.watching import alarms, profile
from models.watching.alarms import Alarm, DetectorState, WatchSettings
from models.watching.profile import LossProfile, Profile

LOG_10 = float(np.log(10))
_A_MONDAY = datetime(2018, 1, 1)


class WindowReport(msgspec.Struct, frozen=True, kw_only=True):
    """One judged window of one version."""

    start: datetime
    end: datetime
    version: str
    labels: int
    """Labels within the target's range that became known in the window, of predictions by this version."""
    mean_error: float | None
    """Mean loss; None without labels."""
    reference_error: float
    statistic: float | None
    """Highest log10 of the alarm statistic in the window; None without labels."""
    drift: dict[str, float]
    """Jensen-Shannon distance to the profile, by column; empty without labels."""
    alarm: str | None
    """Alarm that this window raised."""
    state: DetectorState
    """What the next window goes on from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A served bundle and what its windows are compared with."""

    version: str
    contract: Contract
    profile: Profile
    loss: LossProfile
    ceiling: float
    """See `Model.ceiling`."""


def judge_window(
    watched: Watched,
    settings: WatchSettings,
    state: DetectorState,
    span: tuple[datetime, datetime],
    loss_N: npt.NDArray[np.float64],
    columns: GraphInputs,
    *,
    quiet: bool,
) -> tuple[WindowReport, Alarm | None]:
    """Judge what became known in one window.

    Args:
        state: the detector after the window before.
        loss_N: of the N answers whose labels became known, in `watching_order` (`models.contract.answers`).
        columns: what was asked, as the graph's inputs.
        quiet: an alarm about the same change was raised before; none is now.
    """
    start, end = span
    labels = len(loss_N)
    following, reached = alarms.update(state, start, profile.scaled_loss(loss_N, watched.ceiling))
    alarm = None
    if labels and not quiet and alarms.raised(reached, settings):
        alarm = alarms.describe(
            following,
            reached,
            settings,
            watched.version,
            span,
            labels=labels,
            mean_error=float(loss_N.mean()),
            reference_error=watched.loss.mean,
            contract=watched.contract,
        )
    report = WindowReport(
        start=start,
        end=end,
        version=watched.version,
        labels=labels,
        mean_error=float(loss_N.mean()) if labels else None,
        reference_error=watched.loss.mean,
        statistic=reached / LOG_10 if labels else None,
        drift=profile.drift(watched.contract, watched.profile, columns) if labels else {},
        alarm=alarm.id if alarm else None,
        state=following,
    )
    return report, alarm


def windows(after: datetime, until: datetime, days: int, zone: str | None) -> Iterator[tuple[datetime, datetime]]:
    """Cut whole windows out of a span.

    Args:
        after: first moment of interest; the first window is the one that holds it, or begins there.
        until: windows end at or before it.
        days: length of a window.
        zone: zone whose midnights bound the windows; None for UTC.

    Yields:
        Start and end of each, aware, UTC; a day of a change to daylight saving is an hour shorter or longer.
    """
    clock = ZoneInfo(zone) if zone else UTC
    local = after.astimezone(clock).replace(tzinfo=None)
    start = _A_MONDAY + timedelta(days=days * ((local - _A_MONDAY) // timedelta(days=days)))
    while (end := start + timedelta(days=days)).replace(tzinfo=clock).astimezone(UTC) <= until:
        yield start.replace(tzinfo=clock).astimezone(UTC), end.replace(tzinfo=clock).astimezone(UTC)
        start = end
