"""Clients that people have, none of ours, against the whole: n records sent, n found, as the README's table says."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cramjam
import elasticsearch
import elasticsearch.helpers
import grpc
import logging_loki  # type: ignore[import-untyped]  # it ships no types
import opensearchpy
import opensearchpy.helpers
import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from splunk_hec_handler import SplunkHecHandler  # type: ignore[import-untyped]  # it ships no types

from functions.common import timestamps
from functions.ingest.proto.loki_pb2 import PushRequest
from tests.support.local import LocalTorpor

ROOT = Path(__file__).parents[2]
COUNT = 500
START = timestamps.now() - 60 * timestamps.NANOSECONDS
"""Times with all nine digits, each of its own."""
TIMES = [START + number * 1_000_003 for number in range(COUNT)]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def found(torpor: LocalTorpor, service: str, count: int = COUNT) -> list[dict[str, Any]]:
    """The logs of a service, oldest first; there must be `count` of them."""
    assert torpor.wait_for_total(count, service=service) == count
    logs: list[dict[str, Any]] = torpor.search(service=service, limit=str(count))["logs"]
    return logs[::-1]


def times(logs: list[dict[str, Any]]) -> list[int]:
    return [timestamps.parse(log["timestamp"]) for log in logs]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger for one handler, which is closed."""
    logger = logging.getLogger("client")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize("way", ["grpc", "grpc gzip", "http", "http gzip"])
