"""Folders for what is on its way are gone afterwards, also those of killed processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import Unavailable
from infra.lake.targets import workspace


def test_is_gone_afterwards(tmp_path: Path) -> None:
    with workspace(tmp_path / "tmp", "copy") as folder:
        (folder / "content").write_bytes(b"1")

    assert list((tmp_path / "tmp").iterdir()) == []


def test_removes_what_killed_processes_left(tmp_path: Path) -> None:
    kill = (
        "import os, sys; from pathlib import Path; from infra.lake.targets import workspace\n"
        "with workspace(Path(sys.argv[1]), 'copy') as folder: (folder / 'a').touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", kill, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    other = tmp_path / "build-of-others"
    other.mkdir()

    with workspace(tmp_path, "copy") as alive, workspace(tmp_path, "forget") as own:
        assert set(tmp_path.iterdir()) == {alive, own, other}

    assert not left.exists()
    assert set(tmp_path.iterdir()) == {other}


def test_says_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="no folder can be made in"), workspace(tmp_path / "file", "copy"):
        pass
