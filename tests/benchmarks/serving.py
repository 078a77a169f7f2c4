"""`make bench-serving`: what one worker answers, beside bare programs and other products, with the same graph.

The server has one core, the load another. Each round loads every server once, in turn, so that what the machine does
meanwhile is everybody's; figures are ratios of medians. wrk comes from Debian's packages; latencies are those of
`tests.benchmarks.open_loop`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import Request, urlopen

import msgspec

from infra.assembly import assemble
from infra.bentos import bentoml_environment, build, champion_version, serve_command
from infra.serving_process import free_port
from infra.settings import Settings, load_settings
from models.bundle import bundle_folder
from tests.benchmarks.figures import Figure, publish
from tests.benchmarks.open_loop import Latencies
from tests.benchmarks.peers.environments import install

MODEL, AS_OF = "taxi_eta", "2020-03-01T00:00:00-05:00"
SERVERS = Path(__file__).parent / "peers" / "servers"
ROUNDS, SECONDS, CONNECTIONS = 5, 4, 64
LOAD_CORE, SERVER_CORE = "0", "1"

ROW = {
    "pickup_at": "2020-03-01T08:15:00",
    "pickup_zone": 132,
    "dropoff_zone": 48,
    "trip_miles": 16.4,
    "passengers": 1,
}
_COMMON = ("msgspec", "numpy", "onnxruntime", "uvicorn", "uvloop", "httptools")


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


def main() -> int:
    """Measure everything and publish it."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    home = load_settings().home
    place = home / "bench" / "serving"
    settings = _with_champion(place)
    with ExitStack() as running:
        servers = [running.enter_context(one) for one in _servers(home, place, settings)]
        rates: dict[str, list[Load]] = {one.name: [] for one in servers}
        for number in range(ROUNDS + 1):
            for one in servers:
                load = _wrk(one, SECONDS if number else 1)
                if number:
                    rates[one.name].append(load)
        medians = {name: median(load.rate for load in loads) for name, loads in rates.items()}
        latencies = _latencies({one.name: one for one in servers}, medians["okruh relaxed"] / 2)
    if failed := {name: count for name, loads in rates.items() if (count := sum(load.failed for load in loads))}:
        sys.exit(f"requests failed: {failed}")
    return publish("serving", [*_throughput(medians), latencies, *map(_rate, medians, medians.values())], home)


def _throughput(rates: Mapping[str, float]) -> list[Figure]:
    asked = {
        "relaxed": (("Starlette", 0.9), ("BentoML", 10.0), ("LitServe", 8.0), ("MLServer", 4.0), ("FastAPI", 2.0)),
        "strict": (("Starlette", 0.7),),
    }
    return [
        Figure(
            name=f"single rows, {mode} journal / {peer}",
            value=rates[f"okruh {mode}"] / rates[peer],
            unit="ratio",
            bound=f">= {bound}",
            compared_with={"ours": rates[f"okruh {mode}"], peer: rates[peer], "bare ASGI": rates["ASGI"]},
        )
        for mode, bounds in asked.items()
        for peer, bound in bounds
    ]


def _latencies(servers: Mapping[str, Served], rate: float) -> Figure:
    """Compare the slowest hundredth at the same rate, pair by pair."""
    pairs = [{name: _open_loop(servers[name], rate) for name in ("okruh relaxed", "Starlette")} for _ in range(ROUNDS)]
    ours, bare = ([pair[name].p99_ms for pair in pairs] for name in ("okruh relaxed", "Starlette"))
    return Figure(
        name=f"p99 at {rate:,.0f} requests/s, open loop, relaxed journal / Starlette",
        value=median(one / other for one, other in zip(ours, bare, strict=True)),
        unit="ratio",
        bound="<= 1.5",
        compared_with={"ours, ms": median(ours), "Starlette, ms": median(bare)},
    )


def _rate(name: str, rate: float) -> Figure:
    return Figure(name=f"{name}, single rows", value=rate, unit="requests/s", bound="")


def _with_champion(place: Path) -> Settings:
    settings = load_settings(home=place / "home")
    environment = {**os.environ, "OKRUH_HOME": str(settings.home)}
    for words in (["ingest", MODEL], ["train", MODEL, "--as-of", AS_OF], ["promote", MODEL, "--as-of", AS_OF]):
        command = [sys.executable, "-m", "flows.cli", *words]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return settings


