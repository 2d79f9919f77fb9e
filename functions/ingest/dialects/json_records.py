"""JSON to records: JSON lines, an array, one object. Pure.

Most records take the short way, one strict decoding. A record with other fields, other types or nulls takes the long
way: nulls count as absent, a message or metadata that is not text becomes its JSON text, and fields that are not the
record's become metadata.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from functions.common.errors import BadRequest, TooLarge, UnsupportedMediaType
from functions.common.identity import MAX_RECORDS
from functions.common.record import Incoming
from functions.ingest.records import Numbered, Rejected, check_commas, check_size

LINES = {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
JSON = {"application/json", "text/json"}

_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_value = msgspec.json.Decoder(msgspec.Raw).decode


def records(body: bytes, kind: str) -> Numbered:
    """The records of a body of the media type `kind`.

    JSON lines are taken apart without being parsed; a bad line is found when it is read. `application/json` may be an
    array, one object (over several lines, too) or JSON lines. Raises UnsupportedMediaType for any other type,
    BadRequest if an array is broken, and TooLarge, once they are read, if they are more than a request may hold.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    if kind in LINES:
        return _lines(body)
    if kind in JSON or not kind:
        return _json(body)
    raise UnsupportedMediaType(
        f"content type {kind[:64]!r} is not read here; send JSON lines with 'Content-Type: application/x-ndjson', "
        "or a JSON array or object with 'Content-Type: application/json'"
    )


def _lines(body: bytes) -> Iterator[tuple[int, Incoming | Rejected]]:
    _check_count(body.count(b"\n"))  # before each line becomes an object: they may be millions
    for number, line in enumerate(body.split(b"\n"), 1):
        if line and not line.isspace():
            yield number, read(line)


def _json(body: bytes) -> Numbered:
    start = body.lstrip()[:1]
    try:
        if start == b"[":
            check_commas(body)
            return _items(_array(body))
        if start == b"{":
            return [(1, read(_value(body)))]
    except (msgspec.DecodeError, RecursionError) as error:
        if start == b"[":
            raise BadRequest(f"the array is not JSON: {error}") from None
    # Not one value: JSON lines under the name of JSON, as many clients send them.
    return _lines(body)


def _items(array: list[msgspec.Raw]) -> Iterator[tuple[int, Incoming | Rejected]]:
    _check_count(len(array))
    for number, raw in enumerate(array, 1):
        yield number, read(raw)


def _check_count(count: int) -> None:
    if count >= MAX_RECORDS:
        raise TooLarge(f"the request has more than {MAX_RECORDS - 1} records")


FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a text that is not the JSON it is to be."""

Fields = dict[str, msgspec.Raw]
_strict = msgspec.json.Decoder(Incoming).decode
_fields = msgspec.json.Decoder(Fields).decode
_texts = msgspec.json.Decoder(dict[str, str]).decode
_text = msgspec.json.Decoder(str).decode
_number = msgspec.json.Decoder(int | float).decode


def read(raw: bytes | msgspec.Raw) -> Incoming | Rejected:
    """The record that a JSON object is, or why it is none."""
    try:
        check_size(raw)
        try:
            return _strict(raw)
        except msgspec.ValidationError:
            return _freely(_fields(raw))
    except Rejected as rejected:
        return rejected
    except FAULTS as error:
        return fault(error)


def fault(error: Exception) -> Rejected:
    """What is wrong with a text that should have been a JSON object, by the error in FAULTS that reading it raised."""
    if isinstance(error, msgspec.ValidationError):
        return Rejected(None, "not a JSON object")
    if isinstance(error, UnicodeDecodeError):
        return Rejected(None, "not UTF-8")
    if isinstance(error, RecursionError):
        return Rejected(None, "not JSON: nested too deeply")
    hint = "; are there two records on one line? curl needs --data-binary" if "trailing" in str(error) else ""
    return Rejected(None, f"not JSON: {error}{hint}")


def texts(raw: str | bytes | msgspec.Raw) -> dict[str, str]:
    """The entries of a JSON object as texts: nulls are left out. Raises msgspec.DecodeError if it is none."""
    try:
        return _texts(raw)
    except msgspec.ValidationError:
        return as_texts(_fields(raw))


def as_texts(fields: Fields) -> dict[str, str]:
    """The values as texts: those that are not text as their JSON text, and nulls not at all."""
    return {name: _as_text(raw) for name, raw in fields.items() if bytes(raw) != b"null"}


def _freely(fields: Fields) -> Incoming:
    given = {name: raw for name, raw in fields.items() if bytes(raw) != b"null"}
    record = Incoming()
    for name in ("service", "trace_id", "span_id"):
        if name in given and not bytes(given[name]).startswith(b'"'):
            raise Rejected(name, "not text")
    for name in ("service", "message", "level", "trace_id", "span_id", "id"):
        if name in given:
            setattr(record, name, _as_text(given.pop(name)))
    if "timestamp" in given:
        record.timestamp = _as_time(given.pop("timestamp"))
    if "metadata" in given:
        try:
            metadata = _fields(given.pop("metadata"))
        except msgspec.ValidationError:
            raise Rejected("metadata", "not a JSON object") from None
        given = {**given, **metadata}
    record.metadata = as_texts(given)
    return record


def _as_text(raw: msgspec.Raw) -> str:
    text = bytes(raw)
    return _text(text) if text.startswith(b'"') else text.decode()


def _as_time(raw: msgspec.Raw) -> str | int | float:
    if bytes(raw).startswith(b'"'):
        return _text(raw)
    try:
        number: int | float = _number(raw)
        return number
    except msgspec.ValidationError:
        raise Rejected("timestamp", "neither text nor a number") from None
