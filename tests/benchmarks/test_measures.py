"""What the benchmarks rest on: what is read of processes, how growth is judged, what made graphs give."""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from models.contract.rows import Array
from models.inference import Predictor
from tests.benchmarks import graphs, processes
from tests.benchmarks.open_loop import id_of
from tests.benchmarks.soak import Sample, Trend, trend

_CHILD = """
import sys
kept, files = bytearray(64 << 20), [open(sys.executable) for _ in range(20)]
print(flush=True)
input()
"""


def test_finds_children_and_reads_their_memory_and_descriptors() -> None:
    with subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()

        assert child.pid in processes.children(os.getpid())
        assert processes.children(child.pid) == []
        assert 64 << 20 < processes.rss_bytes(child.pid) < 128 << 20
        assert processes.descriptors(child.pid) == 3 + 20
        child.communicate(b"\n")


def test_reads_the_processor_time_that_the_kernel_charges() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    found = processes.cpu_s(os.getpid())
    after = resource.getrusage(resource.RUSAGE_SELF)

    tick = 2 / os.sysconf("SC_CLK_TCK")
    assert before.ru_utime + before.ru_stime - tick <= found <= after.ru_utime + after.ru_stime + tick


def test_growth_compares_the_window_after_the_warm_up_with_the_last() -> None:
    values = [1, 1, 5, 6, 7, 100, 100, 9, 10, 11]
    samples = [Sample(float(second), value, 0) for second, value in enumerate(values)]

    assert trend(samples, lambda sample: sample.rss_bytes, warm_up_s=2.0, window_s=3.0) == Trend(6, 10)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model":"m","version":"v","predictions":[{"id":"a-1","value":2.0}]}', b"a-1"),
        (b'{"predictions":[2.0]}', b""),
    ],
)
def test_reads_the_id_of_an_answer(body: bytes, name: bytes) -> None:
    assert id_of(body) == name


def test_a_multiplying_graph_multiplies() -> None:
    predictor = Predictor(graphs.multiplying(3), graphs.CONTRACT)

    assert predictor.predict(_columns([[7.0, *[0.0] * 15], [1.0] * 16])).tolist() == [21.0, 48.0]


@pytest.mark.parametrize("graph", [graphs.cnn(), graphs.wide_mlp(64)], ids=["cnn", "wide_mlp"])
def test_networks_give_a_number_of_its_own_a_row(graph: bytes) -> None:
    rows = np.random.default_rng(0).standard_normal((5, graphs.FEATURES)).tolist()

    values = Predictor(graph, graphs.CONTRACT).predict(_columns(rows))

    assert values.shape == (5,)
    assert len(set(values.tolist())) == 5
    assert np.abs(values).max() < graphs.LARGEST


def test_networks_are_the_same_each_time() -> None:
    assert graphs.wide_mlp(64) == graphs.wide_mlp(64)
    assert graphs.cnn() == graphs.cnn()


def _columns(rows: list[list[float]]) -> dict[str, Array]:
    names = [feature.name for feature in graphs.CONTRACT.features]
    numbers = dict(zip(names, np.array(rows, np.float32).T, strict=True))
    return {graphs.CONTRACT.time_column.name: np.zeros(len(rows), np.int64), **numbers}
