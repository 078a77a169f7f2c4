"""Ending beside: who ends a run goes on, a further one waits where many are ending, and the block for all of them."""

from collections.abc import Mapping
from threading import Event

import pytest

from infra.tracking.ending import AT_ONCE, ending_beside
from infra.tracking.messages import Outcome, Score
from infra.tracking.tracker import Config, Run

SCORE = Score(summary={"validation_error": 0.5})


class HeldUpRun:
    """Ends once it may."""

    reference = "tiny/run"

    def __init__(self, may_end: Event, ended: list[Outcome | Score | None]) -> None:
        self._may_end = may_end
        self._ended = ended
        self.steps = list[int]()

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.steps.append(step)

    def settle(self) -> None:
        pass

    def finish(self, outcome: Outcome | Score | None) -> None:
        self._may_end.wait()
        if outcome is None:
            raise OSError("the disk is full")
        self._ended.append(outcome)


class HeldUpTracker:
    """Starts runs that end once they may."""

    def __init__(self) -> None:
        self.may_end: list[Event] = []
        self.ended: list[Outcome | Score | None] = []
        self.started: list[HeldUpRun] = []

    def start(self, project: str, id: str, name: str, config: Config, group: str | None = None) -> Run:  # noqa: A002
        self.may_end.append(Event())
        self.started.append(HeldUpRun(self.may_end[-1], self.ended))
        return self.started[-1]


@pytest.fixture
def tracker() -> HeldUpTracker:
    return HeldUpTracker()


def test_a_run_ends_beside_who_ends_it_and_before_the_block_does(tracker: HeldUpTracker) -> None:
    with ending_beside(tracker) as beside:
        run = beside.start("tiny", "run", "first", {})
        run.log({"loss": 1.0}, 7)
        run.finish(SCORE)

        assert (run.reference, tracker.started[0].steps, tracker.ended) == ("tiny/run", [7], [])
        tracker.may_end[0].set()

    assert tracker.ended == [SCORE]


def test_the_block_waits_for_its_runs_where_it_is_broken_off_too(tracker: HeldUpTracker) -> None:
    def break_off() -> None:
        with ending_beside(tracker) as beside:
            beside.start("tiny", "run", "first", {}).finish(SCORE)
            tracker.may_end[0].set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert tracker.ended == [SCORE]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_broke_a_block_off_is_raised_and_not_what_an_end_raises(
    error: type[BaseException], tracker: HeldUpTracker
) -> None:
    def break_off() -> None:
        with ending_beside(tracker) as beside:
            for score in (None, SCORE):
                beside.start("tiny", "run", "", {}).finish(score)
            for event in tracker.may_end:
                event.set()
            raise error

    with pytest.raises(error):
        break_off()
    assert tracker.ended == [SCORE]


def test_there_is_no_room_while_many_are_ending(tracker: HeldUpTracker) -> None:
    with ending_beside(tracker) as beside:
        rooms = []
        for place in range(AT_ONCE):
            rooms.append(beside.has_room())
            beside.start("tiny", f"run-{place}", "", {}).finish(SCORE)
        rooms.append(beside.has_room())

        assert rooms == [True] * AT_ONCE + [False]
        tracker.may_end[3].set()
        beside.wait_for_room()
        assert beside.has_room()
        for event in tracker.may_end:
            event.set()

    assert len(tracker.ended) == AT_ONCE


def test_what_an_end_raises_is_raised_where_it_is_waited_for(tracker: HeldUpTracker) -> None:
    def end_one() -> None:
        with ending_beside(tracker) as beside:
            beside.start("tiny", "run", "first", {}).finish(None)
            tracker.may_end[0].set()

    with pytest.raises(OSError, match="the disk is full"):
        end_one()
