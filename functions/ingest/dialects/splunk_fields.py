"""How an event of Splunk, or a raw line, becomes a record.

Source: Splunk Enterprise, Getting Data In, "Format events for HTTP Event Collector". The members of the event, its
fields and what is around it are metadata; of those with one name the outermost keeps it, and another goes under
fields.NAME or event.NAME.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

import msgspec

from functions.common import timestamps
from functions.common.record import LEVEL_ALIASES, UNKNOWN_SERVICE, Incoming
from functions.ingest.dialects.json_records import Fields, as_texts, texts
from functions.ingest.normalise import MAX_SERVICE_BYTES
from functions.ingest.records import Rejected, check_size, note

REQUIRED, BLANK = "Event field is required", "Event field cannot be blank"
INDEXED = "Error in handling indexed fields"

_NAMES = ("host", "source", "sourcetype", "index")
_LEVELS = ("level", "severity", "log_level", "otel.log.severity.text")
_TAKEN = frozenset(("service.name", "service", "trace_id", "span_id", "log.record.uid"))
_ABSENT = msgspec.Raw(b"")


class _Envelope(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """What is around an event, as nearly every client sends it."""

    event: msgspec.Raw = _ABSENT
    time: msgspec.Raw = _ABSENT
    fields: msgspec.Raw = _ABSENT
    host: str = ""
    source: str = ""
    sourcetype: str = ""
    index: str = ""


_usual = msgspec.json.Decoder(_Envelope).decode
_object = msgspec.json.Decoder(Fields).decode
_string = msgspec.json.Decoder(str).decode

_SCIENTIFIC = re.compile(r"\d{1,40}(?:\.\d{1,40})?[eE]\+?\d{1,2}", re.ASCII)


class Query:
    """The query of a request: what events and lines lack of host, source and the like, they have from it."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._defaults = {name: query[name] for name in (*_NAMES, "channel") if query.get(name)}
        self._time = _exact(query["time"]) if query.get("time") else None

    def line(self, line: bytes) -> Incoming:
        """The record of a raw line. Raises UnicodeDecodeError."""
        metadata = self._defaults.copy()
        return Incoming(_service(metadata), line.decode(), self._time, metadata=metadata)

    def event(self, piece: bytes) -> Incoming:
        """The record of an event. Raises Rejected, or what json_records.FAULTS holds."""
        check_size(piece)
        envelope, around = _envelope(piece)
        message, event = _content(bytes(envelope.event))
        fields = _indexed(bytes(envelope.fields))
        time = _timestamp(bytes(envelope.time))
        metadata = self._defaults | around
        record = Incoming("", message, self._time if time is None else time, _level(event, fields), metadata)
        if not _TAKEN.isdisjoint(event) or not _TAKEN.isdisjoint(fields):
            _take(record, event, fields)
        if not record.service:
            record.service = _service(metadata)
        for of, members in (("fields", fields), ("event", event)):
            for name, text in members.items():
                note(metadata, name, text, of)
        if record.id and "id" in metadata:  # where else the identity would stand
            metadata["log.record.uid"] = record.id
        return record


def _envelope(piece: bytes) -> tuple[_Envelope, dict[str, str]]:
    """The envelope of an event, and those of its members that are metadata."""
    try:
        envelope = _usual(piece)
    except msgspec.ValidationError:
        members = _object(piece)
        event, time, fields = (members.pop(name, _ABSENT) for name in ("event", "time", "fields"))
        return _Envelope(event, time, fields), {name: text for name, text in as_texts(members).items() if text}
    return envelope, {name: text for name in _NAMES if (text := getattr(envelope, name))}


def _content(event: bytes) -> tuple[str, dict[str, str]]:
    """The message of an event, and its other members if it is an object."""
    if not event:
        raise Rejected("event", REQUIRED)
    if event[:1] == b'"':
        text: str = _string(event)
        if not text or text.isspace():
            raise Rejected("event", BLANK)
        return text, {}
    if event == b"null" or (event[:1] in b"{[" and not event[1:-1].strip()):
        raise Rejected("event", BLANK)
    if event[:1] != b"{":
        return event.decode(), {}
    members = as_texts(_object(event))
    message = members.pop("message", "") or members.pop("msg", "") or event.decode()
    return message, members


def _indexed(fields: bytes) -> dict[str, str]:
    if fields in (b"", b"null"):
        return {}
    if fields[:1] != b"{":
        raise Rejected("fields", INDEXED)
    return texts(fields)


def _timestamp(time: bytes) -> str | int | None:
    if time in (b"", b"null"):
        return None
    if time[:1] in b"{[tf":
        raise Rejected("time", "neither text nor a number")
    return _exact(_string(time).strip() if time[:1] == b'"' else time.decode())


def _exact(text: str) -> str | int:
    """Nanoseconds of a decimal, without the loss of a float; any other text as it is, for timestamps.parse."""
    whole, _, fraction = text.partition(".")
    if not (fraction.isdecimal() and whole.isdecimal() and text.isascii() and 8 < len(whole) < 20):
        return _exact(f"{Decimal(text):f}") if _SCIENTIFIC.fullmatch(text) else text
    billionths = int(whole + fraction[:9].ljust(9, "0"))
    if len(whole) < 12:  # seconds
        return billionths
    number = int(whole)
    return billionths * (timestamps.parse(number) // number) // timestamps.NANOSECONDS


def _level(*places: dict[str, str]) -> str:
    """Remove the first text that names a level and return it: one that names none stays where it is."""
    for fields in places:
        for name in _LEVELS:
            if name in fields and fields[name].lower() in LEVEL_ALIASES:
                return fields.pop(name)
    return "INFO"


def _take(record: Incoming, event: dict[str, str], fields: dict[str, str]) -> None:
    """Move what has a place in the record there."""
    for place, name in ((fields, "service.name"), (fields, "service"), (event, "service")):
        if not record.service and not place.get(name, "{").startswith("{"):  # an object is no name
            record.service = place.pop(name)
    record.trace_id = event.pop("trace_id", "") or fields.pop("trace_id", "")
    record.span_id = event.pop("span_id", "") or fields.pop("span_id", "")
    record.id = fields.pop("log.record.uid", "") or event.pop("log.record.uid", "")


def _service(metadata: dict[str, str]) -> str:
    """The service of a log that names none; it leaves the metadata unless it had to be cut."""
    for name in ("source", "sourcetype", "host"):
        if text := metadata.get(name):
            if len(text) * 4 > MAX_SERVICE_BYTES and len(encoded := text.encode()) > MAX_SERVICE_BYTES:
                return encoded[:MAX_SERVICE_BYTES].decode(errors="ignore")
            return metadata.pop(name)
    return UNKNOWN_SERVICE
