"""Traces: which requests, whose children, what they tell, and what becomes of them where nobody takes them."""

import logging
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.trace import get_current_span

from infra.errors import Misconfigured
from infra.journal.journal import Journal
from infra.settings import load_settings
from models.bundle import Bundle
from services import metrics, tracing
from services.app import Edge
from services.champion import load
from services.endpoints import Endpoints
from services.following import Following
from services.observing import Observer
from services.predictions import Predictions
from services.tracing import Tracing
from tests.services.collector import WITHIN_S, Collector, collecting
from tests.services.conftest import Caller, teapot

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """What takes the traces."""
    with collecting() as collector:
        yield collector


@pytest.fixture
def traced(journal: Journal, make_bundle: Callable[..., Bundle]) -> Callable[[Tracing], Caller]:
    """Make a caller of a service that is traced so."""

    def traced(how: Tracing) -> Caller:
        edge = Edge(teapot, observer=Observer(tracing=how), fallback_paths=["/predict"])
        following = Following(load(make_bundle().files()), None, "main", 1.0)
        edge.find = Endpoints(following, journal, Predictions(journal)).find
        return Caller(edge)

    return traced


def attributes(span: Span) -> dict[str, str | int]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def lost() -> float:
    return float(metrics.LOST_SPANS._value.get())


def test_a_sampled_request_is_a_child_of_its_callers_span(
    collector: Collector, traced: Callable[[Tracing], Caller], row: dict[str, Any]
) -> None:
    how = Tracing(collector.url, 0.0, "okruh_tiny")

    answer = traced(how).post("/v1/predict?key=secret", json={"rows": [row, row]}, headers=SAMPLED)
    how.close()

    steps, request = [collector.span() for _ in range(4)], collector.span()
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert (request.name, request.kind) == ("POST /v1/predict", Span.SPAN_KIND_SERVER)
    assert request.trace_state == SAMPLED["tracestate"]
    told = attributes(request)
    assert {name: told[name] for name in told if not name.startswith(("client", "server"))} == {
        "http.request.method": "POST",
        "http.route": "/v1/predict",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "okruh.model": "tiny",
        "okruh.rows": 2,
        "okruh.version": "v1",
        "url.path": "/v1/predict",
        "url.scheme": "http",
    }
    assert [step.name for step in steps] == ["decode", "predict", "record", "encode"]
    assert {(step.trace_id.hex(), step.parent_span_id) for step in steps} == {(TRACE, request.span_id)}
    assert collector.services == {"okruh_tiny"}
    assert collector.empty


