"""OTLP's logs: each rule of the mapping in both encodings, the answers, and bodies of any kind."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import logging
import math
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from prometheus_client import REGISTRY

from functions.common import identity, timestamps
from functions.common.errors import BadRequest, KafkaUnavailable, TorporError
from functions.common.kafka import Headers
from functions.common.record import LEVELS, Incoming
from functions.ingest.dialects import otlp_json, otlp_protobuf
from functions.ingest.intake import Config
from functions.ingest.normalise import Normaliser, Outcome
from functions.ingest.records import MAX_RECORD_BYTES, Numbered, Rejected
from tests.unit.test_ingest import Face, started

NOW = timestamps.now()
TRACE, SPAN = bytes(range(16)), bytes(range(240, 248))
JSON, PROTOBUF = "application/json", "application/x-protobuf"
DECODERS = {JSON: otlp_json.records, PROTOBUF: otlp_protobuf.records}
INFO = 9

Value = Any
"""What an AnyValue holds, as Python has it: None for one that holds nothing."""


@dataclasses.dataclass
class Log:
    """A log of OpenTelemetry, from which both encodings are made."""

    time: int = NOW
    observed: int = 0
    number: int = INFO
    severity: str = ""
    body: Value = None
    attributes: dict[str, Value] = dataclasses.field(default_factory=dict)
    dropped: int = 0
    flags: int = 0
    trace_id: bytes = b""
    span_id: bytes = b""
    event_name: str = ""


@dataclasses.dataclass
class Group:
    """Logs with what they share."""

    logs: list[Log]
    resource: dict[str, Value] = dataclasses.field(default_factory=lambda: {"service.name": "pay"})
    name: str = ""
    version: str = ""
    scope: dict[str, Value] = dataclasses.field(default_factory=dict)


def any_value(value: Value) -> AnyValue:
    result = AnyValue()
    if isinstance(value, str):
        result.string_value = value
    elif isinstance(value, bool):
        result.bool_value = value
    elif isinstance(value, int):
        result.int_value = value
    elif isinstance(value, float):
        result.double_value = value
    elif isinstance(value, bytes):
        result.bytes_value = value
    elif isinstance(value, list):
        result.array_value.SetInParent()
        result.array_value.values.extend(map(any_value, value))
    elif isinstance(value, dict):
        result.kvlist_value.SetInParent()
        result.kvlist_value.values.extend(pairs(value))
    return result


def pairs(attributes: dict[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def any_json(value: Value) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        names = {math.inf: "Infinity", -math.inf: "-Infinity"}
        return {"doubleValue": value if math.isfinite(value) else names.get(value, "NaN")}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_json(item) for item in value]}}
    return {"kvlistValue": {"values": json_pairs(value)}} if isinstance(value, dict) else {}


def json_pairs(attributes: dict[str, Value]) -> list[dict[str, Any]]:
    return [{"key": key, "value": any_json(value)} for key, value in attributes.items()]


def as_protobuf(*groups: Group) -> bytes:
    request = ExportLogsServiceRequest()
    for group in groups:
        resource_logs = request.resource_logs.add()
        resource_logs.resource.attributes.extend(pairs(group.resource))
        scope_logs = resource_logs.scope_logs.add()
        scope_logs.scope.name, scope_logs.scope.version = group.name, group.version
        scope_logs.scope.attributes.extend(pairs(group.scope))
        for log in group.logs:
            record = LogRecord(
                time_unix_nano=log.time,
                observed_time_unix_nano=log.observed,
                severity_text=log.severity,
                body=any_value(log.body),
                attributes=pairs(log.attributes),
                dropped_attributes_count=log.dropped,
                flags=log.flags,
                trace_id=log.trace_id,
                span_id=log.span_id,
                event_name=log.event_name,
            )
            record.severity_number = log.number  # type: ignore[assignment]  # an open enumeration: any number may come
            scope_logs.log_records.append(record)
    return request.SerializeToString()


def json_log(log: Log) -> dict[str, Any]:
    """A LogRecord by the rules of OTLP, which are not those of protobuf alone: ids are hexadecimal."""
    return {
        "timeUnixNano": str(log.time),
        "observedTimeUnixNano": str(log.observed),
        "severityNumber": log.number,
        "severityText": log.severity,
        "body": any_json(log.body),
        "attributes": json_pairs(log.attributes),
        "droppedAttributesCount": log.dropped,
        "flags": log.flags,
        "traceId": log.trace_id.hex(),
        "spanId": log.span_id.hex(),
        "eventName": log.event_name,
    }


def as_json(*groups: Group) -> bytes:
    resource_logs = [
        {
            "resource": {"attributes": json_pairs(group.resource)},
            "scopeLogs": [
                {
                    "scope": {"name": group.name, "version": group.version, "attributes": json_pairs(group.scope)},
                    "logRecords": [json_log(log) for log in group.logs],
                }
            ],
        }
        for group in groups
    ]
    return json.dumps({"resourceLogs": resource_logs}).encode()


def around(*records: Any) -> bytes:
    """A JSON body of these LogRecords."""
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).encode()


ENCODE: dict[str, Callable[..., bytes]] = {JSON: as_json, PROTOBUF: as_protobuf}


def both(*groups: Group) -> list[Incoming]:
    """The records of these logs, the same from either encoding."""
    numbered = list(otlp_protobuf.records(as_protobuf(*groups)))
    assert list(otlp_json.records(as_json(*groups))) == numbered
    assert [number for number, _ in numbered] == list(range(1, len(numbered) + 1))
    return [record for _, record in numbered if isinstance(record, Incoming)]


def of(log: Log, **surroundings: Any) -> Incoming:
    (record,) = both(Group([log], **surroundings))
    return record


def of_json(**fields: Any) -> Incoming | Rejected:
    ((number, record),) = otlp_json.records(around(fields))
    assert number == 1
    return record


# Severity


@pytest.mark.parametrize("number", range(1, 25))
def test_a_severity_number_is_a_level_and_kept_where_the_level_does_not_tell_it(number: int) -> None:
    record = of(Log(number=number))
    assert record.level == LEVELS[(number - 1) // 4]
    assert record.metadata == ({} if number % 4 == 1 else {"severity_number": str(number)})


@pytest.mark.parametrize(
    ("number", "text", "level", "metadata"),
    [
        (0, "", "INFO", {}),
        (0, "warning", "warning", {}),
        (0, "peculiar", "peculiar", {}),
        (17, "ERROR", "ERROR", {}),
        (17, "err", "ERROR", {}),
        (17, "Error", "ERROR", {}),
        (17, "peculiar", "ERROR", {"severity_text": "peculiar"}),
        (17, "INFO", "ERROR", {"severity_text": "INFO"}),
        (10, "NOTICE", "INFO", {"severity_number": "10"}),
        (25, "", "INFO", {"severity_number": "25"}),
        (99, "WARN", "WARN", {"severity_number": "99"}),
        (-1, "WARN", "WARN", {"severity_number": "-1"}),
    ],
)
def test_severity_number_and_text_are_the_level(number: int, text: str, level: str, metadata: dict[str, str]) -> None:
    record = of(Log(number=number, severity=text))
    assert (record.level, record.metadata) == (level, metadata)


@pytest.mark.parametrize(
    ("given", "level", "metadata"),
    [
        ("SEVERITY_NUMBER_TRACE", "TRACE", {}),
        ("SEVERITY_NUMBER_ERROR", "ERROR", {}),
        ("SEVERITY_NUMBER_FATAL4", "FATAL", {"severity_number": "24"}),
        ("SEVERITY_NUMBER_UNSPECIFIED", "INFO", {}),
        ("13", "WARN", {}),
        ("100", "INFO", {"severity_number": "100"}),
        ("SEVERITY_NUMBER_ODD", "INFO", {"severity_number": "SEVERITY_NUMBER_ODD"}),
        (None, "INFO", {}),
    ],
)
def test_in_json_a_severity_may_come_by_name_or_as_text(given: Any, level: str, metadata: dict[str, str]) -> None:
    record = of_json(severityNumber=given)
    assert isinstance(record, Incoming)
    assert (record.level, record.metadata) == (level, metadata)


# Values

VALUES: list[tuple[Value, str]] = [
    (None, ""),
    ("", ""),
    ("plain", "plain"),
    ("zwölf ☃ 𝄞 \0 \n", "zwölf ☃ 𝄞 \0 \n"),
    (True, "true"),
    (False, "false"),
    (0, "0"),
    (-(2**63), "-9223372036854775808"),
    (2**63 - 1, "9223372036854775807"),
    (1.5, "1.5"),
    (5.0, "5.0"),
    (0.0, "0.0"),
    (1e300, "1e300"),
    (math.nan, "NaN"),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
    (b"", ""),
    (b"\x00\xff\xfe", "AP/+"),
    ([], "[]"),
    ({}, "{}"),
    ([1, "two", 3.5, True, None, b"\xff"], '[1,"two",3.5,true,"","/w=="]'),
    ({"a": {"b": [{"c": -1}, []]}, "d": math.nan}, '{"a":{"b":[{"c":-1},[]]},"d":"NaN"}'),
]


@pytest.mark.parametrize(("value", "text"), VALUES)
def test_a_body_is_its_text_and_other_values_are_their_json(value: Value, text: str) -> None:
    assert of(Log(body=value)).message == text


@pytest.mark.parametrize(("value", "text"), VALUES)
def test_attributes_of_log_scope_and_resource_are_metadata(value: Value, text: str) -> None:
    record = of(Log(attributes={"own": value}), resource={"around": value}, scope={"between": value})
    assert record.metadata == {"own": text, "around": text, "between": text}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"intValue": 7}, "7"),
        ({"intValue": "-7"}, "-7"),
        ({"intValue": 10**30}, str(10**30)),
        ({"intValue": "99999999999999999999"}, "99999999999999999999"),
        ({"intValue": "seven"}, "seven"),
        ({"doubleValue": 5}, "5.0"),
        ({"doubleValue": "2.50"}, "2.5"),
        ({"doubleValue": "NaN"}, "NaN"),
        ({"doubleValue": "much"}, "much"),
        ({"stringValue": None, "boolValue": False}, "false"),
        ({"arrayValue": {}}, "[]"),
        ({"arrayValue": {"values": None}}, "[]"),
        ({"kvlistValue": {"values": [{"key": None, "value": None}]}}, '{"":""}'),
        ({"arrayValue": {"values": [{"intValue": "5"}, {"doubleValue": "1"}, {"doubleValue": "-Infinity"}]}},
         '[5,1.0,"-Infinity"]'),
        ({"unheardOf": 1}, ""),
        (None, ""),
    ],
)  # fmt: skip
def test_in_json_a_value_may_be_written_in_other_ways(given: Any, text: str) -> None:
    record = of_json(body=given, attributes=[{"key": "k", "value": given}])
    assert isinstance(record, Incoming)
    assert (record.message, record.metadata) == (text, {"k": text})


# Names


def test_the_service_is_the_resources_name_for_it() -> None:
    assert of(Log(), resource={"service.name": "pay"}).service == "pay"
    assert of(Log(), resource={"service.name": 7}).service == "7"
    record = of(Log(attributes={"service.name": "mine"}))
    assert (record.service, record.metadata) == ("pay", {"service.name": "mine"})


@pytest.mark.parametrize("resource", [{}, {"service.name": ""}, {"host.name": "h"}])
def test_a_resource_without_a_service_is_told_by_opentelemetrys_name_for_it(resource: dict[str, str]) -> None:
    assert of(Log(), resource=resource).service == "unknown_service"


def test_a_scope_is_noted_with_its_version() -> None:
    record = of(Log(), name="lib", version="1.2", scope={"a": "b"})
    assert record.metadata == {"otel.scope.name": "lib", "otel.scope.version": "1.2", "a": "b"}


def test_of_attributes_with_one_name_none_is_lost() -> None:
    record = of(
        Log(attributes={"all": "log", "log+scope": "log", "log+resource": "log"}),
        resource={"service.name": "pay", "all": "resource", "log+resource": "resource", "scope+resource": "resource"},
        scope={"all": "scope", "log+scope": "scope", "scope+resource": "scope"},
    )
    assert record.metadata == {
        "all": "log",
        "scope.all": "scope",
        "resource.all": "resource",
        "log+scope": "log",
        "scope.log+scope": "scope",
        "log+resource": "log",
        "resource.log+resource": "resource",
        "scope+resource": "scope",
        "resource.scope+resource": "resource",
    }


def test_not_even_an_attribute_whose_name_is_made_for_another_is_lost() -> None:
    record = of(Log(attributes={"a": "1", "resource.a": "2"}), resource={"a": "3"}, name="lib")
    assert record.metadata == {"a": "1", "resource.a": "2", "resource.resource.a": "3", "otel.scope.name": "lib"}
    record = of(Log(), name="lib", scope={"otel.scope.name": "other"})
    assert record.metadata == {"otel.scope.name": "other", "scope.otel.scope.name": "lib"}


def test_a_field_whose_name_an_attribute_has_is_kept_beside_it() -> None:
    names = ("event_name", "trace_flags", "dropped_attributes_count", "severity_number", "severity_text")
    log = Log(number=10, severity="odd", flags=1, dropped=3, event_name="e", attributes=dict.fromkeys(names, "mine"))
    assert of(log).metadata == {
        **dict.fromkeys(names, "mine"),
        "log.event_name": "e",
        "log.trace_flags": "01",
        "log.dropped_attributes_count": "3",
        "log.severity_number": "10",
        "log.severity_text": "odd",
    }
    assert of(Log(event_name="e", attributes={"event_name": "e"})).metadata == {"event_name": "e"}


# Fields


def test_every_field_has_its_place() -> None:
    log = Log(NOW, NOW + 1, 17, "ERROR", "out of paper", {"log.record.uid": "u-1"}, 2, 0x101, TRACE, SPAN, "jam")
    metadata = {"event_name": "jam", "trace_flags": "01", "dropped_attributes_count": "2"}
    assert of(log) == Incoming("pay", "out of paper", NOW, "ERROR", metadata, TRACE.hex(), SPAN.hex(), "u-1")


def test_nothing_but_a_log_is_a_log() -> None:
    assert of(Log(0, number=0), resource={}) == Incoming("unknown_service")


@pytest.mark.parametrize(
    ("time", "observed", "timestamp"), [(NOW, 0, NOW), (NOW, NOW + 5, NOW), (0, NOW + 5, NOW + 5), (0, 0, None)]
)
def test_the_time_is_that_of_the_event_or_else_of_its_observation(
    time: int, observed: int, timestamp: int | None
) -> None:
    assert of(Log(time, observed)).timestamp == timestamp


@pytest.mark.parametrize("identity", [b"", bytes(16), bytes(8), bytes(3)])
def test_an_id_of_zeros_is_none(identity: bytes) -> None:
    record = of(Log(trace_id=identity, span_id=identity))
    assert (record.trace_id, record.span_id) == ("", "")


def test_an_id_of_another_length_is_kept() -> None:
    record = of(Log(trace_id=b"\x00\x01", span_id=TRACE))
    assert (record.trace_id, record.span_id) == ("0001", TRACE.hex())


def test_a_uid_that_is_no_text_and_a_uid_around_the_log() -> None:
    assert of(Log(attributes={"log.record.uid": 7})).id == "7"
    record = of(Log(), resource={"log.record.uid": "shared"})
    assert (record.id, record.metadata) == ("", {"log.record.uid": "shared"}), "it is not the id of one log"


@pytest.mark.parametrize(("flags", "text"), [(0, None), (1, "01"), (0xFF, "ff"), (0x1FF, "ff"), (0x100, None)])
def test_of_the_flags_the_lower_eight_are_those_of_the_trace(flags: int, text: str | None) -> None:
    assert of(Log(flags=flags)).metadata.get("trace_flags") == text


def test_logs_are_numbered_through_all_groups() -> None:
    groups = [Group([Log(body=f"{g}.{n}") for n in range(3)], {"service.name": f"s{g}"}) for g in range(3)]
    assert [(record.service, record.message) for record in both(*groups)] == [
        (f"s{g}", f"{g}.{n}") for g in range(3) for n in range(3)
    ]


@pytest.mark.parametrize("content_type", DECODERS)
def test_a_request_without_logs_has_no_records(content_type: str) -> None:
    assert list(DECODERS[content_type](ENCODE[content_type]())) == []
    assert list(DECODERS[content_type](ENCODE[content_type](Group([])))) == []


# JSON alone


def test_in_json_numbers_may_be_numbers_or_text() -> None:
    for time, flags, dropped in ((NOW, 1, 2), (str(NOW), "1", "2")):
        record = of_json(timeUnixNano=time, flags=flags, droppedAttributesCount=dropped)
        assert isinstance(record, Incoming)
        assert record.timestamp == NOW
        assert record.metadata == {"trace_flags": "01", "dropped_attributes_count": "2"}


def test_in_json_ids_may_be_in_upper_case() -> None:
    record = of_json(traceId="AB" * 16, spanId="Cd" * 8)
    assert isinstance(record, Incoming)
    assert (record.trace_id, record.span_id) == ("ab" * 16, "cd" * 8)


def test_in_json_unknown_fields_and_the_names_of_the_schema_are_ignored() -> None:
    body = {
        "unknown": [1, {"x": None}],
        "resourceLogs": [
            {
                "schemaUrl": "s",
                "resource": {"droppedAttributesCount": 1, "new": {}},
                "scopeLogs": [{"other": 1, "logRecords": [{"severity_number": 17, "next": "x", "timeUnixNano": "1"}]}],
            }
        ],
    }
    assert list(otlp_json.records(json.dumps(body).encode())) == [(1, Incoming("unknown_service", timestamp=1))]


def test_in_json_null_is_absent_everywhere() -> None:
    fields = dict.fromkeys(json_log(Log()))
    nothing = Incoming("unknown_service")
    assert of_json(**fields) == nothing
    empty = [{"resource": None, "scopeLogs": None}, {"scopeLogs": [{"scope": None, "logRecords": None}]}]
    inner = [{"scopeLogs": [{"scope": {"name": None, "version": None, "attributes": None}, "logRecords": [{}]}]}]
    outer = [{"resource": {"attributes": None}, "scopeLogs": [{"logRecords": [{}]}]}]
    body = json.dumps({"resourceLogs": [*empty, *inner, *outer]}).encode()
    assert list(otlp_json.records(body)) == [(1, nothing), (2, nothing)]
    assert list(otlp_json.records(b'{"resourceLogs":null}')) == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"timeUnixNano": "soon"}, "timestamp"),
        ({"timeUnixNano": ""}, "timestamp"),
        ({"timeUnixNano": "1" * 21}, "timestamp"),
        ({"timeUnixNano": "1.5"}, "timestamp"),
        ({"timeUnixNano": "٣"}, "timestamp"),
        ({"observedTimeUnixNano": "soon"}, "timestamp"),
        ({"flags": "many"}, "flags"),
        ({"droppedAttributesCount": "x"}, "dropped_attributes_count"),
        ({"timeUnixNano": 1.5}, None),
        ({"timeUnixNano": True}, None),
        ({"body": "text"}, None),
        ({"body": {"boolValue": "true"}}, None),
        ({"attributes": {"a": 1}}, None),
        ({"attributes": [None]}, None),
        ({"traceId": 5}, None),
    ],
)
def test_in_json_a_broken_log_is_rejected_and_the_others_are_taken(fields: dict[str, Any], field: str | None) -> None:
    good: dict[str, Any] = {"body": {"stringValue": "good"}}
    (_, before), (number, broken), (_, after) = otlp_json.records(around(good, fields, good))
    assert before == after == Incoming("unknown_service", "good")
    assert number == 2
    assert isinstance(broken, Rejected)
    assert broken.field == field
    assert len(str(broken)) < 200


@pytest.mark.parametrize(
    "record",
    [b"null", b"1", b"[]", b'"x"', b'{"traceId":"\xff"}',
     b'{"timeUnixNano":' + b"9" * 5000 + b"}", b'{"body":{"intValue":' + b"9" * 5000 + b"}}"],
    ids=lambda record: repr(record[:24]),
)  # fmt: skip
def test_in_json_what_is_no_log_is_rejected_in_its_place(record: bytes) -> None:
    body = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[' + record + b",{}]}]}]}"
    (_, broken), (_, good) = otlp_json.records(body)
    assert isinstance(broken, Rejected)
    assert isinstance(good, Incoming)


def deep(levels: int) -> bytes:
    return b'{"arrayValue":{"values":[' * levels + b"]}}" * levels


def read_at(depth: int, numbered: Numbered) -> list[tuple[int, Incoming | Rejected]]:
    """Records that are read far down the stack, where less is left of it than there was for the decoder."""
    return read_at(depth - 1, numbered) if depth else list(numbered)


def test_in_json_a_log_that_is_nested_too_deeply_is_rejected() -> None:
    body = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":%s},{}]}]}]}' % deep(250)
    (_, broken), (_, good) = read_at(sys.getrecursionlimit() // 2, otlp_json.records(body))
    assert isinstance(broken, Rejected)
    assert isinstance(good, Incoming)


@pytest.mark.parametrize("levels", [250, 900, 100_000])
def test_in_json_attributes_around_logs_that_are_nested_too_deeply_are_a_bad_request(levels: int) -> None:
    body = b'{"resourceLogs":[{"resource":{"attributes":[{"value":%s}]}}]}' % deep(levels)
    with pytest.raises(BadRequest):
        read_at(sys.getrecursionlimit() // 2, otlp_json.records(body))


BROKEN = [b"", b"{", b"[]", b"null", b"1", b"\xff", b'{"resourceLogs":1}', b'{"resourceLogs":[null]}', b"[" * 100_000]
# Half of a surrogate pair is no text, and the reader does not get past it.
BROKEN.append(b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"\\ud83d"}}]}]}]}')


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:24]))
def test_what_is_no_request_in_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not an ExportLogsServiceRequest in JSON"):
        otlp_json.records(body)


# Protobuf alone


@pytest.mark.parametrize(
    "body",
    [b"\n", b"{}", b"\xff" * 20, as_protobuf(Group([Log(body="x")]))[:-1], as_protobuf(Group([])) + b"\n\x05"],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_request_in_protobuf_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not an ExportLogsServiceRequest in protobuf"):
        list(otlp_protobuf.records(body))


def test_in_protobuf_a_log_that_is_none_or_nested_too_deeply_does_not_take_the_others_with_it() -> None:
    value = b""
    for _ in range(200):
        value = field(5, field(1, value))  # an AnyValue's array_value, an ArrayValue's values
    logs = [field(5, value), b"\xff", field(3, b"\xff")]
    body = field(1, field(2, b"".join(field(2, log) for log in [b"", *logs, b""])))
    _, *bad, (last, good) = otlp_protobuf.records(body)
    assert (last, good) == (5, Incoming("unknown_service"))
    assert [type(record) for _, record in bad] == [Rejected] * 3


def test_in_protobuf_a_message_in_several_fields_is_one() -> None:
    name = KeyValue(key="service.name", value=AnyValue(string_value="pay")).SerializeToString()
    other = KeyValue(key="a", value=AnyValue(string_value="b")).SerializeToString()
    body = field(1, field(1, field(1, name)) + field(2, field(2, b"")) + field(1, field(1, other)))
    assert list(otlp_protobuf.records(body)) == [(1, Incoming("pay", metadata={"a": "b"}))]


@pytest.mark.parametrize("large", [b"x" * (MAX_RECORD_BYTES + 1), b"\n\x00" * 1_000_000], ids=["bytes", "attributes"])
def test_in_protobuf_a_resource_as_large_as_no_row_can_be_is_a_bad_request(large: bytes) -> None:
    with pytest.raises(BadRequest, match=r"resource or a scope: [0-9]+ (bytes|attributes); the limit is"):
        list(otlp_protobuf.records(field(1, field(1, large) + field(2, field(2, b"")))))


def field(number: int, data: bytes) -> bytes:
    """A field of bytes as protobuf writes it."""
    size, length = len(data), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + data


def test_in_protobuf_unknown_fields_are_ignored() -> None:
    assert list(otlp_protobuf.records(as_protobuf(Group([Log()])) + b"\xfa\x3f\x01x")) == [
        (1, Incoming("pay", timestamp=NOW))
    ]


# Any body at all: the decoders and what follows them raise nothing but errors that are ours

texts = st.text(max_size=20)
names = (
    st.sampled_from(["a", "b", "service.name", "log.record.uid", "otel.scope.name", "scope.a", "event_name"]) | texts
)
scalars = (
    st.none()
    | texts
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.binary(max_size=20)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=4
)
attributes = st.dictionaries(names, values, max_size=3)
times = st.just(0) | st.integers(NOW - 10**15, NOW) | st.integers(0, 2**64 - 1)
logs = st.builds(
    Log,
    time=times,
    observed=times,
    number=st.integers(-1, 30),
    severity=st.sampled_from(["", "INFO", "warn", "odd"]) | texts,
    body=values,
    attributes=attributes,
    dropped=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 2**32 - 1),
    trace_id=st.binary(max_size=20),
    span_id=st.binary(max_size=20),
    event_name=texts,
)
groups = st.lists(
    st.builds(
        Group, st.lists(logs, max_size=3), resource=attributes, name=texts, version=texts, scope=attributes
    ),
    max_size=2,
)  # fmt: skip


def normaliser(**changes: Any) -> Normaliser:
    return Normaliser(
        **{
            "tenant": "t",
            "batch": "b",
            "repeatable": False,
            "now": NOW,
            "retention": 30 * timestamps.DAY,
            "max_message": 1000,
            **changes,
        }
    )


def consume(decode: Callable[[bytes], Numbered], body: bytes) -> None:
    """Read a body to its end, twice: as records, and on to rows."""
    try:
        numbered = list(decode(body))
    except TorporError:
        return
    assert all(isinstance(record, Incoming | Rejected) for _, record in numbered)
    outcome = Outcome("b")
    rows = b"\n".join(chunk.data for chunk in normaliser().chunks(numbered, outcome))
    assert outcome.accepted + outcome.rejected == len(numbered)
    assert len(rows.split(b"\n")) == max(outcome.accepted, 1)


def mutated(body: bytes, draw: st.DrawFn) -> bytes:
    changed = bytearray(body)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(changed)))
        end = draw(st.integers(at, min(len(changed), at + 8)))
        changed[at:end] = draw(st.binary(max_size=4) | st.sampled_from([b'"', b"null", b"[", b"}", b"-1", b"1e9"]))
    return bytes(changed)


@st.composite
def mutated_bodies(draw: st.DrawFn, encode: Callable[..., bytes]) -> bytes:
    return mutated(encode(*draw(groups)), draw)


@given(st.binary(max_size=200) | st.text().map(str.encode) | mutated_bodies(as_json))
@settings(max_examples=1000, deadline=None)
def test_no_body_breaks_the_json_decoder(body: bytes) -> None:
    consume(otlp_json.records, body)


@given(st.binary(max_size=200) | mutated_bodies(as_protobuf))
@settings(max_examples=1000, deadline=None)
def test_no_body_breaks_the_protobuf_decoder(body: bytes) -> None:
    consume(otlp_protobuf.records, body)


FIELDS = (
    *json_log(Log()), "stringValue", "boolValue", "intValue", "doubleValue", "bytesValue", "arrayValue", "kvlistValue",
    "values", "key", "value", "name", "version", "scope", "resource",
)  # fmt: skip
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=15,
)


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), documents, max_size=5), max_size=3), documents, documents)
@settings(max_examples=1000, deadline=None)
def test_no_json_document_breaks_the_decoder(records: list[dict[str, Any]], scope: Any, resource: Any) -> None:
    body = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"scope": scope, "logRecords": records}]}]}
    consume(otlp_json.records, json.dumps(body).encode())
    consume(otlp_json.records, around(*records))


@given(groups)
@settings(max_examples=1000, deadline=None)
def test_both_encodings_are_the_same_records_and_lose_no_attribute(groups: list[Group]) -> None:
    records = iter(both(*groups))
    for group in groups:
        for log in group.logs:
            record = next(records)
            assert record.timestamp == (log.time or log.observed or None)
            kept = [*record.metadata.values(), record.service, record.id]
            for held in (log.attributes, group.scope, group.resource):
                assert all(text in kept for value in held.values() if (text := text_of(value)))
            assert all(text in kept for text in (group.name, group.version, log.event_name) if text)
    assert list(records) == []


def text_of(value: Value) -> str:
    """What the rule says of a value: an own account of it."""
    plain = plain_of(value)
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()


def plain_of(value: Value) -> Any:
    if isinstance(value, list):
        return [plain_of(item) for item in value]
    if isinstance(value, dict):
        return {key: plain_of(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return "" if value is None else value


ids = st.text("0123456789abcdef", min_size=2, max_size=16).filter(lambda text: len(text) % 2 == 0 and text.strip("0"))
incoming = st.builds(
    Incoming,
    service=st.text(min_size=1, max_size=20),
    message=st.text(),
    timestamp=st.integers(1, 2**63 - 1),
    level=st.sampled_from(LEVELS),
    metadata=st.dictionaries(st.text().filter(lambda name: name != "log.record.uid"), st.text(), max_size=5),
    trace_id=st.just("") | ids,
    span_id=st.just("") | ids,
    id=texts,
)


@given(st.lists(incoming, max_size=4))
@settings(max_examples=1000, deadline=None)
def test_good_records_come_through_unchanged(records: list[Incoming]) -> None:
    sent = [
        Group(
            [
                Log(
                    int(record.timestamp or 0),
                    number=1 + 4 * LEVELS.index(str(record.level)),
                    body=record.message,
                    attributes={**record.metadata, **({"log.record.uid": record.id} if record.id else {})},
                    trace_id=bytes.fromhex(record.trace_id),
                    span_id=bytes.fromhex(record.span_id),
                )
            ],
            resource={"service.name": record.service},
        )
        for record in records
    ]
    assert both(*sent) == records


BAD: list[tuple[Log, str | None]] = [
    (Log(NOW - 40 * timestamps.DAY), "timestamp"),
    (Log(NOW + 2 * timestamps.DAY), "timestamp"),
    (Log(0, attributes={"log.record.uid": "u"}), "timestamp"),
    (Log(2**64 - 1), "timestamp"),
    (Log(body="x" * 1001), "message"),
    (Log(trace_id=b"x" * 65), "trace_id"),
    (Log(span_id=b"x" * 65), "span_id"),
    (Log(attributes=dict.fromkeys(map(str, range(1001)), 1)), "metadata"),
]


@given(st.lists(st.none() | st.sampled_from(BAD), max_size=12))
@settings(max_examples=1000, deadline=None)
def test_of_a_mixed_batch_exactly_the_bad_records_are_reported(mixed: list[tuple[Log, str | None] | None]) -> None:
    group = Group([bad[0] if bad else Log(body="good") for bad in mixed])
    expected = [(number, bad[1]) for number, bad in enumerate(mixed, 1) if bad]
    for content_type, decode in DECODERS.items():
        outcome = Outcome("b")
        list(normaliser().chunks(decode(ENCODE[content_type](group)), outcome))
        assert [(error.line, error.field) for error in outcome.errors] == expected
        assert (outcome.accepted, outcome.rejected) == (len(mixed) - len(expected), len(expected))


# Through ingest


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    async for face in started(Config()):
        yield face


async def send(face: Face, content_type: str, *groups: Group, **headers: str) -> httpx.Response:
    return await post(face, content_type, ENCODE[content_type](*groups), **headers)


async def post(face: Face, content_type: str, body: bytes, **headers: str) -> httpx.Response:
    return await face.post(body, path="/v1/logs", content_type=content_type, **headers)


def read(answer: httpx.Response, status: int, content_type: str, message: Message) -> Any:
    """The message of an answer, read as its client reads it."""
    assert answer.status_code == status, answer.content
    assert answer.headers["content-type"] == content_type
    if content_type == JSON:
        return json_format.Parse(answer.content, message)
    message.ParseFromString(answer.content)
    return message


def read_status(answer: httpx.Response, status: int, content_type: str) -> Status:
    said = read(answer, status, content_type, Status())
    assert isinstance(said, Status)
    assert said.message
    return said


def violations(status: Status) -> list[str]:
    (detail,) = status.details
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    return [violation.field for violation in bad.field_violations]


@pytest.fixture(params=[JSON, PROTOBUF])
def content_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_logs_that_were_taken_are_told_by_an_empty_response(face: Face, content_type: str) -> None:
    answer = await send(face, content_type, Group([Log(body="hello"), Log(body="again")]))
    said = read(answer, 200, content_type, ExportLogsServiceResponse())
    assert not said.HasField("partial_success")
    assert answer.content == (b"{}" if content_type == JSON else b"")
    assert [(row.service, row.message, row.timestamp) for row in face.rows] == [
        ("pay", "hello", str(NOW)),
        ("pay", "again", str(NOW)),
    ]


async def test_a_request_without_logs_is_well(face: Face, content_type: str) -> None:
    said = read(await send(face, content_type), 200, content_type, ExportLogsServiceResponse())
    assert not said.HasField("partial_success")
    assert face.events == []


async def test_of_a_request_with_bad_logs_the_others_are_taken_and_the_bad_counted(
    face: Face, content_type: str
) -> None:
    answer = await send(face, content_type, Group([Log(), Log(1), Log()]))
    said = read(answer, 200, content_type, ExportLogsServiceResponse())
    assert said.partial_success.rejected_log_records == 1
    assert said.partial_success.error_message.startswith("1 of 3 rejected; record 2, timestamp: older than")
    assert len(face.rows) == 2


async def test_a_request_of_bad_logs_alone_is_refused_and_each_is_named(face: Face, content_type: str) -> None:
    status = read_status(await send(face, content_type, Group([Log(1), Log(2)])), 400, content_type)
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert violations(status) == ["log_records[1].timestamp", "log_records[2].timestamp"]
    assert face.events == []


async def test_of_very_many_bad_logs_the_first_are_named(face: Face, content_type: str) -> None:
    answer = await send(face, content_type, Group([Log(1)] * 5000))
    named = violations(read_status(answer, 400, content_type))
    assert 10 < len(named) <= 100
    assert named == [f"log_records[{number}].timestamp" for number in range(1, len(named) + 1)]
    assert len(answer.content) < 8000


@pytest.mark.parametrize("body", [b"\xff\xff", b"{"])
async def test_a_body_that_is_none_is_refused(face: Face, content_type: str, body: bytes) -> None:
    status = read_status(await post(face, content_type, body), 400, content_type)
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert "ExportLogsServiceRequest" in status.message


@pytest.mark.parametrize(
    ("content_type", "answered_in"),
    [
        ("application/json; charset=UTF-8", JSON),
        ("Application/JSON", JSON),
        ("application/x-protobuf;v=1", PROTOBUF),
        ("application/protobuf", PROTOBUF),
    ],
)
async def test_a_content_type_may_have_parameters(face: Face, content_type: str, answered_in: str) -> None:
    answer = await post(face, content_type, ENCODE[answered_in](Group([Log()])))
    read(answer, 200, answered_in, ExportLogsServiceResponse())
    assert len(face.rows) == 1


@pytest.mark.parametrize(
    ("content_type", "answered_in"),
    [("text/plain", PROTOBUF), ("", PROTOBUF), ("application/x-ndjson", PROTOBUF), ("application/json-seq", JSON),
     ("application/json; charset=utf-16", JSON)],
)  # fmt: skip
async def test_another_content_type_is_refused(face: Face, content_type: str, answered_in: str) -> None:
    status = read_status(await post(face, content_type, as_json(Group([Log()]))), 415, answered_in)
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert face.events == []


async def test_a_packed_request_is_unpacked(face: Face, content_type: str) -> None:
    body = gzip.compress(ENCODE[content_type](Group([Log()])))
    answer = await post(face, content_type, body, content_encoding="gzip")
    read(answer, 200, content_type, ExportLogsServiceResponse())
    read_status(await post(face, content_type, body[:-1], content_encoding="gzip"), 400, content_type)
    read_status(await post(face, content_type, body, content_encoding="br"), 415, content_type)
    assert len(face.rows) == 1


async def test_a_request_over_the_limit_is_refused(content_type: str) -> None:
    async for face in started(Config(max_request_bytes=1000, max_waiting_bytes=2000)):
        read_status(await send(face, content_type, Group([Log(body="x" * 1000)])), 413, content_type)
        assert face.events == []


async def test_while_kafka_is_away_clients_are_told_when_to_come_again(face: Face, content_type: str) -> None:
    face.publisher.failure = KafkaUnavailable("Kafka did not acknowledge")
    answer = await send(face, content_type, Group([Log()]))
    status = read_status(answer, 503, content_type)
    assert (status.code, status.message) == (code_pb2.UNAVAILABLE, "Kafka did not acknowledge")
    assert answer.headers["retry-after"] == "2"
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.seconds == 2


async def test_an_unexpected_fault_is_told_without_its_text_as_one_that_may_pass(
    face: Face, content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(topic: str, key: str, value: bytes, headers: Headers) -> None:
        raise RuntimeError("password=hunter2")

    face.publisher.publish = broken  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        answer = await send(face, content_type, Group([Log()]))
    assert "hunter2" not in read_status(answer, 503, content_type).message
    assert answer.headers["retry-after"] == "1"
    assert "hunter2" in caplog.text


async def test_under_a_key_the_same_request_is_the_same_logs_in_either_encoding(face: Face) -> None:
    group = Group([Log(NOW - number, body=f"{number}") for number in range(20)])
    for content_type in (JSON, PROTOBUF, PROTOBUF):
        await send(face, content_type, group, idempotency_key="k-1")
    assert len(face.events) == 3
    assert len(set(face.events)) == 1
    assert [row.dedupe - identity.of_batch("default", "k-1") for row in face.rows[:20]] == list(range(1, 21))


async def test_under_a_key_a_log_without_a_time_is_rejected(face: Face, content_type: str) -> None:
    answer = await send(face, content_type, Group([Log(0), Log()]), idempotency_key="k")
    said = read(answer, 200, content_type, ExportLogsServiceResponse())
    assert said.partial_success.rejected_log_records == 1
    read_status(await send(face, content_type, Group([Log()]), idempotency_key="a b"), 400, content_type)


async def test_a_uid_is_the_identity_of_a_log(face: Face) -> None:
    log = Log(attributes={"log.record.uid": "01H"})
    for content_type in (JSON, PROTOBUF):
        await send(face, content_type, Group([log]))
    assert face.rows[0] == face.rows[1]
    assert face.rows[0].dedupe == identity.of_id("default", "01H")
    assert face.rows[0].metadata == {"id": "01H"}


async def test_requests_are_counted_under_the_protocols_name(face: Face) -> None:
    def count() -> float:
        labels = {"protocol": "otlp", "status": "200"}
        return REGISTRY.get_sample_value("torpor_ingest_requests_total", labels) or 0

    before = count()
    await send(face, JSON, Group([Log()]))
    assert count() == before + 1


def test_json_that_is_no_request_is_not_told_that_it_was_taken() -> None:
    with pytest.raises(BadRequest, match="no resourceLogs in the request"):
        list(otlp_json.records(b'{"service":"x","message":"y"}'))
    assert list(otlp_json.records(b" {} ")) == list(otlp_json.records(b'{"resourceLogs":[]}')) == []
