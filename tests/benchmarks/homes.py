"""The home with a trained champion, and copies of it for what changes a lake or counts a journal."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from infra import registry
from infra.assembly import assemble
from infra.bentos import build, champion_version
from infra.settings import Settings, load_settings
from tests.benchmarks.pinned import MODEL, Bench

OKRUH = (sys.executable, "-m", "flows.cli")

_AS_OF = "2020-03-01T00:00:00-05:00"


def prepare(rounds: int, seconds: int) -> Bench:
    """Train a champion where there is none, and build its Bento."""
    home = load_settings().home
    place = home / "bench" / "serving"
    settings = load_settings(home=place / "home")
    for words in (["ingest", MODEL], ["train", MODEL, "--as-of", _AS_OF], ["promote", MODEL, "--as-of", _AS_OF]):
        subprocess.run([*OKRUH, *words], env=environment(settings), stdout=subprocess.DEVNULL, check=True)
    champion = registry.load_bundle(assemble(settings).lake(MODEL), "main", champion_version(settings, MODEL))
    return Bench(home, place, settings, champion, build(settings, MODEL).tag, rounds, seconds)


def copy_of(bench: Bench, name: str) -> Settings:
    """Make a home with the same lake and the same Bentos, and nothing else; what was there by this name goes."""
    settings = load_settings(home=bench.place / name)
    shutil.rmtree(settings.home, ignore_errors=True)
    for folder in (Path("lake"), Path("bentoml", "bentos"), Path("bentoml", "models")):
        shutil.copytree(bench.settings.home / folder, settings.home / folder)
    return settings


def environment(settings: Settings) -> dict[str, str]:
    """Give the variables of a command that works in a home."""
    return {**os.environ, "OKRUH_HOME": str(settings.home)}
