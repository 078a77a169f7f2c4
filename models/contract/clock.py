"""Wall times of a zone as moments, a whole column at once.

Times are int64 microseconds since 1970, of the zone's wall clock or of UTC. Of a wall time that a clock change repeats
the first is meant; one that it leaves out is read by the clock before the change. (Both as PEP 495's `fold=0`.)

Cost: a few nanoseconds a value, once each year of a zone is known, which takes a fifth of a millisecond.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

SECOND = 1_000_000
"""Microseconds."""

Microseconds = npt.NDArray[np.int64]

_DAY = timedelta(days=1)
_FEW_YEARS = 20
_START = datetime(1970, 1, 1)

EPOCH = _START.replace(tzinfo=UTC)


def microseconds(since: timedelta) -> int:
    """Count a span's microseconds."""
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


EARLIEST = microseconds(datetime.min + _DAY - _START)
LATEST = microseconds(datetime.max - _DAY - _START)
"""Wall times beyond these may be no moments of the calendar in UTC."""


def moments(zone: str, wall_us: Microseconds) -> Microseconds:
    """Turn wall times of a zone, between `EARLIEST` and `LATEST`, into UTC."""
    if not len(wall_us):
        return wall_us
    first, last = _years(np.array([wall_us.min(), wall_us.max()])).tolist()
    years = range(first, last + 1) if last - first < _FEW_YEARS else np.unique(_years(wall_us)).tolist()
    parts = [_offsets(zone, year) for year in years]
    starts_us = np.concatenate([starts for starts, _ in parts])
    offsets_us = np.concatenate([offsets for _, offsets in parts])
    found: Microseconds = wall_us - offsets_us[np.searchsorted(starts_us, wall_us, side="right") - 1]
    return found


def _years(wall_us: Microseconds) -> Microseconds:
    years: Microseconds = wall_us.astype("M8[us]").astype("M8[Y]").astype(np.int64) + 1970
    return years


@lru_cache(maxsize=1024)
def _offsets(zone: str, year: int) -> tuple[Microseconds, Microseconds]:
    """Give the wall times from which on an offset holds in a year, and these offsets; the first is the year's start."""
    clock = ZoneInfo(zone)
    day = datetime(year, 1, 1)
    starts, offsets = [day], [_offset(clock, day)]
    for number in range(1, 366 + 1):
        earlier, later = day + timedelta(days=number - 1), min(day + timedelta(days=number), datetime.max)
        if later.year > year:
            later = datetime(year, 12, 31, 23, 59, 59)
        if _offset(clock, later) != offsets[-1]:
            starts.append(_change(clock, earlier, later))
            offsets.append(_offset(clock, later))
    in_us = np.array([microseconds(start - _START) for start in starts], dtype=np.int64)
    return in_us, np.array([microseconds(offset) for offset in offsets], dtype=np.int64)


def _change(clock: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Give the first second at which the offset is the later one's."""
    wanted = _offset(clock, after)
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        before, after = (before, middle) if _offset(clock, middle) == wanted else (middle, after)
    return after


def _offset(clock: ZoneInfo, wall: datetime) -> timedelta:
    offset = wall.replace(tzinfo=clock).utcoffset()
    assert offset is not None
    return offset
