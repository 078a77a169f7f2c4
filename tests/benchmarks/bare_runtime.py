"""ONNX Runtime called in a loop, and nothing else: what predicting must cost at least.

It runs in a process of its own on the server's core, with one thread, as the services' sessions do.

    python -m tests.benchmarks.bare_runtime GRAPH COLUMNS.safetensors ROWS,ROWS,... SECONDS
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from safetensors.numpy import load_file

from models.inference import GraphInputs, open_session
from tests.benchmarks.pinned import SERVER_CORE, taskset

_WARM_RUNS = 3


def rates(graph: Path, columns: Path, sizes: Sequence[int], seconds: float) -> dict[int, float]:
    """Give rows a second by rows a call; each is measured for so many seconds."""
    words = [str(graph), str(columns), ",".join(map(str, sizes)), str(seconds)]
    command = taskset(SERVER_CORE, sys.executable, "-m", "tests.benchmarks.bare_runtime", *words)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=dict[int, float])


def _measured(graph: bytes, columns: GraphInputs, sizes: Sequence[int], seconds: float) -> dict[int, float]:
    session = open_session(graph).session
    found = {}
    for size in sizes:
        rows = {name: values[:size] for name, values in columns.items()}
        for _ in range(_WARM_RUNS):
            session.run(None, rows)
        calls, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            session.run(None, rows)
            calls += 1
        found[size] = calls * size / passed
    return found


if __name__ == "__main__":
    graph, file, sizes, seconds = sys.argv[1:]
    wanted = [int(size) for size in sizes.split(",")]
    found = _measured(Path(graph).read_bytes(), load_file(file), wanted, float(seconds))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
