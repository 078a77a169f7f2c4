"""The service with two workers: what it counts adds up, whichever of them answered, and whoever of them died."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.mmap_dict import MmapedDict

from infra import bentos
from infra.serving_process import ServiceProcess
from infra.settings import Settings
from services.worker_files import forget_the_dead, inherit, prepare
from tests.services.collector import Collector, collecting

REQUESTS = 120
ROWS = 3
WITHIN_S = 30.0
WORKERS = 'okruh_champion_workers{model="tiny",version="v1"}'


@pytest.fixture
def collector() -> Iterator[Collector]:
    """What takes the traces."""
    with collecting() as collector:
        yield collector


@pytest.fixture
def service(settings: Settings, promote: Callable[..., None], collector: Collector) -> Iterator[ServiceProcess]:
    """The Bento of `v1`, served by two workers."""
    promote("v1", 2.0)
    told = {"access_log_rate": 1.0, "traces_endpoint": collector.url, "traces_rate": 0.0}
    settings = settings.model_copy(update={"workers": 2, **told})
    with ServiceProcess.start(settings, bentos.build(settings, "tiny").tag) as service:
        yield service


def test_what_workers_count_adds_up_and_outlives_them(
    settings: Settings, service: ServiceProcess, collector: Collector, row: dict[str, Any]
) -> None:
    folder = settings.bentos / "okruh_metrics" / str(service.pid)
    await_workers(service.url, 2)

    ask(service.url, row)

    adds_up(service.url, 1)
    assert all(answered(file) > 0 for file in folder.glob("counter_*.db"))  # or one has answered all
    before, killed = workers(folder), next(iter(workers(folder)))
    assert len(before) == 2
    os.kill(killed, signal.SIGKILL)
    await_replaced(folder, before, killed)
    await_workers(service.url, 2)
    adds_up(service.url, 1)
    ask(service.url, row)
    adds_up(service.url, 2)
    asked = [trace_id(service.url, path, row) for path in ("/v1/predict", "/predict")]
    assert service.stop() == 0
    each_was_traced_once(collector, asked)
    each_was_logged(service.log, asked)


def trace_id(url: str, path: str, row: dict[str, Any]) -> str:
    """Send a request that its caller traces."""
    trace = os.urandom(16).hex()
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = httpx.post(f"{url}{path}", json={"rows": [row]}, headers=headers)
    assert answer.headers["traceresponse"].startswith(f"00-{trace}-")
    return trace


def each_was_traced_once(collector: Collector, asked: list[str]) -> None:
    spans = [collector.span() for _ in range(10)]
    assert collector.empty
    assert sorted(span.trace_id.hex() for span in spans if span.kind == Span.SPAN_KIND_SERVER) == sorted(asked)
    assert [len([span for span in spans if span.trace_id.hex() == trace]) for trace in asked] == [5, 5]
    for request in (span for span in spans if span.kind == Span.SPAN_KIND_SERVER):
        told = {one.key: one.value.string_value or one.value.int_value for one in request.attributes}
        assert (told["okruh.version"], told["okruh.rows"]) == ("v1", 1)


def each_was_logged(log: Path, asked: list[str]) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    own = [line for line in lines if line["path"] in {"/v1/predict", "/predict"}]
    assert len(own) == 2 * REQUESTS + len(asked)
    assert [(line["trace"], line["version"], line["rows"]) for line in own[-2:]] == [(one, "v1", 1) for one in asked]


def ask(url: str, row: dict[str, Any]) -> None:
    """Send good, bad and native requests, each by a connection of its own."""

    def one(index: int) -> tuple[str, int]:
        path = ("/v1/predict", "/v1/predict", "/predict")[index % 3]
        body = {"rows": [row if index % 3 else {**row, "kind": "boat"}] * ROWS}
        return path, httpx.post(f"{url}{path}", json=body, timeout=WITHIN_S).status_code

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(REQUESTS)))
    assert set(answers) == {("/v1/predict", 200), ("/v1/predict", 422), ("/predict", 200)}
    assert httpx.get(f"{url}/nothing/here").status_code == 404


def adds_up(url: str, times: int) -> None:
    counts, third = counted(url), times * REQUESTS // 3
    assert counts['okruh_requests_total{path="/v1/predict",status="200"}'] == third
    assert counts['okruh_requests_total{path="/v1/predict",status="422"}'] == third
    assert counts['okruh_requests_total{path="/predict",status="200"}'] == third
    assert counts['okruh_requests_total{path="other",status="404"}'] == times
    assert counts['okruh_request_seconds_count{path="/v1/predict"}'] == 2 * third
    assert counts['okruh_request_seconds_bucket{le="+Inf",path="/v1/predict"}'] == 2 * third
    assert counts['okruh_request_seconds_count{path="/predict"}'] == third
    assert counts['okruh_predictions_total{version="v1"}'] == 2 * third * ROWS


def counted(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics").raise_for_status().text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def workers(folder: Path) -> set[int]:
    return {int(path.stem.rpartition("_")[2]) for path in folder.glob("*.db")}


def answered(file: Path) -> float:
    return sum(value for key, value, _, _ in MmapedDict.read_all_values_from_file(file) if "okruh_requests" in key)  # type: ignore[no-untyped-call]


def await_workers(url: str, count: int) -> None:
    until(lambda: counted(url).get(WORKERS) == count)


def await_replaced(folder: Path, before: set[int], killed: int) -> None:
    until(lambda: len(workers(folder)) == 2 and killed not in workers(folder) and workers(folder) != before)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_worker_goes_on_with_the_counts_of_one_dead_and_leaves_the_living_theirs(tmp_path: Path, dead: int) -> None:
    alive, heir = os.getppid(), os.getpid()
    for kind in ("counter", "histogram", "gauge_livesum"):
        (tmp_path / f"{kind}_{dead}.db").write_text(f"{kind} of the dead")
        (tmp_path / f"{kind}_{alive}.db").write_text(f"{kind} of the living")

    inherit(tmp_path, heir)
    forget_the_dead(tmp_path)

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"counter_{alive}.db": "counter of the living",
        f"gauge_livesum_{alive}.db": "gauge_livesum of the living",
        f"histogram_{alive}.db": "histogram of the living",
        f"counter_{heir}.db": "counter of the dead",
        f"histogram_{heir}.db": "histogram of the dead",
    }


def test_a_worker_starts_beside_files_that_are_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "okruh_metrics"
    place.mkdir()
    (place / "notes.txt").write_text("somebody's")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "prometheus"))

    assert prepare() == place / str(os.getppid())
    assert (place / "notes.txt").exists()


def test_a_worker_keeps_no_gauge_of_an_earlier_process_of_its_id(tmp_path: Path) -> None:
    heir = os.getpid()
    for kind in ("counter", "gauge_livemin"):
        (tmp_path / f"{kind}_{heir}.db").write_text(kind)

    inherit(tmp_path, heir)
    forget_the_dead(tmp_path, heir)

    assert [path.name for path in tmp_path.iterdir()] == [f"counter_{heir}.db"]
