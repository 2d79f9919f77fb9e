"""The body of a request to Splunk's collector: events, JSON objects one after another or in an array, or raw lines.

Source: Splunk Enterprise, Getting Data In, "Format events for HTTP Event Collector" (batches, raw events).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

import msgspec

from functions.common.errors import TooLarge
from functions.common.identity import MAX_RECORDS
from functions.common.record import Incoming
from functions.ingest.dialects.json_records import FAULTS, fault
from functions.ingest.dialects.splunk_fields import Query
from functions.ingest.records import MAX_COMMAS, Rejected

_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_BETWEEN = re.compile(rb"\}[ \t\r\n]*+(?=\{)")
_LINE = re.compile(rb"[^\n]+")


def lines(body: bytes, query: Query) -> Iterator[Incoming | Rejected]:
    """A record for each line that is not blank. Raises TooLarge for more than a request may hold."""
    if body.count(b"\n") >= MAX_RECORDS:
        raise TooLarge(f"the request has more than {MAX_RECORDS - 1} lines")
    for match in _LINE.finditer(body):
        line = match[0].rstrip(b"\r")
        if line and not line.isspace():
            try:
                yield query.line(line)
            except UnicodeDecodeError as error:
                yield fault(error)


def events(body: bytes, query: Query) -> Iterator[Incoming | Rejected]:
    """A record for each event; broken JSON and what follows it is one. Raises TooLarge for an array of too many."""
    try:
        pieces = _pieces(body)
    except FAULTS as error:
        yield Rejected(None, f"the array is not JSON: {error}")
        return
    for piece in pieces:
        try:
            yield query.event(piece)
        except Rejected as rejected:
            yield rejected
        except FAULTS as error:
            yield fault(error)
            # Where the next event begins is sure only after JSON, as half a surrogate pair and NaN are for many.
            if type(error) is msgspec.DecodeError and not _is_json(piece):
                return


def _pieces(body: bytes) -> Iterable[bytes]:
    if not body[:256].lstrip().startswith(b"["):
        return _objects(body)
    # All items become objects of their own before the first is read: they may be many millions of nothing.
    if body.count(b",") > MAX_COMMAS:
        raise TooLarge(f"the array has more than {MAX_COMMAS} commas; send its events one after another")
    return map(bytes, _array(body))


def _objects(body: bytes) -> Iterator[bytes]:
    """The JSON objects of a body, found without parsing, each looked at once.

    Outside a text, a brace that closes next to one that opens parts two of them; inside one, the quotes before are odd.
    """
    start = seen = quotes = 0
    for count, match in enumerate(_BETWEEN.finditer(body)):
        if count > MAX_COMMAS:  # in one text they would keep the other requests waiting
            raise TooLarge(f"the request has more than {MAX_COMMAS} places where an event might end")
        end = match.end()
        part = body[seen:end]
        if b"\\" in part:
            part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        quotes += part.count(b'"')
        seen = end
        if quotes % 2 == 0:
            yield body[start:end]
            start = end
    if (rest := body[start:]) and not rest.isspace():
        yield rest


def _is_json(piece: bytes) -> bool:
    try:
        json.loads(piece, parse_int=str)  # a number may have more digits than an int may
    except (ValueError, RecursionError):
        return False
    return True
