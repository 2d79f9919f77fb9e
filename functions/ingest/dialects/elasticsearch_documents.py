"""How a document of Elasticsearch becomes a record (Elastic Common Schema 8, "Field reference", for its names).

Fields go by dotted names, as Elasticsearch has it: {"a": {"b": 1}} and {"a.b": 1} are the same field, and a field that
is given in both ways is a list, unless it is the same text in both. Nulls count as absent. Lists are JSON text, written
anew; a number with a point or an exponent stays as it was written.
"""

from __future__ import annotations

from typing import Any

import msgspec

from functions.common.event import MAX_DATA_BYTES
from functions.common.record import LEVEL_ALIASES, UNKNOWN_SERVICE, Incoming
from functions.ingest.dialects.json_records import FAULTS, fault
from functions.ingest.normalise import MAX_METADATA
from functions.ingest.records import Rejected

MAX_DOCUMENT_BYTES = 4 * MAX_DATA_BYTES
"""No document as large makes a row, unless it is mostly spaces, and to take it apart would need much memory."""
MAX_NAME = 512
"""Objects with a longer name stay JSON text: the names of a document made for it could fill the memory."""

_TIMESTAMP = ("@timestamp", "timestamp", "time")
_SERVICE = ("service.name", "service")
_LEVEL = ("log.level", "level", "severity", "loglevel")
_MESSAGE = ("message", "msg", "log")
_TRACE_ID = ("trace.id", "trace_id")
_SPAN_ID = ("span.id", "span_id")

Fields = dict[str, Any]
_document = msgspec.json.Decoder(Fields, float_hook=lambda text: msgspec.Raw(text.encode())).decode
_number = msgspec.json.Decoder(int | float).decode
_json = msgspec.json.Encoder().encode


def read(source: bytes, index: str, item_id: str) -> Incoming | Rejected:
    """The record that a document is, or why it is none; `index` and `item_id` are empty if it has none."""
    if len(source) > MAX_DOCUMENT_BYTES:
        return Rejected(None, f"{len(source)} bytes; the limit is {MAX_DOCUMENT_BYTES}")
    try:
        return _record(source, index, item_id)
    except Rejected as rejected:
        return rejected
    except FAULTS as error:
        return fault(error)


def _record(source: bytes, index: str, item_id: str) -> Incoming:
    fields = _flat(_document(source))
    timestamp = _timestamp(fields)
    service = _take(fields, _SERVICE) or index or UNKNOWN_SERVICE
    message = _take(fields, _MESSAGE)
    trace_id, span_id = _take(fields, _TRACE_ID) or "", _take(fields, _SPAN_ID) or ""
    level = _level(fields)
    metadata = {name: value if isinstance(value, str) else _json(value).decode() for name, value in fields.items()}
    if index and service != index:
        _keep(metadata, "index", index)
    if item_id and "id" in metadata:
        _keep(metadata, "_id", item_id)
    if message is None:
        message = source.strip().decode()
    # An _id is unique in its index only.
    identity = f"{index}/{item_id}" if item_id and index else item_id
    return Incoming(service, message, timestamp, level, metadata, trace_id, span_id, identity)


def _flat(document: Fields) -> Fields:
    """The fields of a document by their dotted names."""
    fields: Fields = {}
    again: dict[str, list[Any]] = {}
    objects = [("", document)]  # it grows while it is walked
    room = 2 * MAX_METADATA
    for prefix, members in objects:
        room -= len(members)
        if room < 0:
            raise Rejected("metadata", f"more than {MAX_METADATA} entries")
        for name, value in members.items():
            name = prefix + name
            if isinstance(value, dict) and value and len(name) < MAX_NAME:
                objects.append((f"{name}.", value))
            elif value is None:
                continue
            elif name not in fields:
                fields[name] = value
            elif fields[name] != value or not isinstance(value, str):  # 1 and true are equal, too
                again.setdefault(name, [fields[name]]).append(value)
    fields.update(again)
    return fields


def _timestamp(fields: Fields) -> str | int | float | None:
    for name in _TIMESTAMP:
        if name in fields:
            value = fields.pop(name)
            return value if isinstance(value, str) else _as_number(value)
    return None


def _as_number(value: object) -> int | float:
    try:
        number: int | float = _number(_json(value))
        return number
    except msgspec.ValidationError:
        raise Rejected("timestamp", "neither text nor a number") from None


def _take(fields: Fields, names: tuple[str, ...]) -> str | None:
    """Remove the first field that is text, and return it."""
    for name in names:
        if isinstance(text := fields.get(name), str):
            del fields[name]
            return text
    return None


def _level(fields: Fields) -> str:
    """Remove the first text that names a level, and return it: one that names none stays where it is."""
    for name in _LEVEL:
        if isinstance(text := fields.get(name), str) and text.lower() in LEVEL_ALIASES:
            del fields[name]
            return text
    return "INFO"


def _keep(metadata: dict[str, str], name: str, text: str) -> None:
    """Put `text` under `name`, or beside it if the document has a field of that name."""
    while name in metadata:
        name = f"_{name}"
    metadata[name] = text
