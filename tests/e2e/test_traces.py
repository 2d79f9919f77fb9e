"""A trace from the client's request to the insert, as a collector receives it."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.conftest import kafka_settings
from tests.support.local import LocalTorpor

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []

    def take(self, body: bytes) -> None:
        """Keep the spans of a request."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = (a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                ids = {"trace": span.trace_id.hex(), "span": span.span_id.hex(), "parent": span.parent_span_id.hex()}
                links = [link.trace_id.hex() for link in span.links]
                numbers = {attribute.key: attribute.value.int_value for attribute in span.attributes}
                self.spans.append({"service": service, "name": span.name, **ids, "links": links, **numbers})

    def of(self, trace: str, count: int) -> dict[str, dict[str, Any]]:
        """The spans of a trace by their names, once there are `count`."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = {span["name"]: span for span in self.spans if span["trace"] == trace}
            if len(found) == count:
                return found
            time.sleep(0.05)
        raise AssertionError(json.dumps(self.spans, indent=1))


@contextlib.contextmanager
def collecting() -> Iterator[tuple[str, Collector]]:
    """A collector on loopback, and its address."""
    collector = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            packed = self.headers.get("content-encoding") == "gzip"
            assert self.path == "/v1/traces"
            collector.take(gzip.decompress(body) if packed else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", collector
        finally:
            server.shutdown()
            thread.join()


def test_a_clients_trace_goes_on_through_kafka_to_the_insert(tmp_path: Path) -> None:
    with collecting() as (endpoint, collector), kafka_settings(tmp_path / "kafka") as settings:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "TRACE_RATIO": "0", "OTEL_BSP_SCHEDULE_DELAY": "200"}
        torpor = LocalTorpor(tmp_path / "data", {**settings, **traced})
        torpor.start()
        try:
            wait_until_loaded(torpor, collector)
            torpor.send(b'{"service":"traced","message":"one"}', traceparent=f"00-{TRACE}-{SPAN}-01")
            torpor.send(b'{"service":"traced","message":"two"}')
            assert torpor.wait_for_total(2, service="traced") == 2
            spans = collector.of(TRACE, 3)
        finally:
            torpor.stop()
    ingest, publish, insert = spans["ingest"], spans["publish"], spans["insert"]
    assert (ingest["service"], ingest["parent"]) == ("torpor-ingest", SPAN)
    assert (publish["service"], publish["parent"], publish["logs"]) == ("torpor-ingest", ingest["span"], 1)
    assert (insert["service"], insert["parent"]) == ("torpor-index", publish["span"])
    # With a ratio of 0 only those are traced whose client asks for it.
    assert {span["trace"] for span in collector.spans} - {TRACE} <= {f"{0xA:032x}"}


def wait_until_loaded(torpor: LocalTorpor, collector: Collector) -> None:
    """Requests until one of them is traced from end to end: the SDKs of ingest and index load after the start."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        torpor.send(b'{"service":"warm","message":"up"}', traceparent=f"00-{0xA:032x}-{SPAN}-01")
        time.sleep(0.3)
        if {span["name"] for span in collector.spans} >= {"publish", "insert"}:
            return
    raise AssertionError("no trace arrives")
