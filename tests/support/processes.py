"""Functions as processes of their own, as a cluster runs them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import httpx

from tests.support.kafka import free_port
from tests.support.local import ROOT

START_SECONDS = 30
STOP_SECONDS = 40


class FunctionProcess:
    """`python -m functions.NAME` on a free port."""

    def __init__(self, name: str, settings: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"functions.{name}"],
            cwd=ROOT,
            env={**os.environ, **settings, "PORT": str(self.port)},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Return when /readyz says 200; raise RuntimeError if it does not in time."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{self.url} is not ready")

    def terminate(self) -> None:
        """Ask it to end, as Kubernetes does."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end and return the exit status."""
        return self._process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def function(name: str, settings: Mapping[str, str]) -> Iterator[FunctionProcess]:
    """A function that is ready, ended at the end of the block."""
    process = FunctionProcess(name, settings)
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait()
        process.kill()
