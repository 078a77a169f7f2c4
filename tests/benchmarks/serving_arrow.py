"""10,000 rows in one Arrow request, beside the same graph called in a loop."""

from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file

from models.contract import arrow
from models.contract.columns import Category, Contract, Input, Number, Time
from models.contract.rows import MAXIMUM_ROWS, Array, Columns, graph_inputs
from tests.benchmarks import bare_runtime
from tests.benchmarks.figures import Figure
from tests.benchmarks.pinned import Bench, okruh, wrk
from tests.benchmarks.serving_rows import write_graph

_CONNECTIONS = 2
_CACHED_ROWS = 1024
"""So many rows' intermediate values fit a processor's caches, so that bare calls are at their best."""

_SEED = 1
_YEAR_US = (1_577_836_800_000_000, 1_609_459_200_000_000)
"""2020, in microseconds since 1970."""


def figures(bench: Bench) -> list[Figure]:
    """Compare rows a second; both run on the same core, in turn."""
    contract = bench.champion.card.contract
    columns = _drawn(contract, MAXIMUM_ROWS)
    graph, arrays, body = write_graph(bench), bench.place / "rows.safetensors", bench.place / "rows.arrow"
    save_file(graph_inputs(contract)(columns), arrays)
    _write(contract, columns, body)
    sizes, seconds = (MAXIMUM_ROWS, _CACHED_ROWS), bench.seconds / 2
    ours, bare = list[float](), list[dict[int, float]]()
    with ExitStack() as running:
        server = okruh("arrow", bench.settings, bench.tag, body, bench.place, kind=arrow.MEDIA_TYPE, journal="relaxed")
        served = running.enter_context(server)
        wrk(served, 1, _CONNECTIONS)
        for _ in range(bench.rounds):
            ours.append(wrk(served, bench.seconds, _CONNECTIONS).rate * MAXIMUM_ROWS)
            bare.append(bare_runtime.rates(graph, arrays, sizes, seconds))
    beside = {size: median(found[size] for found in bare) for size in sizes}
    return [
        Figure(
            name=f"rows/s, {MAXIMUM_ROWS:,} in an Arrow request, relaxed journal / ONNX Runtime in a loop",
            value=median(ours) / beside[MAXIMUM_ROWS],
            unit="ratio",
            bound=">= 0.8",
            compared_with={"ours": median(ours)}
            | {f"ONNX Runtime, {size:,} rows a call": rate for size, rate in beside.items()},
        )
    ]


def _write(contract: Contract, columns: Columns, path: Path) -> None:
    schema = arrow.schema(contract)
    with pa.ipc.new_stream(str(path), schema) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(arrow.arrays(contract, columns), schema=schema))


def _drawn(contract: Contract, rows: int) -> Columns:
    """Draw rows that the contract accepts."""
    draw = np.random.default_rng(_SEED)

    def values(column: Input) -> Array:
        if isinstance(column, Time):
            return draw.integers(*_YEAR_US, rows)
        if isinstance(column, Number):
            return draw.uniform(column.minimum, column.maximum, rows)
        assert isinstance(column, Category)
        return draw.choice(np.array(column.values), rows)

    return {column.name: values(column) for column in contract.inputs}
