"""A dead letter: a record of the dead-letter topic, why it is there, and the event that it can become again."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping

import msgspec

from functions.common import timestamps
from functions.common.envelope import Envelope, Invalid, Record, read
from functions.common.errors import NotOurs
from functions.common.event import DEAD_LETTER_TYPE, TYPE, Event
from functions.common.kafka import Headers
from functions.index.salvage import fault

HEAD_BYTES = 200
_MARKS = ("knativeerror", "knativekafka")
"""How the names of attributes begin that KafkaSource adds."""


@dataclasses.dataclass(frozen=True)
class Letter:
    """One dead letter; `attributes` are those of its CloudEvent, none if it is no CloudEvent."""

    partition: int
    offset: int
    milliseconds: int
    attributes: Mapping[str, str]
    data: bytes

    @property
    def number(self) -> str:
        """Its name here: partition/offset of the dead-letter topic."""
        return f"{self.partition}/{self.offset}"

    @property
    def time(self) -> str:
        """When it was left."""
        return timestamps.iso(self.milliseconds * 1_000_000)[:-7] + "Z"

    @property
    def tenant(self) -> str:
        """Whose log it is; empty if nothing says so."""
        return self.attributes.get("tenant", "")

    @property
    def from_source(self) -> bool:
        """Whether KafkaSource left it, and not index."""
        return "knativeerrordest" in self.attributes

    @property
    def reason(self) -> str:
        """Why it is here."""
        if not self.attributes:
            return "no CloudEvent: neither index nor KafkaSource left it"
        if not self.from_source:
            return self.attributes.get("reason", "nothing says why")
        if not self.code:
            return f"no answer from {self.attributes['knativeerrordest']}"
        return _answer(self.attributes.get("knativeerrordata", "")) or f"status {self.code}"

    @property
    def code(self) -> str:
        """ClickHouse's error code, or the status of index's answer to KafkaSource."""
        return self.attributes.get("knativeerrorcode" if self.from_source else "code", "")

    @property
    def origin_id(self) -> str:
        """The event that it was, or was a part of."""
        return self.attributes.get("id" if self.from_source else "originid", "")

    @property
    def origin(self) -> str:
        """Where that event is in the log topic: partition/offset."""
        if not self.from_source:
            return self.attributes.get("origin", "")
        names = ("knativekafkapartition", "knativekafkaoffset")
        return "/".join(self.attributes[name] for name in names if name in self.attributes)

    def summary(self) -> dict[str, str | int]:
        """What a list says of it."""
        return {
            "number": self.number,
            "time": self.time,
            "tenant": self.tenant,
            "type": self.attributes.get("type", ""),
            "reason": self.reason,
            "code": self.code,
            "origin_id": self.origin_id,
            "origin": self.origin,
            "bytes": len(self.data),
            "head": self.head,
        }

    @property
    def head(self) -> str:
        """Its first bytes."""
        more = "..." if len(self.data) > HEAD_BYTES else ""
        return self.data[:HEAD_BYTES].decode(errors="backslashreplace") + more


def read_letter(record: Record) -> Letter:
    """The letter that a record of the dead-letter topic is, whatever it holds."""
    try:
        event = read(record)
    except Invalid:
        event = Envelope({}, record.value or b"")
    return Letter(record.partition, record.offset, record.timestamp, event.attributes, event.data)


def again(letter: Letter) -> tuple[str, bytes, Headers]:
    """Key, data and headers of the event to publish to the log topic. Raises NotOurs if index cannot take it.

    A line becomes a new event. An event that KafkaSource left is the one that it was.
    """
    kind = letter.attributes.get("type")
    if kind == DEAD_LETTER_TYPE and letter.tenant:
        if reason := fault(letter.data, letter.tenant):
            raise NotOurs(reason)
        event = Event.fresh(letter.tenant, letter.data)
        return event.id, event.data, event.kafka_headers()
    if kind == TYPE and letter.from_source:
        kept = {name: value for name, value in letter.attributes.items() if not name.startswith(_MARKS)}
        original = Envelope(kept, letter.data)
        Event.from_http(original.http_headers(), letter.data)
        return kept.get("partitionkey") or kept["id"], letter.data, original.kafka_headers()
    raise NotOurs(f"it is no log of this pipeline (type {kind or 'unknown'}): {letter.reason}")


def escaped(text: str, keep: str = "") -> str:
    """The text with everything escaped that is not printed as one character, so that it cannot drive a terminal."""
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def _answer(data: str) -> str:
    """The text of an answer that KafkaSource kept: the detail of problem details, or else all of it."""
    try:
        body = base64.b64decode(data, validate=True)
    except ValueError:
        return data
    try:
        detail = msgspec.json.decode(body, type=dict[str, object])["detail"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, RecursionError):
        detail = body.decode(errors="backslashreplace")
    return " ".join(str(detail).split())
