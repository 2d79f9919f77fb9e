"""OTLP's logs as protobuf (opentelemetry/proto/logs/v1/logs.proto). By HTTP and gRPC alike."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from functions.common.errors import BadRequest, TooLarge
from functions.common.identity import MAX_RECORDS
from functions.common.record import Incoming
from functions.ingest.dialects import wire
from functions.ingest.dialects.otlp_fields import ID, Surroundings, level, real
from functions.ingest.normalise import MAX_METADATA
from functions.ingest.records import Numbered, Rejected, check_size, note

_MAX_ATTRIBUTES = 2 * MAX_METADATA
"""Attributes that are looked at: some may be the same."""

T = TypeVar("T", Resource, InstrumentationScope)


def records(body: bytes) -> Numbered:
    """The log records of an ExportLogsServiceRequest. Raises, once they are read, BadRequest if it is none."""
    return enumerate(_records(body), 1)


def _records(body: bytes) -> Iterator[Incoming | Rejected]:
    try:
        for surroundings, logs in _parsed(body) or _scopes(body):
            for data in logs:
                yield _read(data, surroundings)
    except DecodeError:
        raise BadRequest("the body is not an ExportLogsServiceRequest in protobuf") from None
    except Rejected as rejected:
        raise BadRequest(f"an attribute of a resource or a scope: {rejected}") from None


def _parsed(body: bytes) -> Iterator[tuple[Surroundings, Iterable[LogRecord]]] | None:
    """What `_scopes` gives, parsed as a whole. None for a large body, or a broken one: some of it may be good."""
    if len(body) > wire.SMALL:
        return None
    try:
        return _groups(ExportLogsServiceRequest.FromString(body))
    except DecodeError:
        return None


def _groups(request: ExportLogsServiceRequest) -> Iterator[tuple[Surroundings, Iterable[LogRecord]]]:
    for resource_logs in request.resource_logs:
        attributes = _attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            scope = scope_logs.scope
            shared = Surroundings(attributes, scope.name, scope.version, _attributes(scope.attributes))
            yield shared, scope_logs.log_records


def _scopes(body: bytes) -> Iterator[tuple[Surroundings, list[bytes]]]:
    """The logs of each scope, still as their bytes, and what they share. Raises DecodeError, Rejected or TooLarge."""
    count = 0
    for resource_logs in wire.split(body)[0]:
        owners, groups = wire.split(resource_logs)
        count += 1 + len(groups)
        if count >= MAX_RECORDS:
            raise TooLarge(f"the request has more than {MAX_RECORDS - 1} resources and scopes")
        # Of a message that comes in several fields protobuf makes one, which their bytes in a row are too.
        resource = _shared(b"".join(owners), Resource)
        attributes = _attributes(resource.attributes)
        for scope_logs in groups:
            owners, logs = wire.split(scope_logs)
            if logs:
                scope = _shared(b"".join(owners), InstrumentationScope)
                yield Surroundings(attributes, scope.name, scope.version, _attributes(scope.attributes)), logs


def _shared(data: bytes, kind: type[T]) -> T:
    check_size(data)
    return kind.FromString(data)


def _read(data: LogRecord | bytes, surroundings: Surroundings) -> Incoming | Rejected:
    try:
        if isinstance(data, bytes):
            check_size(data)
            data = LogRecord.FromString(data)
        return _record(data, surroundings)
    except Rejected as rejected:
        return rejected
    except DecodeError:
        return Rejected(None, "not a LogRecord in protobuf, or nested too deeply, or a text is not UTF-8")


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
    if len(attributes) > _MAX_ATTRIBUTES:
        raise Rejected("metadata", f"{len(attributes)} attributes; the limit is {MAX_METADATA}")
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
