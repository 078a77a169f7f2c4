"""Runs that end beside whoever has started them: a search goes on with its trials while what they yielded is sent.

The end of a run takes what the product takes, up to `OKRUH_TRACKING_WAIT_S`. Here each takes it in a thread of its own,
and all are waited for once, at the end: as long as one may take. Until then each holds processes of some hundred MB.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from threading import Thread

from infra.tracking.messages import Outcome, Score
from infra.tracking.tracker import Config, Run, Tracker

AT_ONCE = 8
"""Runs that may be ending while a further one is begun."""


class EndingBeside:
    """Starts runs that end beside who calls."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._ending: list[Future[None]] = []

    def start(self, project: str, id: str, name: str, config: Config, group: str | None = None) -> Run:  # noqa: A002
        """Start one run, whose end is not waited for."""
        return _Run(self._tracker.start(project, id, name, config, group), self._ending)

    def has_room(self) -> bool:
        """Say whether a further run may be begun. Raises: what the end of one has raised."""
        over = [one for one in self._ending if one.done()]
        self._ending[:] = [one for one in self._ending if one not in over]
        for one in over:
            one.result()
        return len(self._ending) < AT_ONCE

    def wait_for_room(self) -> None:
        """Wait until a further run may be begun. Raises: what the end of one has raised."""
        while not self.has_room():
            wait(self._ending, return_when=FIRST_COMPLETED)

    def wait_for_ends(self) -> None:
        """Wait until all have ended, somehow."""
        wait(self._ending)

    def wait_for_all(self) -> None:
        """Wait until all have ended. Raises: what the end of one has raised."""
        for one in self._ending:
            one.result()


class _Run:
    """A run whose end takes place in a thread."""

    def __init__(self, run: Run, ending: list[Future[None]]) -> None:
        self._run = run
        self._ending = ending

    @property
    def reference(self) -> str:
        return self._run.reference

    def settle(self) -> None:
        self._run.settle()

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(figures, step)

    def finish(self, outcome: Outcome | Score | None) -> None:
        ended: Future[None] = Future()
        self._ending.append(ended)
        Thread(target=self._finish, args=(outcome, ended), daemon=True).start()

    def _finish(self, outcome: Outcome | Score | None, ended: Future[None]) -> None:
        try:
            self._run.finish(outcome)
        except BaseException as error:  # noqa: BLE001 - for whoever waits
            ended.set_exception(error)
        else:
            ended.set_result(None)


@contextmanager
def ending_beside(tracker: Tracker) -> Iterator[EndingBeside]:
    """Have the block's runs end beside it; at its end they are waited for."""
    made = EndingBeside(tracker)
    try:
        yield made
    except BaseException:  # which says more than what an end may raise
        made.wait_for_ends()
        raise
    made.wait_for_all()
