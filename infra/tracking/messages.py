"""What a training tells the process that records it: one start, figures by step, one end. Each a frame on a pipe."""

from collections.abc import Iterator
from typing import IO, Any, Literal

import msgspec

_LENGTH_BYTES = 4


class Start(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Begin a run."""

    folder: str
    """Everything is written below it."""
    mode: Literal["offline", "online"]
    project: str
    id: str
    name: str
    config: dict[str, Any]
    group: str | None = None
    """The search of which it is a trial."""
    watched: int
    """The process whose use of the machine is recorded, and with which recording ends."""
    wait_s: float
    """How long recording may go on after that process has gone."""


class Figures(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Figures of a step."""

    figures: dict[str, float]
    step: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a training has yielded: a bundle that is registered in the lake."""

    model: str
    version: str
    summary: dict[str, float]
    files: dict[str, bytes]
    """The bundle, file by file."""
    references: dict[str, str]
    """Where the lake keeps the bundle and what it was trained on, by commit; URIs by name."""
    warm_start: str | None
    """The version whose weights the training started from."""
    plots: dict[str, dict[str, float]]
    """Bars, by title and by the name of a bar."""


class Score(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a trial has yielded: figures, and no bundle."""

    summary: dict[str, float]


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End the run; without an outcome it has failed."""

    outcome: Outcome | Score | None


Message = Start | Figures | Finish


def write(message: Message, pipe: IO[bytes]) -> None:
    """Write a frame. Raises: `OSError`."""
    content = msgspec.msgpack.encode(message)
    pipe.write(len(content).to_bytes(_LENGTH_BYTES) + content)
    pipe.flush()


def read(pipe: IO[bytes]) -> Iterator[Message]:
    """Read frames until the pipe ends, or is broken off in the middle of one."""
    decoder = msgspec.msgpack.Decoder(Message)
    while len(length := pipe.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        content = pipe.read(wanted := int.from_bytes(length))
        if len(content) < wanted:
            return
        yield decoder.decode(content)
