"""Servers on one core and loads on the other, so that neither takes what the other is measured by."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.error import URLError
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import msgspec

from infra.bentos import bentoml_environment, serve_command
from infra.serving_process import free_port
from infra.settings import Settings
from models.bundle import Bundle
from tests.benchmarks.open_loop import Latencies

MODEL = "taxi_eta"
SERVERS = Path(__file__).parent / "peers" / "servers"
LOAD_CORE, SERVER_CORE = "0", "1"
BOTH_CORES = f"{LOAD_CORE},{SERVER_CORE}"
CONNECTIONS = 64
JSON = "application/json"

_READY_S = 120.0
_NAME = re.compile("[{ ]")


class Bench(NamedTuple):
    """What every part of the benchmark is given."""

    home: Path
    place: Path
    """Where it may write."""
    settings: Settings
    """Of the home with the trained champion of `MODEL`, which nobody changes."""
    champion: Bundle
    tag: str
    """Of its Bento."""
    rounds: int
    seconds: int
    """How long each load lasts."""


class Load(msgspec.Struct, frozen=True):
    """What wrk says."""

    requests: int
    seconds: float
    failed: int
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return self.requests / self.seconds


class Served(msgspec.Struct, frozen=True):
    """A server that answers."""

    name: str
    url: str
    body: Path
    kind: str
    """The body's content type."""
    pid: int


def taskset(cores: str, *command: str) -> list[str]:
    """Give a command that keeps to cores."""
    return ["taskset", "--cpu-list", cores, *command]


@contextmanager
def running(
    name: str,
    command: Callable[[int], list[str]],
    environment: Mapping[str, str],
    body: Path,
    place: Path,
    path: str = "/v1/predict",
    kind: str = JSON,
    cores: str = SERVER_CORE,
) -> Iterator[Served]:
    """Run a server on its core until the block ends."""
    port = free_port()
    log = place / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            taskset(cores, *command(port)),
            env={**os.environ, **environment, "PORT": str(port), "BENTOML_DO_NOT_TRACK": "True"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    served = Served(name, f"http://127.0.0.1:{port}{path}", body, kind, process.pid)
    try:
        _await_answer(served, process, log)
        yield served
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def okruh(
    name: str,
    settings: Settings,
    tag: str,
    body: Path,
    place: Path,
    *,
    kind: str = JSON,
    cores: str = SERVER_CORE,
    **changed: object,
) -> AbstractContextManager[Served]:
    """Serve a Bento of ours, with some settings changed, until the block ends."""
    environment = bentoml_environment(settings.model_copy(update=changed))
    return running(
        f"okruh {name}", lambda port: serve_command(tag, port), environment, body, place, kind=kind, cores=cores
    )


def wrk(served: Served, seconds: int, connections: int = CONNECTIONS) -> Load:
    """Ask by so many connections, each again as soon as it is answered."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SERVERS / "wrk.lua")]
    done = subprocess.run(
        taskset(LOAD_CORE, "wrk", *options, served.url),
        env={**os.environ, "BODY": str(served.body), "CONTENT_TYPE": served.kind},
        stdout=subprocess.PIPE,
        check=True,
    )
    load = msgspec.json.decode(done.stdout.splitlines()[-1], type=Load)
    if load.failed:
        sys.exit(f"{served.name} failed {load.failed} of {load.requests} requests")
    return load


def most(served: Served, bench: Bench) -> float:
    """Give how many requests a second a server answers at most; of several loads the median, after a first one."""
    wrk(served, 1)
    return median(wrk(served, bench.seconds).rate for _ in range(bench.rounds))


def open_loop(served: Served, rate: float, seconds: float) -> Latencies:
    """Ask so many times a second, by the clock."""
    done = subprocess.run(open_loop_command(served, rate, seconds), stdout=subprocess.PIPE, check=True)
    found = msgspec.json.decode(done.stdout, type=Latencies)
    if found.failed:
        sys.exit(f"{served.name} failed {found.failed} of {found.requests} requests at {rate:,.0f} requests/s")
    return found


def open_loop_command(served: Served, rate: float, seconds: float) -> list[str]:
    """Give the command that does so and prints `Latencies`."""
    words = [served.url, str(served.body), str(rate), str(seconds)]
    return taskset(LOAD_CORE, sys.executable, "-m", "tests.benchmarks.open_loop", *words)


def counted(served: Served, pattern: str) -> float:
    """Add up a server's metrics whose names, without their labels, match a pattern."""
    with urlopen(urljoin(served.url, "/metrics"), timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.fullmatch(pattern, _NAME.split(line)[0]))


def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds; give False where it does not within so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _await_answer(served: Served, process: "subprocess.Popen[bytes]", log: Path) -> None:
    request = Request(served.url, served.body.read_bytes(), {"Content-Type": served.kind})

    def answers() -> bool:
        try:
            with urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return process.poll() is not None

    if not until(answers, _READY_S) or process.poll() is not None:
        sys.exit(f"{served.name} does not answer: see {log}")
