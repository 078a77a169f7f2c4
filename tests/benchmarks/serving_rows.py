"""Single rows as JSON by 64 connections: ours, bare programs and other products, with the same graph.

Each round loads every server once, in turn, so that what the machine does meanwhile is everybody's; figures are ratios
of medians.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median

import msgspec

from infra.serving_process import free_port
from tests.benchmarks.figures import Figure
from tests.benchmarks.latencies import compare
from tests.benchmarks.peers.environments import install
from tests.benchmarks.pinned import SERVERS, Bench, Served, okruh, running, wrk

ROW = {
    "pickup_at": "2020-03-01T08:15:00",
    "pickup_zone": 132,
    "dropoff_zone": 48,
    "trip_miles": 16.4,
    "passengers": 1,
}
_COMMON = ("msgspec", "numpy", "onnxruntime", "uvicorn", "uvloop", "httptools")


def figures(bench: Bench) -> list[Figure]:
    """Compare throughput, and the slowest hundredth at half of our maximum and of the bare server's."""
    with ExitStack() as running:
        servers = {one.name: one for one in map(running.enter_context, _servers(bench))}
        rates: dict[str, list[float]] = {name: [] for name in servers}
        for number in range(bench.rounds + 1):
            for name, one in servers.items():
                load = wrk(one, bench.seconds if number else 1)
                if number:
                    rates[name].append(load.rate)
        medians = {name: median(found) for name, found in rates.items()}
        ours, bare = servers["okruh relaxed"], servers["Starlette"]
        slowest = [
            compare(ours, bare, medians[ours.name] / 2, bench, "relaxed journal", bound="<= 1.5"),
            compare(ours, bare, medians[bare.name] / 2, bench, "relaxed journal, half of Starlette's most"),
        ]
    return [*_throughput(medians), *slowest, *map(_rate, medians, medians.values())]


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


def _rate(name: str, rate: float) -> Figure:
    return Figure(name=f"{name}, single rows", value=rate, unit="requests/s", bound="")


def write_row(bench: Bench) -> Path:
    """Write the request of all servers but MLServer."""
    body = bench.place / "row.json"
    body.write_bytes(msgspec.json.encode({"rows": [ROW]}))
    return body


def write_graph(bench: Bench) -> Path:
    """Write the champion's graph where other programs find it."""
    graph = bench.place / "model.onnx"
    graph.write_bytes(bench.champion.onnx)
    return graph


def _servers(bench: Bench) -> Iterator[AbstractContextManager[Served]]:
    home, place = bench.home, bench.place
    graph, body, inference = write_graph(bench), write_row(bench), place / "row-v2.json"
    inference.write_bytes(msgspec.json.encode(_as_inference()))
    for mode in ("strict", "relaxed"):
        yield okruh(mode, bench.settings, bench.tag, body, place, journal=mode)
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

    yield running("Starlette", lambda port: uvicorn(bare, "starlette_app:app", port), peer, body, place)
    yield running("ASGI", lambda port: uvicorn(bare, "asgi_app:app", port), peer, body, place)
    yield running("FastAPI", lambda port: uvicorn(fast, "fastapi_app:app", port), peer, body, place)
    stock = [str(bento / "bentoml"), "serve", "bento_app:Taxi", "--working-dir", str(SERVERS), "--host", "127.0.0.1"]
    yield running("BentoML", lambda port: [*stock, "--port", str(port)], peer, body, place)
    yield running("LitServe", lambda _: [str(lit / "python"), str(SERVERS / "litserve_app.py")], peer, body, place)
    yield running("MLServer", lambda port: _mlserver(ml, place, port), peer, inference, place, "/v2/models/taxi/infer")


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


def _pinned(names: Sequence[str]) -> list[str]:
    return [f"{name}=={version(name)}" for name in names]
