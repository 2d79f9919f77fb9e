"""Loki's streams as JSON (Grafana Loki HTTP API, "Ingest logs")."""

from __future__ import annotations

import msgspec

from functions.common.errors import BadRequest
from functions.ingest.dialects import loki_fields
from functions.ingest.dialects.json_records import FAULTS, texts
from functions.ingest.dialects.loki_fields import Entry, Texts, nanoseconds
from functions.ingest.records import Numbered, Rejected, check_commas, check_size


class Stream(msgspec.Struct, gc=False):
    """Labels and entries, each still as its JSON: a broken one does not take the others with it."""

    labels: msgspec.Raw = msgspec.field(name="stream")
    entries: list[msgspec.Raw] | None = msgspec.field(name="values")


class Request(msgspec.Struct, gc=False):
    """A push request."""

    streams: list[Stream] | None = None


class Value(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """An entry."""

    timestamp: str
    line: str
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


_request = msgspec.json.Decoder(Request).decode
_value = msgspec.json.Decoder(Value).decode
_FIELDS = {"`$[0]`": "timestamp", "`$[1]`": "message"}


def records(body: bytes) -> Numbered:
    """The entries of a push request. Raises BadRequest if it is none, TooLarge for too many items."""
    check_commas(body)
    try:
        streams = _request(body).streams or []
    except FAULTS as error:
        raise BadRequest(f"not a push request in JSON: {error}") from None
    return enumerate(loki_fields.records(streams, _labels, _entry), 1)


def _labels(raw: msgspec.Raw) -> Texts:
    check_size(raw, "labels")
    return _texts(raw, "labels")


def _entry(raw: msgspec.Raw) -> Entry:
    check_size(raw)
    try:
        value = _value(raw)
    except FAULTS as error:
        raise Rejected(_FIELDS.get(str(error).rpartition(" ")[2]), str(error)) from None
    digits = value.timestamp
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        raise Rejected("timestamp", "not the digits of nanoseconds since 1970")
    return nanoseconds(int(digits)), value.line, _texts(value.metadata, "metadata")


def _texts(raw: msgspec.Raw, field: str) -> Texts:
    """The values of an object as texts; null is an empty one."""
    try:
        return {} if bytes(raw) == b"null" else texts(raw)
    except FAULTS as error:
        raise Rejected(field, str(error)) from None