def test_a_request_that_its_caller_does_not_sample_is_not_traced(
    collector: Collector, traced: Callable[[Tracing], Caller]
) -> None:
    how = Tracing(collector.url, 1.0, "tiny")

    answer = traced(how).request("GET", "/livez", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    how.close()

    assert "traceresponse" not in answer.headers
    assert collector.empty


@pytest.mark.parametrize("headers", [{}, {"traceparent": f"00-{TRACE}-{PARENT}-1", "tracestate": "congo=t61rcWkgMzE"}])
def test_a_request_without_a_parent_begins_a_trace_of_its_own(
    collector: Collector, traced: Callable[[Tracing], Caller], headers: dict[str, str]
) -> None:
    how = Tracing(collector.url, 1.0, "tiny")

    traced(how).request("GET", "/livez", headers=headers)
    how.close()

    span = collector.span()
    assert span.trace_id.hex() != TRACE
    assert (span.parent_span_id, span.trace_state) == (b"", "")


def test_traces_the_share_that_is_asked_for(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    how = Tracing(collector.url, 0.25, "tiny")
    chances = iter([0.1, 0.24, 0.25, 0.3, 0.9])
    monkeypatch.setattr("random.random", lambda: next(chances))
    scope = {"method": "GET", "path": "/livez", "headers": []}

    began = []
    for _ in range(5):
        trace = how.begin(scope)
        began.append(trace is not None)
        if trace is not None:
            trace.end("/livez", 200, {})
    how.close()

    assert began == [True, True, False, False, False]


@pytest.mark.parametrize("state", ["not a state", "a=1,a=2", "a=" + "x" * 600, ",".join(f"k{n}=1" for n in range(33))])
def test_a_tracestate_that_cannot_be_carried_is_left_out(
    collector: Collector,
    traced: Callable[[Tracing], Caller],
    state: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    how = Tracing(collector.url, 0.0, "tiny")

    traced(how).request("GET", "/livez", headers={**SAMPLED, "tracestate": state})
    how.close()

    span = collector.span()
    assert (span.trace_id.hex(), span.trace_state) == (TRACE, "")
    assert caplog.records == []


def test_what_is_passed_on_is_traced_and_says_so(collector: Collector, traced: Callable[[Tracing], Caller]) -> None:
    how = Tracing(collector.url, 0.0, "tiny")
    caller = traced(how)

    answers = [caller.request("POST", path, headers=SAMPLED) for path in ("/predict", "/invented/by/somebody")]
    how.close()

    spans = [collector.span(), collector.span()]
    assert [answer.headers["traceresponse"][36:52] for answer in answers] == [span.span_id.hex() for span in spans]
    assert [span.name for span in spans] == ["POST /predict", "POST"]
    assert [attributes(span)["http.response.status_code"] for span in spans] == [418, 418]


def test_a_refused_request_tells_nothing_of_its_body(
    collector: Collector, traced: Callable[[Tracing], Caller], row: dict[str, Any]
) -> None:
    how = Tracing(collector.url, 0.0, "tiny")

    answer = traced(how).post("/v1/predict", json={"rows": [{**row, "kind": "unheard-of"}]}, headers=SAMPLED)
    how.close()

    spans = [collector.span(), collector.span()]
    assert answer.status_code == 422
    assert [span.name for span in spans] == ["decode", "POST /v1/predict"]
    assert spans[1].status.code == Status.STATUS_CODE_UNSET
    assert b"unheard-of" not in b"".join(span.SerializeToString() for span in spans)


def test_what_is_logged_of_a_request_bears_its_trace(collector: Collector) -> None:
    seen = []

    async def sees(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        seen.append(f"{get_current_span().get_span_context().trace_id:032x}")
        await teapot(scope, receive, send)

    how = Tracing(collector.url, 0.0, "tiny")
    client = Caller(Edge(sees, observer=Observer(tracing=how)))

    for headers in (SAMPLED, {}):
        client.request("GET", "/", headers=headers)
    how.close()

    assert seen == [TRACE, "0" * 32]


def test_a_failed_request_is_an_error(collector: Collector) -> None:
    async def fails(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    how = Tracing(collector.url, 0.0, "tiny")

    Caller(Edge(fails, observer=Observer(tracing=how))).request("GET", "/", headers=SAMPLED)
    how.close()

    span = collector.span()
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "503"


def test_a_collector_that_refuses_costs_its_spans_and_one_line(
    collector: Collector, traced: Callable[[Tracing], Caller], caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 400
    how, before = Tracing(collector.url, 0.0, "tiny"), lost()
    caller = traced(how)

    statuses = []
    for _ in range(3):
        statuses.append(caller.request("GET", "/livez", headers=SAMPLED).status_code)
        how._provider.force_flush()
    collector.status = 200
    caller.request("GET", "/livez", headers=SAMPLED)
    how.close()

    assert statuses == [200, 200, 200]
    assert lost() - before == 3
    assert collector.span().name == "GET /livez"
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert messages == [
        f"traces cannot be exported to {collector.url}: Failed to export span batch code: 400, reason: Bad Request"
    ]


def test_a_collector_that_hangs_costs_what_does_not_fit_the_queue_and_no_stop_waits_for_it(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "_QUEUED_SPANS", 512)
    monkeypatch.setattr(tracing, "_FLUSH_S", 0.01)
    collector.goes_on.clear()
    how, before = Tracing(collector.url, 1.0, "tiny"), lost()

    answer_requests(how, 512)  # which the exporter takes, and waits
    collector.asked.get(timeout=WITHIN_S)
    answer_requests(how, 512 + 100)
    how.close()

    flushing = [thread for thread in threading.enumerate() if thread.name == "traces"]
    assert len(flushing) == 1
    assert lost() - before == 100
    collector.goes_on.set()
    flushing[0].join()
    assert caplog.records == []


def answer_requests(how: Tracing, count: int) -> None:
    for _ in range(count):
        trace = how.begin({"method": "GET", "path": "/livez", "headers": []})
        assert trace is not None
        trace.end("/livez", 200, {})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("https://collector/", "https://collector/v1/traces"),
        ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
    ],
)
def test_an_address_without_a_path_gets_otlps(given: str, meant: str) -> None:
    assert load_settings(traces_endpoint=given).traces_endpoint == meant


@pytest.mark.parametrize("given", ["collector:4317", "grpc://collector:4317", "http://", "https://key@collector"])
def test_refuses_an_address_that_is_not_otlp_over_http(given: str) -> None:
    with pytest.raises(Misconfigured, match="OKRUH_TRACES_ENDPOINT: it is http"):
        load_settings(traces_endpoint=given)
