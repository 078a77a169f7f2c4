"""The index of trainings: a file of JSON lines each, in `OKRUH_HOME/runs/<model>`, added to while the training goes on.

Every training that was begun is in it, also one that failed or was killed: its writer holds a lock on the file, which
ends with the process, so that a run without an end and without a writer was broken off. A torn last line is left out.
A run whose bundle is registered goes into the lake with it, where all who share the lake see it.

Cost: a write of some 200 bytes a report. The first `_POINTS` reports are kept, of as many after them every second, then
every fourth and so on; those of epochs' ends all are.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from infra.errors import NotFound, Unavailable
from infra.lake.protocol import Lake
from models.bundle import Card
from models.setting_names import together

logger = logging.getLogger(__name__)

REPORTS = "reports/runs/"
"""Where the lake keeps the runs of registered bundles."""
_POINTS = 1_000
_ID_BYTES = 2

Status = Literal["running", "finished", "pruned", "failed", "broken off"]
"""`pruned`: a trial of a search that was worse than others at an epoch, and stopped there."""


class Begun(msgspec.Struct, frozen=True, kw_only=True, tag="begun"):
    """What a training was given."""

    id: str
    model: str
    branch: str
    at: datetime
    as_of: datetime
    learn_from: datetime | None = None
    settings: dict[str, float | int | str | bool | None]
    """Those of the training, and as `network.NAME` those of the network."""
    changed: tuple[str, ...] = ()
    """Settings that are others than the definition's."""
    data_commit: str
    data_digest: str = ""
    """Of what was read there, which other commits may hold as well; empty where it is not known."""
    code_commit: str
    source_digest: str
    environment_digest: str
    warm_start: str | None = None
    device: str = ""
    """Such as `cpu`, or `2 x cuda`; empty where it is not known: of a run that is known by its card alone."""
    flow_run: str
    tracker_run: str
    study: str | None = None
    """The search of which it is a trial; a trial yields no bundle, and its metric is the best validation error."""
    trial: int | None = None
    """Its number there, from 0 on."""


class Point(msgspec.Struct, frozen=True, kw_only=True, tag="point"):
    """Figures of a step."""

    step: int
    figures: dict[str, float | None]
    """None: no finite number."""


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """What became of a training."""

    at: datetime
    status: Literal["finished", "pruned", "failed", "broken off"]
    reason: str | None = None
    """Why it has yielded nothing."""
    version: str | None = None
    metrics: dict[str, float | None] = {}
    untracked: bool = False
    """Whether the tracker that it was begun with has kept nothing of it."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training, as far as it has come."""

    id: str
    status: Status
    begun: Begun
    ended: Ended | None = None
    curve: tuple[Point, ...] = ()

    @property
    def version(self) -> str | None:
        """The bundle that it has yielded."""
        return self.ended.version if self.ended else None

    @property
    def tracker_run(self) -> str:
        """What finds it in the tracker; empty where nothing is kept of it."""
        return "" if self.ended and self.ended.untracked else self.begun.tracker_run

    @property
    def metrics(self) -> dict[str, float | None]:
        """How good that is."""
        return self.ended.metrics if self.ended else {}

    @property
    def seconds(self) -> float | None:
        """How long it took; None where it has not ended, or nobody knows."""
        return (self.ended.at - self.begun.at).total_seconds() if self.ended and self.begun.device else None


_Line = Begun | Point | Ended
_decoder = msgspec.json.Decoder(_Line)


