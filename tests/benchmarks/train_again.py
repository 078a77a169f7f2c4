"""Whether a training gives the same ONNX file again: in a fresh process, from another folder, with another home.

Each model of the catalog is ingested once in each of two copies of the sources; then `okruh train` runs in both, again
and again, each time with a new home that has the lake and nothing else, so that nothing is found that was trained
before. Both train at the same time.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import msgspec

from infra import registry
from infra.assembly import assemble
from infra.provenance import ROOT
from infra.settings import load_settings
from models import definitions
from tests.benchmarks.figures import Figure
from tests.benchmarks.trainings import Bench

_FOLDERS = ("one", "another folder/with a longer name")
_PACKAGES = ("models", "infra", "flows", "services")
_WHERE = "import models; print(models.__file__)"


class _Registered(msgspec.Struct):
    version: str
    cached: bool


class Copy:
    """A copy of the sources, with a home whose lake has the models' data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._home = folder / "home"
        for package in _PACKAGES:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        imported = self._run(self._home, "-c", _WHERE).strip()
        assert imported == str(folder / "models" / "__init__.py"), imported

    def ingest(self, model: str) -> None:
        """Put a model's data in the lake."""
        self._run(self._home, "-m", "flows.cli", "ingest", model)

    def train(self, model: str) -> str:
        """Train in a new home, in a process of its own, and give the digest of the ONNX file."""
        home = self._folder / "new home"
        shutil.copytree(self._home / "lake", home / "lake")
        said = self._run(home, "-m", "flows.cli", "train", model, "--json")
        registered = msgspec.json.decode(said, type=_Registered)
        assert not registered.cached
        lake = assemble(load_settings(home=home)).lake(model)
        digest = sha256(registry.load_bundle(lake, "main", registered.version).onnx).hexdigest()
        shutil.rmtree(home)
        return digest

    def _run(self, home: Path, *words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"OKRUH_HOME": str(home), "OKRUH_BRANCH": "main"}
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=self._folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)} failed in {self._folder}: {done.stderr[-2000:]}")
        return done.stdout


def figures(bench: Bench) -> list[Figure]:
    """Train each model of the catalog again and again, half of the times in each folder."""
    copies = [Copy(bench.place / folder) for folder in _FOLDERS]
    return [_figure(model, copies, bench.times) for model in definitions.names()]


def same(digests: Sequence[str]) -> float:
    """Give the share of files that are the commonest one."""
    return Counter(digests).most_common(1)[0][1] / len(digests)


def _figure(model: str, copies: Sequence[Copy], times: int) -> Figure:
    digests = list[str]()
    with ThreadPoolExecutor(len(copies)) as threads:
        list(threads.map(lambda copy: copy.ingest(model), copies))
        while len(digests) < times:
            digests += threads.map(lambda copy: copy.train(model), copies)
    return Figure(
        name=f"{model}: bit-identical ONNX files, fresh processes in {len(copies)} folders",
        value=same(digests),
        unit="share",
        bound="== 1",
        compared_with={"trainings": float(len(digests)), "different files": float(len(set(digests)))},
    )
