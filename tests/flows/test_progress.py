"""Progress goes to standard error and keeps out of the way."""

import pytest

from flows.progress import Progress, waiting


def test_is_silent_where_it_is_not_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(shown=False) as progress, progress.step("play", total=2):
        progress.advance()
        progress.say("now")
        progress.note("done")
        progress.event("something")

    assert capfd.readouterr() == ("", "")


def test_keeps_a_line_for_each_step_and_event_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(shown=True) as progress:
        with progress.step("ingest", total=1):
            progress.note("9,888 rows [of one month]")
        progress.event("an alarm")

    out, err = capfd.readouterr()
    step, event = (row.split() for row in err.splitlines() if row.strip())
    assert out == ""
    assert [step[0], *step[2:]] == ["ingest", "s", "9,888", "rows", "[of", "one", "month]"]
    assert event == ["an", "alarm"]


def test_a_step_that_fails_leaves_no_line_and_lets_the_error_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), Progress(shown=True) as progress, progress.step("train"):
        raise ValueError("no")

    assert "train" not in capfd.readouterr().err


def test_waiting_shows_nothing_where_no_terminal_is(capfd: pytest.CaptureFixture[str]) -> None:
    with waiting("training"):
        pass

    assert capfd.readouterr() == ("", "")
