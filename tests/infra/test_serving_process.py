"""A service as a child process: what is said when it cannot start, and that nothing is left of it when it has ended.

Small programs stand for BentoML here. That a service runs is `tests/services/test_service.py`.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.errors import Misconfigured, Unavailable
from infra.serving_process import Certificate, ServiceProcess, check_free, free_port
from infra.settings import Settings


@contextmanager
def started(script: str, log: Path) -> Iterator[tuple[ServiceProcess, "subprocess.Popen[bytes]"]]:
    """A shell that stands for a service; what it and its children share is their standard output."""
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as process:
        service = ServiceProcess(process, free_port(), log)
        try:
            yield service, process
        finally:
            service.stop(grace_s=0.0)


def first_line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def what_follows_until_all_have_ended(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return process.stdout.read()


def test_refuses_a_port_that_is_taken_in_one_line_before_it_starts_anything(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(Unavailable) as refused:
            ServiceProcess.start(settings, "okruh_tiny:v1", port)

    assert str(refused.value) == f"port {port} is taken: end what listens there, or choose another port"
    assert not settings.home.exists()  # nothing was started


def test_a_port_is_free_again_once_nobody_listens() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Unavailable):
            check_free(port)

    check_free(port)


@pytest.mark.parametrize("host", ["localhost", "", "1.2.3", "192.0.2.1"])
def test_refuses_a_host_that_is_no_address_of_this_machine(settings: Settings, host: str) -> None:
    with pytest.raises(Misconfigured, match="address"):
        ServiceProcess.start(settings, "okruh_tiny:v1", host=host)


@pytest.mark.parametrize(
    ("host", "scheme", "url"),
    [
        ("127.0.0.1", "http", "http://127.0.0.1:"),
        ("0.0.0.0", "https", "https://127.0.0.1:"),
        ("::", "http", "http://[::1]:"),
        ("10.1.2.3", "https", "https://10.1.2.3:"),
    ],
)
def test_says_where_this_machine_reaches_it(tmp_path: Path, host: str, scheme: str, url: str) -> None:
    with subprocess.Popen(["true"], start_new_session=True) as process:
        service = ServiceProcess(process, 3000, tmp_path / "log", host, scheme)
        service.stop()

    assert service.url == f"{url}3000"


def test_takes_a_certificate_with_its_key_and_nothing_else(certificate: Certificate, tmp_path: Path) -> None:
    cert, key = certificate
    (tmp_path / "empty.pem").touch()

    assert Certificate.of(cert, key) == certificate
    assert Certificate.of(None, None) is None
    for one, other in ((cert, None), (None, key), (key, cert), (cert, cert), (tmp_path / "empty.pem", key)):
        with pytest.raises(Misconfigured):
            Certificate.of(one, other)
    with pytest.raises(Misconfigured, match="No such file"):
        Certificate.of(cert, tmp_path / "missing.pem")


def test_says_why_a_service_ended(settings: Settings) -> None:
    with pytest.raises(Unavailable, match=r"ended with status 1: .*okruh_tiny:v1.* \(see "):
        ServiceProcess.start(settings, "okruh_tiny:v1")


def test_a_service_that_is_not_ready_in_time_is_stopped(settings: Settings) -> None:
    port = free_port()

    with pytest.raises(Unavailable, match=r"the service is not ready after 0 s: .* \(see .*\)"):
        ServiceProcess.start(settings, "okruh_tiny:v1", port, ready_within_s=0.0)

    assert (settings.home / "logs" / f"serve-{port}.log").exists()  # it was started
    running = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
    assert f"--port {port}" not in running


def test_gives_a_port_that_can_be_bound() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


def test_waits_for_a_service_that_ends_by_itself_and_gives_its_status(tmp_path: Path) -> None:
    with started("exit 3", tmp_path / "log") as (service, _):
        assert service.wait() == 3
        assert not service.running
        assert service.stop() == 3


def test_waits_for_a_service_that_others_end(tmp_path: Path) -> None:
    with started("echo started; exec sleep 100", tmp_path / "log") as (service, process):
        assert first_line(process) == "started"
        assert service.running

        os.kill(service.pid, signal.SIGTERM)

        assert service.wait() == -signal.SIGTERM


def test_a_service_may_end_in_its_own_way_when_it_is_told_to(tmp_path: Path) -> None:
    script = "trap 'echo answered the last request; exit 0' TERM; echo started; while :; do sleep 0.01; done"
    with started(script, tmp_path / "log") as (service, process):
        assert first_line(process) == "started"

        assert service.stop() == 0
        assert what_follows_until_all_have_ended(process) == b"answered the last request\n"


def test_a_service_that_will_not_end_is_killed(tmp_path: Path) -> None:
    with started("trap '' TERM; echo started; exec sleep 100", tmp_path / "log") as (service, process):
        assert first_line(process) == "started"

        assert service.stop(grace_s=0.05) == -signal.SIGKILL
        assert what_follows_until_all_have_ended(process) == b""


@pytest.mark.parametrize("end", ["exec sleep 100", "exit 4"])
def test_nothing_of_a_services_group_is_left_when_it_is_stopped(end: str, tmp_path: Path) -> None:
    worker = "(trap '' TERM; echo started; exec sleep 100) &"
    with started(f"{worker} {end}", tmp_path / "log") as (service, process):
        assert first_line(process) == "started"

        service.stop()

        assert what_follows_until_all_have_ended(process) == b""


def test_stopping_twice_gives_the_same_status(tmp_path: Path) -> None:
    with started("exec sleep 100", tmp_path / "log") as (service, _):
        assert service.stop() == service.stop() == -signal.SIGTERM


def test_an_error_within_the_block_stops_the_service(tmp_path: Path) -> None:
    with started("exec sleep 100", tmp_path / "log") as (service, _):
        with pytest.raises(RuntimeError, match="a failed request"), service:
            raise RuntimeError("a failed request")

        assert not service.running
