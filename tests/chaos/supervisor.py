"""Processes on fixed ports that are started on demand or at once, and again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.local import ROOT

_LISTEN_SECONDS = 40.0
_STOP_SECONDS = 40.0
_LOOK_SECONDS = 0.1


@dataclasses.dataclass
class Program:
    """What runs under a name: `python -m` with `arguments`. One that is kept is started again at once when it dies."""

    name: str
    arguments: Sequence[str]
    settings: Mapping[str, str]
    port: int = 0
    kept: bool = False
    usual: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    exits: Counter[int] = dataclasses.field(default_factory=Counter)

    @property
    def running(self) -> bool:
        """Whether the process is there, stopped or not."""
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """The processes of a campaign, by name. `seed` makes what they draw repeatable; logs go to `directory`."""

    def __init__(self, directory: Path, seed: str) -> None:
        self.programs: dict[str, Program] = {}
        self._directory = directory
        self._seed = seed
        self._watcher: asyncio.Task[None] | None = None
        self._locks: dict[str, asyncio.Lock] = {}

    def add(
        self, name: str, arguments: Sequence[str], settings: Mapping[str, str], port: int = 0, *, kept: bool = False
    ) -> None:
        """Make a program known; does not start it."""
        self.programs[name] = Program(name, arguments, settings, port, kept, usual=arguments)
        self._locks[name] = asyncio.Lock()

    def watch(self) -> None:
        """Begin to start kept programs again when they die."""
        self._watcher = asyncio.create_task(self._watch())

    async def ensure(self, name: str) -> None:
        """Return when the program runs and its port takes connections; starts it if it does not run."""
        program = self.programs[name]
        async with self._locks[name]:
            deadline = time.monotonic() + _LISTEN_SECONDS
            while not (program.running and await _listens(program.port)):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{name} does not come up")
                if not program.running:
                    self._start(name)
                await asyncio.sleep(0.02)

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal; say whether there was a process to get it."""
        process = self.programs[name].process
        if process is None or process.poll() is not None:
            return False
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()  # or it would still pass for alive
        return True

    async def stop(self, name: str) -> None:
        """End by SIGTERM, or by force if that takes too long. It may be started again."""
        program = self.programs[name]
        process = program.process
        if process is None or not self.signal(name, signal.SIGCONT):
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reap(program)

    async def replace(self, name: str, arguments: Sequence[str] = (), *, for_good: bool = False) -> None:
        """Run something else under this name from the next start on, or again the usual; ends what runs."""
        program = self.programs[name]
        if for_good:
            program.usual = arguments
        if list(program.arguments) != list(arguments or program.usual):
            program.arguments = arguments or program.usual
            await self.stop(name)

    async def close(self) -> None:
        """End all processes."""
        if self._watcher:
            self._watcher.cancel()
        for program in self.programs.values():
            if program.running and program.process:
                program.process.kill()
                program.process.wait()

    def _start(self, name: str) -> None:
        program = self.programs[name]
        self._reap(program)
        program.starts += 1
        environment = {**os.environ, **program.settings, "CHAOS_SEED": f"{self._seed}/{name}/{program.starts}"}
        with (self._directory / f"{name}.log").open("ab") as log:
            program.process = subprocess.Popen(
                [sys.executable, "-m", *program.arguments],
                cwd=ROOT,
                env=environment | ({"PORT": str(program.port)} if program.port else {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _reap(self, program: Program) -> None:
        if program.process is not None and (status := program.process.poll()) is not None:
            program.exits[status] += 1
            program.process = None

    async def _watch(self) -> None:
        while True:
            for name, program in self.programs.items():
                if program.kept and not program.running and not self._locks[name].locked():
                    self._start(name)
            await asyncio.sleep(_LOOK_SECONDS)


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; say whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.03)
    return True


async def _listens(port: int) -> bool:
    if not port:
        return True
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.transport.abort()
        return True
    return False
