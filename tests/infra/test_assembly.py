"""The platform: what the settings ask for, and nothing imported that a command does not use."""

import subprocess
import sys

import pytest

from infra.assembly import assemble, repository
from infra.errors import Misconfigured
from infra.settings import Settings


def test_a_repository_has_no_underscore(settings: Settings) -> None:
    assert repository("taxi_eta") == "taxi-eta"
    assert assemble(settings).journal("taxi_eta", "main").path == settings.home / "journal/taxi-eta/main.sqlite"


@pytest.mark.parametrize("name", ["", "Taxi", "../taxi", "taxi-eta", "1taxi", "a" * 41])
def test_refuses_a_model_name_that_is_no_module_name(name: str) -> None:
    with pytest.raises(Misconfigured, match="a name is"):
        repository(name)


@pytest.mark.parametrize("branch", ["", "../main", "a/b", ".hidden"])
def test_refuses_a_branch_that_is_no_file_name(settings: Settings, branch: str) -> None:
    with pytest.raises(Misconfigured, match="branch"):
        assemble(settings).journal("tiny", branch)


def test_says_whether_a_lake_exists_and_makes_none(settings: Settings) -> None:
    platform = assemble(settings)

    assert not platform.has_lake("tiny")
    assert not settings.home.exists()
    platform.lake("tiny")
    assert platform.has_lake("tiny")


def test_a_child_process_sees_the_same_settings(settings: Settings) -> None:
    child = "from infra.settings import load_settings; print(load_settings().model_dump_json())"

    seen = subprocess.run(
        [sys.executable, "-c", child], env=settings.environment(), capture_output=True, text=True, check=True
    )

    assert seen.stdout.strip() == settings.model_dump_json()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("infra.assembly", "torch prefect wandb pandas bentoml"),
        ("infra.bentos", "torch prefect wandb pandas bentoml"),
        ("services.endpoints", "torch prefect wandb pandas pandera bentoml models.catalog models.learning"),
        ("services.app", "torch prefect wandb pandas pandera bentoml models.catalog models.learning"),
    ],
)
def test_imports_nothing_heavy(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {unwanted.split()!r} if name in sys.modules))"

    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert imported.stdout.split() == []
