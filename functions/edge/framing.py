"""Syslog messages out of a TCP stream: RFC 6587, section 3.4, both kinds of framing, told apart frame by frame. Pure.

A frame that begins with a number, a space and `<`, the first character of every syslog message, is counted (3.4.1). Any
other ends at a line feed or NUL, with or without a carriage return before it (3.4.2). The number must be below a
million and the `<` be there because lines that are no syslog may begin with a number, too: taken for a count, it would
swallow the lines that follow.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LIMIT = 64 * 1024
"""Bytes of a message; of a longer one each so many bytes are a piece."""

_COUNT = re.compile(rb"([1-9][0-9]{0,5}) (?=<)")
_BEGIN_OF_COUNT = re.compile(rb"[1-9][0-9]{0,5} ?")
_END = re.compile(rb"[\n\0]")
_ENDS = b"\r\n\0"


class Frame(NamedTuple):
    """A message without its framing, or a piece of one: `piece` counts them from 1 and is 0 for a whole message.

    `cut` says that the stream ended before the message did.
    """

    body: bytes
    piece: int = 0
    cut: bool = False


class Frames:
    """The decoder of one stream. However the stream is taken apart, the frames are the same."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # bytes of the counted frame that are not given out yet
        self._searched = 0  # bytes of the line that hold no end of it
        self._pieces = 0  # of the frame that were given out

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with these bytes."""
        buffer, at = self._buffer, 0
        buffer += data
        frames: list[Frame] = []
        while at < len(buffer):
            if not (self._left or self._searched or self._pieces):
                if count := _COUNT.match(buffer, at):
                    self._left, at = int(count[1]), count.end()
                elif _BEGIN_OF_COUNT.fullmatch(buffer, at):
                    break
            size, end = self._counted(at) if self._left else self._line(at)
            if size > LIMIT:
                at += self._cut(at, frames)
            elif end:
                self._complete(buffer[at : at + size], frames)
                at = end
            else:
                break
        del buffer[:at]
        return frames

    def end(self, *, cut: bool = False) -> list[Frame]:
        """What is left as the stream ends. A last line needs no end, unless the stream is said to be cut off."""
        cut = cut or self._left > 0
        frames: list[Frame] = []
        self._complete(self._buffer, frames)
        self._buffer = bytearray()
        return [frame._replace(cut=cut) for frame in frames]

    def _counted(self, at: int) -> tuple[int, int]:
        """How many bytes of the counted message are at `at`, and where it ends, or 0 if that is still to come."""
        size = min(self._left, len(self._buffer) - at)
        return size, at + size if size == self._left else 0

    def _line(self, at: int) -> tuple[int, int]:
        """How many bytes the line at `at` has so far, and where what follows begins, or 0 if it is still to come."""
        end = _END.search(self._buffer, at + self._searched)
        self._searched = (end.start() if end else len(self._buffer)) - at
        return self._searched, end.end() if end else 0

    def _cut(self, at: int, frames: list[Frame]) -> int:
        """Give out a piece and return its size: the limit, or up to three bytes less to leave a character whole."""
        size = LIMIT
        while size > LIMIT - 3 and self._buffer[at + size] & 0xC0 == 0x80:
            size -= 1
        self._pieces += 1
        frames.append(Frame(bytes(self._buffer[at : at + size]), self._pieces))
        self._left = max(self._left - size, 0)
        self._searched = max(self._searched - size, 0)
        return size

    def _complete(self, rest: bytearray, frames: list[Frame]) -> None:
        if body := bytes(rest.rstrip(b"\r\n\0")):
            frames.append(Frame(body, self._pieces and self._pieces + 1))
        self._left = self._searched = self._pieces = 0
