"""What there is to see: by search, by export, by counts, and in the table itself."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec

from tests.chaos import payload
from tests.chaos.arena import Arena

_PAGE = 5000
_TRIES = 20


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


async def stored_rows(arena: Arena, prefix: str) -> tuple[Counter[str], int]:
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


async def all_pages(http: httpx.AsyncClient, arena: Arena, parameters: Mapping[str, Any]) -> View:
    """Every page by its cursor; the total is the exact one if it says more than the pages."""
    view = View()
    cursor: str | None = None
    while True:
        page = {**parameters, "limit": _PAGE, **({"cursor": cursor} if cursor else {})}
        body = await _get(http, arena, "/api/v1/logs", page)
        for row in body["logs"]:
            view.add(row)
        cursor = body["next"]
        if not cursor:
            break
        await asyncio.sleep(0)
    view.total = max(view.total, await total(http, arena, parameters))
    return view


async def whole_export(http: httpx.AsyncClient, arena: Arena, parameters: Mapping[str, Any]) -> View:
    """Every line of the export."""
    view = View()
    chosen = {**parameters, "format": "ndjson", "compression": "none"}
    for _ in range(_TRIES):
        async with http.stream("GET", arena.url("export") + "/api/v1/logs/export", params=chosen) as answer:
            if answer.status_code == 503:
                await asyncio.sleep(0.5)
                continue
            answer.raise_for_status()
            async for line in _lines(answer):
                view.add(msgspec.json.decode(line))
            return view
    raise RuntimeError("export stays unavailable")


async def _lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in answer.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        raise RuntimeError("the export ends in the middle of a line")


async def total(http: httpx.AsyncClient, arena: Arena, parameters: Mapping[str, Any]) -> int:
    """The exact total."""
    chosen = {**parameters, "limit": 1, "total": "exact"}
    return int((await _get(http, arena, "/api/v1/logs", chosen))["total"])


async def aggregate(http: httpx.AsyncClient, arena: Arena, parameters: Mapping[str, Any]) -> int:
    """The sum of all counts."""
    buckets = await _get(http, arena, "/api/v1/logs/aggregate", {**parameters, "interval": "1h"})
    return sum(bucket["count"] for bucket in buckets)


async def _get(http: httpx.AsyncClient, arena: Arena, path: str, parameters: Mapping[str, Any]) -> Any:
    for _ in range(_TRIES):
        answer = await http.get(arena.url("query") + path, params=dict(parameters))
        if answer.status_code != 503:
            break
        # Query still holds connections to a server that was killed: what is transient is asked for again.
        await asyncio.sleep(0.5)
    answer.raise_for_status()
    return msgspec.json.decode(answer.content)


def parameters_of(base: int, services: list[str]) -> dict[str, Any]:
    """What all reads ask for: a range around `base`, and the services, or all."""
    times = {"start_time": str(base - 5 * payload.DAY), "end_time": str(base + payload.DAY)}
    return times | ({"service": services} if services else {})


def client() -> httpx.AsyncClient:
    """A client of query and export."""
    return httpx.AsyncClient(trust_env=False, timeout=60)


async def up(arena: Arena) -> None:
    """Return when query and export run."""
    await asyncio.gather(arena.supervisor.ensure("query"), arena.supervisor.ensure("export"))
