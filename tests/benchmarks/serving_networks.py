"""Networks that are the work: a convolutional one, which a batch does not help, and a wide one, which it does.

Single rows come by 64 connections; beside them is what ONNX Runtime gives in a loop, at the batch size that suits it
best. What is lost is what the core needs for 64 requests, and for batches that are not the best ones.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from safetensors.numpy import save_file

from infra.bentos import build
from infra.settings import load_settings
from tests.benchmarks import bare_runtime, graphs
from tests.benchmarks.figures import Figure
from tests.benchmarks.pinned import Bench, okruh, wrk

_NETWORKS: dict[str, Callable[[], bytes]] = {"cnn": graphs.cnn, "wide_mlp": graphs.wide_mlp}
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SEED = 1


def figures(bench: Bench) -> list[Figure]:
    """Compare rows a second; both run on the same core, in turn."""
    return [_figure(bench, model, make()) for model, make in _NETWORKS.items()]


def _figure(bench: Bench, model: str, content: bytes) -> Figure:
    settings = load_settings(home=bench.place / "networks")
    graph, arrays, body = (bench.place / f"{model}{suffix}" for suffix in (".onnx", ".safetensors", ".json"))
    graph.write_bytes(content)
    _write_rows(arrays, body)
    version = f"v-{hashlib.sha256(content).hexdigest()[:12]}"
    graphs.register(settings, bench.champion.card, model, {version: content})
    tag = build(settings, model).tag
    ours, bare = list[float](), list[dict[int, float]]()
    with okruh(model, settings, tag, body, bench.place, journal="relaxed") as served:
        wrk(served, 1)
        for _ in range(bench.rounds):
            ours.append(wrk(served, bench.seconds).rate)
            bare.append(bare_runtime.rates(graph, arrays, _SIZES, bench.seconds / len(_SIZES)))
    beside = {size: median(found[size] for found in bare) for size in _SIZES}
    return Figure(
        name=f"{model}, single rows by 64 connections, relaxed journal / ONNX Runtime's best batch",
        value=median(ours) / max(beside.values()),
        unit="ratio",
        bound=">= 0.8",
        compared_with={"ours": median(ours)} | {f"batches of {size}": rate for size, rate in beside.items()},
    )


def _write_rows(arrays: Path, body: Path) -> None:
    """Write as many rows as the largest batch for the bare calls, and the first of them as a request."""
    drawn = np.random.default_rng(_SEED).standard_normal((graphs.FEATURES, max(_SIZES)), np.float32)
    names = [feature.name for feature in graphs.CONTRACT.features]
    times = {graphs.CONTRACT.time_column.name: np.zeros(max(_SIZES), np.int64)}
    save_file({**times, **dict(zip(names, drawn, strict=True))}, arrays)
    body.write_bytes(msgspec.json.encode({"rows": [graphs.row(drawn[:, 0].tolist())]}))
