"""Holds what is stored against what must be: by search, page by page, and by export."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from tests.input.case import Case, Log
from tests.input.client import Client
from tests.input.corpus import clock

ALWAYS = {"start_time": "1970-01-01T00:00:00Z", "end_time": "9223372036"}
_SETTLE_SECONDS = 30.0
_SLACK = 2_000_000_000


class _Page(msgspec.Struct):
    logs: list[msgspec.Raw]
    next: str | None


class Judge:
    """Knows every log that was found so far."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen: set[bytes] = set()
        self._began = time.time_ns()

    async def settle(self, expected: Sequence[tuple[Case, Log]]) -> tuple[int, list[str]]:
        """Wait until `expected` is stored; return how many logs are new, and all that is wrong with them."""
        expected = _distinct(expected)
        required = sum(not log.optional for _, log in expected)
        await self._wait(len(self._seen) + required)
        searched, exported = await self._search(), await self._export()
        faults = [] if set(searched) == set(exported) else ["search and export do not show the same logs"]
        if len(set(searched)) != len(searched) or len(set(exported)) != len(exported):
            faults.append("a log is shown twice")
        faults += ["logs of an earlier class are gone"] * (not self._seen <= set(searched))
        new = [line for line in searched if line not in self._seen]
        self._seen.update(new)
        faults += self._compare(expected, [json.loads(line) for line in new])
        self._began = time.time_ns() - _SLACK
        return len(new), faults

    async def total(self) -> int:
        """How many logs there are."""
        body = await self._client.get("query", "/api/v1/logs", {**ALWAYS, "limit": "1", "total": "exact"})
        total: int = json.loads(body)["total"]
        return total

    async def _wait(self, least: int) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        total, quiet = await self.total(), False
        while (total < least or not quiet) and time.monotonic() < deadline:
            await asyncio.sleep(0.25 if total >= least else 0.05)  # enough, and then until no more comes
            before, total = total, await self.total()
            quiet = total == before

    async def _search(self) -> list[bytes]:
        lines: list[bytes] = []
        place = dict(ALWAYS)
        while True:
            page = await self._client.get("query", "/api/v1/logs", {**place, "limit": "5000"})
            found = msgspec.json.decode(page, type=_Page)
            lines += [bytes(raw) for raw in found.logs]
            if not found.next:
                return lines
            place = {"cursor": found.next}

    async def _export(self) -> list[bytes]:
        body = await self._client.get("export", "/api/v1/logs/export", {**ALWAYS, "format": "ndjson"})
        return body.splitlines()

    def _compare(self, expected: Sequence[tuple[Case, Log]], rows: Sequence[dict[str, Any]]) -> list[str]:
        faults: list[str] = []
        stored: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for row in rows:
            stored[_content(row)].append(_moment(row))
            if row["tenant"] != "default" or row["id"].split("-")[0] != str(_moment(row)):
                faults.append(f"tenant or id are wrong: {str(row)[:200]}")
        # Those with a time of their own first: the others take what is left of the same content.
        for case, log in sorted(expected, key=lambda pair: (pair[1].time is None, pair[1].optional)):
            times = stored[log.content]
            right = [moment for moment in times if self._is_right(moment, log.time)]
            if right:
                times.remove(right[0])
            elif not log.optional:
                faults.append(f"{case.name}: not stored as sent: {log!r:.300} (times {times[:3]})")
        faults += [
            f"stored, but not sent so or refused: {content!r:.300}" for content, times in stored.items() for _ in times
        ]
        return faults

    def _is_right(self, moment: int, time_: int | None) -> bool:
        if time_ is not None:
            return moment == time_
        return self._began - _SLACK <= moment <= time.time_ns() + _SLACK


def _distinct(expected: Sequence[tuple[Case, Log]]) -> list[tuple[Case, Log]]:
    """Without repetitions: what has the same id and time is the same log."""
    found: dict[object, tuple[Case, Log]] = {}
    for number, (case, log) in enumerate(expected):
        known = log.time is not None and any(name == "id" for name, _ in log.metadata)
        found.setdefault((log.content, log.time) if known else number, (case, log))
    return list(found.values())


def _content(row: dict[str, Any]) -> tuple[object, ...]:
    metadata = tuple(sorted(row["metadata"].items()))
    return (row["service"], row["level"], row["message"], metadata, row["trace_id"], row["span_id"])


def _moment(row: dict[str, Any]) -> int:
    return clock.nanoseconds(row["timestamp"])
