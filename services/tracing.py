"""Traces of requests, as W3C Trace Context says, exported by OTLP over HTTP.

A caller that sends a `traceparent` decides: its sampled requests are traced as its children, the others are not. Who
sends none, or a malformed one, is traced at a rate. What is not traced costs a look at the headers. The answer to what
is traced says in `traceresponse` which trace that is, so that whoever holds it can find how it came about.

Spans are exported by a thread, out of a bounded queue. Where the collector does not keep up or does not answer, spans
are lost and counted, requests go on as before, and the log says so once.
"""

import logging
import random
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.context import attach, detach
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from services import metrics
from services.trace_context import Headers, parent_of

logger = logging.getLogger("bentoml.okruh.tracing")

_QUEUED_SPANS = 2048
_FLUSH_S = 3.0
_LONGEST_TRACESTATE = 512
_LONGEST_ATTRIBUTE = 1000
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


class Trace:
    """One traced request."""

    def __init__(self, tracer: Tracer, span: Span, method: str) -> None:
        self._tracer = tracer
        self._method = method
        self._span = span
        self._context = set_span_in_context(span)
        self._before = attach(self._context)  # so that the log's lines bear it
        names = span.get_span_context()
        self.id = f"{names.trace_id:032x}"
        """As W3C writes it."""
        self.parent = f"00-{self.id}-{names.span_id:016x}-01".encode()
        """This request's span, as a `traceparent` names it."""

    def step(self, name: str) -> AbstractContextManager[Any]:
        """Time a part of the request."""
        return self._tracer.start_as_current_span(
            name,
            self._context,
            record_exception=False,
            set_status_on_exception=False,  # whose text shows what came
        )

    def end(self, name: str, status: int | None, told: Mapping[str, str | int | None]) -> None:
        """End the request on the path `name`, with what is told of it; None: the caller has gone."""
        if name.startswith("/"):
            self._span.update_name(f"{self._method} {name}")
            self._span.set_attribute("http.route", name)
        self._span.set_attributes({f"okruh.{key}": value for key, value in told.items() if value is not None})
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
            if status >= 500:
                self._span.set_attribute("error.type", str(status))
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
        detach(self._before)


class Tracing:
    """Decides which requests are traced, and exports their spans. For one event loop."""

    def __init__(self, endpoint: str, rate: float, service: str) -> None:
        """Export to `endpoint`; trace a share of `rate` of the requests whose caller decides nothing."""
        self._rate = rate
        resource = Resource.create({SERVICE_NAME: service}).merge(OTELResourceDetector().detect())
        limits = SpanLimits(max_attribute_length=_LONGEST_ATTRIBUTE)
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, span_limits=limits)
        self._provider.add_span_processor(_Queue(_Collector(endpoint)))
        self._tracer = self._provider.get_tracer("okruh")
        logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)  # it logs what callers send

    def begin(self, scope: Mapping[str, Any]) -> Trace | None:
        """Begin the trace of a request; None where it is not sampled."""
        headers = scope["headers"]
        parent = parent_of(headers)
        if not (random.random() < self._rate if parent is None else parent.sampled):  # noqa: S311 (no secret)
            return None
        context = None
        if parent is not None:
            flags = TraceFlags(TraceFlags.SAMPLED)
            names = SpanContext(parent.trace_id, parent.span_id, True, flags, _state_of(headers))  # noqa: FBT003
            context = set_span_in_context(NonRecordingSpan(names))
        attributes = _attributes(scope)
        method = str(attributes["http.request.method"])
        return Trace(self._tracer, self._tracer.start_span(method, context, SpanKind.SERVER, attributes), method)

    def close(self) -> None:
        """Export what is queued, within some seconds; what a collector does not take by then is lost."""
        flushing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)


class _Queue(BatchSpanProcessor):
    """Exports in a thread; refuses what the thread is behind with.

    The SDK's own bound logs each span that it drops, and tells nobody how many.
    """

    def __init__(self, collector: "_Collector") -> None:
        super().__init__(collector, max_queue_size=_QUEUED_SPANS)
        self._collector = collector
        self._accepted = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span, or count it as lost."""
        if self._accepted - self._collector.taken >= _QUEUED_SPANS:
            metrics.LOST_SPANS.inc()
            return
        self._accepted += 1
        super().on_end(span)


class _Collector(SpanExporter):
    """The SDK's exporter, with its losses counted and its many words made one line."""

    def __init__(self, endpoint: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint)
        self._endpoint = endpoint
        self._reason = _FirstWord()
        self._reached = True
        self.taken = 0
        """Spans that are no longer queued."""
        logging.getLogger(trace_exporter.__name__).addFilter(self._reason)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans, within the exporter's time-out. Never raises."""
        self.taken += len(spans)
        self._reason.said = None
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 (what an address or a proxy can cause; the thread must go on)
            self._reason.said = str(error)
            result = SpanExportResult.FAILURE
        reached = result is SpanExportResult.SUCCESS
        if not reached:
            metrics.LOST_SPANS.inc(len(spans))
            if self._reached:
                logger.warning("traces cannot be exported to %s: %s", self._endpoint, self._reason.said)
        elif not self._reached:
            logger.info("traces are exported to %s again", self._endpoint)
        self._reached = reached
        return result

    def shutdown(self) -> None:
        """Give up what is being tried."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
        logging.getLogger(trace_exporter.__name__).removeFilter(self._reason)


class _FirstWord(logging.Filter):
    """Keeps what a logger said first, and says nothing."""

    said: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a record."""
        self.said = self.said or record.getMessage()
        return False


def _state_of(headers: Headers) -> TraceState:
    """Give the caller's `tracestate`; empty where it is malformed or longer than it need be carried."""
    given = [value for name, value in headers if name == b"tracestate"]
    if sum(map(len, given)) > _LONGEST_TRACESTATE:
        return TraceState()
    return TraceState.from_header([value.decode("latin-1").strip(" \t") for value in given])


def _attributes(scope: Mapping[str, Any]) -> dict[str, str | int]:
    """Describe a request by OpenTelemetry's HTTP conventions; its query is left out, which may hold a secret."""
    method = scope["method"]
    attributes: dict[str, str | int] = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    attributes |= _address("server", scope.get("server")) | _address("client", scope.get("client"))
    return attributes


def _address(side: str, address: Iterable[Any] | None) -> dict[str, str | int]:
    if address is None:
        return {}
    host, port = address
    return {f"{side}.address": host} | ({f"{side}.port": port} if port else {})
