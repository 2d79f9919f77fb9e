"""One file that is followed: what of it was read, and what can be read now.

A file is known by device and inode, and by the hash of its first bytes, as an inode is used again. One that was
truncated, or whose beginning has changed, is read anew.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator

import msgspec

from functions.edge.lines import MAX_LINE_BYTES, Line, split

QUIET_SECONDS = 5.0
"""After so long without a write, what has no newline is a line, if the file was rotated away or is read once."""
IDLE_SECONDS = 3600.0
"""After so long without a write, a file that is found no more is closed."""

_HEAD = 256
_BLOCK = 1024 * 1024


class Position(msgspec.Struct):
    """How far a file was read: `head` is the hash of its first bytes, up to 256 and up to `offset`.

    `path` and `pattern` are where it was found first, `piece` is as in lines.split, `seen` is when it was open last, in
    seconds since 1970.
    """

    path: str
    pattern: str
    offset: int = 0
    head: str = ""
    piece: int = 0
    seen: int = 0


class File:
    """An open file; `position` is how far it was read, `changed` whether that has to be stored.

    `rotated` says that its path leads to another file by now; `end` is where it ended when it was opened.
    """

    def __init__(self, path: str, position: Position) -> None:
        """Open the file that has this path now. Raises OSError."""
        self._fd = os.open(path, os.O_RDONLY)
        status = os.fstat(self._fd)
        self.key = _key(status)
        self.position = position
        self.end = status.st_size
        self.changed = True
        self.rotated = False
        self._head = b""
        self._seen: tuple[int, int] | None = None

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def resume(self, known: Position) -> bool:
        """Go on from a known position, if it is of this file; return whether it is."""
        head = os.pread(self._fd, min(_HEAD, known.offset), 0)
        if self.end < known.offset or _hash(head) != known.head:
            return False
        self.changed = known.pattern != self.position.pattern
        self.position = msgspec.structs.replace(known, pattern=self.position.pattern)
        self._head = head
        return True

    def skip(self) -> None:
        """Go to the end, or to the beginning of the last line if that is not finished."""
        start = max(self.end - MAX_LINE_BYTES, 0)
        newline = os.pread(self._fd, self.end - start, start).rfind(b"\n")
        self.position.offset = self.end if newline < 0 < start else start + newline + 1
        self._head = os.pread(self._fd, min(_HEAD, self.position.offset), 0)

    def lines(self, once: bool) -> Iterator[Line]:
        """What can be read now; the position is after the line that was taken last. Raises OSError."""
        status = os.fstat(self._fd)
        ending = (once or self.rotated) and _age(status) >= QUIET_SECONDS and not self._exhausted(status)
        if (seen := (status.st_size, status.st_mtime_ns)) == self._seen and not ending:
            return
        if status.st_size < self.position.offset or os.pread(self._fd, len(self._head), 0) != self._head:
            self._begin_anew(status)
        more = True
        while more:
            data = os.pread(self._fd, _BLOCK, self.position.offset)
            more = len(data) == _BLOCK
            ended = ending and self.position.offset + len(data) == status.st_size
            for line in split(data, self.position.piece, ended):
                self._pass(line)
                yield line
        self._seen = seen

    def is_read(self) -> bool:
        """Whether all is read that was there when the file was opened."""
        return self.position.offset >= self.end and not self.position.piece

    def is_over(self) -> bool:
        """Whether all is read and no more is to be expected, if the file is found no more."""
        status = os.fstat(self._fd)
        return self._exhausted(status) and _age(status) >= (IDLE_SECONDS if status.st_nlink else QUIET_SECONDS)

    def is_deleted(self) -> bool:
        """Whether the file has no name left."""
        return not os.fstat(self._fd).st_nlink

    def mark(self) -> Position:
        """The position, as it is to be stored now."""
        self.changed = False
        self.position.head = _hash(self._head)
        self.position.seen = int(time.time())
        return self.position

    def _exhausted(self, status: os.stat_result) -> bool:
        return status.st_size == self.position.offset and not self.position.piece

    def _begin_anew(self, status: os.stat_result) -> None:
        self.position.offset = self.position.piece = 0
        self._head = b""
        self.end = status.st_size
        self.changed = True

    def _pass(self, line: Line) -> None:
        if len(self._head) < _HEAD:
            # Of what was read, not of what the file holds by now.
            self._head = (self._head + (line.data + b"\n")[: line.size])[:_HEAD]
        self.position.offset += line.size
        self.position.piece = line.carry
        self.changed = True


def key_at(path: str) -> str | None:
    """The key of the file at the path, or None if there is none that has lines."""
    try:
        status = os.stat(path)  # noqa: PTH116  many a second: no Path is made of each
    except OSError:
        return None
    return _key(status) if stat.S_ISREG(status.st_mode) else None


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}"


def _age(status: os.stat_result) -> float:
    # A time that is ahead is no sign of a write either.
    return abs(time.time() - status.st_mtime)


def _hash(head: bytes) -> str:
    return hashlib.blake2b(head, digest_size=16).hexdigest()
