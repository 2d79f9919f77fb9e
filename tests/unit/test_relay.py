"""The relay's parts: what becomes of a message, when batches are put, and what a closed connection says."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.common import timestamps
from functions.common.config import ConfigError, load
from functions.common.record import Incoming
from functions.edge import batcher
from functions.edge.batcher import MAX_BYTES, MAX_COUNT, Batcher
from functions.edge.framing import LIMIT
from functions.edge.receive import CLOSE, RESET, Connection, Datagrams, address, reader, stamp
from functions.edge.relay import Config, refusal
from functions.edge.spool import Spool

NOW = 1_769_860_800_123_456_789  # 2026-01-31T12:00:00
DAY = timestamps.DAY
HOUR = 3600 * timestamps.NANOSECONDS
MESSAGE = b"<34>1 2026-01-31T11:59:00.000000001Z host app 7 - - hello"

read = reader(30 * DAY)


# Times and addresses


def test_a_message_keeps_its_own_time_and_host() -> None:
    record = read(MESSAGE, NOW, "192.0.2.1")
    assert record.timestamp == timestamps.parse("2026-01-31T11:59:00.000000001Z")
    assert record.metadata["host"] == "host"
    assert "peer" not in record.metadata


def test_a_message_without_time_and_host_has_the_time_of_arrival_and_the_senders_address() -> None:
    record = read(b"<13>out of memory", NOW, "192.0.2.1")
    assert (record.timestamp, record.metadata["peer"]) == (NOW, "192.0.2.1")
    assert record.message == "out of memory"


@pytest.mark.parametrize("sent", [NOW - 30 * DAY - 1, NOW - 30 * DAY, NOW + DAY, NOW + DAY + 1, 10**18])
def test_a_time_that_ingest_would_refuse_or_soon_will_becomes_metadata(sent: int) -> None:
    record = Incoming(timestamp=sent)
    stamp(record, NOW, 30 * DAY)
    assert record.timestamp == NOW
    assert timestamps.parse(record.metadata["syslog.timestamp"]) == sent


@given(st.integers(NOW - 30 * DAY + HOUR, NOW + DAY - HOUR))
def test_a_time_that_ingest_takes_is_left_alone(sent: int) -> None:
    record = Incoming(timestamp=sent)
    stamp(record, NOW, 30 * DAY)
    assert record == Incoming(timestamp=sent)


@given(st.binary(max_size=300) | st.binary(max_size=80).map(lambda tail: MESSAGE + tail))
def test_any_bytes_are_a_record_with_a_time_and_a_service(message: bytes) -> None:
    record = read(message, NOW, "192.0.2.1")
    assert record.service
    assert isinstance(record.timestamp, int) and NOW - 30 * DAY <= record.timestamp <= NOW + DAY
    assert msgspec.json.decode(msgspec.json.encode(record), type=Incoming) == record


def test_an_address_is_written_as_people_write_it() -> None:
    assert address(("::ffff:192.0.2.1", 514, 0, 0)) == "192.0.2.1"
    assert address(("2001:db8::1", 514, 0, 0)) == "2001:db8::1"
    assert address(None) == ""


# Batches


@dataclasses.dataclass
class Bench:
    """A batcher over a spool, and how often it called back."""

    spool: Spool
    puts: int = 0
    held: list[bool] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.batcher = Batcher(self.spool, self._put, lambda: self.held.append(self.batcher.held))

    def _put(self) -> None:
        self.puts += 1

    def fill(self) -> str:
        """Leave no room in the spool; return the key of the batch to drop."""
        self.spool.max_bytes = 1000
        return self.spool.put(b"x" * 1000, 1)

    def messages(self) -> list[str]:
        """What the spool holds, which it then does not any more."""
        found: list[str] = []
        while batch := self.spool.head():
            if not batch.body.startswith(b"x"):
                records = [msgspec.json.decode(line, type=Incoming) for line in batch.body.split(b"\n")]
                assert len(records) == batch.count
                found += [record.message for record in records]
            self.spool.drop(batch.key)
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.closing(Spool(tmp_path / "spool.db", 10**8)) as spool:
        yield Bench(spool)


def numbered(number: int) -> Incoming:
    return Incoming(service="s", message=str(number), timestamp=NOW)


async def test_messages_wait_a_moment_for_others_and_are_put_together(bench: Bench) -> None:
    for number in range(10):
        bench.batcher.add(numbered(number))
    assert bench.spool.batches == 0
    await asyncio.sleep(batcher.LINGER + 0.1)
    assert (bench.spool.batches, bench.spool.count, bench.puts) == (1, 10, 1)
    assert bench.messages() == [str(number) for number in range(10)]


async def test_a_batch_holds_no_more_than_so_many_messages_and_bytes(bench: Bench) -> None:
    for number in range(MAX_COUNT + 1):
        bench.batcher.add(numbered(number))
    assert (bench.spool.batches, bench.spool.count) == (1, MAX_COUNT)
    large = Incoming(service="s", message="y" * (MAX_BYTES // 3), timestamp=NOW)
    for _ in range(3):
        bench.batcher.add(large)
    assert (bench.spool.batches, bench.spool.count) == (2, MAX_COUNT + 3)
    assert bench.spool.size <= 2 * MAX_BYTES
    bench.batcher.add(Incoming(service="s", message="z" * MAX_BYTES, timestamp=NOW))
    bench.batcher.flush()
    assert bench.spool.count == MAX_COUNT + 5


async def test_who_waits_is_called_when_all_is_stored_and_sooner_than_others_would_be(bench: Bench) -> None:
    called: list[int] = []
    bench.batcher.when_stored(lambda: called.append(bench.spool.count))
    assert called == [0]
    bench.batcher.add(numbered(1))
    bench.batcher.when_stored(lambda: called.append(bench.spool.count))
    assert called == [0]
    await asyncio.sleep(batcher.LINGER / 2)
    assert called == [0, 1]


async def test_while_the_spool_is_full_messages_wait_in_memory_and_nobody_is_told_they_are_stored(
    bench: Bench,
) -> None:
    key = bench.fill()
    called: list[str] = []
    bench.batcher.add(numbered(1))
    bench.batcher.when_stored(lambda: called.append("first"))
    bench.batcher.flush()
    assert bench.held == [True]
    bench.batcher.when_stored(lambda: called.append("second"))
    bench.batcher.add(numbered(2))
    bench.batcher.flush()
    bench.batcher.put()
    assert (called, bench.held, bench.puts) == ([], [True], 0)
    bench.spool.drop(key)
    bench.batcher.put()
    assert (called, bench.held) == (["first", "second"], [True, False])
    assert bench.messages() == ["1", "2"]


async def test_a_full_spool_is_tried_again_by_itself_and_logged_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batcher, "_RETRY", 0.01)
    key = bench.fill()
    bench.batcher.add(numbered(1))
    bench.batcher.flush()
    await asyncio.sleep(0.1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    bench.spool.drop(key)
    await asyncio.sleep(0.1)
    assert not bench.batcher.held
    assert bench.messages() == ["1"]


async def test_a_disk_that_fails_is_an_error_and_the_messages_are_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.batcher.add(numbered(1))
    bench.batcher.add(numbered(2))
    bench.spool.close()
    assert bench.batcher.finish() == 2
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_at_the_end_what_is_in_memory_is_put_though_the_spool_is_full(bench: Bench) -> None:
    bench.fill()
    bench.batcher.add(numbered(1))
    bench.batcher.flush()
    bench.batcher.add(numbered(2))
    assert bench.batcher.finish() == 0
    assert bench.messages() == ["1", "2"]


async def test_whatever_happens_all_messages_come_out_in_order_and_once(bench: Bench) -> None:
    chance = random.Random(7)
    bench.spool.max_bytes = 3000
    found: list[str] = []
    stored = 0

    def store(count: int) -> None:
        nonlocal stored
        stored = max(stored, count)

    for number in range(2000):
        bench.batcher.add(numbered(number))
        match chance.randrange(40):
            case 0:
                bench.batcher.flush()
            case 1:
                bench.batcher.when_stored(lambda count=number + 1: store(count))  # type: ignore[misc]  # mypy cannot tell a default's type
            case 2:
                await asyncio.sleep(0)
            case 3 if head := bench.spool.head():
                assert stored <= len(found) + bench.spool.count
                found += [msgspec.json.decode(line)["message"] for line in head.body.split(b"\n")]
                bench.spool.drop(head.key)
                bench.batcher.put()
    bench.batcher.finish()
    assert found + bench.messages() == [str(number) for number in range(2000)]
    assert bench.held[:2] == [True, False]


# Connections


class Transport(asyncio.Transport):
    """The end of a connection that the relay holds, with a real socket for its options."""

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self.ended = ""
        self.reading = True

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@dataclasses.dataclass
class Peer:
    """A connection and what it came to."""

    bench: Bench
    connection: Connection
    transport: Transport
    sock: socket.socket

    @property
    def lingers(self) -> bytes:
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)


@pytest.fixture
async def peer(bench: Bench) -> AsyncIterator[Peer]:
    async for peer in connected(bench, None):
        yield peer


@pytest.fixture
async def secure_peer(bench: Bench) -> AsyncIterator[Peer]:
    async for peer in connected(bench, object()):
        yield peer


async def connected(bench: Bench, tls: object) -> AsyncIterator[Peer]:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        extra = {"socket": sock, "peername": ("::ffff:192.0.2.1", 5, 0, 0), "ssl_object": tls}
        transport = Transport({name: value for name, value in extra.items() if value})
        connection = Connection(bench.batcher, read, set())
        connection.connection_made(transport)
        await asyncio.sleep(0)
        yield Peer(bench, connection, transport, sock)


async def test_a_connection_is_closed_only_when_its_messages_are_in_the_spool(peer: Peer) -> None:
    peer.connection.data_received(b"<13>one\n<13>two")
    assert peer.connection.eof_received() is True
    assert (peer.transport.ended, peer.lingers) == ("", RESET)
    peer.bench.batcher.flush()
    assert (peer.transport.ended, peer.lingers) == ("closed", CLOSE)
    assert peer.bench.messages() == ["one", "two"]


async def test_a_tls_connection_that_is_ended_is_closed_after_its_messages_are_in_the_spool(secure_peer: Peer) -> None:
    secure_peer.connection.data_received(b"<13>one\n")
    # TLS closes as soon as this returns.
    assert secure_peer.connection.eof_received() is False
    assert (secure_peer.bench.spool.count, secure_peer.lingers) == (1, CLOSE)
    assert secure_peer.transport.ended == ""


async def test_a_tls_connection_whose_messages_the_spool_does_not_take_is_broken_off(secure_peer: Peer) -> None:
    key = secure_peer.bench.fill()
    secure_peer.connection.data_received(b"<13>one\n")
    assert secure_peer.connection.eof_received() is False
    assert (secure_peer.transport.ended, secure_peer.lingers) == ("aborted", RESET)
    secure_peer.bench.spool.drop(key)
    secure_peer.bench.batcher.put()
    assert secure_peer.bench.messages() == ["one"]


async def test_while_the_spool_is_full_connections_are_not_read(peer: Peer) -> None:
    key = peer.bench.fill()
    peer.connection.data_received(b"<13>one\n")
    peer.bench.batcher.flush()
    peer.connection.regulate()
    assert not peer.transport.reading
    peer.bench.spool.drop(key)
    peer.bench.batcher.put()
    peer.connection.regulate()
    assert peer.transport.reading


async def test_a_connection_that_comes_while_the_spool_is_full_is_not_read_at_first(bench: Bench) -> None:
    bench.fill()
    bench.batcher.add(numbered(1))
    bench.batcher.flush()
    async for peer in connected(bench, None):
        assert not peer.transport.reading


async def test_what_came_of_a_message_before_the_connection_broke_is_kept_and_marked(peer: Peer) -> None:
    peer.connection.data_received(b"<13>one\n<13>tw")
    peer.connection.connection_lost(ConnectionResetError())
    peer.bench.batcher.flush()
    batch = peer.bench.spool.head()
    assert batch
    one, two = (msgspec.json.decode(line, type=Incoming) for line in batch.body.split(b"\n"))
    assert (one.message, "syslog.cut" in one.metadata) == ("one", False)
    assert (two.message, two.metadata["syslog.cut"]) == ("tw", "true")


async def test_the_pieces_of_a_long_message_have_its_fields_and_identities_of_their_own(peer: Peer) -> None:
    head = b'<34>1 2026-01-31T11:59:00Z host app 7 - [x@1 log.record.uid="u1"] '
    text = ("é" * LIMIT).encode()
    peer.connection.data_received(b"%d %b" % (len(head + text), head + text) + b"<13>next\n")
    peer.bench.batcher.flush()
    batch = peer.bench.spool.head()
    assert batch
    *pieces, after = (msgspec.json.decode(line, type=Incoming) for line in batch.body.split(b"\n"))
    assert "".join(piece.message for piece in pieces) == text.decode()
    assert [piece.id for piece in pieces] == ["u1", "u1#2", "u1#3"]
    assert [piece.metadata["syslog.piece"] for piece in pieces] == ["1", "2", "3"]
    assert {(piece.service, piece.timestamp, piece.metadata["host"]) for piece in pieces} == {
        ("app", pieces[0].timestamp, "host")
    }
    assert (after.message, "syslog.piece" in after.metadata, after.id) == ("next", False, "")


async def test_an_aborted_connection_acknowledges_nothing(peer: Peer) -> None:
    peer.connection.data_received(b"<13>one\n")
    aborted = asyncio.create_task(peer.connection.abort())
    await asyncio.sleep(0)
    peer.connection.connection_lost(None)
    await aborted
    peer.bench.batcher.flush()
    assert (peer.transport.ended, peer.lingers) == ("aborted", RESET)
    assert peer.bench.messages() == ["one"]


# Datagrams


async def test_a_datagram_is_a_message_whatever_lines_it_has_and_an_empty_one_is_none(bench: Bench) -> None:
    datagrams = Datagrams(bench.batcher, read)
    for data in (b"<13>one\ntwo\n", b"", b"\n\0"):
        datagrams.datagram_received(data, ("192.0.2.1", 5))
    bench.batcher.flush()
    assert bench.messages() == ["one\ntwo"]


async def test_datagrams_that_come_while_the_spool_is_full_are_counted_and_reported_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    datagrams = Datagrams(bench.batcher, read)
    bench.fill()
    datagrams.datagram_received(b"<13>kept", ("192.0.2.1", 5))
    bench.batcher.flush()
    for _ in range(3):
        datagrams.datagram_received(b"<13>lost", ("192.0.2.1", 5))
    caplog.clear()
    for _ in range(2):
        datagrams.report()
    (record,) = caplog.records
    assert (record.levelno, vars(record)["lost"]) == (logging.ERROR, 3)
    bench.batcher.finish()
    assert bench.messages() == ["kept"]


# Settings


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SYSLOG_PORT", "65536", "SYSLOG_PORT is 65536: expected 0 to 65535"),
        ("SYSLOG_PORT", "0", "SYSLOG_PORT and SYSLOG_TLS_PORT are both 0: nothing is listened on"),
        ("SYSLOG_TLS_PORT", "6514", "SYSLOG_TLS_CERTFILE is not set: SYSLOG_TLS_PORT needs it"),
        ("INGEST_URL", "localhost:8081", "INGEST_URL is 'localhost:8081': expected http://host:port"),
        ("INGEST_URL", "http://host?a=1", "INGEST_URL is 'http://host?a=1': expected http://host:port"),
        ("INGEST_URL", "http://host:port", "INGEST_URL is 'http://host:port': expected http://host:port"),
        ("SPOOL_BYTES", "much", "SPOOL_BYTES is 'much': expected int"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(variable: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(Config, {variable: value})
    assert str(raised.value) == message


HOST = "SYSLOG_HOST is 'h': expected an IPv4 address of this machine, or nothing for all"


@pytest.mark.parametrize(
    ("host", "number", "message"),
    [
        ("h", errno.EADDRNOTAVAIL, HOST),
        ("h", socket.EAI_NONAME, HOST),
        ("h", errno.EADDRINUSE, "SYSLOG_PORT is 514: in the system's words"),
        ("", errno.EADDRNOTAVAIL, "SYSLOG_PORT is 514: in the system's words"),
        ("h", errno.EACCES, "SYSLOG_PORT is 514: ports under 1024 need root or CAP_NET_BIND_SERVICE; 5514 does not"),
    ],
)
def test_why_it_cannot_listen_names_the_setting_that_has_to_change(host: str, number: int, message: str) -> None:
    assert str(refusal("SYSLOG_PORT", 514, host, OSError(number, "in the system's words"))) == message


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    for name in ("bad.pem", "none.pem"):
        config = Config(syslog_tls_port=1, syslog_tls_certfile=str(tmp_path / name))
        with pytest.raises(ConfigError, match="SYSLOG_TLS_CERTFILE, _KEYFILE or _CAFILE cannot be used"):
            config.tls()


def test_a_socket_that_is_not_closed_in_order_is_reset() -> None:
    assert struct.unpack("ii", RESET) == (1, 0)
    assert struct.unpack("ii", CLOSE)[0] == 0
