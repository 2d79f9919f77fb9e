"""Search, export and schema on the real engine: what was stored is found, once, byte for byte."""

import asyncio
import collections
import csv
import dataclasses
import gzip
import io
import itertools
import json
import random
import re
import shutil
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest
from backports import zstd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from functions.common import search, timestamps
from functions.common.clickhouse import ClickHouse
from functions.common.errors import ClickHouseUnavailable, QueryLimit
from functions.common.host import Host
from functions.common.identity import log_id
from functions.common.migrate import SCHEMA, EditedFileError, SchemaConfig, migrate, statements
from functions.common.record import COLUMNS, LEVELS, Record, encode
from functions.common.search import Cursor, Filter
from functions.export.function import Config as ExportConfig
from functions.export.function import Export
from functions.query.function import Config as QueryConfig
from functions.query.function import Query
from tests.support.engine import fresh_database, open_database

LOGS = "/api/v1/logs"
FEW = settings(max_examples=12, deadline=None)
# Whole seconds some minutes ago: within every default range, and long before the end of retention.
NOW = timestamps.now() // 10**9 * 10**9 - 600 * 10**9

HOSTILE = [
    'it\'s "quoted" and `more`',
    "back\\slash \\n \\t \\0 \\' \\\\",
    "a\0nul and \x01\x07\x1b[31m control \x7f",
    "%s %d %_ 100% _ LIKE %",
    "{p:String} {tenant:String} {values0:Array(String)} ${x} {{x}} $1 ?",
    "line\nbreak\r\nand\ttab and \x0b\x0c and \x85 and \u2028\u2029 end",
    "\n",
    '"',
    "'",
    "\\",
    "\\'",
    "\\N",
    "NULL",
    "]",
    "['a', 'b']",
    "{'a': 'b'}",
    '{"json": ["text", null, 1e5]}',
    "x') OR 1 = 1; DROP TABLE logs --",
    "'; TRUNCATE TABLE logs; --",
    "/* comment */ FORMAT Null SETTINGS readonly = 1",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "text = not a formula",
    "text\n=not a formula",
    '\n"1769860800500000000-5f1d7a84db5c9d21","',
    '","\n"1769860800500000000-5f1d7a84db5c9d21",',
    "1769860800500000000-5f1d7a84db5c9d21",
    "</script><script>alert('x')</script>",
    "ünïcödé ÄÖÜß ẞ İı ﬁ Å Å",
    "田中さんにあげて下さい 部落格 사회과학원",
    "الكل في المجمو عة תִּשְׁעִים",
    "👾 🙇 💁 🏳️‍🌈 👩‍👩‍👧‍👦 𝒥𝓊𝓈𝓉 𝄞",
    "Z̮̞̠͙͔ͅḀ̗̞͈̻̗Ḷ͙͎̯̹̞͓G̻O̭̗̮",
    "\u200b\u200d\ufeff\u202eright to left\u2066",
    "\ufffd\ufffe\U0010ffff",
    " leading and trailing ",
    "",
    "0",
    "00001",
    "1e1000",
    "NaN",
    "true",
    "9223372036854775808",
    "2026-01-31T12:00:00Z",
    "a" * 255,
]
# Parquet is compressed inside.
FILES = list(itertools.product(("json", "ndjson", "csv"), ("none", "gzip", "zstd")))


