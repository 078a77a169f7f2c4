"""DVC, which the lake is measured beside: from PyPI, in an environment of its own under OKRUH_HOME/bench/peers.

Its analytics are off, and it keeps its state in the folder that is measured, so that each repository starts without
knowledge of another one's files.
"""

import os
import subprocess
from pathlib import Path

from tests.benchmarks.peers import environments

REQUIREMENT = "dvc==3.67.1"


def install(home: Path) -> Path:
    """Install it, unless it is there, and give its command."""
    return environments.install(home, "dvc", [REQUIREMENT]) / "dvc"


class DvcRepository:
    """An empty repository of git and DVC in a new folder."""

    def __init__(self, command: Path, root: Path) -> None:
        self.root = root
        self._command = str(command)
        root.mkdir()
        _run(root, "git", "init", "-q")
        self._dvc("init", "-q")
        self._dvc("config", "core.analytics", "false")
        self._commit()

    def add_and_commit(self, name: str) -> None:
        """Bring a file or folder in the repository under DVC's control, and commit that to git."""
        self.add(name)
        self._commit()

    def add(self, name: str) -> None:
        """Run `dvc add`."""
        self._dvc("add", "-q", name)

    def check(self) -> None:
        """Run `dvc status`. Raises: `RuntimeError` where it sees a change."""
        if "up to date" not in (said := self._dvc("status")):
            raise RuntimeError(f"dvc status: {said}")

    def _commit(self) -> None:
        _run(self.root, "git", "add", "--all")
        _run(self.root, "git", "commit", "-q", "--message", "bench")

    def _dvc(self, *words: str) -> str:
        return _run(self.root, self._command, *words)


def _run(root: Path, *command: str) -> str:
    who = {
        f"GIT_{role}_{field}": "bench@example.org" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")
    }
    quiet = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    state = {"DVC_SITE_CACHE_DIR": str(root / ".git" / "dvc-state")}
    environment = {**os.environ, **who, **quiet, **state}
    return subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
