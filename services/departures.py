"""Callers who have gone: nothing is predicted for nobody.

A server says that a connection has been closed to those alone who ask. To ask for every request would cost more than a
small model does, so that those are asked for that take longer than a tenth of a second: that is where it matters.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from services import metrics

T = TypeVar("T")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_LOOK_S = 0.1


class Departures:
    """Ends requests whose callers have gone. For one event loop at a time."""

    def __init__(self) -> None:
        self._under_way: dict[asyncio.Task[Any], Receive] = {}
        self._seen: set[asyncio.Task[Any]] = set()
        """Those that were under way at the last look."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one in which looks are taken; None where nothing is under way."""

    async def watch(self, asked: Awaitable[T], receive: Receive) -> T | None:
        """Give what a request's handler gives, or None where its caller has gone. Its body must have been read."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way[task] = receive
        loop = task.get_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(_LOOK_S, self._look)
        try:
            return await asked
        except asyncio.CancelledError:
            if task in self._under_way:
                raise
            task.uncancel()
            return None
        finally:
            self._under_way.pop(task, None)

    def _look(self) -> None:
        assert self._loop is not None
        for task in self._seen & self._under_way.keys():
            if _has_gone(self._under_way[task]):
                del self._under_way[task]
                metrics.ABANDONED.inc()
                task.cancel()
        self._seen = set(self._under_way)
        if self._seen:
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
