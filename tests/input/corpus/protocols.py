"""One log in every protocol that ingest takes beside its own, and how each tells of a bad one."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cramjam
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from functions.ingest.proto.log_pb2 import LogBatch
from functions.ingest.proto.loki_pb2 import PushRequest
from tests.input.case import OK, Case, Log
from tests.input.corpus import clock

PROTOBUF, JSON, PLAIN = (
    {"content-type": kind} for kind in ("application/x-protobuf", "application/json", "text/plain")
)
SECOND = 1_000_000_000
SERVICE = "clients"


@dataclasses.dataclass(frozen=True)
class Sent:
    """A log before it is written in a protocol; `value` goes into the metadata under k."""

    message: str
    time: int
    value: str = "v"


def otlp_protobuf(logs: Sequence[Sent]) -> bytes:
    """An ExportLogsServiceRequest."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.add(key="service.name").value.string_value = SERVICE
    scope = group.scope_logs.add()
    for log in logs:
        record = scope.log_records.add(time_unix_nano=log.time)
        record.body.string_value = log.message
        record.attributes.add(key="k").value.string_value = log.value
    return request.SerializeToString()


def otlp_json(logs: Sequence[Sent]) -> bytes:
    """The same as JSON."""
    name = {"key": "service.name", "value": {"stringValue": SERVICE}}
    records = [
        {
            "timeUnixNano": str(log.time),
            "body": {"stringValue": log.message},
            "attributes": [{"key": "k", "value": {"stringValue": log.value}}],
        }
        for log in logs
    ]
    return _json({"resourceLogs": [{"resource": {"attributes": [name]}, "scopeLogs": [{"logRecords": records}]}]})


def loki_protobuf(logs: Sequence[Sent]) -> bytes:
    """A PushRequest packed with snappy."""
    return snappy(push_request(logs))


def push_request(logs: Sequence[Sent]) -> bytes:
    """A PushRequest."""
    request = PushRequest()
    stream = request.streams.add(labels=b'{service_name="%b"}' % SERVICE.encode())
    for log in logs:
        entry = stream.entries.add(line=log.message.encode())
        entry.timestamp.seconds, entry.timestamp.nanos = divmod(log.time, SECOND)
        entry.structured_metadata.add(name=b"k", value=log.value.encode())
    return request.SerializeToString()


def snappy(data: bytes) -> bytes:
    """The block format."""
    return bytes(cramjam.snappy.compress_raw(data))


def loki_json(logs: Sequence[Sent]) -> bytes:
    """The same as JSON."""
    values = [[str(log.time), log.message, {"k": log.value}] for log in logs]
    return _json({"streams": [{"stream": {"service_name": SERVICE}, "values": values}]})


def bulk(logs: Sequence[Sent]) -> bytes:
    """Elasticsearch's pairs of lines."""
    return b"".join(
        b'{"create":{}}\n'
        + _json({"@timestamp": log.time, "service": SERVICE, "message": log.message, "k": log.value})
        + b"\n"
        for log in logs
    )


def hec(logs: Sequence[Sent]) -> bytes:
    """Splunk's events, one after another."""
    return b"".join(
        _json({"time": str(log.time), "source": SERVICE, "event": log.message, "fields": {"k": log.value}})
        for log in logs
    )


def syslog(logs: Sequence[Sent]) -> bytes:
    """Lines of RFC 5424."""
    lines = []
    for log in logs:
        seconds, rest = divmod(log.time, SECOND)
        value = re.sub(r'(["\\\]])', r"\\\1", log.value)
        line = f'<14>1 {clock.text(seconds)[:-1]}.{rest:09d}Z - {SERVICE} - - [e k="{value}"] {log.message}'
        lines.append(line.encode())
    return b"\n".join(lines)


def batch(logs: Sequence[Sent]) -> bytes:
    """A LogBatch of Torpor's own gRPC."""
    request = LogBatch()
    for log in logs:
        metadata = _json({"k": log.value}).decode()
        request.logs.add(timestamp=str(log.time), service=SERVICE, message=log.message, metadata=metadata)
    return request.SerializeToString()


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How logs are written in a protocol, where they go, and what an answer says (`place`) if the second is bad."""

    name: str
    path: str
    headers: Mapping[str, str]
    encode: Callable[[Sequence[Sent]], bytes]
    place: bytes
    function: str = "ingest"
    stored: frozenset[int] = frozenset({200, 204})
    key: str = "k"
    around: tuple[tuple[str, str], ...] = ()
    lines: bool = False

    def case(self, name: str, logs: Sequence[Sent], good: Sequence[Sent] = (), **more: Any) -> Case:
        """A request of `logs`, of which the `good` ones must be stored."""
        expected = [self.expected(log) for log in good]
        given: dict[str, Any] = {"headers": self.headers, "body": self.encode(logs), "stored": self.stored, **more}
        given["logs"] = expected
        return Case(f"{self.name} {name}", function=self.function, path=self.path, **given)

    def expected(self, log: Sent) -> Log:
        """The log that must be found."""
        metadata = ((self.key, log.value), *self.around)
        return Log(SERVICE, log.message, metadata=metadata, time=log.time)

    def can(self, text: str) -> bool:
        """Whether the protocol can carry a text as it is."""
        if self.name.startswith("splunk"):
            return not text.isspace()  # a blank event is refused
        return not self.lines or not re.search(r"\n|[\r\0]$|^\ufeff|\\x", text)


_EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_BATCH = "/torpor.logs.v1.LogIngestionService/IngestLogBatch"
_PARTLY = frozenset({200, 204, 400})
_SYSLOG = (("facility", "user"), ("severity", "info"))
PROTOCOLS = (
    Protocol("otlp protobuf", "/v1/logs", PROTOBUF, otlp_protobuf, b"record 2, timestamp"),
    Protocol("otlp json", "/v1/logs", JSON, otlp_json, b"record 2, timestamp"),
    Protocol("loki protobuf", "/loki/api/v1/push", PROTOBUF, loki_protobuf, b"entry 2: timestamp", stored=_PARTLY),
    Protocol("loki json", "/loki/api/v1/push", JSON, loki_json, b"entry 2: timestamp", stored=_PARTLY),
    Protocol("elasticsearch", "/_bulk", {"content-type": "application/x-ndjson"}, bulk, b'"reason":"timestamp: older'),
    Protocol("splunk", "/services/collector/event", JSON, hec, b'"invalid-event-number":1', stored=_PARTLY),
    Protocol("syslog", "/api/v1/syslog", PLAIN, syslog, b'"line":2', key="e.k", around=_SYSLOG, lines=True),
    Protocol("grpc batch", _BATCH, {}, batch, b"record 2, timestamp", "grpc"),
    Protocol("grpc otlp", _EXPORT, {}, otlp_protobuf, b"record 2, timestamp", "grpc"),
)
TAKEN = OK | {204}


def sent(message: str, value: str = "v", count: int = 1) -> list[Sent]:
    """Logs of moments of their own."""
    return [Sent(message, clock.recent()[1], value) for _ in range(count)]


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
