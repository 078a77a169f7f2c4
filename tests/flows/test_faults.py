"""What is the machine's fault and what is a bug."""

import errno
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import torch
import torch._dynamo

from flows import faults
from infra.errors import Unavailable


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder, and no Prefect server's address."""
    monkeypatch.setenv("OKRUH_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def raised_beside(error: Exception, other: Exception) -> Exception:
    error.__context__ = other
    return error


def locked_database() -> Exception:
    with closing(sqlite3.connect("file:locked?mode=memory&cache=shared", uri=True, timeout=0)) as first:
        first.execute("CREATE TABLE t (x)")
        first.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect("file:locked?mode=memory&cache=shared", uri=True, timeout=0)) as second:
            try:
                second.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                return error
    raise AssertionError


def database_error(statement: str) -> Exception:
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.bin"), "no space left on x.bin: free some and "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on the disk: free some and "),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied; mend that"),
        (raised_from(RuntimeError("task failed"), OSError(errno.EROFS, "Read-only", "y")), "y: Read-only; mend"),
        (raised_from(RuntimeError("task failed"), Unavailable("the lake is locked")), "the lake is locked"),
        (
            raised_from(RuntimeError("task failed"), locked_database()),
            "a database fails (database schema is locked: main): ",
        ),
        (raised_beside(RuntimeError("tidying up"), OSError(errno.ENOSPC, "No space", "z")), "no space left on z: free"),
        (
            raised_from(RuntimeError("task failed"), torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nMore")),
            "CUDA out of memory. Tried 2 GiB.; set training.batch_rows",
        ),
        (
            torch._dynamo.exc.TorchDynamoException("no C++ compiler\nMore"),
            "torch.compile fails: no C++ compiler; mend that, or leave training.compiled at no",
        ),
        (httpx.ConnectError("refused\nand more"), "Prefect's server on this machine fails (refused): see that"),
    ],
)
def test_explains_what_the_machine_refused(error: Exception, said: str) -> None:
    explained = faults.explain(error)

    assert explained is not None
    assert explained.startswith(said)
    assert "\n" not in explained


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        sqlite3.ProgrammingError("x"),
        database_error("SELECT nothing FROM nowhere"),
        KeyError(1),
        raised_beside(KeyError(1), Unavailable("the lake is locked")),
        raised_beside(KeyError(1), PermissionError(errno.EACCES, "Permission denied", "x")),
    ],
)
def test_leaves_a_bug_its_traceback(error: Exception) -> None:
    assert faults.explain(error) is None


def test_an_error_that_is_its_own_cause_is_walked_once() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first

    assert faults.explain(first) is None


def test_a_failing_server_on_a_full_disk_is_the_disks_fault(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = shutil.disk_usage(home)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: used)

    explained = faults.explain(httpx.HTTPError("500"))

    assert explained == f"no space left for Prefect's database in {home}: free some and run the same command again"


def test_needs_room_only_for_a_server_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = shutil.disk_usage(home)._replace(free=faults.ROOM_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: used)

    with pytest.raises(Unavailable, match="MiB free and a run needs 8"):
        faults.check_room(home)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    faults.check_room(home)
