"""Settings: environment before file before default, each wrong value named, nothing ignored."""

import os
import re
import traceback
from pathlib import Path

import pytest

from infra.errors import Misconfigured
from infra.lake.lakefs.address import parse
from infra.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no OKRUH_ variable."""
    for name in [name for name in os.environ if name.startswith("OKRUH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_keep_everything_below_the_working_directory(nowhere: Path) -> None:
    settings = load_settings()

    assert (settings.home, settings.bentos) == (nowhere / ".okruh", nowhere / ".okruh" / "bentoml")
    assert (settings.lake, settings.branch, settings.tracking) == ("embedded", "main", "offline")


def test_a_variable_beats_the_file_and_the_file_beats_the_default(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nowhere / "okruh.toml").write_text('branch = "from-file"\ntrain_threads = 2\n')
    monkeypatch.setenv("OKRUH_BRANCH", "from-variable")

    settings = load_settings(serve_threads=3)

    assert (settings.branch, settings.train_threads, settings.serve_threads) == ("from-variable", 2, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OKRUH_TRAIN_THREADS", "0"),
        ("OKRUH_SERVE_THREADS", "many"),
        ("OKRUH_PROVIDER", "gpu"),
        ("OKRUH_GPU_MEMORY_MB", "0"),
        ("OKRUH_DEVICE", "gpu"),
        ("OKRUH_TRACKING", "sometimes"),
        ("OKRUH_ROLLOUT_POLL_S", "0"),
        ("OKRUH_ROLLOUT_POLL_S", "inf"),
        ("OKRUH_HOME", ""),
        ("OKRUH_HOME", "~nobody-of-this-name/okruh"),
        ("OKRUH_BRANCH", ""),
        ("OKRUH_MODEL", ""),
        ("OKRUH_ACCESS", "closed"),
        ("OKRUH_KEYS", ""),
        ("OKRUH_LAKE", "lakefs+https://user:sesame@host/repository"),
    ],
)
def test_names_a_wrong_value_in_one_line_and_shows_no_secret(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(Misconfigured) as refused:
        load_settings()

    assert f"{name}: " in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "sesame" not in "".join(traceback.format_exception(refused.value))  # nor in what it came from


@pytest.mark.parametrize(("name", "value"), [("gpu_memory_mb", 2048), ("cuda_graphs", True)])
def test_refuses_what_the_provider_does_not_heed(name: str, value: int | bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"OKRUH_{name}".upper(), str(value))
    accepted = getattr(load_settings(provider="cuda"), name)

    assert accepted == value
    with pytest.raises(Misconfigured, match=f"OKRUH_{name.upper()}: only OKRUH_PROVIDER=cuda heeds"):
        load_settings(provider="openvino")


@pytest.mark.parametrize(
    ("given", "meant"), [("state", "{working}/state"), ("~/state", "{home}/state"), ("/var/okruh", "/var/okruh")]
)
def test_home_is_absolute_however_it_is_given(
    given: str, meant: str, nowhere: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("OKRUH_HOME", given)

    settings = load_settings()
    monkeypatch.chdir(home)

    assert str(settings.home) == meant.format(working=nowhere, home=home)


def test_what_lies_below_home_follows_it(nowhere: Path) -> None:
    settings = load_settings()
    before = settings.bentos

    moved = settings.model_copy(update={"home": nowhere / "elsewhere"})

    assert (before, moved.bentos) == (nowhere / ".okruh" / "bentoml", nowhere / "elsewhere" / "bentoml")


@pytest.mark.parametrize(
    ("address", "url", "repository"),
    [
        ("lakefs+https://lakefs.example.com", "https://lakefs.example.com", "taxi-eta"),
        ("lakefs+https://lakefs.example.com/", "https://lakefs.example.com", "taxi-eta"),
        ("lakefs+http://127.0.0.1:8000/team-a", "http://127.0.0.1:8000", "team-a--taxi-eta"),
        ("lakefs+https://[::1]:8000", "https://[::1]:8000", "taxi-eta"),
    ],
)
def test_reads_a_lakefs_address(
    monkeypatch: pytest.MonkeyPatch, keys: None, address: str, url: str, repository: str
) -> None:
    monkeypatch.setenv("OKRUH_LAKE", address)

    found = parse(load_settings().lake)

    assert (found.url, found.repository("taxi-eta")) == (url, repository)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("lakefs", "a lake is `embedded` or `lakefs+https://host`"),
        ("https://host", "a lake is `embedded` or `lakefs+https://host`"),
        ("lakefs+https://", "a server is"),
        ("lakefs+https://host/a/b", "a server is"),
        ("lakefs+https://host/Team", "a server is"),
        ("lakefs+https://host?key=sesame", "a server is"),
        ("lakefs+https://host:many", "its port is no number"),
        ("lakefs+https://user:sesame@host", "an address holds no keys; set OKRUH_LAKEFS_ACCESS_KEY_ID"),
    ],
)
def test_refuses_an_address_and_shows_no_secret_of_it(
    monkeypatch: pytest.MonkeyPatch, keys: None, address: str, reason: str
) -> None:
    monkeypatch.setenv("OKRUH_LAKE", address)

    with pytest.raises(Misconfigured, match=f"OKRUH_LAKE: {re.escape(reason)}") as refused:
        load_settings()

    assert "sesame" not in "".join(traceback.format_exception(refused.value))


def test_a_server_wants_keys_which_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKRUH_LAKE", "lakefs+https://host")
    monkeypatch.setenv("OKRUH_LAKEFS_ACCESS_KEY_ID", "AKIA")
    with pytest.raises(Misconfigured, match="OKRUH_LAKE: a lakeFS server wants OKRUH_LAKEFS_ACCESS_KEY_ID and"):
        load_settings()

    monkeypatch.setenv("OKRUH_LAKEFS_SECRET_ACCESS_KEY", "sesame")
    settings = load_settings()

    assert "sesame" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.environment()["OKRUH_LAKEFS_SECRET_ACCESS_KEY"] == "sesame"  # a child process must have it


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of a lakeFS server."""
    monkeypatch.setenv("OKRUH_LAKEFS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("OKRUH_LAKEFS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.parametrize("name", ["OKRUH_HOMEE", "okruh_home", "OKRUH_"])
def test_refuses_a_variable_that_sets_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "somewhere")

    with pytest.raises(Misconfigured, match=rf"no setting is called {name}; there are .*OKRUH_HOME,"):
        load_settings()


def test_names_every_wrong_value_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKRUH_DEVICE", "gpu")
    monkeypatch.setenv("OKRUH_TRACKING", "sometimes")

    with pytest.raises(Misconfigured, match=r"OKRUH_TRACKING: .*; OKRUH_DEVICE: "):
        load_settings()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"colour = 1", "OKRUH_COLOUR: "),
        (b"train_threads = 0", "OKRUH_TRAIN_THREADS: "),
        (b'home = ""', "OKRUH_HOME: "),
        (b"branch = ", "okruh.toml is not TOML"),
        (b'branch = "\xff"', "okruh.toml is not TOML"),
    ],
)
def test_refuses_a_file_that_it_cannot_honour(nowhere: Path, content: bytes, reason: str) -> None:
    (nowhere / "okruh.toml").write_bytes(content)

    with pytest.raises(Misconfigured, match=reason):
        load_settings()


def test_a_child_process_sees_the_same_settings(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=nowhere / "elsewhere", model="taxi_eta", train_threads=2, rollout_poll_s=0.25)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    assert load_settings() == settings


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().branch = "other"
