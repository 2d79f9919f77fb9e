"""`make run` as a process of its own, on ports of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.support.kafka import free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 60
STOP_SECONDS = 60


class LocalTorpor:
    """The one-command mode with its data under `data`; starts empty unless told otherwise."""

    def __init__(self, data: Path, settings: Mapping[str, str] = {}) -> None:
        self.ports = {name: free_port() for name in ("ingest", "index", "query", "export", "kafka", "grpc")}
        ports = {f"{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        self.environment = {**os.environ, "SAMPLE": "0", "DATA_DIR": str(data), **ports, **settings}
        self.output: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def url(self, function: str, path: str = "/") -> str:
        """An address of one of the functions."""
        return f"http://127.0.0.1:{self.ports[function]}{path}"

    def start(self) -> None:
        """Start, and return when the banner is printed. Raises RuntimeError with the output if it ends before."""
        self.output = []
        self.http = httpx.Client(trust_env=False, timeout=60)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "functions.local"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for("Ctrl-C stops it", START_SECONDS)

    def wait_for(self, text: str, seconds: float) -> None:
        """Return when `text` was printed; raise RuntimeError if it is not in time, or the process ends before."""
        deadline = time.monotonic() + seconds
        while not any(text in line for line in self.output):
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{text!r} was not printed:\n{''.join(self.output)}")
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)

    def stop(self) -> int:
        """Stop as Ctrl-C does and return the exit status."""
        self.interrupt()
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        assert self.process is not None
        status = self.process.wait(STOP_SECONDS)
        self._end()
        return status

    def kill(self) -> None:
        """End by SIGKILL, at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._end()

    def _end(self) -> None:
        assert self.process is not None
        self._reader.join(10)
        if self.process.stdout:
            self.process.stdout.close()
        self.process = None
        self.http.close()

    def send(self, lines: bytes, **headers: str) -> dict[str, Any]:
        """Send JSON lines and return the answer."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = {"content-type": "application/x-ndjson"}
        answer = self.http.post(self.url("ingest", "/api/v1/ingest"), content=lines, headers=kind | names)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    def search(self, **parameters: str) -> dict[str, Any]:
        """Search and return the answer."""
        answer = self.http.get(self.url("query", "/api/v1/logs"), params=parameters)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    def total(self, **parameters: str) -> int:
        """The exact number of logs that match."""
        total: int = self.search(total="exact", limit="1", **parameters)["total"]
        return total

    def wait_for_total(self, expected: int, seconds: float = 30, **parameters: str) -> int:
        """The total once it is `expected` and has stayed so for a moment, or what it is when time is up."""
        deadline = time.monotonic() + seconds
        while (total := self.total(**parameters)) < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        return self.total(**parameters) if total == expected else total

    def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
