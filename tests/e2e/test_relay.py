"""Syslog through the relay as a process, from real sockets to a search.

CAMPAIGN=long keeps ingest away for a full minute while the relay is killed again and again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.common import timestamps
from tests.support.disk import fill, small_disk
from tests.support.kafka import free_port
from tests.support.kafka_security import make_certificates
from tests.support.local import ROOT, LocalTorpor

LONG = os.environ.get("CAMPAIGN") == "long"
SEED = int(os.environ.get("SEED") or 20)
AWAY_SECONDS = 60.0 if LONG else 3.0
KILLS = 60 if LONG else 12
MESSAGES = 200
SENDERS = 3


class Relay:
    """`python -m functions.edge.relay` on ports and with a spool of its own."""

    def __init__(self, folder: Path, ingest: str, **settings: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.log: list[dict[str, Any]] = []
        self.environment = {
            **os.environ,
            "SYSLOG_HOST": "127.0.0.1",
            "SYSLOG_PORT": str(self.port),
            "SPOOL_DIR": str(folder / "spool"),
            "INGEST_URL": ingest,
            **settings,
        }

    def start(self) -> None:
        """Start, and return when it listens."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "functions.edge.relay"],
            cwd=ROOT,
            env=self.environment,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=[self.process, started := len(self.log)], daemon=True)
        self._reader.start()
        self.wait_for("listening", started)

    def wait_for(self, message: str, start: int = 0) -> dict[str, Any]:
        """The first line of the log with this message, once it is there."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for entry in self.log[start:]:
                if entry.get("message") == message:
                    return entry
            assert self.process.poll() is None, self.log
            time.sleep(0.005)
        raise AssertionError(f"{message!r} was not logged: {self.log}")

    def logged(self, message: str) -> dict[str, Any]:
        """The line of the log with this message."""
        (entry,) = (entry for entry in self.log if entry.get("message") == message)
        return entry

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it by SIGTERM and return its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait(30)
        self._reader.join(10)
        return status

    def _read(self, process: subprocess.Popen[bytes], started: int) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.log.append({"text": line.decode()})


@contextlib.contextmanager
def running(relay: Relay) -> Iterator[Relay]:
    relay.start()
    try:
        yield relay
        if relay.process.poll() is None:
            assert relay.stop() == 0, relay.log
        assert not [entry for entry in relay.log if "text" in entry], relay.log
    finally:
        relay.process.kill()
        relay.process.wait()


@pytest.fixture
def relay(torpor: LocalTorpor, tmp_path: Path) -> Iterator[Relay]:
    with running(Relay(tmp_path, torpor.url("ingest", ""))) as relay:
        yield relay


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Messages of RFC 5424 of one service, numbered, a microsecond apart."""

    service: str
    first: int = timestamps.now() // 1_000_000_000 * 1_000_000_000 - 60 * timestamps.NANOSECONDS

    def time(self, number: int) -> int:
        return self.first + number * 1000

    def message(self, number: int, uid: bool = False) -> bytes:
        time_ = timestamps.iso(self.time(number))[:26] + "Z"
        data = f'[test@32473 log.record.uid="{self.service}/{number}"]' if uid else "-"
        return f"<165>1 {time_} host.example {self.service} 42 ID7 {data} number {number}, ümläut".encode()

    def check(self, logs: list[dict[str, Any]], count: int) -> None:
        """Hold the logs found to what was sent: each number once, its time to the nanosecond, its fields."""
        assert len(logs) == count
        assert sorted(log["message"] for log in logs) == sorted(f"number {n}, ümläut" for n in range(count))
        for log in logs:
            number = int(log["message"].split()[1].rstrip(","))
            assert timestamps.parse(log["timestamp"]) == self.time(number)
            assert (log["level"], log["metadata"]["host"], log["metadata"]["pid"]) == ("INFO", "host.example", "42")


