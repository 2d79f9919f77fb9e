"""Every view agrees with the truth after any history: sent, sent again, cut differently, crashed, replayed, late.

The truth is a set of the logs that were accepted. The views are those a user has: total, page walk, aggregate (from
rollups where hours are settled), export and errors. The engine is the real one; the events of the topic are a list
here, so that a history can be replayed at will.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections import Counter
from collections.abc import Awaitable
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from functions.common import rollup, timestamps
from functions.common.clickhouse import ClickHouse
from functions.common.host import Function, Host
from functions.common.record import TABLE
from functions.common.search import Filter
from functions.export import function as export
from functions.index import function as index
from functions.ingest.function import Ingest
from functions.ingest.intake import Config as IngestConfig
from functions.query import function as query
from tests.support.engine import fresh_database
from tests.support.memory import MemoryPublisher

T = TypeVar("T")
HOUR = 3600 * timestamps.NANOSECONDS
SERVICES = ("api", "web", "db")
LEVELS = ("INFO", "WARN", "ERROR", "FATAL")
NUMBERS = itertools.count()
RUNS, STEPS = (60, 60) if os.environ.get("CAMPAIGN") == "long" else (8, 30)
COMPARED: Counter[str] = Counter()

logs = st.lists(
    st.tuples(
        st.integers(0, 7),  # hours ago
        st.integers(0, 3599),  # the second in that hour
        st.sampled_from(SERVICES),
        st.sampled_from(LEVELS),
    ),
    min_size=1,
    max_size=8,
)


class Histories(RuleBasedStateMachine):
    """Histories of one store."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.truth: dict[tuple[int, str], tuple[str, str]] = {}
        self.bodies: list[tuple[bytes, str]] = []
        self.events: list[tuple[bytes, list[tuple[str, bytes]]]] = []
        self.sequence = itertools.count()
        # All histories happen within the same hours of today and yesterday, whole hours ago.
        self.now = timestamps.now() // HOUR * HOUR

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.runner.run(awaited())

    @initialize()
    def open(self) -> None:
        self.run(self._open())

    async def _open(self) -> None:
        name = f"history_{next(NUMBERS)}"
        self.db = await fresh_database(name)
        await self.db.command(f"SYSTEM STOP MERGES {TABLE}")
        self.published = MemoryPublisher()
        self.functions: list[Function] = [
            Ingest(IngestConfig(), self.published),
            index.Index(index.Config(rollup_seconds=0), self.db, MemoryPublisher()),
            query.Query(query.Config(), self.db),
            export.Export(export.Config(), self.db),
        ]
        for function in self.functions:
            await function.start()
        self.http = [
            httpx.AsyncClient(transport=httpx.ASGITransport(app=Host(function)), base_url="http://torpor")
            for function in self.functions
        ]

    def teardown(self) -> None:
        if hasattr(self, "http"):
            self.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        for client in self.http:
            await client.aclose()
        for function in self.functions:
            await function.stop()

    @rule(items=logs, keyed=st.booleans())
    def send(self, items: list[tuple[int, int, str, str]], keyed: bool) -> None:
        """New logs, under a key or with ids of their own."""
        key = f"key-{next(self.sequence)}" if keyed else ""
        lines = []
        for number, (hours, second, service, level) in enumerate(items):
            moment = self.now - (hours + 1) * HOUR + second * timestamps.NANOSECONDS
            log: dict[str, Any] = {"timestamp": str(moment), "service": service, "level": level, "message": "happened"}
            identity = f"{key}/{number}" if keyed else f"id-{next(self.sequence)}"
            if not keyed:
                log["id"] = identity
            self.truth[moment, identity] = service, level
            lines.append(json.dumps(log).encode())
        self.bodies.append((b"\n".join(lines), key))
        self.run(self._send(*self.bodies[-1]))
        self.compare()

    @precondition(lambda self: self.bodies)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """The same request once more."""
        self.run(self._send(*data.draw(st.sampled_from(self.bodies))))
        self.compare()

    @precondition(lambda self: any(not key for _, key in self.bodies))
    @rule(data=st.data(), size=st.integers(1, 5))
    def send_in_other_batches(self, data: st.DataObject, size: int) -> None:
        """Logs with ids, cut differently and in another order."""
        lines = [line for body, key in self.bodies if not key for line in body.split(b"\n")]
        lines = data.draw(st.permutations(lines))[:12]
        for start in range(0, len(lines), size):
            self.run(self._send(b"\n".join(lines[start : start + size]), ""))
        self.compare()

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        """An event whose 204 was lost comes again, alone or with others."""
        again = data.draw(st.lists(st.sampled_from(self.events), min_size=1, max_size=4))
        self.run(self._deliver(again))
        self.compare()

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def crash_midway(self, data: st.DataObject) -> None:
        """A part of an event was stored when the process died; the event comes again."""
        value, headers = data.draw(st.sampled_from(self.events))
        lines = value.split(b"\n")
        part = data.draw(st.integers(1, len(lines)))
        self.run(self.db.insert(TABLE, b"\n".join(lines[:part])))
        self.run(self._deliver([(value, headers)]))
        self.compare()

    @precondition(lambda self: self.events)
    @rule()
    def replay_everything(self) -> None:
        """The whole topic once more."""
        self.run(self._deliver(self.events))
        self.compare()

    @rule(hours=st.integers(0, 6))
    def settle(self, hours: int) -> None:
        """Rollups are made as of some hours ago: the rest stays open."""
        self.run(rollup.settle(self.db, self.now - hours * HOUR + rollup.OPEN_FOR))
        self.compare()

    @precondition(lambda self: self.events)
    @rule()
    def merge(self) -> None:
        """ClickHouse merges when it likes."""
        self.run(self.db.command(f"SYSTEM START MERGES {TABLE}"))
        self.run(self.db.command(f"OPTIMIZE TABLE {TABLE} FINAL"))
        self.run(self.db.command(f"SYSTEM STOP MERGES {TABLE}"))
        self.compare()

    async def _send(self, body: bytes, key: str) -> None:
        headers = {"content-type": "application/x-ndjson"} | ({"idempotency-key": key} if key else {})
        answer = await self.http[0].post("/api/v1/ingest", content=body, headers=headers)
        assert answer.json()["rejected"] == 0, answer.text
        events = [(value, headers) for _, _, value, headers in self.published.records]
        self.published.records.clear()
        self.events += events
        await self._deliver(events)

    async def _deliver(self, events: list[tuple[bytes, list[tuple[str, bytes]]]]) -> None:
        async def post(value: bytes, headers: list[tuple[str, bytes]]) -> None:
            names = {name.replace("ce_", "ce-"): text.decode() for name, text in headers}
            answer = await self.http[1].post("/", content=value, headers=names)
            assert answer.status_code == 204, answer.text

        await asyncio.gather(*(post(value, headers) for value, headers in events))

    def compare(self) -> None:
        """Hold every view to the truth."""
        self.run(self._compare())

    async def _compare(self) -> None:
        times = {"start_time": str(self.now - 10 * HOUR), "end_time": str(self.now)}
        seen, cursor = [], None
        while True:
            page = {**times, "limit": "7", **({"cursor": cursor} if cursor else {})}
            answer = (await self.http[2].get("/api/v1/logs", params=page)).json()
            seen += answer["logs"]
            if not (cursor := answer["next"]):
                break
        expected = Counter(self.truth.values())
        assert Counter((log["service"], log["level"]) for log in seen) == expected
        assert len({log["id"] for log in seen}) == len(seen) == len(self.truth)
        total = (await self.http[2].get("/api/v1/logs", params={**times, "limit": "1", "total": "exact"})).json()
        assert total["total"] == len(self.truth)
        exported = await self.http[3].get("/api/v1/logs/export", params={**times, "format": "ndjson"})
        assert sorted(json.loads(line)["id"] for line in exported.text.splitlines()) == sorted(
            log["id"] for log in seen
        )
        errors = await self.http[2].get("/api/v1/logs/errors", params={**times, "limit": "10000"})
        assert len(errors.json()) == sum(level in ("ERROR", "FATAL") for _, level in self.truth.values())
        COMPARED["views"] += 1
        for interval, seconds in (("1m", 60), ("1h", 3600), ("7m", 420)):
            await self._compare_counts(times, interval, seconds)
        # Ranges that cut hours in two.
        odd = {"start_time": str(self.now - 5 * HOUR - HOUR // 3), "end_time": str(self.now - HOUR // 2)}
        await self._compare_counts(odd, "1h", 3600)

    async def _compare_counts(self, times: dict[str, str], interval: str, seconds: int) -> None:
        start, end = (int(times[name]) for name in ("start_time", "end_time"))
        for only in ({}, {"service": "api"}, {"level": "ERROR"}):
            answer = await self.http[2].get("/api/v1/logs/aggregate", params={**times, "interval": interval, **only})
            counts = Counter({(b["time"], b["service"], b["level"]): b["count"] for b in answer.json()})
            truth = Counter(
                (timestamps.iso(moment // (seconds * 10**9) * seconds * 10**9)[:19] + "Z", service, level)
                for (moment, _), (service, level) in self.truth.items()
                if start <= moment < end
                and only.get("service", service) == service
                and only.get("level", level) == level
            )
            assert counts == truth
            COMPARED["counts"] += 1


@pytest.mark.timeout(3600)
def test_every_view_agrees_with_the_truth_after_any_history() -> None:
    COMPARED.clear()
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    print(f"\nviews compared {COMPARED['views']} times, counts {COMPARED['counts']} times: all equal the truth")


@pytest.fixture
async def store() -> Any:
    db = await fresh_database(f"race_{next(NUMBERS)}")
    yield db
    await db.close()


def row(moment: int, number: int) -> bytes:
    log = {"tenant": "default", "timestamp": f"{moment:019d}", "service": "api", "level": "INFO", "message": ""}
    return json.dumps({**log, "metadata": {}, "trace_id": "", "span_id": "", "dedupe": number}).encode()


class LateLogs(ClickHouse):
    """A database into which a log comes just before, or just after, a rollup reads the logs."""

    def __init__(self, db: ClickHouse, late: bytes, *, before: bool) -> None:
        self.db, self.late, self.before = db, late, before

    async def select(self, *arguments: Any, **named: Any) -> bytes:
        return await self.db.select(*arguments, **named)

    async def insert(self, *arguments: Any, **named: Any) -> None:
        await self.db.insert(*arguments, **named)

    async def command(self, *arguments: Any, **named: Any) -> None:
        if self.before:
            await self.db.insert(TABLE, self.late)
        await self.db.command(*arguments, **named)
        if not self.before:
            await self.db.insert(TABLE, self.late)


@pytest.mark.parametrize("before", [True, False])
async def test_a_log_that_comes_while_a_rollup_is_made_opens_the_hour_again(store: ClickHouse, before: bool) -> None:
    now = timestamps.now() // HOUR * HOUR
    hour = now - 3 * HOUR
    await store.insert(TABLE, row(hour + 1, 1))
    racing = LateLogs(store, row(hour + 2, 2), before=before)
    assert await rollup.settle(racing, now) == 1
    assert await rollup.settled_hours(store, "default", hour, now) == {}
    assert await rollup.settle(store, now) == 1
    assert list(await rollup.settled_hours(store, "default", hour, now)) == [hour]
    statement = rollup.aggregate(
        Filter("default", hour, now),
        rollup.Plan([*(await rollup.settled_hours(store, "default", hour, now)).values()], []),
        3600,
        10,
        hour=False,
    )
    assert json.loads(await store.select(statement.sql, statement.parameters))["count"] == 2


async def test_a_settled_hour_is_not_made_again(store: ClickHouse) -> None:
    now = timestamps.now() // HOUR * HOUR
    await store.insert(TABLE, row(now - 3 * HOUR, 1))
    assert await rollup.settle(store, now) == 1
    assert await rollup.settle(store, now) == 0
    await store.insert(TABLE, row(now - 3 * HOUR, 1))  # a duplicate opens it too: it could have been another log
    assert await rollup.settle(store, now) == 1


async def test_an_hour_that_is_not_over_is_left_open(store: ClickHouse) -> None:
    now = timestamps.now()
    await store.insert(TABLE, row(now, 1))
    assert await rollup.settle(store, now) == 0


async def test_logs_stored_before_there_were_rollups_are_rolled_up_too() -> None:
    from functions.common.migrate import SCHEMA, statements

    db = await fresh_database(f"race_{next(NUMBERS)}")
    now = timestamps.now() // HOUR * HOUR
    await db.command("DROP VIEW touched_by_logs")
    await db.insert(TABLE, row(now - 3 * HOUR, 1))
    assert await rollup.settle(db, now) == 0
    for statement in statements((SCHEMA / "single/0002_rollups.sql").read_text()):
        await db.command(statement)
    assert await rollup.settle(db, now) == 1
    await db.close()
