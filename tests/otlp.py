"""Where spans arrive: an OTLP/HTTP sink of our own, and rotel, a real receiver, before it."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Arrived:
    """One span, as it came over the wire."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    is_error: bool
    error: str
    events: list[str]
    links: list[str]
    resource: dict[str, Any]
    children: list[Arrived] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [child.name for child in self.children]

    def all(self) -> list[Arrived]:
        return [self, *(span for child in self.children for span in child.all())]


class Sink:
    """Hears OTLP over HTTP. answer: what it does with a request, before it says 200."""

    def __init__(self, answer: Callable[[], int] = lambda: 200) -> None:
        self.spans: list[Arrived] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                status = answer()
                if status == 200:
                    sink.spans += _parse(body)
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def trees(self) -> list[Arrived]:
        """Return the roots of what arrived, children in order of their beginning.

        A span whose parent came from outside is a root, too.
        """
        known = {span.span_id: span for span in self.spans}
        assert len(known) == len(self.spans)
        for span in self.spans:
            span.children = []
        for span in sorted(self.spans, key=lambda span: span.start_ns):
            if span.parent_id in known:
                known[span.parent_id].children.append(span)
        return [span for span in self.spans if span.parent_id not in known]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Rotel:
    """rotel's agent: OTLP in, OTLP out to the sink, an attribute of its own on every resource."""

    def __init__(self, sink: Sink, folder: Path) -> None:
        found = importlib.util.find_spec("rotel")
        assert found is not None
        assert found.origin is not None
        grpc, http = _free_port(), _free_port()
        self.url = f"http://127.0.0.1:{http}"
        with (folder / "rotel.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(str(Path(found.origin).with_name("rotel-agent")), "start"),
                    *("--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"),
                    *("--otlp-http-endpoint", f"127.0.0.1:{http}"),
                    *("--exporter", "otlp", "--otlp-exporter-endpoint", sink.url),
                    *("--otlp-exporter-protocol", "http"),
                    *("--otel-resource-attributes", "cluster=test"),
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", http)) == 0:
                    return
            assert self._process.poll() is None, (folder / "rotel.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(timeout=10)


def _parse(body: bytes) -> list[Arrived]:
    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        shared = {a.key: _value(a.value) for a in resource.resource.attributes}
        for scope in resource.scope_spans:
            found += [
                Arrived(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    {a.key: _value(a.value) for a in span.attributes},
                    span.status.code == 2,
                    span.status.message,
                    [event.name for event in span.events],
                    [link.span_id.hex() for link in span.links],
                    shared,
                )
                for span in scope.spans
            ]
    return found


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def _free_port() -> int:
    with socket.socket() as probe:
        while True:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port > 20_000:
                return port
