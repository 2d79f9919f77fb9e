"""The syslog relay: `python -m functions.edge.relay`. Syslog by UDP, TCP and TLS in, batches to ingest out.

Messages come as RFC 5426 (UDP), RFC 6587 (TCP) and RFC 5425 (TLS) have it, and lie in the spool until ingest has them;
while it is full, connections are not read. Plain syslog has no acknowledgement, so what lies unread in the sockets or
is not spooled yet when the relay is killed is lost unless the sender repeats it. Two things make repeating exact. A
connection that its peer has ended is closed only when all its messages are in the spool: a clean close is an
acknowledgement, and any other end (a TCP reset, TLS without close_notify) is none. And messages that carry their own
time and the structured data parameter log.record.uid count once however often they are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import functools
import logging
import signal
import socket
import ssl
import sys
from pathlib import Path

import uvloop

from functions.common import timestamps
from functions.common.config import ConfigError, environment, load, setting
from functions.common.host import HostConfig, listen
from functions.common.log import configure
from functions.edge.batcher import Batcher
from functions.edge.forward import Forwarder, endpoint
from functions.edge.handshake import Handshakes
from functions.edge.receive import RESET, Connection, Datagrams, reader
from functions.edge.spool import DEFAULT_BYTES, Spool, SpoolError

log = logging.getLogger("functions.edge.relay")

DRAIN_SECONDS = 5.0
"""How long the relay goes on sending after SIGTERM."""
_REPORT_SECONDS = 60.0
_UNPRIVILEGED = {"SYSLOG_PORT": 5514, "SYSLOG_TLS_PORT": 6514}
_UDP_BUFFER = 16 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the relay."""

    syslog_host: str = setting("", "Address that the relay listens on; by default all")
    syslog_port: int = setting(5514, "Port for syslog by UDP and TCP; 0: none")
    syslog_tls_port: int = setting(0, "Port for syslog by TLS, usually 6514; 0: none")
    syslog_tls_certfile: str = setting("", "File of the relay's certificate (PEM)")
    syslog_tls_keyfile: str = setting("", "File of its key (PEM), if that is not in the same file")
    syslog_tls_cafile: str = setting(
        "", "File of the CA that signed the senders' certificates; if set, they must have one"
    )
    ingest_url: str = setting("http://localhost:8081", "Where ingest listens")
    retention_days: int = setting(30, "Days after which logs are deleted; ingest refuses older ones")
    spool_dir: str = setting("spool", "Folder of the relay's spool, where logs wait for ingest; one relay's only")
    spool_bytes: int = setting(DEFAULT_BYTES, "Bytes of logs that may wait in the relay's spool")

    def __post_init__(self) -> None:
        for name in ("syslog_port", "syslog_tls_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name.upper()} is {getattr(self, name)}: expected 0 to 65535")
        if not self.syslog_port and not self.syslog_tls_port:
            raise ValueError("SYSLOG_PORT and SYSLOG_TLS_PORT are both 0: nothing is listened on")
        if self.syslog_tls_port and not self.syslog_tls_certfile:
            raise ValueError("SYSLOG_TLS_CERTFILE is not set: SYSLOG_TLS_PORT needs it")
        endpoint(self.ingest_url)  # for its error

    def tls(self) -> ssl.SSLContext:
        """What TLS connections are made with. Raises ConfigError if a file cannot be used."""
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.syslog_tls_cafile or None)
            # Without the empty password an encrypted key would be asked for on a terminal that nobody watches.
            context.load_cert_chain(self.syslog_tls_certfile, self.syslog_tls_keyfile or None, password="")
        except OSError as error:
            raise ConfigError(f"SYSLOG_TLS_CERTFILE, _KEYFILE or _CAFILE cannot be used: {error}") from error
        if self.syslog_tls_cafile:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def refusal(setting: str, port: int, host: str, error: OSError) -> ConfigError:
    """Why the relay cannot listen there, with the setting that has to change."""
    if error.errno == errno.EACCES:
        why = f"ports under 1024 need root or CAP_NET_BIND_SERVICE; {_UNPRIVILEGED[setting]} does not"
        return ConfigError(f"{setting} is {port}: {why}")
    if host and error.errno != errno.EADDRINUSE:
        return ConfigError(f"SYSLOG_HOST is {host!r}: expected an IPv4 address of this machine, or nothing for all")
    return ConfigError(f"{setting} is {port}: {error.strerror or error}")


