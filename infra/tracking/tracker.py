"""Experiment tracking on Weights & Biases: offline by default, never in the way.

A training reports to a `Tracker` and never asks which one it has. The product runs in a process of its own
(`infra.tracking.recorder`), to which reports travel through a queue: the training never waits for it while it learns.
Whatever goes wrong there (no network, a full disk, a server that stalls, a crash) is logged once, and tracking ends for
that run; it never raises, for the lake and not the tracker is the registry. At its end a training waits
`OKRUH_TRACKING_WAIT_S` at most for what is not recorded or sent yet.

Runs live in `OKRUH_HOME/wandb`, bytes of artifacts included; `wandb sync` uploads them later, from the place where they
were recorded. Cost: a process that takes about 1.5 s of another core to start, and some 150 MB while a run goes on.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from time import monotonic
from typing import Any, Literal, Protocol

from infra.errors import Misconfigured
from infra.provenance import ROOT
from infra.settings import Settings
from infra.tracking import recorder
from infra.tracking.messages import Figures, Finish, Message, Outcome, Score, Start, write

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]

QUEUED = 10_000
"""Reports that wait while the product is busy; further ones are dropped, which costs nothing but them."""
_SOON_S = 1.0
"""For what is done at once."""


class Run(Protocol):
    """One tracked training."""

    @property
    def reference(self) -> str:
        """What finds the run again: the W&B run path, or empty where nothing is kept of it, as far as is known."""
        ...

    def settle(self) -> None:
        """Wait until it is known whether anything is kept of it; where it is not, nothing is."""
        ...

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add figures of a step; steps do not fall."""
        ...

    def finish(self, outcome: Outcome | Score | None) -> None:
        """End the run, with what it has yielded, or as a failed one."""
        ...


class Tracker(Protocol):
    """Starts runs."""

    def start(self, project: str, id: str, name: str, config: Config, group: str | None = None) -> Run:  # noqa: A002
        """Start one run; its id is nobody else's. `group`: the search of which it is a trial."""
        ...


class SilentTracker:
    """Tracks nothing (OKRUH_TRACKING=disabled)."""

    reference = ""

    def start(self, project: str, id: str, name: str, config: Config, group: str | None = None) -> Run:  # noqa: A002, ARG002
        """Give a run that keeps nothing."""
        return self

    def settle(self) -> None:
        """Know it already."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Keep nothing."""

    def finish(self, outcome: Outcome | Score | None) -> None:
        """Keep nothing."""


class WandbTracker:
    """Tracks in Weights & Biases."""

    def __init__(self, folder: Path, mode: Literal["offline", "online"], wait_s: float) -> None:
        self._folder = folder
        self._mode = mode
        self._wait_s = wait_s

    def start(self, project: str, id: str, name: str, config: Config, group: str | None = None) -> Run:  # noqa: A002
        """Start a run; a tracker that cannot start gives a silent one."""
        start = Start(
            folder=str(self._folder),
            mode=self._mode,
            project=project,
            id=id,
            name=name,
            config=dict(config),
            group=group,
            watched=os.getpid(),
            wait_s=self._wait_s,
        )
        try:
            return _WandbRun(start)
        except OSError as error:
            logger.warning("tracking is off for this run: %s", error)
            return SilentTracker()


class _WandbRun:
    """A run that another process records."""

    def __init__(self, start: Start) -> None:
        folder = Path(start.folder)
        for name in ("wandb", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        sources = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        variables = {**os.environ, **recorder.environment(folder), "PYTHONPATH": sources}
        self._process = subprocess.Popen(  # noqa: S603 (our own module)
            [sys.executable, "-P", "-m", recorder.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=variables,
            cwd=folder / "tmp",
            start_new_session=True,  # Ctrl-C is for the training, which ends the run then
        )
        self._start = start
        self._left_s = start.wait_s
        """For how long it may still be waited for."""
        self._over = False
        """Whether nothing is recorded any more."""
        self._started = False
        """Whether something ever was, in time."""
        self._settled = threading.Event()
        self._dropped = False
        self._waiting: Queue[Message] = Queue(QUEUED)
        self._waiting.put(start)
        self._sending = threading.Thread(target=self._send, daemon=True)
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._sending.start()
        self._hearing.start()

    @property
    def reference(self) -> str:
        return "" if self._over and not self._started else f"{self._start.project}/{self._start.id}"

    def settle(self) -> None:
        began = monotonic()
        if not self._settled.wait(self._left_s):
            self._over = True
        self._left_s = max(0.0, self._left_s - (monotonic() - began))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        if self._over:
            return
        try:
            self._waiting.put_nowait(Figures(figures=dict(figures), step=step))
        except Full:
            if not self._dropped:
                logger.warning("tracking is slower than the training: figures are dropped, from step %d on", step)
            self._dropped = True

    def finish(self, outcome: Outcome | Score | None) -> None:
        until = monotonic() + self._left_s
        try:
            if self._sending.is_alive():
                self._waiting.put(Finish(outcome=outcome), timeout=self._left_s)
            self._process.wait(max(0.0, until - monotonic()))
        except (Full, subprocess.TimeoutExpired):
            self._over = True
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            what = "ended" if self._started else "started"
            then = f"`wandb sync {self._place()}` sends what is recorded of it" if self._started else "nothing is kept"
            logger.warning("tracking has not %s within %g s and was broken off; %s", what, self._start.wait_s, then)
        self._hearing.join(_SOON_S)

    def _place(self) -> Path:
        """Name the run's own folder."""
        runs = Path(self._start.folder) / "wandb"
        return next(runs.glob(f"offline-run-*-{self._start.id}"), runs)

    def _send(self) -> None:
        """Hand over what waits, until the end; a process that is gone takes nothing."""
        assert self._process.stdin is not None
        with suppress(OSError), self._process.stdin as pipe:
            while True:
                message = self._waiting.get()
                write(message, pipe)
                if isinstance(message, Finish):
                    return

    def _hear(self) -> None:
        """Log what the recording process has to say; where it ends before its time, that it has."""
        assert self._process.stdout is not None
        said = list[str]()
        with self._process.stdout as pipe:
            for line in pipe:
                said.append(line.decode(errors="replace").strip())
                if said[-1] == recorder.STARTED:
                    self._started = not self._over
                    self._settled.set()
                elif said[-1] != recorder.FINISHED:
                    logger.warning("tracking: %s", said[-1])
        if not self._over and (not said or said == [recorder.STARTED]):
            logger.warning("tracking: the process that records this run has ended before it")
        self._over = True
        self._settled.set()


def make_tracker(settings: Settings) -> Tracker:
    """Choose a tracker. Raises: `Misconfigured` when `online` has no key."""
    if settings.tracking == "disabled":
        return SilentTracker()
    if settings.tracking == "online" and not os.environ.get("WANDB_API_KEY"):
        raise Misconfigured("OKRUH_TRACKING=online needs WANDB_API_KEY; set it, or use offline")
    return WandbTracker(settings.home / "wandb", settings.tracking, settings.tracking_wait_s)
