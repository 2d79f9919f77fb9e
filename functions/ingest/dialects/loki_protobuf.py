"""Loki's streams as protobuf (Grafana Loki 3, pkg/push/push.proto).

Labels are a text there, whose values are quoted as in Go (The Go Programming Language Specification, "String
literals").
"""

from __future__ import annotations

import re
from typing import NamedTuple

from google.protobuf.message import DecodeError

from functions.common.errors import BadRequest, TooLarge
from functions.common.identity import MAX_RECORDS
from functions.common.timestamps import NANOSECONDS
from functions.ingest.dialects import loki_fields, wire
from functions.ingest.dialects.loki_fields import Entry, Texts, nanoseconds
from functions.ingest.normalise import MAX_METADATA
from functions.ingest.proto import loki_pb2
from functions.ingest.records import Numbered, Rejected, check_size

_QUOTED = r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"|`[^`]*+`'
_PAIR = re.compile(rf"\s*+([A-Za-z_]\w*+|{_QUOTED})\s*+=\s*+({_QUOTED})\s*+(,|(?=}}))", re.ASCII)
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|([0-7]{3})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_SIMPLE = dict(zip(b'abfnrtv\\"', b'\a\b\f\n\r\t\v\\"', strict=True))


def records(body: bytes) -> Numbered:
    """The entries of a push request. Raises BadRequest if it is none, TooLarge for more than it may hold."""
    try:
        streams = _streams(body)
    except DecodeError as error:
        raise BadRequest(f"not a push request in protobuf: {error}") from None
    return enumerate(loki_fields.records(streams, _labels, _entry), 1)


class Stream(NamedTuple):
    """Labels and entries, each still as its bytes: a broken one does not take the others with it."""

    labels: bytes
    entries: list[bytes]


def _streams(body: bytes) -> list[Stream]:
    streams: list[Stream] = []
    count = 0
    for data in wire.split(body)[0]:
        labels, entries = wire.split(data)
        count += len(entries)
        if count >= MAX_RECORDS:
            raise TooLarge(f"the request has more than {MAX_RECORDS - 1} records")
        streams.append(Stream(labels[-1] if labels else b"", entries))
    return streams


def _labels(raw: bytes) -> Texts:
    check_size(raw, "labels")
    try:
        return parse_labels(raw.decode())
    except UnicodeDecodeError:
        raise Rejected("labels", "not UTF-8") from None


def _entry(raw: bytes) -> Entry:
    check_size(raw)
    try:
        entry = loki_pb2.Entry.FromString(raw)
    except DecodeError:
        raise Rejected(None, "not an entry in protobuf") from None
    time, pairs = entry.timestamp, entry.structured_metadata
    if not 0 <= time.nanos < NANOSECONDS:
        raise Rejected("timestamp", "its nanoseconds are not less than a second")
    if len(pairs) > MAX_METADATA:
        raise Rejected("metadata", f"{len(pairs)} entries; the limit is {MAX_METADATA}")
    field = "message"
    try:
        line = entry.line.decode()
        field = "metadata"
        given = {pair.name.decode(): pair.value.decode() for pair in pairs} if pairs else {}
    except UnicodeDecodeError:
        raise Rejected(field, "not UTF-8") from None
    if len(given) < len(pairs):
        raise Rejected("metadata", "a name occurs twice")
    return nanoseconds(time.seconds * NANOSECONDS + time.nanos), line, given


def parse_labels(text: str) -> Texts:
    """Labels in Loki's notation, {name="value", ...}. Raises Rejected, for the field labels, if they are not."""
    labels: Texts = {}
    text = text.strip()
    position, more = 1, True
    try:
        while more and (match := _PAIR.match(text, position)):
            name = match[1] if match[1][0] not in '"`' else _unquoted(match[1])
            if name in labels:
                raise Rejected("labels", f"{name[:64]!r} occurs twice")
            labels[name] = _unquoted(match[2])
            position, more = match.end(), match[3] == ","
    except (KeyError, ValueError, OverflowError):
        raise Rejected("labels", f"an escape from character {position + 1} on stands for no character") from None
    if text[:1] != "{" or text[position:].strip() != "}":
        raise Rejected("labels", f'not {{name="value", ...}} from character {position + 1} on')
    return labels


def _unquoted(quoted: str) -> str:
    """What a quoted text stands for. Raises KeyError, ValueError or OverflowError if an escape stands for nothing."""
    text = quoted[1:-1]
    if quoted[0] == "`":
        return text.replace("\r", "")  # as in Go
    return _ESCAPE.sub(_unescaped, text.encode()).decode() if "\\" in text else text


def _unescaped(match: re.Match[bytes]) -> bytes:
    byte, octal, short, long, other = match.groups()
    if other:
        return bytes([_SIMPLE[other[0]]])
    if byte or octal:
        return bytes([int(byte, 16) if byte else int(octal, 8)])
    return chr(int(short or long, 16)).encode()
