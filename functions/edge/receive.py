"""What comes by syslog's transports becomes records: TCP and TLS connections, UDP datagrams, and when they are done."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

from functions.common import syslog, timestamps
from functions.common.cef import fill
from functions.common.record import Incoming
from functions.edge import window
from functions.edge.batcher import Batcher
from functions.edge.framing import Frame, Frames

log = logging.getLogger(__name__)

# SO_LINGER: closed with a reset, or as usual.
RESET, CLOSE = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)

Reader = Callable[[bytes, int, str], Incoming]
"""What makes a record of a message, the time it came in nanoseconds, and the address it came from."""


def reader(retention: int) -> Reader:
    """A reader whose records all have a time that ingest takes: not older than `retention`, in nanoseconds."""

    def read(message: bytes, received: int, peer: str) -> Incoming:
        record = syslog.read(message, received)
        if "host" not in record.metadata:
            fill(record.metadata, [("peer", peer)])
        stamp(record, received, retention)
        return record

    return read


def stamp(record: Incoming, received: int, retention: int) -> None:
    """Give the record the time of arrival if it has none.

    The same if its own is one that ingest would refuse: that becomes metadata.
    """
    if record.timestamp is None:
        record.timestamp = received
        return
    sent = timestamps.parse(record.timestamp)
    if not window.holds(sent, received, retention):
        fill(record.metadata, [("syslog.timestamp", timestamps.iso(sent))])
        record.timestamp = received


def continued(first: Incoming, frame: Frame) -> Incoming:
    """The record of a later piece of a message: the fields of its first one, and a text and an identity of its own."""
    return msgspec.structs.replace(
        first,
        message=frame.body.decode(errors="backslashreplace"),
        metadata={**first.metadata, "syslog.piece": str(frame.piece)},
        id=f"{first.id}#{frame.piece}" if first.id else "",
    )


def address(peer: Any) -> str:
    """The address of a socket's peer, an IPv4 one as such."""
    return str(peer[0]).removeprefix("::ffff:") if peer else ""


class Connection(asyncio.Protocol):
    """One TCP or TLS connection.

    Its socket has SO_LINGER set to reset, so that whatever ends this process resets it. Only when the peer has ended
    the connection and all its messages are in the spool is it closed as usual: that the peer can take as said.
    """

    def __init__(self, batcher: Batcher, read: Reader, connections: set[Connection]) -> None:
        self._batcher = batcher
        self._read = read
        self._connections = connections
        self._lost = asyncio.Event()
        self._frames = Frames()
        self._first = Incoming()
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._secure = transport.get_extra_info("ssl_object") is not None
        self._peer = address(transport.get_extra_info("peername"))
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._connections.add(self)
        # Not now: the transport begins to read after this.
        asyncio.get_running_loop().call_soon(self.regulate)

    def data_received(self, data: bytes) -> None:
        """Gather the messages that are complete."""
        self._take(self._frames.feed(data))

    def eof_received(self) -> bool:
        """Close once all is stored."""
        self._take(self._frames.end())
        self._ended = True
        if not self._secure:
            self._batcher.when_stored(self._close)
            return True
        # TLS is closed, and that acknowledged, as soon as this returns.
        self._batcher.flush()
        if self._batcher.held:
            self._transport.abort()
        else:
            self._linger(CLOSE)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Keep the beginning of a message that will have no end."""
        self._connections.discard(self)
        self._lost.set()
        if not self._ended:
            self._take(self._frames.end(cut=True))

    def regulate(self) -> None:
        """Read, or do not while the spool takes no more."""
        transport = self._transport
        if not (self._ended or transport.is_closing()) and transport.is_reading() == self._batcher.held:
            if self._batcher.held:
                transport.pause_reading()
            else:
                transport.resume_reading()

    async def abort(self) -> None:
        """End the connection in a way that acknowledges nothing; return when that is done."""
        self._transport.abort()
        await self._lost.wait()

    def _close(self) -> None:
        if not self._transport.is_closing():
            self._linger(CLOSE)
            self._transport.close()

    def _linger(self, how: bytes) -> None:
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)

    def _take(self, frames: Iterable[Frame]) -> None:
        received = timestamps.now()
        for frame in frames:
            if frame.piece > 1:
                record = continued(self._first, frame)
            else:
                record = self._read(frame.body, received, self._peer)
                if frame.piece:
                    fill(record.metadata, [("syslog.piece", "1")])
                    self._first = record
            if frame.cut:
                fill(record.metadata, [("syslog.cut", "true")])
            self._batcher.add(record)


class Datagrams(asyncio.DatagramProtocol):
    """The UDP socket: a datagram is a message. No sender can be told to wait: what comes while held is lost."""

    def __init__(self, batcher: Batcher, read: Reader) -> None:
        self._batcher = batcher
        self._read = read
        self._dropped = 0

    def datagram_received(self, data: bytes, peer: tuple[Any, ...]) -> None:
        """Gather the message, or drop and count it."""
        if self._batcher.held:
            self._dropped += 1
        elif data.strip(b"\r\n\0"):
            self._batcher.add(self._read(data, timestamps.now(), address(peer)))

    def error_received(self, error: Exception) -> None:
        """Nothing is sent by UDP: what goes wrong there concerns nothing of ours."""

    def report(self) -> None:
        """Log how many messages were dropped since the last report."""
        if self._dropped:
            log.error("the spool was full: messages that came by UDP are lost", extra={"lost": self._dropped})
        self._dropped = 0
