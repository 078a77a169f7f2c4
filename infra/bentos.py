"""Building and finding Bentos.

A Bento contains the sources that serve and the champion's bundle (without its training state), so that it starts with
no lake. Its version names the champion's version, a digest of the sources, and whether its image is for a GPU: building
the same again finds it done. BentoML builds in a child process (about three seconds), because it works in one folder,
one store and one set of modules a process. Everything it writes lies in `settings.bentos` and `settings.home/tmp`.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from infra import registry
from infra.assembly import assemble
from infra.errors import Misconfigured, NotFound, Unavailable
from infra.settings import Settings
from models.bundle import FLOAT32, bundle_folder, decode_card, graph_file
from models.errors import BundleError

SOURCES = Path(__file__).resolve().parents[1]
"""What holds `services/`, `infra/` and `models/`: a checkout, or the `src` of a Bento."""

SERVED = ("services", "infra", "models")
"""Packages whose Python files a Bento contains; `bentofile.yaml` and `bentofile.gpu.yaml` say the same."""

LEFT_OUT = ("models/catalog", "models/evaluating", "models/learning")
"""What a service never imports."""

_BESIDE = ("card.json", "profile.json")
"""What a Bento contains of a bundle beside its graph."""
_COMPLETE = ".complete"
_SERVICE, _SERVICE_ON_GPU = "services.prediction:Prediction", "services.prediction_on_gpu:Prediction"


class Built(NamedTuple):
    """A Bento in the store."""

    tag: str
    fresh: bool
    """False where it was there already."""


def build(settings: Settings, model: str, gpu: bool = False) -> Built:
    """Build the Bento of a model's champion.

    Raises: `Misconfigured` without a champion, `BundleError` where it has not the variant that is set, `Unavailable`.

    Args:
        settings: the lake, its branch, and where the store is.
        model: name in the catalog.
        gpu: whether its image has CUDA; the machine that builds needs none.
    """
    champion_version(settings, model)
    fixed = {"model": model, "branch": assemble(settings).lake(model).resolve(settings.branch)}
    settings = settings.model_copy(update=fixed)  # a promotion meanwhile belongs to the next Bento
    champion = champion_version(settings, model)
    registry.load_card(assemble(settings).lake(model), settings.branch, champion).digest(settings.variant)
    named = f"{champion}-{_sources_digest()[:8]}{_variant_mark(settings)}{'-gpu' * gpu}"
    tag = f"{bento_name(model)}:{named}".lower()
    folder = _bento_folder(settings, tag)
    with _locked(settings.bentos / "build.lock"):
        if (folder / _COMPLETE).exists():
            return Built(tag, fresh=False)
        shutil.rmtree(folder, ignore_errors=True)  # what a killed build left
        with _staged_sources(settings, _SERVICE_ON_GPU if gpu else _SERVICE) as stage:
            _run_build(settings, stage, tag)
        (folder / _COMPLETE).touch()
    return Built(tag, fresh=True)


def bento_name(model: str) -> str:
    """Give the name of a model's Bentos and of its bundles in BentoML's model store."""
    return f"okruh_{model}"


def _variant_mark(settings: Settings) -> str:
    return "" if settings.variant == FLOAT32 else f"-{settings.variant}"


def serve_command(tag: str, port: int, host: str = "127.0.0.1", options: Mapping[str, str] | None = None) -> list[str]:
    """Give the command that serves a Bento; it needs `bentoml_environment`."""
    further = chain.from_iterable((options or {}).items())
    return [sys.executable, "-m", "bentoml", "serve", tag, "--port", str(port), "--host", host, *further]


def bentoml_environment(settings: Settings) -> dict[str, str]:
    """Give the variables of a BentoML child process: these settings, and nothing written elsewhere."""
    temporary = settings.home / "tmp"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OKRUH_")}
    own = {
        "BENTOML_HOME": str(settings.bentos),
        "BENTOML_DO_NOT_TRACK": "True",
        "ORT_DISABLE_TELEMETRY": "1",
        "TMPDIR": str(temporary),
    }
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        settings.bentos.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{settings.home} cannot be written: {error}; set OKRUH_HOME to a folder that can") from error
    return inherited | settings.environment() | own


def champion_version(settings: Settings, model: str) -> str:
    """Give the version that the lake's rollout names champion. Raises: `Misconfigured` where there is none."""
    platform = assemble(settings)
    missing = f"{model} has no champion on branch {settings.branch!r} of the lake in {settings.home}"
    if not platform.has_lake(model):
        raise Misconfigured(f"{missing}; run `okruh train {model}` and `okruh promote {model}` first")
    try:
        serving = registry.read_rollout(platform.lake(model), settings.branch)
    except NotFound as error:
        raise Misconfigured(f"{missing}: {error}") from error
    if serving is None:
        raise Misconfigured(f"{missing}; run `okruh promote {model}` first")
    return serving.champion


