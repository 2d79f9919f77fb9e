"""Syslog and CEF by HTTP: a line a log. It is answered as Torpor's own protocol is."""

from __future__ import annotations

from collections.abc import Iterator

from functions.common import syslog, timestamps
from functions.common.errors import TooLarge
from functions.common.event import MAX_DATA_BYTES
from functions.common.identity import MAX_RECORDS
from functions.common.record import Incoming
from functions.ingest.decode import media_type
from functions.ingest.dialects.own import Own
from functions.ingest.records import Numbered, Rejected


class Syslog(Own):
    """A request of this protocol."""

    name = "syslog"

    def records(self, body: bytes) -> Numbered:
        """The records of a body of lines, of whatever type; they arrive now. May raise TooLarge once they are read."""
        media_type(self._headers.get("content-type", ""))  # which refuses what is not UTF-8
        return _lines(body.removeprefix(b"\xef\xbb\xbf"), timestamps.now())


def _lines(body: bytes, received: int) -> Iterator[tuple[int, Incoming | Rejected]]:
    if body.count(b"\n") >= MAX_RECORDS:  # before each line becomes an object: they may be millions
        raise TooLarge(f"the request has more than {MAX_RECORDS - 1} records")
    for number, line in enumerate(body.split(b"\n"), 1):
        if line and not line.isspace():
            # No line as long makes a row.
            yield number, syslog.read(line, received) if len(line) <= MAX_DATA_BYTES else _too_long(line)


def _too_long(line: bytes) -> Rejected:
    return Rejected("message", f"{len(line)} bytes; the limit is {MAX_DATA_BYTES}")


new = Syslog
