"""Which spans are judged, and what a judgement leaves behind."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from models.watching.alarms import DetectorState

_A_MONDAY = datetime(2018, 1, 1)


class WindowReport(msgspec.Struct, frozen=True, kw_only=True):
    """One judged window of one version."""

    start: datetime
    end: datetime
    version: str
    labels: int
    """Labels within the target's range that became known in the window, of predictions by this version."""
    mean_error: float | None
    """Mean absolute error; None without labels."""
    reference_error: float
    statistic: float
    """Highest log10 of the alarm statistic in the window."""
    drift: dict[str, float]
    """Jensen-Shannon distance to the profile, by column; empty without labels."""
    alarm: str | None
    """Alarm that this window raised."""
    state: DetectorState
    """What the next window goes on from."""


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