class Relay:
    """The sockets, and what lies between them and the spool."""

    def __init__(self, config: Config, spool: Spool) -> None:
        self._config = config
        self._spool = spool
        self._forwarder = Forwarder(spool, config.ingest_url, on_change=self._changed)
        self._batcher = Batcher(spool, self._forwarder.wake, self._regulate)
        self._read = reader(config.retention_days * timestamps.DAY)
        self._datagrams = Datagrams(self._batcher, self._read)
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.BaseTransport | asyncio.Server | Handshakes] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Listen and forward until `stop` is set, then put what was read and go on sending for a few seconds."""
        config = self._config
        tls = config.tls() if config.syslog_tls_port else None
        sending = asyncio.create_task(self._forwarder.run())
        ends = [sending, asyncio.create_task(stop.wait()), asyncio.create_task(self._report())]
        try:
            if config.syslog_port:
                await self._listen("SYSLOG_PORT", config.syslog_port, None)
                await self._listen_to_datagrams(config.syslog_port)
            if tls:
                await self._listen("SYSLOG_TLS_PORT", config.syslog_tls_port, tls)
            self._say("listening")
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await self._stop_listening()
            await self._forwarder.drain(DRAIN_SECONDS)
            self._say("stopped")
        finally:
            for task in ends:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    async def _listen(self, setting: str, port: int, tls: ssl.SSLContext | None) -> None:
        try:
            sock = listen(port, self._config.syslog_host)
        except OSError as error:
            raise refusal(setting, port, self._config.syslog_host, error) from error
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # connections inherit it
        make = functools.partial(Connection, self._batcher, self._read, self._connections)
        if tls:
            self._listeners.append(Handshakes(sock, tls, make))
        else:
            self._listeners.append(await asyncio.get_running_loop().create_server(make, sock=sock))

    async def _listen_to_datagrams(self, port: int) -> None:
        host = self._config.syslog_host
        dual = not host and socket.has_dualstack_ipv6()
        sock = socket.socket(socket.AF_INET6 if dual else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER)  # as much of it as the system allows
        if dual:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            raise refusal("SYSLOG_PORT", port, host, error) from error
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self._datagrams, sock=sock)
        self._listeners.append(transport)

    async def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._batcher.flush()  # who waits for a clean close still gets it
        await asyncio.gather(*(connection.abort() for connection in [*self._connections]))
        self._datagrams.report()
        if lost := self._batcher.finish():
            log.error("the disk took no more: messages are lost unless they are sent again", extra={"lost": lost})

    def _changed(self) -> None:
        if self._batcher.held:
            self._batcher.put()

    def _regulate(self) -> None:
        for connection in self._connections:
            connection.regulate()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            self._datagrams.report()
            for listener in self._listeners:
                if isinstance(listener, Handshakes):
                    listener.forget()

    def _say(self, text: str) -> None:
        config, spool = self._config, self._spool
        ports = {"udp_tcp": config.syslog_port, "tls": config.syslog_tls_port, "ingest": config.ingest_url}
        waiting = {"waiting": spool.count, "waiting_bytes": spool.size, "spool": str(spool.path)}
        log.info(text, extra={"host": config.syslog_host or "all addresses", **ports, **waiting})


async def run(config: Config) -> None:
    """Relay until SIGTERM or SIGINT. Raises ConfigError or SpoolError if that is not possible."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with contextlib.closing(Spool(Path(config.spool_dir) / "relay.db", config.spool_bytes)) as spool:
        await Relay(config, spool).run(stop)


def main() -> None:
    """Run with the settings of the environment."""
    try:
        configure(load(HostConfig, environment()).log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(load(Config, environment())))
    except (ConfigError, SpoolError) as error:
        hint = "; SPOOL_DIR names another folder" if "in use by" in str(error) else ""
        sys.exit(f"relay: {error}{hint}")


if __name__ == "__main__":
    main()
