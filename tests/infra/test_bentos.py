"""Bentos: what is built, what is found, and what is said where something is missing."""

import ast
import importlib.util
import subprocess
import sys
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from pathspec import GitIgnoreSpec

from infra import bento_image, bentos
from infra.bento_image import requirements
from infra.errors import Misconfigured, Unavailable
from infra.settings import Settings


def build_in_a_checkout(settings: Settings) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bentoml", "build", str(bentos.SOURCES)]
    environment = bentos.bentoml_environment(settings)
    return subprocess.run(command, cwd=bentos.SOURCES, env=environment, capture_output=True, text=True, check=False)


def test_says_that_no_model_is_named(settings: Settings) -> None:
    with pytest.raises(Misconfigured, match="OKRUH_MODEL is not set"):
        bentos.champion_tag(settings.model_copy(update={"model": None}))


def test_says_that_there_is_no_champion(settings: Settings) -> None:
    with pytest.raises(Misconfigured, match="tiny has no champion on branch 'main'"):
        bentos.build(settings, "tiny")


def test_says_that_the_home_cannot_be_written(settings: Settings) -> None:
    settings.home.write_text("a file where the folder belongs")

    with pytest.raises(Unavailable, match="OKRUH_HOME"):
        bentos.bentoml_environment(settings)


@pytest.mark.parametrize("bentofile", ["bentofile.yaml", "bentofile.gpu.yaml"])
def test_bentofile_contains_what_build_contains(bentofile: str) -> None:
    lines = (bentos.SOURCES / bentofile).read_text().split("exclude:")
    included, excluded = (
        GitIgnoreSpec.from_lines(line.strip(' -"\n') for line in part.splitlines() if line.startswith("  -"))
        for part in lines
    )
    python = [path.relative_to(bentos.SOURCES).as_posix() for path in bentos.SOURCES.glob("[!.]*/**/*.py")]

    chosen = {path for path in included.match_files(python) if not excluded.match_file(path)}

    assert chosen == set(bentos.sources())
    assert "services/prediction.py" in chosen
    assert not any(path.startswith(("models/catalog", "models/learning", "tests", "flows")) for path in chosen)


_LOADED = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*(name for name in sys.modules if name.split(".")[0] in ("services", "infra", "models")))
"""


ENTERED = {"services.prediction", "services.prediction_on_gpu"}
"""What wants a champion when it is imported."""


def services() -> set[str]:
    return {f"services.{path.stem}" for path in (bentos.SOURCES / "services").glob("[!_]*.py")}


def test_pins_what_a_service_imports() -> None:
    pinned = {line.split("==")[0] for line in requirements()}
    command = [sys.executable, "-c", _LOADED, *sorted(services() - ENTERED)]
    loaded = {*subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(), *ENTERED}

    needed = {name: distributions_of(name) for name in loaded}

    assert {name: missing for name, found in needed.items() if (missing := found - pinned)} == {}
    assert {"bentoml", "msgspec", "numpy", "onnxruntime", "pyarrow", "uvicorn"} <= pinned
    assert not pinned & {"torch", "prefect", "pandas", "wandb"}


@pytest.mark.proof
def test_an_image_needs_nothing_that_is_not_pinned(tmp_path: Path) -> None:
    """What the recipe installs is installed into an environment of its own, and all that serves is imported there."""
    pinned, python = tmp_path / "requirements.txt", tmp_path / "environment" / "bin" / "python"
    pinned.write_text("\n".join(requirements()))
    venv.create(tmp_path / "environment", with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", pinned], check=True)

    done = subprocess.run(
        [python, "-c", _LOADED, *sorted(services() - ENTERED), "services.prediction"],
        cwd=bentos.SOURCES,
        env={"OKRUH_MODEL": "taxi_eta", "OKRUH_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "taxi_eta has no champion on branch 'main'" in done.stderr.splitlines()[-1]


def distributions_of(module: str) -> set[str]:
    """Name what holds the packages that a module of ours imports when it is imported."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    body = ast.parse(Path(found.origin).read_text()).body
    names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in body if isinstance(node, ast.ImportFrom) and node.module]
    tops = {name.split(".")[0] for name in names} - {"services", "infra", "models"} - set(sys.stdlib_module_names)
    return {packages_distributions()[top][0].replace("_", "-").lower() for top in tops}


def test_two_runtimes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bento_image, "version", lambda name: "1.31.1")

    with pytest.raises(Misconfigured, match=r"onnxruntime, onnxruntime-gpu.* exclude each other"):
        requirements()


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("one\nValueError: wrong\n  detail\n", "ValueError: wrong"),
        ("infra.errors.Misconfigured: OKRUH_MODEL is not set\n", "infra.errors.Misconfigured: OKRUH_MODEL is not set"),
        ("only this\n\n", "only this"),
        ("", "it said nothing"),
    ],
)
def test_finds_the_line_that_says_why(log: str, reason: str) -> None:
    assert bentos.last_error(log) == reason


def test_plain_bentoml_build_says_what_is_missing(settings: Settings) -> None:
    done = build_in_a_checkout(settings)

    assert done.returncode != 0
    assert "tiny has no champion on branch 'main'" in done.stderr.strip().splitlines()[-1]


def test_a_killed_export_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").touch()

    assert not bentos.is_whole(tmp_path)