class RunFile:
    """The record of one training, while it is written."""

    def __init__(self, folder: Path, begun: Begun) -> None:
        """Begin a record. Raises: `Unavailable`."""
        self._lines = [msgspec.json.encode(begun)]
        self._seen = 0
        self._broken = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{begun.id}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.write(self._file, self._lines[0] + b"\n")
        except OSError as error:
            raise Unavailable(
                f"a run cannot be recorded in {folder}: {error.strerror}; make room and try again"
            ) from error

    def add(self, step: int, figures: Mapping[str, float], milestone: bool) -> None:
        """Add figures of a step; those of a milestone stay, others are thinned where there are very many."""
        self._seen += not milestone
        if milestone or self._seen % _stride(self._seen) == 0:
            self._write(Point(step=step, figures=dict(figures)))

    def whole(self, ended: Ended) -> bytes:
        """Give the record as it will be when this has become of it."""
        return b"\n".join((*self._lines, msgspec.json.encode(ended), b""))

    def end(self, ended: Ended) -> None:
        """Add what became of it."""
        self._write(ended)
        os.close(self._file)

    def _write(self, line: _Line) -> None:
        self._lines.append(msgspec.json.encode(line))
        try:
            if not self._broken:
                os.write(self._file, self._lines[-1] + b"\n")
        except OSError as error:  # a training of hours is worth more than its curve
            self._broken = True
            logger.warning("nothing more is recorded of this run: %s", error)


def _stride(seen: int) -> int:
    """Say which of the reports is kept after so many: every one, every second, every fourth ..."""
    return 1 << ((seen - 1) // _POINTS).bit_length() if seen > _POINTS else 1


def new_id(at: datetime) -> str:
    """Name a run; names sort by time."""
    return f"{at.astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(_ID_BYTES)}"


def decode(content: bytes, *, written: bool = False) -> Run | None:
    """Read a record; `written`: somebody is writing it. None where not even its beginning is there."""
    lines = list(_lines_of(content))
    if not lines or not isinstance(lines[0], Begun):
        return None
    ended = lines[-1] if isinstance(lines[-1], Ended) else None
    status: Status = ended.status if ended else "running" if written else "broken off"
    curve = tuple(line for line in lines if isinstance(line, Point))
    return Run(id=lines[0].id, status=status, begun=lines[0], ended=ended, curve=curve)


def _lines_of(content: bytes) -> Iterator[_Line]:
    for line in content.split(b"\n"):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # the last one, of a process that was killed
            yield _decoder.decode(line)


def of_card(card: Card, branch: str) -> Run:
    """Give what a bundle's card tells of its training."""
    origin = card.origin
    begun = Begun(
        id=card.version,
        model=card.model,
        branch=branch,
        at=card.created_at,
        as_of=card.as_of,
        learn_from=card.data.learn_from,
        settings=together(card.settings, card.network_settings),
        data_commit=card.data.commit,
        code_commit=origin.code_commit,
        source_digest=origin.source_digest,
        environment_digest=origin.environment_digest,
        warm_start=card.warm_start,
        flow_run=origin.flow_run,
        tracker_run=origin.tracker_run,
    )
    ended = Ended(at=card.created_at, status="finished", version=card.version, metrics=dict(card.metrics))
    return Run(id=card.version, status="finished", begun=begun, ended=ended)


class RunIndex:
    """The trainings of one model on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, begun: Begun) -> RunFile:
        """Begin a record. Raises: `Unavailable`."""
        return RunFile(self._folder, begun)

    def all(self) -> list[Run]:
        """Read all records, the oldest first. Raises: `Unavailable`."""
        try:
            return [run for path in sorted(self._folder.glob("*.jsonl")) if (run := _read(path)) is not None]
        except OSError as error:
            raise Unavailable(f"{error.filename} cannot be read: {error.strerror}; mend that and try again") from error


def _read(path: Path) -> Run | None:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            written = False
        except BlockingIOError:
            written = True
        return decode(file.read(), written=written)


def registered(lake: Lake, branch: str, version: str, card: Card) -> Run:
    """Give the run that yielded a registered bundle: its record, or what its card tells."""
    try:
        found = decode(lake.get(branch, f"{REPORTS}{version}.jsonl"))
    except NotFound:
        found = None
    return found or of_card(card, branch)
