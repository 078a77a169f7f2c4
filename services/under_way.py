"""Requests that are under way, of which some are ended: those that take too long, and those whose callers have gone.

A server says that a connection has been closed to those alone who ask. To ask for every request would cost more than a
small model does, as would a timer each; so all are looked at every tenth of a second, which is where it matters. The
moment until which a caller waits is kept to the millisecond.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal

from services import metrics

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_LOOK_S = 0.1


class Entry:
    """One request."""

    __slots__ = ("ended", "looks", "receive", "task", "timer", "until")

    def __init__(self, task: "asyncio.Task[Any]", until: float) -> None:
        self.task = task
        self.until = until
        self.looks = 0
        self.receive: Receive | None = None
        """What says whether the caller has gone, once the body was read; None: nobody asks."""
        self.ended: Literal["late", "gone"] | None = None
        """Why its task was cancelled; None where that was nobody here."""
        self.timer: asyncio.TimerHandle | None = None

    def end(self, why: Literal["late", "gone"]) -> None:
        """Cancel its task."""
        if self.ended is None:
            self.ended = why
            self.task.cancel()


class UnderWay:
    """The requests of one event loop at a time."""

    def __init__(self, within_s: float | None) -> None:
        """End what takes longer than `within_s`; None: no bound."""
        self._within_s = math.inf if within_s is None else within_s
        self._entries: dict[asyncio.Task[Any], Entry] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one in which looks are taken; None where nothing is under way."""

    def enter(self, asked_s: float | None = None) -> Entry:
        """Have the present task looked after; its caller waits for so long, or says nothing of that."""
        loop = self._loop
        if loop is None or not loop.is_running():
            loop = self._loop = asyncio.get_running_loop()  # a system call in Python 3.11
            loop.call_later(_LOOK_S, self._look)
        task = asyncio.current_task(loop)
        assert task is not None
        entry = self._entries[task] = Entry(task, time.monotonic() + self._within_s)
        if asked_s is not None:
            entry.timer = loop.call_later(asked_s, entry.end, "late")
        return entry

    def leave(self, entry: Entry) -> None:
        """Look no more; where its task was cancelled here, it goes on."""
        del self._entries[entry.task]
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.ended is not None:
            entry.task.uncancel()

    def _look(self) -> None:
        assert self._loop is not None
        now = time.monotonic()
        for entry in list(self._entries.values()):
            if now > entry.until:
                entry.end("late")
            elif entry.looks and entry.ended is None and entry.receive is not None and _has_gone(entry.receive):
                metrics.ABANDONED.inc()
                entry.end("gone")
            entry.looks += 1
        if self._entries:
            self._loop.call_later(_LOOK_S, self._look)
        else:
            self._loop = None


def _has_gone(receive: Receive) -> bool:
    """Ask without waiting for what would come next."""
    asked = receive().__await__()
    try:
        next(asked)
    except StopIteration as told:
        gone: bool = told.value["type"] == "http.disconnect"
        return gone
    asked.close()
    return False
