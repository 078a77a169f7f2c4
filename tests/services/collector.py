"""An OTLP/HTTP collector in process: what arrives is decoded and kept."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WITHIN_S = 20.0


class Collector:
    """Spans that came, in the order in which they did."""

    def __init__(self) -> None:
        self.status = 200
        """What it answers."""
        self.goes_on = threading.Event()
        """Until it is set, nobody is answered."""
        self.goes_on.set()
        self.asked: queue.Queue[str] = queue.Queue()
        """The path of each request."""
        self.services: set[str] = set()
        self.url = ""
        self._spans: queue.Queue[Span] = queue.Queue()

    def take(self, path: str, body: bytes) -> None:
        """Keep what came."""
        self.asked.put(path)
        if self.status == 200:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                named = {one.key: one.value.string_value for one in resource.resource.attributes}
                self.services.add(named["service.name"])
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._spans.put(span)

    def span(self) -> Span:
        """Give the next span."""
        return self._spans.get(timeout=WITHIN_S)

    @property
    def empty(self) -> bool:
        """Whether all that came was given."""
        return self._spans.empty()


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a loopback port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            collector.goes_on.wait(WITHIN_S)
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collector
        server.shutdown()
        thread.join()
