"""Checkpoints: the last whole one is there, whatever happened since."""

import logging
import os
from pathlib import Path

import pytest

from infra.checkpoints import FileCheckpoints
from infra.errors import Unavailable


@pytest.fixture
def checkpoints(tmp_path: Path) -> FileCheckpoints:
    """Those of a training, none yet."""
    return FileCheckpoints(tmp_path / "folder" / "training", every_s=0.0)


def test_the_newest_is_found_and_then_forgotten(checkpoints: FileCheckpoints, tmp_path: Path) -> None:
    assert checkpoints.load() is None
    for content in (b"first", b"second"):
        checkpoints.save(content)

    assert FileCheckpoints(tmp_path / "folder" / "training", 10.0).load() == b"second"
    (tmp_path / "folder" / "training.4711").write_bytes(b"of a process that was killed while it wrote")
    checkpoints.remove()
    checkpoints.remove()
    assert checkpoints.load() is None
    assert list((tmp_path / "folder").iterdir()) == []


def test_what_was_left_for_a_month_goes_with_one_that_is_over(checkpoints: FileCheckpoints, tmp_path: Path) -> None:
    checkpoints.save(b"over")
    for name, days in (("left", 31), ("young", 29)):
        file = tmp_path / "folder" / name
        file.write_bytes(b"another training")
        os.utime(file, (file.stat().st_mtime - days * 86_400,) * 2)

    checkpoints.remove()

    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["young"]


def test_is_due_after_its_time(tmp_path: Path) -> None:
    assert FileCheckpoints(tmp_path / "one", every_s=0.0).due()
    assert not FileCheckpoints(tmp_path / "one", every_s=1e9).due()


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"\0" + content[1:], lambda _: b""])
def test_a_damaged_one_is_as_none_and_said(
    checkpoints: FileCheckpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: "object"
) -> None:
    checkpoints.save(b"content")
    path = tmp_path / "folder" / "training"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]

    with caplog.at_level(logging.WARNING):
        assert checkpoints.load() is None

    assert "is damaged: the training begins again" in caplog.text


def test_where_one_cannot_be_written_the_one_before_stays(
    checkpoints: FileCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Unavailable, match="No space left on device; make room and run the same again"):
        checkpoints.save(b"after")

    assert checkpoints.load() == b"before"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["training"]
