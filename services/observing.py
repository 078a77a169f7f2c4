"""What is told of each request: to Prometheus all of them, to the access log and the traces a share.

A line of the access log is one JSON object on standard output, never with anything of a body. Answers of 500 and above
are always logged. A request of which nothing is told but its count costs nothing here beyond it.
"""

import logging
import random
import sys
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from services import metrics
from services.trace_context import Headers, parent_of

if TYPE_CHECKING:
    from services.tracing import Trace, Tracing  # which imports what only exporting needs

OTHER = "other"
"""What the paths are called that are neither ours nor of BentoML's API: whoever asks may invent any number of them."""

_NOT_TIMED = nullcontext()
_current: "ContextVar[Observed | None]" = ContextVar("observed", default=None)


class Observed:
    """A request of which more is told than its count."""

    def __init__(self, trace: "Trace | None", logged: bool) -> None:
        self.trace = trace
        self.logged = logged
        self.told: dict[str, str | int | None] = {}
        self.before = _current.set(self)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What its answer says."""
        return ((b"traceresponse", self.trace.parent),) if self.trace else ()


def note(**told: str | int | None) -> None:
    """Tell something of the request that is being answered: `model`, `version`, `rows`, `key`."""
    observed = _current.get()
    if observed is not None:
        observed.told |= told


def step(name: str) -> AbstractContextManager[Any]:
    """Time a part of the request that is being answered, where it is traced."""
    observed = _current.get()
    return _NOT_TIMED if observed is None or observed.trace is None else observed.trace.step(name)


class Observer:
    """Tells of requests."""

    def __init__(self, log_rate: float = 0.0, tracing: "Tracing | None" = None) -> None:
        """Log a share of `log_rate` of the requests; trace as `tracing` decides, or none."""
        self._log_rate = log_rate
        self._tracing = tracing
        self._counts_only = tracing is None and not log_rate

    def begin(self, scope: Any) -> Observed | None:
        """Begin a request; None where nothing is told but its count, unless it fails."""
        if self._counts_only:
            return None
        trace = self._tracing.begin(scope) if self._tracing is not None else None
        logged = random.random() < self._log_rate  # noqa: S311 (no secret)
        if trace is None and not logged:
            return None
        return Observed(trace, logged)

    def end(self, observed: Observed | None, scope: Any, name: str, status: int | None, seconds: float) -> None:
        """End a request on the path `name`, with the status of its answer; None: its caller has gone."""
        if status is not None:
            metrics.turn.observe(*_series(name, status), seconds)
        if observed is not None:
            _current.reset(observed.before)
            if observed.trace is not None:
                observed.trace.end(name, status, observed.told)
        if (observed is not None and observed.logged) or (status is not None and status >= 500):
            _log(observed, scope, status, seconds)

    def close(self) -> None:
        """Export the traces that wait."""
        if self._tracing is not None:
            self._tracing.close()


class _StandardOutput(logging.Handler):
    """Writes lines as they are, beside BentoML's log, whose format is not JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stdout.write(f"{record.getMessage()}\n")
            sys.stdout.flush()
        except Exception:  # noqa: BLE001 (as every handler: logging says it, and the request goes on)
            self.handleError(record)


def _make_logger() -> logging.Logger:
    made = logging.getLogger("okruh.access")
    made.setLevel(logging.INFO)
    made.propagate = False
    made.addHandler(_StandardOutput())
    return made


_access = _make_logger()


def _log(observed: Observed | None, scope: Any, status: int | None, seconds: float) -> None:
    line = {
        "time": datetime.now(UTC),
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(seconds * 1000, 3),
        **(observed.told if observed is not None else {}),
        "trace": observed.trace.id if observed is not None and observed.trace is not None else _given(scope["headers"]),
    }
    failed = status is not None and status >= 500
    _access.log(logging.ERROR if failed else logging.INFO, "%s", msgspec.json.encode(line).decode())


def _given(headers: Headers) -> str | None:
    """Give the id of the caller's trace, which is not ours to record."""
    parent = parent_of(headers)
    return None if parent is None else f"{parent.trace_id:032x}"


@cache
def _series(name: str, status: int) -> tuple[Any, Any]:
    return metrics.REQUESTS.labels(name, str(status)), metrics.SECONDS.labels(name)
