"""Environments of their own for what Okruh is measured beside, under OKRUH_HOME/bench/peers; from PyPI."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def install(home: Path, name: str, requirements: Sequence[str]) -> Path:
    """Make an environment with what is required, unless it is there, and give its folder of commands."""
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    place = home / "bench" / "peers" / f"{name}-{digest}"
    done = place / ".done"
    if not done.exists():
        _run(sys.executable, "-m", "venv", "--clear", str(place))
        _run(str(place / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *requirements)
        done.touch()
    return place / "bin"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
