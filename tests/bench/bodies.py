"""The same generated logs as a request of every protocol."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from typing import Any

import cramjam
from backports import zstd
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from functions.common import timestamps
from functions.common.record import LEVELS
from functions.ingest.dialects import entries, json_records, otlp_json, otlp_protobuf
from functions.ingest.proto.log_pb2 import LogBatch, LogEntry
from functions.ingest.proto.loki_pb2 import PushRequest
from functions.ingest.records import Numbered
from functions.local.generate import Generator

Log = dict[str, Any]
Parse = Callable[[bytes], Numbered]
LINES = "application/x-ndjson"


@dataclasses.dataclass(frozen=True)
class Request:
    """A request of `logs` logs. `path` of gRPC begins with the name of the service; `bar` is in logs/s per core."""

    name: str
    path: str
    body: bytes
    logs: int
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    parse: Parse | None = None
    bar: int = 0
    connections: int = 8

    @property
    def is_grpc(self) -> bool:
        """Whether it goes to the gRPC server."""
        return not self.path.startswith("/")


def logs(count: int) -> list[Log]:
    """Generated logs of the last seconds."""
    now, generator = timestamps.now(), Generator(seed=5)
    return [generator.log(now - (count - place) * 1_000_003) for place in range(count)]


def requests() -> list[Request]:
    """The requests that are measured."""
    some, one = logs(1000), logs(1)
    lines, line = json_lines(some), json_lines(one)
    http = "/api/v1/ingest"
    own = "torpor.logs.v1.LogIngestionService"
    otlp = otlp_request(some)
    export = "opentelemetry.proto.collector.logs.v1.LogsService/Export"
    protobuf = {"content-type": "application/x-protobuf"}
    text = {"content-type": "application/json"}
    kind = {"content-type": LINES}
    as_lines: Parse = lambda body: json_records.records(body, LINES)  # noqa: E731  one expression, used thrice
    return [
        Request("JSON lines, 1000 logs", http, lines, 1000, kind, as_lines, 300_000),
        Request(
            "JSON lines, 1000 logs, gzip", http, gzip.compress(lines, 6), 1000, kind | {"content-encoding": "gzip"}
        ),
        Request("JSON lines, 1000 logs, zstd", http, zstd.compress(lines), 1000, kind | {"content-encoding": "zstd"}),
        Request("JSON lines, 1 log", http, line, 1, kind, as_lines, 12_000, connections=64),
        Request("gRPC batch, 1000 logs", f"{own}/IngestLogBatch", log_batch(some), 1000, {}, _entries, 200_000),
        Request("gRPC, 1 log", f"{own}/IngestLog", log_entry(one[0]).SerializeToString(), 1, connections=64),
        Request("OTLP/gRPC, 1000 logs", export, otlp, 1000, {}, otlp_protobuf.records, 150_000),
        Request("OTLP/HTTP protobuf, 1000 logs", "/v1/logs", otlp, 1000, protobuf, otlp_protobuf.records, 150_000),
        Request("OTLP/HTTP JSON, 1000 logs", "/v1/logs", otlp_as_json(some), 1000, text, otlp_json.records),
        Request("Loki protobuf, 1000 logs", "/loki/api/v1/push", loki_protobuf(some), 1000, protobuf),
        Request("Loki JSON, 1000 logs", "/loki/api/v1/push", loki_json(some), 1000, text),
        Request("Elasticsearch bulk, 1000 logs", "/_bulk", bulk(some), 1000, kind),
        Request("Splunk HEC, 1000 logs", "/services/collector", hec(some), 1000, text),
        Request("Syslog RFC 5424, 1000 logs", "/api/v1/syslog", syslog(some), 1000, {"content-type": "text/plain"}),
    ]


def _entries(body: bytes) -> Numbered:
    return entries.records(entries.batch(body))


def json_lines(some: list[Log]) -> bytes:
    """JSON lines."""
    return b"\n".join(json.dumps(log).encode() for log in some)


def log_entry(log: Log) -> LogEntry:
    """A message of Torpor's own service."""
    return LogEntry(**{**log, "metadata": json.dumps(log["metadata"])})


def log_batch(some: list[Log]) -> bytes:
    """A batch of Torpor's own service."""
    return LogBatch(logs=[log_entry(log) for log in some]).SerializeToString()


