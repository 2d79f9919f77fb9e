"""Lines out of bytes, a long one in pieces. Pure.

A line ends at a newline, and a carriage return before that is part of the end. A line too long for one record is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

MAX_LINE_BYTES = 200_000
"""Bytes of a line that are one record; of a longer one each piece is."""

# As text a byte may become 6: no line up to this size is over what ingest takes.
_SHORT = 40_000
_MAX_TEXT, _MAX_JSON = 250_000, 900_000

_encode = msgspec.json.Encoder().encode


class Line(NamedTuple):
    """A line without its newline, or a piece of one; `size` is the bytes it was read from.

    `piece` is 0 for a whole line, or the number of the piece, from 1; `last` says that none follows it.
    """

    data: bytes
    size: int
    piece: int = 0
    last: bool = True

    @property
    def carry(self) -> int:
        """The `piece` with which to split what follows."""
        return 0 if self.last else self.piece


def split(data: bytes, piece: int, ended: bool) -> Iterator[Line]:
    """The lines of `data`; what follows the last newline is one only if nothing follows, that is, if it has `ended`.

    `piece` is the number of the piece that came last, if that was not the last of its line.
    """
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        if piece or end - start > _SHORT:
            yield from _cut(data[start:end], piece, 1)
            piece = 0
        else:
            yield Line(data[start:end], end - start + 1)
        start = end + 1
    rest = data[start:]
    while len(rest) > MAX_LINE_BYTES:
        size = _fitting(rest)
        piece += 1
        yield Line(rest[:size], size, piece, False)
        rest = rest[size:]
    if ended and (rest or piece):
        yield from _cut(rest, piece, 0)


def _cut(line: bytes, piece: int, newline: int) -> Iterator[Line]:
    while len(line) > _SHORT and (size := _fitting(line)) < len(line):
        piece += 1
        yield Line(line[:size], size, piece, False)
        line = line[size:]
    yield Line(line, len(line) + newline, piece and piece + 1)


def _fitting(line: bytes) -> int:
    """How many bytes of the line ingest takes as one record."""
    size = min(len(line), MAX_LINE_BYTES)
    while size > _SHORT:
        text = line[:size].decode(errors="backslashreplace")
        if len(text.encode()) <= _MAX_TEXT and len(_encode(text)) <= _MAX_JSON:
            break
        size //= 2
    if size == len(line):
        return size
    # Not within a character: its bytes after the first are 10xxxxxx.
    return next((at for at in range(size, size - 4, -1) if line[at] & 0xC0 != 0x80), size)
