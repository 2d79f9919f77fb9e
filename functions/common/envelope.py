"""A Kafka record as the CloudEvent that KafkaSource makes of it.

A record in binary mode (ce_ headers) or structured mode (JSON) keeps its attributes. Anything else, an event with one
bad attribute included, is wrapped in an event of type dev.knative.kafka.event. Keys are taken for text, as without
the label that names another type.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from functions.common.kafka import Headers

WRAPPED_TYPE = "dev.knative.kafka.event"
STRUCTURED = "application/cloudevents"

_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_URI = re.compile(r"(?:[^\x00-\x20\x7f\"<>\\^`{|}%]|%[0-9A-Fa-f]{2})+")
# What the HTTP binding leaves as it is in a value that needs any encoding at all.
_UNENCODED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


class Unusable(Exception):
    """A record that not even a wrapped event can be made of; KafkaSource discards it."""


class Invalid(Exception):
    """A record that is no valid CloudEvent."""


class Record(Protocol):
    """What is needed of a Kafka record."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Source(Protocol):
    """What is needed of a KafkaSource."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def extensions(self) -> Mapping[str, str]: ...


@dataclasses.dataclass(frozen=True)
class Envelope:
    """A CloudEvent: its attributes, extensions among them, and its data as it was in the record."""

    attributes: Mapping[str, str]
    data: bytes

    def with_extensions(self, extensions: Mapping[str, str]) -> Envelope:
        """The same event with more extensions, or others."""
        return Envelope({**self.attributes, **extensions}, self.data)

    def http_headers(self) -> dict[str, str]:
        """The headers of a request in binary mode."""
        headers = {f"ce-{name}": _header(value) for name, value in self.attributes.items()}
        if content_type := headers.pop("ce-datacontenttype", None):
            headers["content-type"] = content_type
        return headers

    def kafka_headers(self) -> Headers:
        """The headers of a record in binary mode."""
        names = {"datacontenttype": "content-type"}
        return [(names.get(name, f"ce_{name}"), value.encode()) for name, value in self.attributes.items()]


def envelope(record: Record, source: Source) -> Envelope:
    """The event that `source` posts for a record. Raises Unusable if it discards the record instead."""
    try:
        event = read(record)
    except Invalid:
        event = _wrapped(record, source)
    origin = {"knativekafkapartition": str(record.partition), "knativekafkaoffset": str(record.offset)}
    return event.with_extensions({**origin, **source.extensions})


def read(record: Record) -> Envelope:
    """The event that a record holds. Raises Invalid if it is no CloudEvent."""
    headers = dict(record.headers)
    if (headers.get("content-type") or b"").startswith(STRUCTURED.encode()):
        attributes, data = _structured(record.value or b"")
    else:
        names = {name: name.removeprefix("ce_") for name in headers if name.startswith("ce_") and len(name) > 3}
        if "content-type" in headers:
            names["content-type"] = "datacontenttype"
        attributes = {name: _text(headers[header]) for header, name in names.items()}
        data = record.value or b""
    _check(attributes)
    return Envelope(attributes, data)


def _text(value: bytes | None) -> str:
    if value is None:
        raise Invalid("a header has no value")
    return value.decode(errors="replace")


def _check(attributes: Mapping[str, str]) -> None:
    if attributes.get("specversion") not in ("1.0", "0.3"):
        raise Invalid("no specversion that is known")
    if not all(attributes.get(name) for name in ("id", "source", "type")):
        raise Invalid("a required attribute is missing")
    if not all(_NAME.fullmatch(name) for name in attributes):
        raise Invalid("a name holds other characters than a-z and 0-9")
    if not all(_URI.fullmatch(attributes[name]) for name in ("source", "dataschema") if name in attributes):
        raise Invalid("an attribute is no URI")
    if "time" in attributes:
        _check_time(attributes["time"])


def _check_time(text: str) -> None:
    try:
        datetime.datetime.fromisoformat(text.upper())
    except ValueError:
        raise Invalid("time is no moment") from None
    if not _TIME.fullmatch(text):
        raise Invalid("time is not as RFC 3339 has it")


def _structured(value: bytes) -> tuple[dict[str, str], bytes]:
    try:
        event = msgspec.json.decode(value, type=dict[str, Any])
        packed, data = event.pop("data_base64", None), event.pop("data", msgspec.UNSET)
        attributes = {name: _json_text(value) for name, value in event.items() if value is not None}
        if packed is not None:
            return attributes, base64.b64decode(packed, validate=True)
    except (msgspec.DecodeError, RecursionError, ValueError, TypeError):
        raise Invalid("not the JSON of a CloudEvent") from None
    if data is msgspec.UNSET:
        return attributes, b""
    if isinstance(data, str) and "json" not in attributes.get("datacontenttype", "json"):
        return attributes, data.encode()
    return attributes, msgspec.json.encode(data)


def _json_text(value: Any) -> str:
    if isinstance(value, dict | list):
        raise Invalid("an attribute is no scalar")
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _wrapped(record: Record, source: Source) -> Envelope:
    # The real one cannot make an event of these either: it logs the record and goes on.
    if record.value is None or any(value is None for _, value in record.headers):
        raise Unusable("a record without a value, or with a header without one, is no CloudEvent and cannot be wrapped")
    moment = datetime.datetime.fromtimestamp(record.timestamp / 1000, datetime.UTC).replace(tzinfo=None)
    attributes = {
        "specversion": "1.0",
        "id": f"partition:{record.partition}/offset:{record.offset}",
        "source": f"/apis/v1/namespaces/{source.namespace}/kafkasources/{source.name}#{record.topic}",
        "type": WRAPPED_TYPE,
        "subject": f"partition:{record.partition}#{record.offset}",
        "time": moment.isoformat(timespec="milliseconds").removesuffix(".000") + "Z",
    }
    if record.key is not None:
        attributes["partitionkey"] = attributes["key"] = record.key.decode(errors="replace")
    for name, value in record.headers:
        if name.lower() == "content-type":
            attributes["datacontenttype"] = _text(value).lower()
        else:
            attributes["kafkaheader" + "".join(_NAME.findall(name.lower()))] = _text(value)
    return Envelope(attributes, record.value)


def _header(text: str) -> str:
    # The real one encodes nothing, which works for printable ASCII; the rest is encoded as the HTTP binding asks.
    return text if text.isascii() and text.isprintable() else quote(text, safe=_UNENCODED)
