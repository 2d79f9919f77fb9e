"""OTLP's logs as protobuf (opentelemetry/proto/logs/v1/logs.proto). By HTTP and gRPC alike."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from functions.common.errors import BadRequest
from functions.common.record import Incoming
from functions.ingest.dialects.otlp_fields import ID, Surroundings, level, note, real
from functions.ingest.records import Numbered


def records(body: bytes) -> Numbered:
    """The log records of an ExportLogsServiceRequest. Raises BadRequest if it is none."""
    try:
        request = ExportLogsServiceRequest.FromString(body)
    except DecodeError:
        raise BadRequest("the body is not an ExportLogsServiceRequest in protobuf") from None
    return enumerate(_records(request), 1)


def _records(request: ExportLogsServiceRequest) -> Iterator[Incoming]:
    for resource_logs in request.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            scope = scope_logs.scope
            surroundings = Surroundings(resource, scope.name, scope.version, _attributes(scope.attributes))
            for record in scope_logs.log_records:
                yield _record(record, surroundings)


def _record(record: LogRecord, surroundings: Surroundings) -> Incoming:
    own = _attributes(record.attributes)
    severity = level(record.severity_number, record.severity_text, own)
    uid = own.pop(ID, "")
    if event := record.event_name:
        note(own, "event_name", event)
    if flags := record.flags & 0xFF:
        note(own, "trace_flags", f"{flags:02x}")
    if dropped := record.dropped_attributes_count:
        note(own, "dropped_attributes_count", str(dropped))
    trace_id, span_id = record.trace_id, record.span_id
    return Incoming(
        surroundings.service,
        record.body.string_value or _text(record.body),
        record.time_unix_nano or record.observed_time_unix_nano or None,
        severity,
        surroundings.around(own),
        trace_id.hex() if trace_id.strip(b"\0") else "",
        span_id.hex() if span_id.strip(b"\0") else "",
        uid,
    )


def _attributes(attributes: Sequence[KeyValue]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in attributes[:]:  # a list is quicker to go through
        value = pair.value
        # Texts by the short way: most values are.
        found[pair.key] = value.string_value or _text(value)
    return found


def _text(value: AnyValue) -> str:
    if number := value.int_value:
        return str(number)
    plain = _plain(value)
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()


def _plain(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case None:
            return ""
        case "array_value":
            return [_plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return {pair.key: _plain(pair.value) for pair in value.kvlist_value.values}
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "double_value":
            return real(value.double_value)
        case kind:
            return getattr(value, kind)
