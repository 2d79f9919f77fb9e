"""Throws the classes at a running Torpor, one after the other, and keeps account."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.input.case import Answer, Case, Group, Log
from tests.input.client import HANG_SECONDS, Client
from tests.input.judge import Judge
from tests.support.local import LocalTorpor

MAX_GROWTH = 300 * 1024 * 1024
_LARGE = 10 * 1024 * 1024
_OWN_OUTPUT = "{"


@dataclasses.dataclass
class Result:
    """What came of a class."""

    name: str
    inputs: int = 0
    statuses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    stored: int = 0
    grown: int = 0
    seconds: float = 0.0
    faults: list[str] = dataclasses.field(default_factory=list)


class Runner:
    """Runs classes against one Torpor."""

    def __init__(self, torpor: LocalTorpor) -> None:
        self._torpor = torpor
        self._client = Client(torpor)
        self._judge = Judge(self._client)
        self._printed = len(torpor.output)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def run(self, group: Group, only: str = "") -> Result:
        """Send every input of a class, or the one named `only`, and judge what is stored afterwards."""
        began = asyncio.get_running_loop().time()
        result = Result(group.name)
        cases = [case for case in group.make() if case.name == only or not only]
        size = self._memory("VmRSS")
        self._reset_peak()
        turns = asyncio.Semaphore(group.parallel)

        async def send(case: Case) -> tuple[Case, Answer]:
            async with turns:
                return case, await self._client.send(case)

        expected: list[tuple[Case, Log]] = []
        for case, answer in await asyncio.gather(*map(send, cases)):
            result.inputs += 1
            result.statuses.update(
                f"{status // 100}xx" if status else "none" for status in (answer.status, *answer.more)
            )
            result.faults += [f"{case.name}: {fault}; {_repeat(case)}" for fault in faults(case, answer)]
            expected += [(case, log) for log in promised(case, answer)]
        try:
            result.stored, found = await self._judge.settle(expected)
        except httpx.HTTPError as error:
            found = [f"the judge was not answered: {error!r}"]
        result.faults += found + self._output_faults()
        result.grown = max(0, self._memory("VmHWM") - size)
        if result.grown > MAX_GROWTH:
            result.faults.append(f"memory grew by {result.grown >> 20} MiB")
        result.seconds = asyncio.get_running_loop().time() - began
        return result

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._torpor.process is not None and self._torpor.process.poll() is None

    def _output_faults(self) -> list[str]:
        lines = self._torpor.output[self._printed :]
        self._printed += len(lines)
        return [f"own output: {fault}: {line[:400]!r}" for line in lines if (fault := output_fault(line))]

    def _memory(self, field: str) -> int:
        found = re.search(rf"{field}:\s+(\d+) kB", self._proc("status").read_text()) if self.alive() else None
        return int(found[1]) * 1024 if found else 0

    def _reset_peak(self) -> None:
        with contextlib.suppress(OSError):
            self._proc("clear_refs").write_text("5")

    def _proc(self, name: str) -> Path:
        assert self._torpor.process is not None
        return Path(f"/proc/{self._torpor.process.pid}/{name}")


def output_fault(line: str) -> str | None:
    """What is wrong with a line of the process's own output."""
    text = line.rstrip("\n")
    if any(unicodedata.category(char) == "Cc" for char in text):
        return "a control character"
    if "Traceback" in text:
        return "a traceback"
    if text.startswith(_OWN_OUTPUT):
        try:
            json.loads(text)
        except ValueError:
            return "not one JSON object a line"
    elif text:
        return "a line that is no log"
    return None


def faults(case: Case, answer: Answer) -> list[str]:
    """What is wrong with an answer."""
    statuses = (answer.status, *answer.more) if answer.status else ()
    found = []
    slow = case.slow or len(case.body) > _LARGE  # where the machine is busy these take their time
    if answer.hung or (answer.seconds > HANG_SECONDS and not slow):
        found.append(f"hangs ({answer.seconds:.1f} s)")
    elif answer.status == 0 and case.answers and 0 not in case.expect:
        found.append(f"no answer {answer.body[:100]!r}")
    elif len(statuses) > max(case.answers, 1) or (case.answers == 0 and 200 in statuses):
        found.append(f"{len(statuses)} answers to {case.answers} requests: {statuses}")
    if any(status >= 500 and status not in case.expect for status in statuses):
        found.append(f"status {statuses} {answer.body[:200]!r}")
    elif statuses and answer.status not in case.expect and case.answers:
        found.append(f"status {answer.status}, not {sorted(case.expect)[:6]}: {answer.body[:200]!r}")
    elif case.check and answer.status and (fault := case.check(answer)):
        found.append(fault)
    if not found and answer.status == 200 and case.method == "POST" and case.function == "ingest" and not answer.more:
        found += _account(case, answer)
    return found


def _account(case: Case, answer: Answer) -> list[str]:
    body = json.loads(answer.body) if answer.body.startswith(b"{") else {}
    if "accepted" not in body:
        return []
    right = len(promised(case, answer))
    if body["accepted"] != right:
        return [f"accepted {body['accepted']} and rejected {body['rejected']}, expected {right}: {body['errors'][:2]}"]
    return []


def promised(case: Case, answer: Answer) -> Sequence[Log]:
    """The logs that must be stored, now that the answer is known."""
    taken = not case.stored.isdisjoint((answer.status, *answer.more))
    if answer.status == 0 and case.logs and case.answers:  # whether it was taken, nobody knows
        return [Log(**{**vars(log), "optional": True}) for log in case.logs]
    if not taken or case.function != "ingest" or answer.more or not answer.body.startswith(b"{"):
        return case.logs if taken or not case.answers else ()
    errors = json.loads(answer.body).get("errors")
    if not isinstance(errors, list):  # of another protocol: which were refused is not told by line
        return case.logs
    refused = {error.get("line") for error in errors}
    return [Log(**{**vars(log), "optional": False}) for log in case.logs if not (log.optional and log.line in refused)]


def _repeat(case: Case) -> str:
    if case.raw:
        return f"sent to {case.function}: {b''.join(case.raw)[:300]!r}"
    headers = {name: value[:80] for name, value in case.headers.items()}
    return f"{case.method} {case.function}{case.path[:200]} {headers} {case.body[:300]!r}"