def _servers(home: Path, place: Path, settings: Settings) -> Iterator[AbstractContextManager[Served]]:
    lake = assemble(settings).lake(MODEL)
    graph = place / "model.onnx"
    graph.write_bytes(lake.get("main", f"{bundle_folder(champion_version(settings, MODEL))}/model.onnx"))
    body, inference = place / "row.json", place / "row-v2.json"
    body.write_bytes(msgspec.json.encode({"rows": [ROW]}))
    inference.write_bytes(msgspec.json.encode(_as_inference()))
    tag = build(settings, MODEL).tag
    ours = bentoml_environment(settings)
    for mode in ("strict", "relaxed"):
        environment = {**ours, "OKRUH_JOURNAL": mode}
        yield _running(f"okruh {mode}", lambda port: serve_command(tag, port), environment, body, place)
    common = _pinned(_COMMON)
    peer = {"MODEL": str(graph), "PYTHONPATH": str(SERVERS), "BENTOML_HOME": str(place / "bentoml")}
    bare = install(home, "bare", [*common, *_pinned(("starlette",))])
    fast = install(home, "fastapi", [*common, *_pinned(("fastapi",))])
    bento = install(home, "bentoml", [*common, *_pinned(("bentoml", "pydantic"))])
    lit = install(home, "litserve", [*common, "litserve==0.2.19"])
    ml = install(home, "mlserver", ["mlserver==1.7.1", *_pinned(("msgspec", "onnxruntime"))])

    def uvicorn(commands: Path, app: str, port: int) -> list[str]:
        options = ["--host", "127.0.0.1", "--port", str(port), "--no-access-log", "--log-level", "warning"]
        return [str(commands / "uvicorn"), app, *options, "--loop", "uvloop", "--http", "httptools"]

    yield _running("Starlette", lambda port: uvicorn(bare, "starlette_app:app", port), peer, body, place)
    yield _running("ASGI", lambda port: uvicorn(bare, "asgi_app:app", port), peer, body, place)
    yield _running("FastAPI", lambda port: uvicorn(fast, "fastapi_app:app", port), peer, body, place)
    stock = [str(bento / "bentoml"), "serve", "bento_app:Taxi", "--working-dir", str(SERVERS), "--host", "127.0.0.1"]
    yield _running("BentoML", lambda port: [*stock, "--port", str(port)], peer, body, place)
    yield _running("LitServe", lambda _: [str(lit / "python"), str(SERVERS / "litserve_app.py")], peer, body, place)
    yield _running("MLServer", lambda port: _mlserver(ml, place, port), peer, inference, place, "/v2/models/taxi/infer")


def _as_inference() -> object:
    kinds = {"pickup_at": "INT64", "pickup_zone": "INT64", "dropoff_zone": "INT64"}
    values = {**ROW, "pickup_at": 1_583_050_500}
    return {
        "inputs": [
            {"name": name, "shape": [1], "datatype": kinds.get(name, "FP32"), "data": [value]}
            for name, value in values.items()
        ]
    }


def _mlserver(commands: Path, place: Path, port: int) -> list[str]:
    folder = place / "mlserver"
    folder.mkdir(exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps({"name": "taxi", "implementation": "mlserver_app.Taxi"}))
    return [str(commands / "mlserver"), "start", str(folder)]


@contextmanager
def _running(
    name: str,
    command: Callable[[int], list[str]],
    environment: Mapping[str, str],
    body: Path,
    place: Path,
    path: str = "/v1/predict",
) -> Iterator[Served]:
    """Run a server on its core until the block ends."""
    port = free_port()
    log = place / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", SERVER_CORE, *command(port)],
            env={**os.environ, **environment, "PORT": str(port), "BENTOML_DO_NOT_TRACK": "True"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    served = Served(name, f"http://127.0.0.1:{port}{path}", body)
    try:
        _await_answer(served, process, log)
        yield served
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_answer(served: Served, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 120
    request = Request(served.url, served.body.read_bytes(), {"Content-Type": "application/json"})
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(request, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"{served.name} does not answer: see {log}")


def _wrk(served: Served, seconds: int) -> Load:
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(SERVERS / "wrk.lua")]
    command = ["taskset", "--cpu-list", LOAD_CORE, "wrk", *options, served.url]
    environment = {**os.environ, "BODY": str(served.body)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Load)


def _open_loop(served: Served, rate: float) -> Latencies:
    words = [served.url, str(served.body), str(rate), str(SECONDS)]
    command = ["taskset", "--cpu-list", LOAD_CORE, sys.executable, "-m", "tests.benchmarks.open_loop", *words]
    found = msgspec.json.decode(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, type=Latencies)
    if found.failed:
        sys.exit(f"{served.name} failed {found.failed} of {found.requests} requests at {rate:,.0f} requests/s")
    return found


def _pinned(names: Sequence[str]) -> list[str]:
    return [f"{name}=={version(name)}" for name in names]


if __name__ == "__main__":
    sys.exit(main())
