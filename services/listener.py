"""The socket at which a worker listens: made by BentoML's parent process, given to each worker as a descriptor.

Two things depend on it. Who can reach the service at all: `bentoml serve --host` is told to the parent alone, so that a
worker asks the socket. And an orderly end: the parent holds the socket until all workers have ended, so that whoever
comes while they finish would be connected and never answered. A worker that is alone shuts it for all.
"""

import asyncio
import ipaddress
import os
import signal
import socket
from types import FrameType

import click

_LOOK_S = 0.01


def inherited() -> int | None:
    """Give the descriptor at which `bentoml serve` has this worker listen; None where something else serves."""
    context = click.get_current_context(silent=True)
    descriptor: int | None = context.params.get("fd") if context else None
    return descriptor


def is_loopback(descriptor: int | None) -> bool:
    """Say whether only this machine reaches a listening socket; one that is not known is taken for reachable."""
    if descriptor is None:
        return False
    listening = socket.socket(fileno=os.dup(descriptor))
    with listening:
        if listening.family == socket.AF_UNIX:
            return True
        return ipaddress.ip_address(listening.getsockname()[0].split("%")[0]).is_loopback


def refuse_when_ending(descriptor: int) -> None:
    """Refuse new connections from SIGTERM on, once the server of this event loop has stopped accepting.

    Only for a worker that is alone: it shuts the socket for all processes that share it.
    """
    loop = asyncio.get_running_loop()
    shared = socket.socket(fileno=os.dup(descriptor))
    before = signal.getsignal(signal.SIGTERM)
    ending: list[asyncio.Task[None]] = []

    def begin() -> None:
        if not ending:
            ending.append(loop.create_task(shut()))

    async def shut() -> None:
        while _is_same(descriptor, shared.fileno()):
            await asyncio.sleep(_LOOK_S)
        with shared:
            shared.shutdown(socket.SHUT_RDWR)

    def end(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)
        assert callable(before)
        before(number, frame)

    signal.signal(signal.SIGTERM, end)


def _is_same(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False
