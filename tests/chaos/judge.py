"""The judge: compares the ledger with what search, export, the table itself and the dead letters hold."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec

from tests.chaos import payload
from tests.chaos.arena import Arena
from tests.chaos.client import Load
from tests.chaos.ledger import Account, Ledger

HEALTHY_SECONDS = 180.0
DRAINED_SECONDS = 120.0
_PAGE = 5000
_FATAL = ("lost", "unaccounted", "phantom", "corrupted", "rejected_stored", "dup_visible", "dup_export")


@dataclasses.dataclass
class Figures:
    """One line of figures, under fixed names.

    `lost`: acknowledged, and neither in the table nor among the dead letters. `unaccounted`: acknowledged, not among
    the dead letters, and a client misses it in the search, in the counts or in the export. `unknown`: at least one
    attempt had no answer, or a 503. `dup_raw`: rows in the table beyond one a log, before merges.
    """

    sent: int = 0
    acked: int = 0
    rejected: int = 0
    unknown: int = 0
    stored: int = 0
    dlq: int = 0
    lost: int = 0
    unaccounted: int = 0
    phantom: int = 0
    corrupted: int = 0
    rejected_stored: int = 0
    dup_raw: int = 0
    dup_visible: int = 0
    dup_export: int = 0
    attempts_max: int = 0
    first_ok_s: float = 0.0
    drain_s: float = 0.0
    p99_ms: float = 0.0
    n_faults: int = 0
    seed: str = ""

    def line(self, name: str) -> str:
        """The line as it is printed."""
        values = dataclasses.asdict(self).items()
        return f"{name:<20} " + " ".join(
            f"{key}={value:.1f}" if isinstance(value, float) else f"{key}={value}" for key, value in values
        )

    def broken(self) -> list[str]:
        """The promises that were not kept."""
        return [f"{name}={getattr(self, name)}" for name in _FATAL if getattr(self, name)]


@dataclasses.dataclass
class View:
    """What one way of reading shows: how often each id, and the hash of each id's content."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    total: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Note a row."""
        uid = str(row["trace_id"])
        digest = payload.content_hash(row)
        if self.hashes.setdefault(uid, digest) != digest:
            self.hashes[uid] = "differs"
        self.counts[uid] += 1
        self.total += 1

    @property
    def extra(self) -> int:
        """Rows beyond one a log."""
        return self.total - len(self.counts)


async def drained(arena: Arena, load: Load, acked: int, seconds: float) -> bool:
    """Wait until as many logs are found as were acknowledged and the source has nothing left."""
    deadline = time.monotonic() + seconds
    async with _http() as http:
        await _up(arena)
        # More may be found than were acknowledged: what nobody got an answer to.
        while await _total(http, arena, _range(load.base, load.services)) < acked:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)
    return await arena.idle(deadline - time.monotonic())


async def judge(arena: Arena, ledger: Ledger, base: int, prefix: str, services: list[str]) -> Figures:
    """Compare the logs whose ids begin with `prefix`, of these services, or all of both if they are empty."""
    await _up(arena)
    account = await asyncio.to_thread(ledger.read, prefix)
    parameters = _range(base, services)
    async with _http() as http:
        raw, differing = await _raw(arena, prefix)
        seen = await _search(http, arena, parameters)
        file = await _export(http, arena, parameters)
        counted = await _aggregate(http, arena, parameters)
    dead = await asyncio.to_thread(arena.topics.dead_letter_ids, prefix)
    figures = _compare(account, raw, seen, file, dead)
    figures.corrupted += differing
    # The counts must say what the rows say.
    figures.dup_visible = max(figures.dup_visible, counted - len(seen.counts))
    figures.unaccounted += max(0, len(seen.counts) - counted)
    return figures


