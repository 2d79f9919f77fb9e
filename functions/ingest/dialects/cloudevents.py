"""CloudEvents 1.0 as logs, in the three modes of the HTTP binding: binary, structured, batched. Pure.

An event is a log: `time` is its timestamp and `source#id` its id. Data that is a JSON object with a `message` is read
as a record; otherwise the data is the message. A record without a service has the event's source for one. The event's
own attributes become metadata under the names of OpenTelemetry's conventions (cloudevents.event_type). The published
SDK is not used here: it makes up an id and a time where an event has none, and so would make of each resend another
log.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

import msgspec

from functions.common.errors import BadRequest
from functions.common.record import Incoming
from functions.ingest.dialects import json_records
from functions.ingest.records import MAX_RECORD_BYTES, Numbered, Rejected, check_commas

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"

_REQUIRED = ("id", "source", "type")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", re.ASCII)
_QUOTED, _ESCAPED = re.compile(r'"(?:[^"\\]|\\.)*"'), re.compile(r"\\(.)")
# Values stay as they were sent: a number that is decoded and encoded again may be another.
Fields = dict[str, msgspec.Raw]
_object = msgspec.json.Decoder(Fields).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_EMPTY, _NO_METADATA = msgspec.Raw(b'""'), msgspec.Raw(b"{}")
# What the record holds elsewhere, or what describes the data only.
_NOT_METADATA = {"specversion", "time", "datacontenttype", "dataschema", "traceparent"}


def is_cloudevent(headers: Mapping[str, str], kind: str) -> bool:
    """Whether a request with these headers and this media type is a CloudEvent or a batch of them."""
    return kind in (STRUCTURED, BATCHED) or "ce-specversion" in headers


def records(headers: Mapping[str, str], kind: str, body: bytes) -> Numbered:
    """One record an event. Raises BadRequest, naming the event's place, if one is malformed."""
    try:
        check_commas(body)
        if kind == BATCHED:
            events = [_event(number, raw) for number, raw in enumerate(_array(body), 1)]
        elif kind == STRUCTURED:
            events = [_event(1, body)]
        else:
            events = [_binary(headers, kind, body)]
        return [(number, _record(number, event)) for number, event in enumerate(events, 1)]
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BadRequest(f"not a CloudEvent: {error}") from None


def _event(number: int, raw: bytes | msgspec.Raw) -> Fields:
    if len(raw) > MAX_RECORD_BYTES:
        raise BadRequest(f"event {number}: {len(raw)} bytes; the limit is {MAX_RECORD_BYTES}")
    return _object(raw)


def _binary(headers: Mapping[str, str], kind: str, body: bytes) -> Fields:
    event = {name[3:]: _as_raw(_attribute(value)) for name, value in headers.items() if name.startswith("ce-")}
    is_json = not kind or kind.endswith(("/json", "+json"))
    event["data"] = msgspec.json.decode(body, type=msgspec.Raw) if body and is_json else _as_raw(body.decode())
    return event


def _attribute(value: str) -> str:
    """The text of a header. Raises UnicodeError if it is not UTF-8: another character in an id is another log."""
    # Quoted by older senders, percent-encoded where a header could not hold it (HTTP binding 1.0, 3.1.3.2).
    if _QUOTED.fullmatch(value):
        value = _ESCAPED.sub(r"\1", value[1:-1])
    return unquote_to_bytes(value.encode("latin-1")).decode()


def _record(number: int, event: Fields) -> Incoming | Rejected:
    event = _present(event)  # in the JSON format null means absent
    if _as_text(event.get("specversion")) != "1.0":
        raise BadRequest(f"event {number}: specversion is not 1.0")
    for name in _REQUIRED:
        if not _as_text(event.get(name)):
            raise BadRequest(f"event {number}: the attribute {name} is missing")
    record, metadata = _data(number, event)
    for name, value in event.items():
        if name not in _NOT_METADATA:
            metadata[f"cloudevents.event_{name}" if name in (*_REQUIRED, "subject") else f"cloudevents.{name}"] = value
    if match := _TRACEPARENT.fullmatch(_as_text(event.get("traceparent"))):
        record = {"trace_id": _as_raw(match[1]), "span_id": _as_raw(match[2]), **record}
    fields = {
        "service": event["source"],
        **record,
        "timestamp": event.get("time"),
        "id": f"{_as_text(event['source'])}#{_as_text(event['id'])}",
        "metadata": metadata,
    }
    return json_records.read(msgspec.json.encode(fields))


def _data(number: int, event: Fields) -> tuple[Fields, Fields]:
    data, packed = event.pop("data", _EMPTY), event.pop("data_base64", None)
    if packed is not None:
        if data is not _EMPTY:
            raise BadRequest(f"event {number}: both data and data_base64")
        try:
            data = _as_raw(base64.b64decode(msgspec.json.decode(packed, type=str), validate=True).decode())
        except (ValueError, msgspec.DecodeError):
            raise BadRequest(f"event {number}: data_base64 is not text in base64") from None
    if bytes(data).startswith(b"{") and "message" in (record := _present(_object(data))):
        metadata = record.pop("metadata", _NO_METADATA)
        if not bytes(metadata).startswith(b"{"):
            raise BadRequest(f"event {number}: metadata is not an object")
        return record, _object(metadata)
    return {"message": data}, {}


def _present(fields: Fields) -> Fields:
    return {name: raw for name, raw in fields.items() if bytes(raw) != b"null"}


def _as_raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))


def _as_text(raw: msgspec.Raw | None) -> str:
    """The text of a JSON string; an empty one for anything else."""
    return msgspec.json.decode(raw, type=str) if raw is not None and bytes(raw).startswith(b'"') else ""
