"""A process apart: it tells as it goes on, its end is told by its status, and it does not outlive whoever waits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.apart import run_apart

ENDLESS = "import os, time\nprint(os.getpid(), flush=True)\nwhile True: time.sleep(60)"


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_is_heard_line_by_line_in_its_own_folder_with_its_own_variables(tmp_path: Path) -> None:
    heard = list[str]()
    program = "import os, sys; print(os.getcwd()); print(dict(os.environ)['A']); print('wrong', file=sys.stderr)"

    status = run_apart(python(program), tmp_path, {"A": "b"}, tmp_path / "errors", heard.append)

    assert (status, heard) == (0, [f"{tmp_path}\n", "b\n"])
    assert (tmp_path / "errors").read_text() == "wrong\n"


@pytest.mark.parametrize(
    ("program", "status"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_says_how_it_ended(tmp_path: Path, program: str, status: int) -> None:
    assert run_apart(python(program), tmp_path, os.environ, tmp_path / "errors", print) == status


def test_what_goes_wrong_on_this_side_ends_it(tmp_path: Path) -> None:
    heard = list[str]()

    def interrupted(line: str) -> None:
        heard.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_apart(python(ENDLESS), tmp_path, os.environ, tmp_path / "errors", interrupted)

    assert not psutil.pid_exists(int(heard[0]))


def test_a_kill_of_whoever_waits_ends_it(tmp_path: Path) -> None:
    waiting = (
        "import os, sys; from pathlib import Path; from infra.apart import run_apart\n"
        f"run_apart([sys.executable, '-c', {ENDLESS!r}], Path('.'), os.environ, Path({str(tmp_path / 'errors')!r}), "
        "lambda line: print(line, end='', flush=True))"
    )
    with subprocess.Popen(python(waiting), cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as waits:
        assert waits.stdout is not None
        child = psutil.Process(int(waits.stdout.readline()))
        waits.send_signal(signal.SIGKILL)

        gone, _ = psutil.wait_procs([child], timeout=60)

    assert gone == [child]