def otlp_request(some: list[Log]) -> bytes:
    """An ExportLogsServiceRequest: a resource a service."""
    request = ExportLogsServiceRequest()
    resources: dict[str, Any] = {}
    for log in some:
        if log["service"] not in resources:
            resource = request.resource_logs.add()
            resource.resource.attributes.add(key="service.name").value.string_value = log["service"]
            resources[log["service"]] = resource.scope_logs.add()
        record = resources[log["service"]].log_records.add(
            time_unix_nano=timestamps.parse(log["timestamp"]),
            severity_number=4 * LEVELS.index(log["level"]) + 1,
            severity_text=log["level"],
            trace_id=bytes.fromhex(log["trace_id"]),
            span_id=bytes.fromhex(log["span_id"]),
        )
        record.body.string_value = log["message"]
        for key, value in log["metadata"].items():
            record.attributes.add(key=key).value.string_value = value
    return request.SerializeToString()


def otlp_as_json(some: list[Log]) -> bytes:
    """The same as JSON."""
    by_service: dict[str, list[Log]] = {}
    for log in some:
        record = {
            "timeUnixNano": str(timestamps.parse(log["timestamp"])),
            "severityNumber": 4 * LEVELS.index(log["level"]) + 1,
            "severityText": log["level"],
            "body": {"stringValue": log["message"]},
            "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in log["metadata"].items()],
            "traceId": log["trace_id"],
            "spanId": log["span_id"],
        }
        by_service.setdefault(log["service"], []).append(record)
    resources = [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
            "scopeLogs": [{"logRecords": records}],
        }
        for service, records in by_service.items()
    ]
    return json.dumps({"resourceLogs": resources}).encode()


def _streams(some: list[Log]) -> dict[tuple[str, str], list[Log]]:
    streams: dict[tuple[str, str], list[Log]] = {}
    for log in some:
        streams.setdefault((log["service"], log["level"]), []).append(log)
    return streams


def loki_protobuf(some: list[Log]) -> bytes:
    """A PushRequest, a stream a service and level, packed."""
    request = PushRequest()
    for (service, level), group in _streams(some).items():
        stream = request.streams.add(labels=f'{{service_name="{service}", level="{level}"}}'.encode())
        for log in group:
            seconds, nanos = divmod(timestamps.parse(log["timestamp"]), timestamps.NANOSECONDS)
            entry = stream.entries.add(line=log["message"].encode())
            entry.timestamp.seconds, entry.timestamp.nanos = seconds, nanos
            for name, value in {**log["metadata"], "trace_id": log["trace_id"]}.items():
                entry.structured_metadata.add(name=name.encode(), value=value.encode())
    return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


def loki_json(some: list[Log]) -> bytes:
    """The same as JSON."""
    streams = [
        {
            "stream": {"service_name": service, "level": level},
            "values": [
                [
                    str(timestamps.parse(log["timestamp"])),
                    log["message"],
                    {**log["metadata"], "trace_id": log["trace_id"]},
                ]
                for log in group
            ],
        }
        for (service, level), group in _streams(some).items()
    ]
    return json.dumps({"streams": streams}).encode()


def bulk(some: list[Log]) -> bytes:
    """Actions and documents."""
    lines: list[dict[str, Any]] = []
    for log in some:
        document = {"@timestamp": log["timestamp"], "service": {"name": log["service"]}, "message": log["message"]}
        trace = {"trace.id": log["trace_id"], "span.id": log["span_id"]}
        lines += [
            {"create": {"_index": "logs"}},
            {**document, "log": {"level": log["level"]}, **trace, **log["metadata"]},
        ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def hec(some: list[Log]) -> bytes:
    """Events one after another."""
    events = []
    for log in some:
        seconds, nanos = divmod(timestamps.parse(log["timestamp"]), timestamps.NANOSECONDS)
        fields = {**log["metadata"], "level": log["level"], "trace_id": log["trace_id"]}
        event = {"time": f"{seconds}.{nanos:09d}", "source": log["service"], "event": log["message"], "fields": fields}
        events.append(json.dumps(event).encode())
    return b"\n".join(events)


def syslog(some: list[Log]) -> bytes:
    """Lines of RFC 5424."""
    severities = {"TRACE": 7, "DEBUG": 7, "INFO": 6, "WARN": 4, "ERROR": 3, "FATAL": 2}
    lines = []
    for log in some:
        head = f"<{8 * 16 + severities[log['level']]}>1 {log['timestamp']} host-1 {log['service']} 77 -"
        data = "".join(f' {name}="{value}"' for name, value in log["metadata"].items())
        lines.append(f"{head} [app{data}] {log['message']}".encode())
    return b"\n".join(lines)
