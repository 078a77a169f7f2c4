"""A laptop's state: one home for a module's tests, with an empty home directory and temporary folder beside it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra import bentos


class Laptop:
    """Runs this checkout's programs in a state of its own."""

    def __init__(self, root: Path) -> None:
        self.home = root / ".okruh"
        self._outside = [root / "HOME", root / "TMPDIR"]
        for folder in self._outside:
            folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """What its processes see."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OKRUH_", "PREFECT_"))}
        own = {"OKRUH_HOME": str(self.home), "PYTHONPATH": str(bentos.SOURCES)}
        return kept | own | {folder.name: str(folder) for folder in self._outside}

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a Python program."""
        command: Sequence[str | Path] = (sys.executable, *arguments)
        return subprocess.Popen(
            command,
            env=self.environment,
            cwd=self._outside[0],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def okruh(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command to its end; give exit code, standard output and standard error."""
        with self.start("-m", "flows.cli", *arguments) as process:
            output, errors = process.communicate()
        return process.returncode, output, errors

    def written_outside(self) -> list[Path]:
        """List what was written outside of the state folder."""
        return [path for folder in self._outside for path in folder.rglob("*")]


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    """A fresh one."""
    return Laptop(tmp_path_factory.mktemp("laptop"))