def champion_tag(settings: Settings) -> str:
    """Give the tag of the bundle in BentoML's model store that a service of this checkout or Bento contains.

    Inside a Bento: the contained one. In a checkout: the champion of `OKRUH_MODEL`, put into the store where it is
    missing. Raises: `Misconfigured` saying what is missing.
    """
    if (SOURCES.parent / "bento.yaml").exists():
        return _contained_tag(SOURCES.parent)
    if settings.model is None:
        raise Misconfigured("OKRUH_MODEL is not set: it names the model whose champion is built or served")
    return _export(settings, settings.model)


def _contained_tag(bento: Path) -> str:
    from bentoml import Bento

    models = Bento.from_path(str(bento)).info.all_models
    if len(models) != 1:
        raise Misconfigured(f"Bento {bento.name} contains {len(models)} models, expected one; build it again")
    return str(models[0].tag)


def _export(settings: Settings, model: str) -> str:
    """Put the champion's bundle into BentoML's model store, whole or not at all."""
    import bentoml

    champion = champion_version(settings, model)
    tag = f"{bento_name(model)}:{champion}{_variant_mark(settings)}".lower()
    store = Path(os.environ.get("BENTOML_HOME", Path.home() / "bentoml"))
    folder = store / "models" / tag.replace(":", "/")
    with _locked(store / "export.lock"):
        if is_whole(folder, settings.variant):
            return tag
        shutil.rmtree(folder, ignore_errors=True)
        lake = assemble(settings).lake(model)
        registry.load_card(lake, settings.branch, champion).digest(settings.variant)  # refuses one that is not there
        with bentoml.models.create(tag) as stored:
            for name in (graph_file(settings.variant), *_BESIDE):
                content = lake.get(settings.branch, f"{bundle_folder(champion)}/{name}")
                Path(stored.path_of(name)).write_bytes(content)
    return tag


def is_whole(folder: Path, variant: str = FLOAT32) -> bool:
    """Say whether a bundle in the model store is complete and its graph the card's."""
    graph = graph_file(variant)
    try:
        files = {name: (folder / name).read_bytes() for name in ("model.yaml", graph, *_BESIDE)}
        decode_card(files["card.json"]).check_graph(variant, files[graph])
    except (FileNotFoundError, BundleError):
        return False
    return True


def _run_build(settings: Settings, stage: Path, tag: str) -> None:
    name, version = tag.split(":")
    named = ["--name", name, "--version", version]
    file = ["--bentofile", str(stage / "bentofile.yaml")]  # looked for, it is refused below a hidden folder (.okruh)
    command = [sys.executable, "-m", "bentoml", "build", str(stage), *named, *file]
    environment = bentoml_environment(settings)
    done = subprocess.run(command, cwd=stage, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Unavailable(f"bentoml build of {tag} failed: {last_error(done.stderr or done.stdout)}")


def last_error(log: str) -> str:
    """Give the line of a log that says why: the last one that names an error, or the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line or "rror:" in line or "infra.errors." in line]
    return (named or lines or ["it said nothing"])[-1]


@contextmanager
def _staged_sources(settings: Settings, service: str) -> Iterator[Path]:
    """Copy what serves into a folder of its own: BentoML would look at every file of a checkout and its `.venv`."""
    bentoml_environment(settings)
    with tempfile.TemporaryDirectory(dir=settings.home / "tmp", prefix="build-") as folder:
        stage = Path(folder)
        for name, content in sources().items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_bytes(content)
        described = {"service": service, "include": [f"{package}/**/*.py" for package in SERVED]}
        (stage / "bentofile.yaml").write_text(json.dumps(described))  # JSON is YAML
        yield stage


def sources() -> Mapping[str, bytes]:
    """Read the files that a Bento contains, by path."""
    files = sorted(path for package in SERVED for path in (SOURCES / package).rglob("*.py"))
    named = {path.relative_to(SOURCES).as_posix(): path for path in files}
    return {
        name: path.read_bytes()
        for name, path in named.items()
        if not name.startswith(tuple(f"{folder}/" for folder in LEFT_OUT))
    }


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for name, content in sources().items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _bento_folder(settings: Settings, tag: str) -> Path:
    return settings.bentos / "bentos" / tag.replace(":", "/")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among processes; it ends with the process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise Unavailable(f"{path.parent} cannot be written: {error}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
