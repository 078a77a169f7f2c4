"""A served Bento as a child process: started, waited for, stopped, always by its own process ids.

It runs in a process group of its own and writes its log under `settings.home/logs`. Whoever starts it stops it; it does
not outlive a starter that is killed.
"""

import errno
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.error import URLError
from urllib.request import urlopen

from infra.bentos import bentoml_environment, last_error, serve_command
from infra.errors import Misconfigured, Unavailable
from infra.guard import Guard
from infra.settings import Settings

LOOPBACK = "127.0.0.1"

_LOOK_S = 0.05
_LOG_TAIL_BYTES = 16_384
_MISCONFIGURED = "infra.errors.Misconfigured: "
_WORKER_FAILED = (b"Application startup failed", _MISCONFIGURED.encode())

_GRACE_S = 35.0
"""Longer than BentoML waits for the requests that are under way, which is half a minute."""


class Certificate(NamedTuple):
    """What a service shows that is asked over https."""

    certfile: Path
    keyfile: Path
    """Its private key, without a password: one would stand in the command's arguments, for everybody to read."""

    @classmethod
    def of(cls, certfile: Path | None, keyfile: Path | None) -> Self | None:
        """Give a certificate where one is named. Raises: `Misconfigured` where it cannot be used."""
        if certfile is None and keyfile is None:
            return None
        if certfile is None or keyfile is None:
            raise Misconfigured("https wants a certificate and its key: --ssl-certfile FILE --ssl-keyfile FILE")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password=_no_password)
        except (OSError, ValueError) as error:  # of which the module's own errors are some
            reason = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else error
            raise Misconfigured(f"{certfile} and {keyfile} are no certificate and its key: {reason}") from error
        return cls(certfile.absolute(), keyfile.absolute())

    @property
    def options(self) -> dict[str, str]:
        """What `bentoml serve` is told."""
        return {"--ssl-certfile": str(self.certfile), "--ssl-keyfile": str(self.keyfile)}


class ServiceProcess:
    """A running service; as a context manager it stops at the end of the block."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, log: Path, host: str = LOOPBACK, scheme: str = "http"
    ) -> None:
        self._process = process
        self._guard = Guard.of_group(process.pid)
        self.url = f"{scheme}://{_reached(host)}:{port}"
        """Where it answers, asked from this machine."""
        self._context = _any_certificate() if scheme == "https" else None
        self.log = log
        """What it and BentoML say."""

    @classmethod
    def start(
        cls,
        settings: Settings,
        tag: str,
        port: int | None = None,
        ready_within_s: float = 60.0,
        host: str = LOOPBACK,
        certificate: Certificate | None = None,
    ) -> Self:
        """Serve a Bento at an address and a port (a free one, where none is given) and wait until it is ready.

        Raises: `Unavailable` where the port is taken, or the service ends or is not ready in time; it is stopped then.
            `Misconfigured` where the host is no address.
        """
        port = free_port() if port is None else port
        check_free(port, host)
        environment = bentoml_environment(settings)
        log = settings.home / "logs" / f"serve-{port}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 (our own command)
                serve_command(tag, port, host, certificate.options if certificate else None),
                cwd=settings.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        service = cls(process, port, log, host, "https" if certificate else "http")
        try:
            service._wait_until_ready(ready_within_s)
        except BaseException:
            service.stop(grace_s=2.0)
            raise
        return service

    @property
    def pid(self) -> int:
        """The id of the process, and of its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until it ends by itself, or is told to by others. Gives its exit status."""
        return self._process.wait()

    def stop(self, grace_s: float = _GRACE_S) -> int:
        """End it: SIGTERM, then SIGKILL to its whole group once `grace_s` has passed. Gives its exit status."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        _kill_group(self.pid)
        status = self._process.wait()
        self._guard.release()
        return status

    def _wait_until_ready(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not self._is_ready():
            if not self.running:
                raise Unavailable(f"the service ended with status {self._process.returncode}: {self._reason()}")
            said = self.log.read_bytes()
            if any(one in said for one in _WORKER_FAILED):  # BentoML would start the worker again and again
                reason = self._reason()
                kind = Misconfigured if reason.startswith(_MISCONFIGURED) else Unavailable
                raise kind(f"the service cannot start: {reason.removeprefix(_MISCONFIGURED)}")
            if time.monotonic() > deadline:
                raise Unavailable(f"the service is not ready after {within_s:g} s: {self._reason()}")
            time.sleep(_LOOK_S)

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/readyz", timeout=1.0, context=self._context) as answer:  # noqa: S310 (our own)
                return bool(answer.status == 200)
        except (URLError, HTTPException, OSError):
            return False

    def _reason(self) -> str:
        return f"{last_error(self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors='replace'))} (see {self.log})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """Give a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def check_free(port: int, host: str = LOOPBACK) -> None:
    """Refuse a port that somebody listens on. Raises: `Unavailable`; `Misconfigured` where the host is no address."""
    family = socket.AF_INET6 if _address(host).version == 6 else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise Misconfigured(f"{host} is no address of this machine; 0.0.0.0 is all of them") from error
            raise Unavailable(f"port {port} is taken: end what listens there, or choose another port") from error


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host)
    except ValueError as error:
        raise Misconfigured(f"host {host!r} is no IP address, such as 127.0.0.1 or 0.0.0.0") from error


def _reached(host: str) -> str:
    """Give the host of a URL at which this machine reaches what listens at an address."""
    address = _address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else LOOPBACK)
    return f"[{address}]" if address.version == 6 else str(address)


def _no_password() -> str:
    raise ValueError("the key has a password; take it off, or end TLS in a proxy")


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # asked is a child of ours, by its address, and only whether it is ready
    return context


def _kill_group(group: int) -> None:
    """End what a process left in its group."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
