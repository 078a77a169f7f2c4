"""The platform: what the settings ask for, and nothing imported that a command does not use."""

import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.assembly import assemble, repository
from infra.errors import Misconfigured, NotFound, Unavailable
from infra.lake.protocol import MAIN
from infra.settings import Settings
from models.errors import DefinitionError
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer


def test_a_repository_has_no_underscore(settings: Settings) -> None:
    assert repository("taxi_eta") == "taxi-eta"
    assert assemble(settings).journal("taxi_eta", "main").folder == settings.home / "journal/taxi-eta/main"


@pytest.mark.parametrize("name", ["", "Taxi", "../taxi", "taxi-eta", "1taxi", "a" * 41])
def test_refuses_a_model_name_that_is_no_module_name(name: str) -> None:
    with pytest.raises(DefinitionError, match="use a small letter"):
        repository(name)


@pytest.mark.parametrize("branch", ["", "../main", "a/b", ".hidden"])
def test_refuses_a_branch_that_is_no_file_name(settings: Settings, branch: str) -> None:
    with pytest.raises(Misconfigured, match="branch"):
        assemble(settings).journal("tiny", branch)


@pytest.mark.parametrize(
    ("access", "loopback", "asked"),
    [("auto", True, False), ("auto", False, True), ("open", False, False), ("keys", True, True)],
)
def test_asks_for_keys_where_other_machines_reach_a_service(
    settings: Settings, tmp_path: Path, access: str, loopback: bool, asked: bool
) -> None:
    at_home = assemble(settings.model_copy(update={"access": access})).asked_keys(loopback)
    elsewhere = assemble(settings.model_copy(update={"access": access, "keys": tmp_path / "k"})).asked_keys(loopback)

    assert (at_home is not None, elsewhere is not None) == (asked, asked)
    if at_home and elsewhere:
        assert (at_home.path, elsewhere.path) == (settings.home / "keys.json", tmp_path / "k")


def test_says_whether_a_lake_exists_and_makes_none(settings: Settings) -> None:
    platform = assemble(settings)

    assert not platform.has_lake("tiny")
    assert not settings.home.exists()
    platform.lake("tiny")
    assert platform.has_lake("tiny")


def test_makes_a_repository_on_a_lakefs_server_with_main_protected(lakefs: LakeFSServer, settings: Settings) -> None:
    team = f"team-{secrets.token_hex(4)}"
    platform = assemble(on(lakefs, settings, team))

    assert not platform.has_lake("tiny")
    with pytest.raises(NotFound, match="okruh ingest tiny"):
        platform.existing_lake("tiny")
    assert platform.lake("tiny").protected() == {MAIN}
    assert platform.has_lake("tiny")
    assert f"{team}--tiny" in lakefs.repositories
    assert not settings.home.exists()


def test_what_administrators_unprotect_stays_so(lakefs: LakeFSServer, settings: Settings) -> None:
    team = f"team-{secrets.token_hex(4)}"
    platform = assemble(on(lakefs, settings, team))
    platform.lake("tiny")

    lakefs.repositories[f"{team}--tiny"].patterns.clear()

    assert platform.lake("tiny").protected() == set()


def test_a_service_follows_a_server_that_may_answer_later(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    keys = {"lakefs_access_key_id": "key", "lakefs_secret_access_key": SecretStr("secret")}
    away = settings.model_copy(update={"lake": f"lakefs+http://127.0.0.1:{port}", **keys})

    opened = assemble(away).followed_lake("tiny")

    assert assemble(settings).followed_lake("tiny") is None
    assert opened is not None
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port} does not answer"):
        opened()


def on(server: LakeFSServer, settings: Settings, team: str) -> Settings:
    """Give settings of a lake on a server."""
    keys = {"lakefs_access_key_id": KEY_ID, "lakefs_secret_access_key": SecretStr(SECRET)}
    return settings.model_copy(update={"lake": f"lakefs+{server.address}/{team}", **keys})


def test_a_child_process_sees_the_same_settings(settings: Settings) -> None:
    child = "from infra.settings import load_settings; print(load_settings().model_dump_json())"

    seen = subprocess.run(
        [sys.executable, "-c", child], env=settings.environment(), capture_output=True, text=True, check=True
    )

    assert seen.stdout.strip() == settings.model_dump_json()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("infra.assembly", "torch prefect wandb pandas bentoml lakefs_client"),
        ("infra.bentos", "torch prefect wandb pandas bentoml"),
        ("services.endpoints", "torch prefect wandb pandas pandera bentoml models.catalog models.learning"),
        ("services.app", "torch prefect wandb pandas pandera bentoml models.catalog models.learning"),
    ],
)
def test_imports_nothing_heavy(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {unwanted.split()!r} if name in sys.modules))"

    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert imported.stdout.split() == []