def _compare(account: Account, raw: Counter[str], seen: View, file: View, dead: set[str]) -> Figures:
    stored = set(raw)
    everywhere = stored | set(seen.counts) | set(file.counts)
    shown = set(seen.counts) & set(file.counts)
    corrupted = {
        uid
        for view in (seen, file)
        for uid, digest in view.hashes.items()
        if uid in account.hashes and digest != account.hashes[uid]
    }
    return Figures(
        sent=len(account.hashes),
        acked=len(account.acked),
        rejected=len(account.rejected),
        unknown=len(account.unknown),
        stored=len(stored),
        dlq=len(dead),
        lost=len(account.acked - stored - dead),
        unaccounted=len(account.acked - shown - dead),
        phantom=len(everywhere - account.hashes.keys()),
        corrupted=len(corrupted - account.rejected),
        rejected_stored=len(everywhere & account.rejected),
        dup_raw=raw.total() - len(raw),
        dup_visible=seen.extra,
        dup_export=file.extra,
    )


async def _raw(arena: Arena, prefix: str) -> tuple[Counter[str], int]:
    """Rows in the table by id, without FINAL, and how many ids have rows that differ."""
    content = "cityHash64(timestamp, service, level, message, toString(metadata), span_id, dedupe)"
    rows = await arena.sql(
        f"SELECT trace_id, count() AS n, uniqExact({content}) AS kinds FROM logs "
        f"WHERE startsWith(service, '{prefix}') GROUP BY trace_id FORMAT JSONCompactEachRow"
    )
    counts: Counter[str] = Counter()
    differing = 0
    for line in rows.splitlines():
        uid, count, kinds = msgspec.json.decode(line)
        counts[uid] = int(count)
        differing += int(kinds) > 1
    return counts, differing


async def _search(http: httpx.AsyncClient, arena: Arena, parameters: Mapping[str, Any]) -> View:
    """Every page by its cursor; the total is the exact one if it says more than the pages."""
    view = View()
    cursor: str | None = None
    while True:
        page = {**parameters, "limit": _PAGE, **({"cursor": cursor} if cursor else {})}
        answer = await http.get(arena.url("query") + "/api/v1/logs", params=page)
        answer.raise_for_status()
        body = msgspec.json.decode(answer.content)
        for row in body["logs"]:
            view.add(row)
        cursor = body["next"]
        if not cursor:
            break
        await asyncio.sleep(0)
    view.total = max(view.total, await _total(http, arena, parameters))
    return view


async def _export(http: httpx.AsyncClient, arena: Arena, parameters: Mapping[str, Any]) -> View:
    view = View()
    chosen = {**parameters, "format": "ndjson", "compression": "none"}
    async with http.stream("GET", arena.url("export") + "/api/v1/logs/export", params=chosen) as answer:
        answer.raise_for_status()
        async for line in _lines(answer):
            view.add(msgspec.json.decode(line))
    return view


async def _lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in answer.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        raise RuntimeError("the export ends in the middle of a line")


async def _total(http: httpx.AsyncClient, arena: Arena, parameters: Mapping[str, Any]) -> int:
    chosen = {**parameters, "limit": 1, "total": "exact"}
    answer = await http.get(arena.url("query") + "/api/v1/logs", params=chosen)
    answer.raise_for_status()
    return int(answer.json()["total"])


async def _aggregate(http: httpx.AsyncClient, arena: Arena, parameters: Mapping[str, Any]) -> int:
    answer = await http.get(arena.url("query") + "/api/v1/logs/aggregate", params={**parameters, "interval": "1h"})
    answer.raise_for_status()
    return sum(bucket["count"] for bucket in answer.json())


def _range(base: int, services: list[str]) -> dict[str, Any]:
    times = {"start_time": str(base - 5 * payload.DAY), "end_time": str(base + payload.DAY)}
    return times | ({"service": services} if services else {})


def _http() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=60)


async def _up(arena: Arena) -> None:
    await asyncio.gather(arena.supervisor.ensure("query"), arena.supervisor.ensure("export"))
