"""CloudEvents 1.0 as logs, in the three modes of the HTTP binding: binary, structured, batched. Pure.

An event is a log: `time` is its timestamp and `source#id` its id. Data that is a JSON object with a `message` is read
as a record; otherwise the data is the message. A record without a service has the event's source for one. The event's
own attributes become metadata under the names of OpenTelemetry's conventions (cloudevents.event_type). The published
SDK is not used here: it makes up an id and a time where an event has none, and so would make of each resend another
log.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from functions.common.errors import BadRequest
from functions.ingest.decode import Numbered

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"

_REQUIRED = ("id", "source", "type")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", re.ASCII)
# What the record holds elsewhere, or what describes the data only.
_NOT_METADATA = {"specversion", "time", "datacontenttype", "dataschema", "traceparent"}


def is_cloudevent(headers: Mapping[str, str], kind: str) -> bool:
    """Whether a request with these headers and this media type is a CloudEvent or a batch of them."""
    return kind in (STRUCTURED, BATCHED) or "ce-specversion" in headers


def records(headers: Mapping[str, str], kind: str, body: bytes) -> Numbered:
    """One JSON record an event. Raises BadRequest, naming the event's place, if one is malformed."""
    try:
        if kind == BATCHED:
            events = msgspec.json.decode(body, type=list[dict[str, Any]])
        elif kind == STRUCTURED:
            events = [msgspec.json.decode(body, type=dict[str, Any])]
        else:
            events = [{**_attributes(headers), "data": _parse(body, kind)}]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"not a CloudEvent: {error}") from None
    return [(number, msgspec.json.encode(_record(number, event))) for number, event in enumerate(events, 1)]


def _attributes(headers: Mapping[str, str]) -> dict[str, Any]:
    # Values are percent-encoded where a header could not hold them (HTTP binding 1.0, 3.1.3.2).
    return {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}


def _parse(body: bytes, kind: str) -> Any:
    return msgspec.json.decode(body) if body and ("json" in kind or not kind) else body.decode()


def _record(number: int, event: dict[str, Any]) -> dict[str, Any]:
    if event.get("specversion") != "1.0":
        raise BadRequest(f"event {number}: specversion is not 1.0")
    for name in _REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            raise BadRequest(f"event {number}: the attribute {name} is missing")
    record, metadata = _data(number, event)
    for name, value in event.items():
        if name not in _NOT_METADATA:
            metadata[f"cloudevents.event_{name}" if name in (*_REQUIRED, "subject") else f"cloudevents.{name}"] = value
    if match := _TRACEPARENT.fullmatch(str(event.get("traceparent", ""))):
        record = {"trace_id": match[1], "span_id": match[2], **record}
    return {
        "service": event["source"],
        **record,
        "timestamp": event.get("time"),
        "id": f"{event['source']}#{event['id']}",
        "metadata": metadata,
    }


def _data(number: int, event: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    data = event.pop("data", None)
    if packed := event.pop("data_base64", None):
        try:
            data = base64.b64decode(packed, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, TypeError):
            raise BadRequest(f"event {number}: data_base64 is not text in base64") from None
    if isinstance(data, dict) and "message" in data:
        metadata = data.pop("metadata", {})
        if not isinstance(metadata, dict):
            raise BadRequest(f"event {number}: metadata is not an object")
        return data, metadata
    return {"message": "" if data is None else data}, {}