def counted(message: bytes) -> bytes:
    return b"%d %b" % (len(message), message)


def line(message: bytes) -> bytes:
    return message + b"\n"


def found(torpor: LocalTorpor, service: str, count: int, seconds: float = 30) -> list[dict[str, Any]]:
    """All logs of the service, by way of an export, once a search finds `count`."""
    assert torpor.wait_for_total(count, seconds, service=service) == count
    answer = torpor.http.get(
        torpor.url("export", "/api/v1/logs/export"), params={"format": "json", "service": service, "start_time": "-2d"}
    )
    answer.raise_for_status()
    logs: list[dict[str, Any]] = json.loads(gzip.decompress(answer.content))
    return logs


def send_and_wait(port: int, data: bytes, seconds: float = 20) -> None:
    """Send by TCP, end the connection, and return when it is closed in order; raise OSError if it is not."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def send_by_tls(address: tuple[str, int], client: ssl.SSLContext, data: bytes) -> None:
    """Send by TLS and return when close_notify came back; raise OSError if it does not."""
    with (
        socket.create_connection(address, timeout=20) as sock,
        client.wrap_socket(sock, server_hostname="localhost") as secure,
    ):
        secure.sendall(data)
        secure.unwrap()


# Transports


@pytest.mark.parametrize("framed", [line, counted])
def test_what_is_sent_by_tcp_is_found_as_it_was_sent(torpor: LocalTorpor, relay: Relay, framed: Any) -> None:
    sent = Numbered(unique("tcp"))
    send_and_wait(relay.port, b"".join(framed(sent.message(number)) for number in range(3000)))
    sent.check(found(torpor, sent.service, 3000), 3000)


def test_what_is_sent_by_udp_is_found_as_it_was_sent(torpor: LocalTorpor, relay: Relay) -> None:
    sent = Numbered(unique("udp"))
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        for number in range(600):
            sock.sendto(sent.message(number), ("127.0.0.1", relay.port))
            if number % 20 == 19:
                time.sleep(0.02)  # a burst may be more than the system keeps for the relay
    sent.check(found(torpor, sent.service, 600), 600)


def test_what_is_sent_by_tls_is_found_as_it_was_sent_and_a_close_notify_says_it_is_stored(
    torpor: LocalTorpor, tmp_path: Path
) -> None:
    authority, certificate = make_certificates(tmp_path / "certificates")
    settings = {"SYSLOG_TLS_PORT": str(free_port()), "SYSLOG_TLS_CERTFILE": str(certificate)}
    sent = Numbered(unique("tls"))
    with running(Relay(tmp_path, torpor.url("ingest", ""), **settings)):
        client = ssl.create_default_context(cafile=str(authority))
        address = ("127.0.0.1", int(settings["SYSLOG_TLS_PORT"]))
        send_by_tls(address, client, b"".join(counted(sent.message(number)) for number in range(2000)))
        sent.check(found(torpor, sent.service, 2000), 2000)


def test_if_client_certificates_are_demanded_only_who_has_one_is_heard(torpor: LocalTorpor, tmp_path: Path) -> None:
    authority, certificate = make_certificates(tmp_path / "certificates")
    settings = {
        "SYSLOG_PORT": "0",
        "SYSLOG_TLS_PORT": str(free_port()),
        "SYSLOG_TLS_CERTFILE": str(certificate),
        "SYSLOG_TLS_CAFILE": str(authority),
    }
    sent = Numbered(unique("mutual"))
    with running(Relay(tmp_path, torpor.url("ingest", ""), **settings)) as relay:
        address = ("127.0.0.1", int(settings["SYSLOG_TLS_PORT"]))
        client = ssl.create_default_context(cafile=str(authority))
        with pytest.raises(OSError):  # noqa: PT011  # a reset or an alert, as it comes
            send_by_tls(address, client, counted(sent.message(0)))
        client.load_cert_chain(certificate)
        send_by_tls(address, client, counted(sent.message(0)))
        sent.check(found(torpor, sent.service, 1), 1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", relay.port))


LOGGER = {
    "tcp, RFC 5424, counted": ["--tcp", "--rfc5424", "--octet-count"],
    "tcp, RFC 5424, lines": ["--tcp", "--rfc5424"],
    "tcp, RFC 3164": ["--tcp", "--rfc3164"],
    "udp, RFC 5424": ["--udp", "--rfc5424"],
    "udp, RFC 3164": ["--udp", "--rfc3164"],
}


@pytest.mark.parametrize("options", LOGGER.values(), ids=LOGGER.keys())
def test_what_the_logger_command_sends_is_found(torpor: LocalTorpor, relay: Relay, options: list[str]) -> None:
    if not shutil.which("logger"):
        pytest.skip("logger of util-linux is not installed")
    service = unique("logger")
    begin = timestamps.now()
    command = ["logger", "--server", "127.0.0.1", "--port", str(relay.port), "--tag", service, "--id=4711"]
    command += ["--priority", "local3.err", *options, "disk on fire"]
    subprocess.run(command, check=True, timeout=20, env={**os.environ, "TZ": "UTC"})
    (log,) = found(torpor, service, 1)
    assert (log["service"], log["level"], log["message"]) == (service, "ERROR", "disk on fire")
    assert (log["metadata"]["facility"], log["metadata"]["pid"]) == ("local3", "4711")
    # RFC 3164 has whole seconds.
    assert begin - timestamps.NANOSECONDS <= timestamps.parse(log["timestamp"]) <= timestamps.now()


def test_bytes_that_are_no_syslog_are_kept_and_the_relay_goes_on(torpor: LocalTorpor, relay: Relay) -> None:
    chance = random.Random(SEED)
    before = torpor.total(service="unknown_service")
    for _ in range(20):
        with contextlib.suppress(OSError):
            send_and_wait(relay.port, chance.randbytes(chance.randrange(5000)))
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(chance.randbytes(chance.randrange(2000)), ("127.0.0.1", relay.port))
    sent = Numbered(unique("after"))
    send_and_wait(relay.port, line(sent.message(0)))
    sent.check(found(torpor, sent.service, 1), 1)
    assert torpor.total(service="unknown_service") > before
    assert not (relay.folder / "spool" / "refused.jsonl").exists()


# Flow


def test_while_the_spool_is_full_tcp_waits_and_udp_is_counted(fresh: LocalTorpor, tmp_path: Path) -> None:
    sent = Numbered(unique("full"))
    relay = Relay(tmp_path, fresh.url("ingest", ""), SPOOL_BYTES="300000")
    count = 60_000
    sender = Sender(relay.port, b"".join(counted(sent.message(number)) for number in range(count)))
    with running(relay):
        sender.start()
        relay.wait_for("the spool takes no more messages; senders have to wait")
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for _ in range(10):
                sock.sendto(b"<13>lost", ("127.0.0.1", relay.port))
        sender.join(1)
        assert sender.is_alive()
        assert sum(file.stat().st_size for file in (tmp_path / "spool").iterdir()) < 10_000_000
        fresh.start()
        sender.join(60)
        assert sender.acknowledged
        assert relay.stop() == 0
        sent.check(found(fresh, sent.service, count), count)
    assert relay.logged("the spool was full: messages that came by UDP are lost")["lost"] == 10


def test_sigterm_stores_and_sends_what_was_read_and_acknowledges_nothing_else(
    torpor: LocalTorpor, tmp_path: Path
) -> None:
    sent = Numbered(unique("term"))
    with running(Relay(tmp_path, torpor.url("ingest", ""))) as relay:
        with socket.create_connection(("127.0.0.1", relay.port)) as sock:
            sock.sendall(b"".join(line(sent.message(number)) for number in range(500)))
            time.sleep(0.15)  # enough to be read; to be put by itself it would take longer
            assert relay.stop() == 0
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert relay.logged("stopped")["waiting"] == 0
    sent.check(found(torpor, sent.service, 500), 500)


def test_from_a_full_disk_all_messages_are_found_when_ingest_is_back(fresh: LocalTorpor, tmp_path: Path) -> None:
    sent = Numbered(unique("disk"))
    count = 40_000
    with small_disk(tmp_path / "disk") as disk:
        relay = Relay(tmp_path, fresh.url("ingest", ""), SPOOL_DIR=str(disk))
        sender = Sender(relay.port, b"".join(counted(sent.message(number)) for number in range(count)))
        with running(relay):
            sender.start()
            held = relay.wait_for("the spool takes no more messages; senders have to wait")
            assert held["error"] == f"the disk of {disk}/relay.db is full: free some space"
            fill(disk / "other")
            fresh.start()
            sender.join(60)
            assert sender.acknowledged
            sent.check(found(fresh, sent.service, count), count)


def test_plain_tcp_on_the_port_for_tls_is_a_warning_that_names_the_sender_once(
    torpor: LocalTorpor, tmp_path: Path
) -> None:
    authority, certificate = make_certificates(tmp_path / "certificates")
    settings = {"SYSLOG_TLS_PORT": str(free_port()), "SYSLOG_TLS_CERTFILE": str(certificate)}
    address = ("127.0.0.1", int(settings["SYSLOG_TLS_PORT"]))
    sent = Numbered(unique("plain"))
    with running(Relay(tmp_path, torpor.url("ingest", ""), **settings)) as relay:
        socket.create_connection(address).close()  # as a check of the port does
        for _ in range(3):
            with contextlib.suppress(ConnectionError), socket.create_connection(address, timeout=20) as sock:
                sock.sendall(line(sent.message(0)))
                while sock.recv(100):
                    pass
        silent = socket.create_connection(address)
        send_by_tls(address, ssl.create_default_context(cafile=str(authority)), line(sent.message(0)))
        sent.check(found(torpor, sent.service, 1), 1)
        assert relay.stop() == 0
        silent.close()
    (warning,) = [entry for entry in relay.log if entry["level"] == "WARNING"]
    assert (warning["message"], warning["peer"]) == (
        "no TLS connection came about; plain TCP goes to SYSLOG_PORT",
        "127.0.0.1",
    )


def test_a_port_that_the_relay_has_no_right_to_stops_the_start_and_another_is_named(relay: Relay) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 514:
        pytest.skip("here anybody may listen on any port")
    command = [sys.executable, "-m", "functions.edge.relay"]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-net_bind_service", *command]
    environment = {**relay.environment, "SYSLOG_PORT": "514", "SPOOL_DIR": str(relay.folder / "other")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20, check=False)
    why = "ports under 1024 need root or CAP_NET_BIND_SERVICE; 5514 does not"
    assert (run.returncode, run.stderr.strip()) == (1, f"relay: SYSLOG_PORT is 514: {why}")


def test_what_is_in_use_or_cannot_be_used_stops_the_start_and_is_named(relay: Relay, tmp_path: Path) -> None:
    def start(**settings: str) -> str:
        command = [sys.executable, "-m", "functions.edge.relay"]
        environment = {**relay.environment, **settings}
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20, check=False
        )
        assert run.returncode == 1
        return run.stderr

    in_use = f"relay: {relay.folder}/spool/relay.db is in use by another process; SPOOL_DIR names another folder"
    assert in_use in start()
    other = {"SPOOL_DIR": str(tmp_path / "other")}
    assert f"relay: SYSLOG_PORT is {relay.port}: Address already in use" in start(**other)
    for host in ("203.0.113.5", "::1", "no name"):
        assert f"relay: SYSLOG_HOST is '{host}': expected an IPv4 address of this machine" in start(
            **other, SYSLOG_HOST=host
        )


# Kills


class Sender(threading.Thread):
    """Sends by TCP and says whether that was acknowledged."""

    def __init__(self, port: int, data: bytes) -> None:
        super().__init__(daemon=True)
        self.acknowledged = False
        self._port = port
        self._data = data

    def run(self) -> None:
        with contextlib.suppress(OSError):
            send_and_wait(self._port, self._data, 60)
            self.acknowledged = True


def test_what_is_in_the_spool_when_the_relay_is_killed_is_found_exactly_once(
    fresh: LocalTorpor, tmp_path: Path
) -> None:
    sent = Numbered(unique("spooled"))
    count = 30_000
    chance = random.Random(SEED)
    relay = Relay(tmp_path, fresh.url("ingest", ""))
    with running(relay):
        send_and_wait(relay.port, b"".join(counted(sent.message(number)) for number in range(count)))
        relay.kill()
        fresh.start()
        waiting = []
        for _ in range(30):
            started = len(relay.log)
            relay.start()
            waiting.append(relay.wait_for("listening", started)["waiting"])
            if not waiting[-1]:
                break
            # Somewhere between a request, its answer, and what that changes in the spool.
            time.sleep(chance.uniform(0, 0.15))
            relay.kill()
        assert len(set(waiting)) >= 3, f"it was never killed in between: {waiting}"
        print(f"waited at each start: {waiting}")
        if relay.process.poll() is not None:
            relay.start()
        sent.check(found(fresh, sent.service, count), count)


@dataclasses.dataclass
class Client:
    """Sends connections of MESSAGES messages until it is told to stop, each again until it is acknowledged."""

    port: int
    numbered: Numbered
    stop: threading.Event
    connections: int = 0
    repeats: int = 0

    def run(self) -> None:
        framed = (counted, line)
        while not self.stop.is_set():
            first = self.connections * MESSAGES
            data = b"".join(
                framed[self.connections % 2](self.numbered.message(number, uid=True))
                for number in range(first, first + MESSAGES)
            )
            while not self.acknowledged(data):
                self.repeats += 1
                time.sleep(0.02)
            self.connections += 1
            time.sleep(0.05)

    def acknowledged(self, data: bytes) -> bool:
        try:
            send_and_wait(self.port, data)
        except OSError:
            return False
        return True


@pytest.mark.timeout(600 if LONG else 180)
def test_a_relay_killed_at_random_moments_while_ingest_goes_and_comes_loses_and_doubles_nothing(
    fresh: LocalTorpor, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    relay = Relay(tmp_path, fresh.url("ingest", ""))
    stop = threading.Event()
    clients = [Client(relay.port, Numbered(unique(f"killed-{number}")), stop) for number in range(SENDERS)]
    threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
    fresh.start()
    with running(relay):
        for thread in threads:
            thread.start()

        def kill(times: int) -> None:
            for _ in range(times):
                time.sleep(chance.uniform(0.1, 1.2))
                relay.kill()
                time.sleep(chance.uniform(0, 0.2))
                relay.start()

        kill(KILLS // 4)
        assert fresh.stop() == 0
        away = time.monotonic()
        kill(KILLS // 2)
        time.sleep(max(0.0, away + AWAY_SECONDS - time.monotonic()))
        fresh.start()
        away = time.monotonic() - away
        kill(KILLS - KILLS // 4 - KILLS // 2)
        stop.set()
        for thread in threads:
            thread.join(30)
        repeats = sum(client.repeats for client in clients)
        total = sum(client.connections for client in clients) * MESSAGES
        print(f"{KILLS} kills, ingest away for {away:.0f} s, {total} messages, {repeats} repeats, SEED={SEED}")
        assert repeats > 0
        for client in clients:
            count = client.connections * MESSAGES
            assert count > 1000
            client.numbered.check(found(fresh, client.numbered.service, count, 90), count)
    assert not (relay.folder / "spool" / "refused.jsonl").exists()
