"""What a worker learns of the socket that it was given."""

import importlib
import socket
from pathlib import Path

import click
import pytest

from services import listener


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("127.0.0.2", True), ("0.0.0.0", False), ("::1", True), ("::", False)]
)
def test_tells_whether_only_this_machine_reaches_it(host: str, loopback: bool) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.bind((host, 0))

        assert listener.is_loopback(listening.fileno()) is loopback
        assert listening.getsockname()[0] == host  # which is open still


def test_a_socket_in_the_file_system_is_this_machines(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))

        assert listener.is_loopback(listening.fileno())


def test_what_serves_otherwise_is_taken_for_reachable() -> None:
    assert listener.inherited() is None
    assert not listener.is_loopback(None)


def test_finds_the_descriptor_that_bentoml_gives_a_worker() -> None:
    main = importlib.import_module("_bentoml_impl.worker.service").main
    assert "fd" in {parameter.name for parameter in main.params}
    with click.Context(main) as context:
        context.params["fd"] = 7
        assert listener.inherited() == 7
