"""What a caller says of its trace, as the W3C recommendation Trace Context reads it."""

import re
from collections.abc import Sequence
from typing import NamedTuple

_TRACEPARENT = re.compile(rb"[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?[ \t]*")
_SAMPLED = 1

Headers = Sequence[tuple[bytes, bytes]]
"""Names in small letters."""


class Parent(NamedTuple):
    """The caller's span."""

    trace_id: int
    span_id: int
    sampled: bool


def parent_of(headers: Headers) -> Parent | None:
    """Give what `traceparent` names; None where there is none, more than one, or a malformed one."""
    given = [value for name, value in headers if name == b"traceparent"]
    match = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None  # versions to come may append fields
    parent = Parent(int(trace_id, 16), int(span_id, 16), sampled=bool(int(flags, 16) & _SAMPLED))
    return parent if parent.trace_id and parent.span_id else None
