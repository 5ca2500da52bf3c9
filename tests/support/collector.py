"""A collector of spans on this machine: takes OTLP over HTTP as any collector would, and keeps what came."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Span:
    """One span as it was sent."""

    def __init__(self, resource: dict[str, Any], sent: Any) -> None:
        self.resource = resource
        self.name = sent.name
        self.trace = sent.trace_id.hex()
        self.id = sent.span_id.hex()
        self.parent = sent.parent_span_id.hex()
        self.kind = sent.kind
        self.links = [link.span_id.hex() for link in sent.links]
        self.attributes = _plain(sent.attributes)
        self.failed = sent.status.code == 2
        self.begin_ns, self.end_ns = sent.start_time_unix_nano, sent.end_time_unix_nano

    def __repr__(self) -> str:
        return f"{self.name} {self.id} of {self.parent or 'nobody'} {self.attributes}"


class Collector:
    """What came, and how to answer: `status` is the HTTP status of every answer."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.status = 200
        self.requests = 0
        self.url = ""

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            about = _plain(resource.resource.attributes)
            self.spans += [Span(about, span) for scope in resource.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens on a free port of this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.requests += 1
            if collector.status == 200 and self.path == "/v1/traces":
                collector.take(body)
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        collector.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