def test_opentelemetrys_sdk(torpor: LocalTorpor, way: str) -> None:
    service = f"otel-{way.replace(' ', '-')}"
    exporter: GrpcExporter | HttpExporter
    if way.startswith("grpc"):
        compression = grpc.Compression.Gzip if "gzip" in way else grpc.Compression.NoCompression
        exporter = GrpcExporter(f"127.0.0.1:{torpor.ports['grpc']}", insecure=True, compression=compression)
    else:
        packed = Compression.Gzip if "gzip" in way else Compression.NoCompression
        exporter = HttpExporter(torpor.url("ingest", "/v1/logs"), compression=packed)
    provider = LoggerProvider(Resource.create({"service.name": service, "region": "eu"}), shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    emitter = provider.get_logger("shop.orders", "1.2")
    span = NonRecordingSpan(SpanContext(int(TRACE, 16), int(SPAN, 16), False, TraceFlags(1)))
    context = set_span_in_context(span)
    for number, time in enumerate(TIMES):
        emitter.emit(
            LogRecord(
                timestamp=time,
                context=context,
                severity_number=SeverityNumber.WARN2,
                severity_text="attention",
                body=f"order {number}",
                attributes={"number": number, "tags": ("a", "b"), "region": "us"},
                event_name="order.late",
            )
        )
    provider.shutdown()
    logs = found(torpor, service)
    assert times(logs) == TIMES
    assert [log["message"] for log in logs] == [f"order {number}" for number in range(COUNT)]
    assert {(log["level"], log["trace_id"], log["span_id"]) for log in logs} == {("WARN", TRACE, SPAN)}
    metadata = logs[7]["metadata"]
    assert (
        metadata.items()
        >= {
            "number": "7",
            "tags": '["a","b"]',
            "region": "us",
            "resource.region": "eu",
            "severity_number": "14",
            "severity_text": "attention",
            "event_name": "order.late",
            "otel.scope.name": "shop.orders",
            "otel.scope.version": "1.2",
            "telemetry.sdk.language": "python",
        }.items()
    )


def test_a_record_with_a_uid_counts_once_however_often_the_sdk_sends_it(torpor: LocalTorpor) -> None:
    for _ in range(3):
        provider = LoggerProvider(Resource.create({"service.name": "otel-uid"}), shutdown_on_exit=False)
        provider.add_log_record_processor(BatchLogRecordProcessor(HttpExporter(torpor.url("ingest", "/v1/logs"))))
        for number, time in enumerate(TIMES):
            attributes = {"log.record.uid": f"otel-uid-{number}"}
            provider.get_logger("x").emit(LogRecord(timestamp=time, body="again", attributes=attributes))
        provider.shutdown()
    assert times(found(torpor, "otel-uid")) == TIMES


def test_one_log_by_http_grpc_and_otlp_with_one_id_and_timestamp_counts_once(torpor: LocalTorpor) -> None:
    line = {"service": "one", "message": "m", "timestamp": timestamps.iso(START), "id": "the-one"}
    torpor.send(json.dumps(line).encode())
    script = f"""
import grpc
from log_pb2 import LogEntry
from log_pb2_grpc import LogIngestionServiceStub
channel = grpc.insecure_channel("127.0.0.1:{torpor.ports["grpc"]}")
LogIngestionServiceStub(channel).IngestLog(LogEntry(**{line!r}))
"""
    python("-c", script)
    for exporter in (
        GrpcExporter(f"127.0.0.1:{torpor.ports['grpc']}", insecure=True),
        HttpExporter(torpor.url("ingest", "/v1/logs")),
    ):
        provider = LoggerProvider(Resource.create({"service.name": "one"}), shutdown_on_exit=False)
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        record = LogRecord(timestamp=START, body="m", attributes={"log.record.uid": "the-one"})
        provider.get_logger("x").emit(record)
        provider.shutdown()
    (log,) = found(torpor, "one", 1)
    assert log["metadata"]["id"] == "the-one"


def python(*arguments: str) -> str:
    """Run a client's program as the README says: with the generated modules on its path."""
    environment = {"PYTHONPATH": str(ROOT / "functions/ingest/proto"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_grpc_client_of_the_readme_works_as_written(torpor: LocalTorpor) -> None:
    block = re.search(r"<!-- grpc -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block and len([line for line in block[1].splitlines() if line]) == 5
    assert "success: true" in python("-c", block[1].replace("50051", str(torpor.ports["grpc"])))
    (log,) = found(torpor, "hello-grpc", 1)
    assert (log["message"], log["metadata"]) == ("first light", {"user": "7"})


def test_the_curl_lines_of_the_readme_work_as_written(torpor: LocalTorpor) -> None:
    block = re.search(r"<!-- curls -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block
    script = block[1].replace("8081", str(torpor.ports["ingest"])).replace("curl ", "curl -sS --fail-with-body ")
    script = script.replace("hello", "hello-curl")
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    messages = {log["message"] for log in found(torpor, "hello-curl", 5)}
    assert messages == {"by OTLP", "as to Loki", "as to Elasticsearch", "as to Splunk", "as syslog"}


def test_the_handler_of_the_readme_works_as_written(torpor: LocalTorpor) -> None:
    block = re.search(r"<!-- handler -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block[1].replace("8081", str(torpor.ports["ingest"]))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (log,) = found(torpor, "checkout", 1)
    assert (log["level"], log["message"], log["trace_id"]) == ("ERROR", "declined", "4bf92f3577b34da6")
    assert log["metadata"]["order"] == "17"


def test_python_logging_loki(torpor: LocalTorpor, logger: logging.Logger) -> None:
    url = torpor.url("ingest", "/loki/api/v1/push")
    logger.addHandler(logging_loki.LokiHandler(url, tags={"service": "loki-python", "env": "test"}, version="1"))
    before = timestamps.now()
    for number in range(COUNT):
        logger.warning("line %d", number, extra={"tags": {"number": number}})
    logs = found(torpor, "loki-python")
    assert [log["message"] for log in logs] == [f"line {number}" for number in range(COUNT)]
    assert before - 1000 <= times(logs)[0] <= times(logs)[-1] <= timestamps.now()
    assert {log["level"] for log in logs} == {"WARN"}
    assert logs[3]["metadata"].items() >= {"env": "test", "number": "3", "logger": "client"}.items()


def test_a_push_of_snappy_protobuf_as_lokis_agents_send_it(torpor: LocalTorpor) -> None:
    request = PushRequest()
    stream = request.streams.add(labels=b'{service_name="loki-snappy", level="error", env="te\\"st"}')
    for number, time in enumerate(TIMES):
        entry = stream.entries.add(line=b"line %d" % number)
        entry.timestamp.seconds, entry.timestamp.nanos = divmod(time, timestamps.NANOSECONDS)
        entry.structured_metadata.add(name=b"trace_id", value=TRACE.encode())
        entry.structured_metadata.add(name=b"number", value=b"%d" % number)
    body = bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
    headers = {"content-type": "application/x-protobuf"}
    answer = torpor.http.post(torpor.url("ingest", "/loki/api/v1/push"), content=body, headers=headers)
    assert answer.status_code == 204
    logs = found(torpor, "loki-snappy")
    assert times(logs) == TIMES
    assert {(log["level"], log["trace_id"]) for log in logs} == {("ERROR", TRACE)}
    assert logs[9]["metadata"].items() >= {"env": 'te"st', "number": "9"}.items()


def documents(service: str) -> Iterator[dict[str, Any]]:
    for number, time in enumerate(TIMES):
        yield {
            "_op_type": "create",
            "_index": "logs-shop-default",
            "_id": f"{service}-{number}",
            "@timestamp": timestamps.iso(time),
            "message": f"document {number}",
            "service": {"name": service},
            "log.level": "error",
            "trace": {"id": TRACE},
            "http": {"status": 500 + number % 4},
        }


@pytest.mark.parametrize("module", [elasticsearch, opensearchpy], ids=lambda module: str(module.__name__))
def test_bulk_helpers_count_once_however_often_they_repeat(torpor: LocalTorpor, module: Any) -> None:
    service = f"bulk-{module.__name__}"
    client = module.Elasticsearch if module is elasticsearch else module.OpenSearch
    with client(torpor.url("ingest", "").rstrip("/"), http_compress=True) as search:
        assert search.info()["tagline"] == "You Know, for Search"
        for _ in range(2):
            assert module.helpers.bulk(search, documents(service), max_retries=3, chunk_size=100) == (COUNT, [])
        wrong = [{"_index": "i", "message": "m", "@timestamp": "yesterday"}, {"_index": "i", "message": "late"}]
        with pytest.raises(module.helpers.BulkIndexError) as caught:
            module.helpers.bulk(search, wrong)
        assert len(caught.value.errors) == 1 and "timestamp" in str(caught.value.errors[0])
    logs = found(torpor, service)
    assert times(logs) == TIMES
    assert [log["message"] for log in logs] == [f"document {number}" for number in range(COUNT)]
    assert {(log["level"], log["trace_id"]) for log in logs} == {("ERROR", TRACE)}
    metadata = logs[1]["metadata"]
    assert metadata == {"id": f"logs-shop-default/{service}-1", "http.status": "501", "index": "logs-shop-default"}


def test_splunks_handler(torpor: LocalTorpor, logger: logging.Logger) -> None:
    sending = SplunkHecHandler(
        "127.0.0.1", "token", port=torpor.ports["ingest"], proto="http", source="hec-python", hostname="web-1"
    )
    logger.addHandler(sending)
    first = START // timestamps.NANOSECONDS - COUNT
    for number in range(COUNT):
        logger.error({"message": f"event {number}", "number": number, "time": first + number})
    sending.r.close()
    logs = found(torpor, "hec-python")
    assert [log["message"] for log in logs] == [f"event {number}" for number in range(COUNT)]
    assert times(logs) == [(first + number) * timestamps.NANOSECONDS for number in range(COUNT)]
    assert {log["level"] for log in logs} == {"ERROR"}
    assert logs[5]["metadata"].items() >= {"host": "web-1", "number": "5"}.items()


def test_lines_of_syslog_and_cef_as_a_body(torpor: LocalTorpor) -> None:
    lines = [
        f'<11>1 {timestamps.iso(time)} web-1 syslog-http 42 ID7 [shop@1 number="{number}"] line {number}'
        for number, time in enumerate(TIMES)
    ]
    lines.append(f"CEF:0|Acme|cef-http|1.0|100|Door opened|9|rt={START // 10**6} src=10.0.0.1 msg=The door is open")
    headers = {"content-type": "text/plain"}
    answer = torpor.http.post(torpor.url("ingest", "/api/v1/syslog"), content="\n".join(lines), headers=headers)
    assert answer.json()["accepted"] == COUNT + 1
    logs = found(torpor, "syslog-http")
    assert times(logs) == TIMES
    assert {log["level"] for log in logs} == {"ERROR"}
    assert logs[8]["metadata"].items() >= {"host": "web-1", "shop@1.number": "8", "msgid": "ID7"}.items()
    (log,) = found(torpor, "cef-http", 1)
    assert (log["level"], log["message"], log["metadata"]["src"]) == ("FATAL", "The door is open", "10.0.0.1")