class Engine:
    """A database, and query and export on it as their clients see them."""

    def __init__(self, db: ClickHouse) -> None:
        self.db = db
        self.query = Query(QueryConfig(), db)
        self.export = Export(ExportConfig(), db)
        self._clients = {
            name: httpx.AsyncClient(transport=httpx.ASGITransport(Host(function)), base_url=f"http://{name}")
            for name, function in (("query", self.query), ("export", self.export))
        }

    async def ask(self, tenant: str, path: str, body: dict[str, Any] | None = None, **given: Any) -> httpx.Response:
        """Ask query; with `body` by POST."""
        self.query.config = dataclasses.replace(self.query.config, tenant=tenant)
        if body is not None:
            return await self._clients["query"].post(path, json=body)
        return await self._clients["query"].get(path, params=given)

    async def get(self, tenant: str, path: str, **given: Any) -> Any:
        """What query answers when all is well."""
        answer = await self.ask(tenant, path, **given)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def file(self, tenant: str, **given: str) -> bytes:
        """An export, unpacked."""
        self.export.config = dataclasses.replace(self.export.config, tenant=tenant)
        answer = await self._clients["export"].get(f"{LOGS}/export", params=given)
        assert answer.status_code == 200, answer.text
        unpack: dict[str, Callable[[bytes], bytes]] = {
            "application/gzip": gzip.decompress,
            "application/zstd": zstd.decompress,
        }
        return unpack.get(answer.headers["content-type"], bytes)(answer.content)

    async def store(self, *logs: Record) -> None:
        """Insert logs as a batch of its own, which the engine does not recognise if it comes again."""
        await self.db.insert("logs", b"\n".join(map(encode, logs)), str(uuid.uuid4()))

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a SELECT."""
        return [json.loads(line) for line in (await self.db.select(sql)).splitlines()]


def log(tenant: str, number: int = 0, **values: Any) -> Record:
    """A log that is `number` seconds old unless told otherwise."""
    texts = {"service": "checkout", "level": "INFO", "message": f"log {number}", "trace_id": "", "span_id": ""}
    given = {"timestamp": str(NOW - number * 10**9), "metadata": {}, "dedupe": number, **texts, **values}
    return Record(tenant=tenant, **given)


def id_of(record: Record) -> str:
    return log_id(int(record.timestamp), record.dedupe)


def shown(record: Record) -> dict[str, Any]:
    """A log as the API shows it."""
    return {
        "id": id_of(record),
        "timestamp": timestamps.iso(int(record.timestamp)),
        "tenant": record.tenant,
        "service": record.service,
        "level": record.level,
        "message": record.message,
        "metadata": record.metadata,
        "trace_id": record.trace_id,
        "span_id": record.span_id,
    }


def new_tenant() -> str:
    return f"tenant-{uuid.uuid4().hex}"


def opened(database: Coroutine[Any, Any, ClickHouse]) -> Iterator[Engine]:
    db = asyncio.run(database)
    yield Engine(db)
    asyncio.run(db.close())


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """A database with the text index. Its merges are stopped: a log that was stored twice stays twice."""
    for engine in opened(fresh_database("search")):
        asyncio.run(engine.db.command("SYSTEM STOP MERGES logs"))
        yield engine


@pytest.fixture(scope="module")
def without_index() -> Iterator[Engine]:
    """A database without the text index."""
    yield from opened(fresh_database("search_without_index", SchemaConfig(text_index=False)))


# Pages


async def newest_first(engine: Engine, tenant: str, limit: int) -> list[str]:
    """All ids, page by page."""
    ids: list[str] = []
    page = await engine.get(tenant, LOGS, limit=limit)
    while True:
        ids += [log["id"] for log in page["logs"]]
        if page["next"] is None:
            return ids
        assert len(page["logs"]) == limit
        page = await engine.get(tenant, LOGS, limit=limit, cursor=page["next"])


async def oldest_first(engine: Engine, tenant: str, limit: int) -> list[str]:
    """All ids, page by page, in the order of an export."""
    ids: list[str] = []
    cursor = None
    filter = Filter(tenant=tenant, start=0, end=NOW + 1)
    while True:
        statement = search.oldest(filter, limit, cursor)
        lines = (await engine.db.select(statement.sql, statement.parameters)).splitlines()
        page = [json.loads(line)["id"] for line in lines]
        if not page:
            return ids
        ids += page
        timestamp, _, dedupe = page[-1].partition("-")
        cursor = Cursor(filter.start, filter.end, int(timestamp), int(dedupe, 16))


@given(
    dedupes=st.lists(st.integers(0, (1 << 64) - 1), unique=True, max_size=20),
    limit=st.integers(1, 7),
    seed=st.randoms(use_true_random=False),
)
@example(dedupes=[0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1], limit=1, seed=random.Random(1))
@FEW
async def test_pages_of_logs_of_one_moment_repeat_nothing_and_skip_nothing(
    engine: Engine, dedupes: list[int], limit: int, seed: random.Random
) -> None:
    tenant = new_tenant()
    logs = [log(tenant, dedupe=dedupe) for dedupe in dedupes]
    again = seed.sample(logs, len(logs) // 2)
    for batch in (logs[::2], logs[1::2], again, again):
        if batch:
            await engine.store(*batch)
    ids = sorted(map(id_of, logs))
    assert await newest_first(engine, tenant, limit) == ids[::-1]
    assert await oldest_first(engine, tenant, limit) == ids


async def test_a_page_by_offset_is_the_same_as_by_cursor(engine: Engine) -> None:
    tenant = new_tenant()
    logs = [log(tenant, number // 3, dedupe=number) for number in range(12)]
    for _ in range(2):
        await engine.store(*logs)
    ids = await newest_first(engine, tenant, 5)
    by_offset = [await engine.get(tenant, LOGS, limit=5, offset=offset) for offset in (0, 5, 10)]
    assert [log["id"] for page in by_offset for log in page["logs"]] == ids
    assert [page["total"] for page in by_offset] == [12, 12, 12]


async def test_a_walk_that_began_does_not_see_what_is_stored_after_its_end(engine: Engine) -> None:
    tenant = new_tenant()
    await engine.store(*[log(tenant, number) for number in range(3)])
    page = await engine.get(tenant, LOGS, limit=2)
    later = timestamps.now()
    await engine.store(
        log(tenant, timestamp=str(later), dedupe=99), log(tenant, timestamp=str(NOW - 10**10), dedupe=98)
    )
    rest = await engine.get(tenant, LOGS, limit=2, cursor=page["next"])
    assert [log["message"] for log in rest["logs"]] == ["log 2", "log 0"]  # the late one is within the range


async def test_a_range_holds_its_first_moment_and_not_its_last(engine: Engine) -> None:
    tenant = new_tenant()
    logs = [log(tenant, timestamp=str(NOW + nanosecond), dedupe=nanosecond) for nanosecond in range(4)]
    await engine.store(*logs)
    page = await engine.get(tenant, LOGS, start_time=timestamps.iso(NOW + 1), end_time=str(NOW + 3))
    assert [log["id"] for log in page["logs"]] == [id_of(logs[2]), id_of(logs[1])]


# Counts


async def test_counts_are_exact_however_often_a_log_was_stored(engine: Engine) -> None:
    tenant = new_tenant()
    logs = [log(tenant, number % 600, level=LEVELS[number % 6], dedupe=number) for number in range(10_050)]
    for _ in range(2):
        await engine.store(*logs)
    (stored,) = await engine.rows(f"SELECT count() AS n FROM logs WHERE tenant = '{tenant}'")
    assert stored["n"] == 2 * len(logs)

    async def total(**given: Any) -> tuple[int, str]:
        page = await engine.get(tenant, LOGS, limit=1, **given)
        return page["total"], page["total_relation"]

    assert await total() == (10_000, "gte")
    assert await total(total="exact") == (10_050, "eq")
    assert await total(level="error") == (1_675, "eq")
    assert await total(level="error", total="exact") == (1_675, "eq")
    buckets = await engine.get(tenant, f"{LOGS}/aggregate", interval="1m")
    assert sum(bucket["count"] for bucket in buckets) == 10_050
    assert len((await engine.file(tenant, format="ndjson")).splitlines()) == 10_050


ages = st.integers(0, 20 * 86_400)


@given(st.lists(st.tuples(ages, st.sampled_from(["a", "b", "c"]), st.sampled_from(LEVELS), st.booleans()), max_size=30))
@settings(FEW, max_examples=6)
async def test_counts_over_time_add_up_to_the_total_for_every_interval(
    engine: Engine, drawn: list[tuple[int, str, str, bool]]
) -> None:
    tenant = new_tenant()
    logs = [
        log(tenant, age, service=service, level=level, dedupe=number)
        for number, (age, service, level, _) in enumerate(drawn)
    ]
    again = [log for log, (*_, twice) in zip(logs, drawn, strict=True) if twice]
    for batch in (logs, again):
        if batch:
            await engine.store(*batch)
    given = {"start_time": "-21d"}
    exact = (await engine.get(tenant, LOGS, limit=1, total="exact", **given))["total"]
    assert exact == len(logs)
    for interval, seconds in (("1s", 1), ("90s", 90), ("minute", 60), ("1h", 3600), ("1d", 86_400), ("2w", 1_209_600)):
        buckets = await engine.get(tenant, f"{LOGS}/aggregate", interval=interval, **given)
        counted = {(bucket["time"], bucket["service"], bucket["level"]): bucket["count"] for bucket in buckets}
        assert counted == collections.Counter(
            (timestamps.iso(second_of(log) // seconds * seconds * 10**9)[:19] + "Z", log.service, log.level)
            for log in logs
        )
        assert list(counted) == sorted(counted, key=lambda key: key[0])
        assert all(bucket.get("hour") == (bucket["time"] if seconds == 3600 else None) for bucket in buckets)
    buckets = await engine.get(tenant, f"{LOGS}/aggregate", interval="999999w", **given)
    assert sum(bucket["count"] for bucket in buckets) == len(logs)


def second_of(record: Record) -> int:
    return int(record.timestamp) // 10**9


async def test_errors_are_the_newest_of_the_two_highest_levels(engine: Engine) -> None:
    tenant = new_tenant()
    logs = [log(tenant, number, level=LEVELS[number % 6]) for number in range(18)]
    for _ in range(2):
        await engine.store(*logs)
    errors = await engine.get(tenant, f"{LOGS}/errors")
    assert errors == [shown(log) for log in logs if log.level in ("ERROR", "FATAL")]
    assert await engine.get(tenant, f"{LOGS}/errors", limit=2) == errors[:2]
    assert [log["level"] for log in await engine.get(tenant, f"{LOGS}/errors", level="fatal")] == ["FATAL"] * 3


# Words


def words(text: str) -> set[bytes]:
    """The words of a text in lower case: runs of ASCII letters, digits, and all that is not ASCII."""
    return set(re.findall(rb"[0-9a-z\x80-\xff]+", text.lower().encode()))


PIECES = [
    "card",
    "Card",
    "CARDS",
    "declined",
    "42",
    "x",
    "é",
    "É",
    "ж",
    "失",
    " ",
    "_",
    "-",
    "\n",
    "\0",
    ".",
    "'",
    "\\",
    "%",
]
sentences = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@given(messages=st.lists(sentences, min_size=1, max_size=15), searches=st.lists(sentences, min_size=1, max_size=4))
@example(messages=["Card declined", "declined: CARD!", "cards declined", "card", ""], searches=["DECLINED card"])
@example(messages=["échec", "ÉCHEC du Жест", "echec"], searches=["Échec", "жест échec"])
@FEW
async def test_a_search_finds_what_holds_all_its_words_in_any_order_and_case_with_and_without_index(
    engine: Engine, without_index: Engine, messages: list[str], searches: list[str]
) -> None:
    tenant = new_tenant()
    logs = [log(tenant, number, message=message) for number, message in enumerate(messages)]
    for database in (engine, without_index):
        await database.store(*logs)
        await database.store(*logs[::2])
    for searched in searches:
        expected = [log.message for log in logs if words(searched) <= words(log.message)]
        for database in (engine, without_index):
            answer = await database.ask(tenant, LOGS, {"search": searched})
            if any(piece.isalnum() for piece in searched):
                assert [log["message"] for log in answer.json()["logs"]] == (expected if searched else messages)
            else:
                assert answer.status_code == (400 if searched else 200)


async def test_the_text_index_is_used_where_there_is_one(engine: Engine, without_index: Engine) -> None:
    tenant = new_tenant()
    filter = Filter(tenant=tenant, start=0, end=NOW + 1, search="rare")
    statement = search.newest(filter, 10)
    for database, used in ((engine, True), (without_index, False)):
        await database.store(log(tenant, message="a rare word"))
        plan = await database.db.select(f"EXPLAIN indexes = 1 {statement.sql}", statement.parameters, output="TSVRaw")
        assert (b"Name: message" in plan) == used, plan.decode()


# Every byte


@pytest.fixture(scope="module")
def hostile(engine: Engine) -> list[Record]:
    """A log for each hostile text, which stands in all its fields; newest first."""
    tenant = new_tenant()
    logs = [
        log(
            tenant,
            number,
            service=text,
            message=text,
            metadata={"key": text, f"k{text}": "value", "": text},
            trace_id=text[:128],
            span_id=text,
        )
        for number, text in enumerate(HOSTILE)
    ]
    for _ in range(2):
        asyncio.run(engine.store(*logs))
    return logs


async def test_hostile_texts_come_back_in_a_page_as_they_were_sent(engine: Engine, hostile: list[Record]) -> None:
    page = await engine.get(hostile[0].tenant, LOGS)
    assert page["logs"] == [shown(log) for log in hostile]
    for found, log in zip(page["logs"], hostile, strict=True):
        assert found["message"].encode() == log.message.encode()


@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=map(ascii, HOSTILE))
async def test_a_log_of_hostile_texts_is_found_by_its_id_and_by_each_of_them(
    engine: Engine, hostile: list[Record], number: int
) -> None:
    tenant, log, text = hostile[0].tenant, hostile[number], HOSTILE[number]
    assert await engine.get(tenant, f"{LOGS}/{id_of(log)}") == shown(log)
    conditions: list[dict[str, Any]] = [
        {"service": [text]},
        {"metadata": {"key": [text]}},
        {"metadata": {"": ["nothing", text]}},
        {f"metadata.k{text}": "value"},
        *([{"trace_id": log.trace_id}] if text else []),  # an empty one is no condition
    ]
    for body in conditions:
        posted = await engine.ask(tenant, LOGS, body)
        assert [found["id"] for found in posted.json()["logs"]] == [id_of(log)], body
    got = await engine.get(tenant, LOGS, **{f"metadata.k{text}": "value", "service": text})
    assert [found["id"] for found in got["logs"]] == [id_of(log)]
    searched = await engine.ask(tenant, LOGS, {"search": text})
    assert searched.status_code in (200, 400)
    if searched.status_code == 200:
        assert id_of(log) in [found["id"] for found in searched.json()["logs"]]


@pytest.mark.parametrize(("format", "compression"), [*FILES, ("parquet", "none")])
async def test_an_export_holds_exactly_the_logs_over_several_pages_of_changing_size(
    engine: Engine,
    hostile: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    compression: str,
) -> None:
    monkeypatch.setattr("functions.export.function._FIRST_PAGE", 3)
    monkeypatch.setattr("functions.export.function._MOST_ROWS", 20)
    monkeypatch.setattr("functions.export.function._PAGE_BYTES", 4_000)
    limits: list[int] = []
    select = engine.db.select

    async def counted(sql: str, *rest: Any) -> bytes:
        limits.append(int(sql.rpartition("LIMIT ")[2]))
        return await select(sql, *rest)

    monkeypatch.setattr(engine.db, "select", counted)
    file = await engine.file(hostile[0].tenant, format=format, compression=compression, formulas="keep")
    assert len(limits) > 3
    assert len(set(limits)) > 1
    assert READ[format](file) == [shown(log) for log in reversed(hostile)]


def read_csv(file: bytes) -> list[dict[str, Any]]:
    before = csv.field_size_limit(1 << 20)
    rows = list(csv.DictReader(io.StringIO(file.decode(), newline=""), strict=True))
    csv.field_size_limit(before)
    return [{**row, "metadata": json.loads(row["metadata"])} for row in rows]


def read_parquet(file: bytes) -> list[dict[str, Any]]:
    table = pyarrow.parquet.read_table(io.BytesIO(file))
    moments = table.column("timestamp").cast("int64").to_pylist()
    return [
        {**row, "timestamp": timestamps.iso(moment), "metadata": dict(row["metadata"])}
        for row, moment in zip(table.to_pylist(), moments, strict=True)
    ]


READ: dict[str, Callable[[bytes], list[dict[str, Any]]]] = {
    "json": json.loads,
    "ndjson": lambda file: [json.loads(line) for line in file.split(b"\n")[:-1]],
    "csv": read_csv,
    "parquet": read_parquet,
}


async def test_formulas_in_csv_are_escaped_unless_they_are_to_be_kept(engine: Engine, hostile: list[Record]) -> None:
    tenant = hostile[0].tenant
    escaped, kept = [
        read_csv(await engine.file(tenant, format="csv", formulas=formulas)) for formulas in ("escape", "keep")
    ]
    assert kept == [shown(log) for log in reversed(hostile)]
    assert escaped == [
        {**shown(log), **{name: harmless(getattr(log, name)) for name in ("service", "message", "trace_id", "span_id")}}
        for log in reversed(hostile)
    ]
    changed = {row["message"] for row in escaped} - set(HOSTILE)
    assert {"'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "'\r=1", "'\n=1"} <= changed
    assert "text\n=not a formula" not in changed


def harmless(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") and text else text


async def test_a_log_of_256_kibibytes_is_found_and_exported_whole(engine: Engine) -> None:
    tenant = new_tenant()
    message = "".join(random.Random(1).choices("abc \n\"\\é'", k=200_000))
    message += "x" * (256 * 1024 - len(message.encode()))
    assert len(message.encode()) == 256 * 1024
    large = log(tenant, message=message, metadata={"large": message})
    await engine.store(large)
    assert (await engine.get(tenant, LOGS))["logs"] == [shown(large)]
    assert await engine.get(tenant, f"{LOGS}/{id_of(large)}") == shown(large)
    for format, read in READ.items():
        assert read(await engine.file(tenant, format=format, formulas="keep")) == [shown(large)]


@pytest.mark.parametrize(("format", "compression"), FILES)
async def test_an_export_without_logs_is_a_valid_file(engine: Engine, format: str, compression: str) -> None:
    file = await engine.file(new_tenant(), format=format, compression=compression)
    assert READ[format](file) == []
    if format == "csv":
        assert file.decode().strip().split(",") == list(shown(log("")))


async def test_a_parquet_file_without_logs_has_the_columns_of_one_with_logs(
    engine: Engine, hostile: list[Record]
) -> None:
    empty, full = [
        pyarrow.parquet.read_table(io.BytesIO(await engine.file(tenant, format="parquet")))
        for tenant in (new_tenant(), hostile[0].tenant)
    ]
    assert empty.num_rows == 0
    assert empty.schema == full.schema


# Tenants and limits


async def test_a_tenant_sees_nothing_of_another(engine: Engine, hostile: list[Record]) -> None:
    other = new_tenant()
    assert (await engine.get(other, LOGS, total="exact"))["total"] == 0
    assert await engine.get(other, f"{LOGS}/aggregate") == []
    assert await engine.get(other, f"{LOGS}/errors") == []
    assert await engine.file(other, format="ndjson") == b""
    for log in hostile[:3]:
        assert (await engine.ask(other, f"{LOGS}/{id_of(log)}")).status_code == 404


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ({"query_rows_read": 1}, "it reads more rows than allowed"),
        ({"query_memory_bytes": 1}, "it needs more memory than allowed"),
    ],
)
async def test_a_query_over_its_limits_is_stopped_and_told_so(
    engine: Engine, hostile: list[Record], limit: dict[str, Any], text: str
) -> None:
    config = engine.query.config
    engine.query.config = dataclasses.replace(config, **limit)
    try:
        answer = await engine.ask(hostile[0].tenant, LOGS)
    finally:
        engine.query.config = config
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert text in answer.json()["detail"]
    assert (await engine.ask(hostile[0].tenant, LOGS)).status_code == 200


async def test_a_query_that_runs_too_long_is_stopped(engine: Engine) -> None:
    forever = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
    with pytest.raises(QueryLimit, match="it runs longer than allowed"):
        await engine.db.select(forever, settings={"max_execution_time": "0.05"})


async def test_a_database_that_is_not_there_is_unavailable_and_no_other_error() -> None:
    nowhere = Engine(open_database("nowhere"))
    with pytest.raises(ClickHouseUnavailable, match="nowhere does not exist"):
        await nowhere.query.ready()
    health = await nowhere.ask("any", "/health")
    assert (health.status_code, health.json()["status"]) == (503, "unavailable")
    answer = await nowhere.ask("any", LOGS)
    assert (answer.status_code, answer.json()["detail"]) == (503, "the schema is not applied; run the migration")
    await nowhere.db.close()


# Schema

COLUMN_TYPES = {
    "tenant": "LowCardinality(String)",
    "timestamp": "DateTime64(9, 'UTC')",
    "service": "LowCardinality(String)",
    "level": "LowCardinality(String)",
    "message": "String",
    "metadata": "Map(LowCardinality(String), String)",
    "trace_id": "String",
    "span_id": "String",
    "dedupe": "UInt64",
}


async def test_the_columns_of_the_table_are_the_fields_of_the_record(engine: Engine) -> None:
    columns = {row["name"]: row["type"] for row in await engine.rows("DESCRIBE TABLE logs")}
    assert list(columns) == list(COLUMNS)
    assert columns == COLUMN_TYPES


async def definition(db: ClickHouse, name: str) -> tuple[str, set[str]]:
    """The engine of the table of logs in the database of this name, and the names of its indexes."""
    tables = await db.select(f"SELECT engine_full FROM system.tables WHERE database = '{name}' AND name = 'logs'")
    indexes = await db.select(
        f"SELECT name FROM system.data_skipping_indices WHERE database = '{name}' AND table = 'logs'"
    )
    return json.loads(tables)["engine_full"], {json.loads(line)["name"] for line in indexes.splitlines()}


async def test_a_migration_applies_what_is_new_and_then_nothing() -> None:
    name = "migrated"
    applied = await migrate(open_database, name, SchemaConfig())
    files = sorted(path.name for path in (SCHEMA / "single").glob("*.sql"))[1:]
    assert applied == [*files, "retention", "text_index"]
    assert await migrate(open_database, name, SchemaConfig()) == []


async def test_retention_and_text_index_are_applied_again_when_they_change() -> None:
    name = "resettled"
    db = await fresh_database(name)
    engine_full, indexes = await definition(db, name)
    assert "TTL timestamp + toIntervalDay(30)" in engine_full
    assert indexes == {"trace_id", "metadata", "message"}
    tenant = new_tenant()
    await Engine(db).store(log(tenant, message="a rare word"))

    assert await migrate(open_database, name, SchemaConfig(retention_days=7)) == ["retention"]
    assert "TTL timestamp + toIntervalDay(7)" in (await definition(db, name))[0]
    assert await migrate(open_database, name, SchemaConfig(retention_days=7, text_index=False)) == ["text_index"]
    assert (await definition(db, name))[1] == {"trace_id", "metadata"}
    assert (await Engine(db).get(tenant, LOGS, search="RARE"))["total"] == 1
    assert await migrate(open_database, name, SchemaConfig()) == ["retention", "text_index"]
    engine_full, indexes = await definition(db, name)
    assert "TTL timestamp + toIntervalDay(30)" in engine_full
    assert indexes == {"trace_id", "metadata", "message"}
    assert (await Engine(db).get(tenant, LOGS, search="RARE"))["total"] == 1
    assert await migrate(open_database, name, SchemaConfig()) == []
    await db.close()


async def test_an_applied_file_that_was_edited_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    name = "edited"
    schema = tmp_path / "schema"
    shutil.copytree(SCHEMA, schema)
    await migrate(open_database, name, SchemaConfig(), schema)
    first = schema / "single" / "0001_logs.sql"
    text = first.read_text()
    first.write_text(text.replace("bloom_filter(0.01)", "bloom_filter(0.02)"))
    (schema / "single" / "9999_new.sql").write_text("CREATE TABLE new (n UInt8) ENGINE = Memory;\n")
    with pytest.raises(EditedFileError, match=r"0001_logs\.sql was edited"):
        await migrate(open_database, name, SchemaConfig(retention_days=7), schema)
    db = open_database(name)
    assert await db.select("EXISTS TABLE new") == b'{"result":0}\n'
    assert "toIntervalDay(30)" in (await definition(db, name))[0]
    first.write_text(text)
    assert await migrate(open_database, name, SchemaConfig(retention_days=7), schema) == ["9999_new.sql", "retention"]
    assert await db.select("EXISTS TABLE new") == b'{"result":1}\n'
    await db.close()


SCHEMA_FILES = sorted(str(path.relative_to(SCHEMA / "single")) for path in (SCHEMA / "single").rglob("*.sql"))


def test_both_variants_have_the_same_files() -> None:
    cluster = SCHEMA / "cluster"
    assert sorted(str(path.relative_to(cluster)) for path in cluster.rglob("*.sql")) == SCHEMA_FILES


@pytest.mark.parametrize("name", SCHEMA_FILES)
@pytest.mark.parametrize("variant", ["single", "cluster"])
async def test_every_statement_of_the_schema_is_one_that_the_engine_can_read(
    engine: Engine, variant: str, name: str
) -> None:
    texts = list(statements((SCHEMA / variant / name).read_text().replace("{retention_days}", "30")))
    assert texts
    for text in texts:
        assert (await engine.db.select(f"EXPLAIN AST {text}", output="TSVRaw")).strip()


def without_comments(text: str) -> list[str]:
    return [" ".join(re.sub(r"--[^\n]*", "", part).split()) for part in statements(text)]


@pytest.mark.parametrize("name", SCHEMA_FILES)
def test_the_cluster_differs_from_a_single_server_only_in_what_makes_it_a_cluster(name: str) -> None:
    cluster = []
    for statement in without_comments((SCHEMA / "cluster" / name).read_text()):
        assert "ON CLUSTER '{cluster}'" in statement or statement.startswith("INSERT")
        if "ENGINE = Distributed(" in statement:
            table = re.search(r"TABLE IF NOT EXISTS (\w+) ", statement)
            assert table, statement
            assert (
                f" AS {table[1]}_local ENGINE = Distributed('{{cluster}}', currentDatabase(), {table[1]}_local, "
                in statement
            )
            continue
        statement = statement.replace(" ON CLUSTER '{cluster}'", "").replace("_local ", " ")
        statement = re.sub(r"Replicated(\w*MergeTree)\('[^']*', '[^']*'(?:, (\w+))?\)", r"\1(\2)", statement)
        statement = re.sub(
            r" replicated_(deduplication_window = \d+), replicated_\w+ = \d+", r" non_replicated_\1", statement
        )
        cluster.append(statement.replace("()", "").replace("_local", ""))
    assert cluster == without_comments((SCHEMA / "single" / name).read_text())
