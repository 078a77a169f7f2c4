"""A service as a child process: what is said when it cannot start. That it runs is `tests/services/test_service.py`."""

import socket

import pytest

from infra.errors import Unavailable
from infra.serving_process import ServiceProcess, free_port
from infra.settings import Settings


def test_refuses_a_port_that_is_taken_in_one_line_before_it_starts_anything(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(Unavailable) as refused:
            ServiceProcess.start(settings, "okruh_tiny:v1", port)

    assert str(refused.value) == f"port {port} is taken: end what listens there, or choose another port"
    assert not (settings.home / "logs").exists()  # nothing was started


def test_says_why_a_service_ended(settings: Settings) -> None:
    with pytest.raises(Unavailable, match=r"ended with status 1: .*okruh_tiny:v1.* \(see "):
        ServiceProcess.start(settings, "okruh_tiny:v1")


def test_gives_a_port_that_can_be_bound() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))
