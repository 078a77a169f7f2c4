"""Progress on standard error: steps with their time, events as they happen. Silent where nobody looks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text


class Training(Protocol):
    """How far a training is; `models.learning.loop.Progress` is one, and says what each figure is."""

    @property
    def epoch(self) -> int: ...

    @property
    def epochs(self) -> int: ...

    @property
    def step(self) -> int: ...

    @property
    def steps(self) -> int: ...

    @property
    def batch_rows(self) -> int: ...

    @property
    def train_loss(self) -> float: ...


_training: ContextVar[Callable[[Training], None]] = ContextVar("training", default=lambda _: None)


def trainings_shown() -> Callable[[Training], None]:
    """Give what shows how far a training has come, if anybody looks."""
    return _training.get()


@contextmanager
def trainings_shown_by(show: Callable[[Training], None]) -> Iterator[None]:
    """Have a function show how far the block's trainings have come."""
    token = _training.set(show)
    try:
        yield
    finally:
        _training.reset(token)


_search: ContextVar[Callable[[int, int, str], None]] = ContextVar("search", default=lambda *_: None)


def searches_shown() -> Callable[[int, int, str], None]:
    """Give what shows how many trials of how many a search has done, and a word on the best, if anybody looks."""
    return _search.get()


@contextmanager
def searching(doing: str) -> Iterator[None]:
    """Show on a terminal how far the block's search is, and the training that goes on; leaves nothing behind."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}"),
        TextColumn("{task.fields[saying]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        row = bars.add_task(doing, total=None, best="", saying="")
        token = _search.set(lambda done, wanted, word: bars.update(row, completed=done, total=wanted, best=word))
        try:
            with trainings_shown_by(lambda training: bars.update(row, saying=_said(training))):
                yield
        finally:
            _search.reset(token)


def _said(training: Training) -> str:
    return f"epoch {training.epoch} of {training.epochs}, loss {training.train_loss:.4g}"


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """Show on a terminal that something is going on while the block runs, and of a training how far it is.

    Leaves nothing behind.
    """
    console = Console(stderr=True)
    if not (doing and console.is_terminal):
        yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[saying]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task(doing, total=None, saying="")

        def show(training: Training) -> None:
            speed = bars.tasks[task].speed
            rate = f", {speed * training.batch_rows:,.0f} rows/s" if speed else ""
            bars.update(task, completed=training.step, total=training.steps, saying=_said(training) + rate)

        with trainings_shown_by(show):
            yield


@contextmanager
def counting(doing: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show on a terminal how many of how many are done, as the block tells; leaves nothing behind."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class Progress:
    """A display of named steps, one at a time; lines stay when a step ends."""

    def __init__(self, shown: bool) -> None:
        self._console = Console(stderr=True, quiet=not shown, highlight=False, markup=False, emoji=False)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[saying]}", markup=False),
            console=self._console,
            transient=True,
            disable=not shown,
        )
        self._task: TaskID | None = None
        self._note = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[None]:
        """Show a step while the block runs, and its time and note after it."""
        began = time.monotonic()
        self._note = ""
        self._task = self._bars.add_task(name, total=total, saying="")
        try:
            with trainings_shown_by(lambda training: self.say(_said(training))):
                yield
        finally:
            self._bars.remove_task(self._task)
            self._task = None
        took = f" {time.monotonic() - began:6.1f} s  {self._note}"
        self._console.print(Text.assemble((f"{name:<8}", "bold"), took), soft_wrap=True)

    def advance(self, by: int = 1) -> None:
        """Say that part of the step is done."""
        if self._task is not None:
            self._bars.advance(self._task, by)

    def say(self, text: str) -> None:
        """Show a word beside the bar."""
        if self._task is not None:
            self._bars.update(self._task, saying=text)

    def note(self, text: str) -> None:
        """Keep a word on the step's outcome for its last line."""
        self._note = text

    def event(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(f"         {text}", soft_wrap=True)
