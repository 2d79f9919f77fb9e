"""Bytes a log on disk, by column and codec: `make bench`.

Generated logs of one day are stored once for each set of codecs and merged into one part; the reference is the
uncompressed columns, and gzip and zstd of the same JSON lines. Sizes do not vary from run to run, times do.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import tempfile
import time
from pathlib import Path

import msgspec
from backports import zstd

from functions.common import timestamps
from functions.common.clickhouse import ClickHouse
from functions.common.migrate import SCHEMA, statements
from functions.ingest.dialects.json_records import records
from functions.ingest.normalise import Normaliser, Outcome
from functions.local.generate import Generator

LOGS = 200_000
BATCH = 1_000
INSERT = 50_000
DDL = next(statements((SCHEMA / "single/0001_logs.sql").read_text()))
TEXT_INDEX = next(statements((SCHEMA / "single/settings/text_index_on.sql").read_text()))

# What each candidate changes in the table as it is shipped.
CANDIDATES: dict[str, list[tuple[str, str]]] = {
    "shipped": [],
    "LZ4 for texts": [
        ("String                              CODEC(ZSTD(1))", "String CODEC(LZ4)"),
        ("CODEC(ZSTD(1)),\n    trace", "CODEC(LZ4),\n    trace"),
    ],
    "ZSTD(3) for texts": [("String                              CODEC(ZSTD(1))", "String CODEC(ZSTD(3))")],
    "timestamp DoubleDelta": [("'UTC')                CODEC(Delta(8), ZSTD(1))", "'UTC') CODEC(DoubleDelta, ZSTD(1))")],
    "timestamp ZSTD(1)": [("'UTC')                CODEC(Delta(8), ZSTD(1))", "'UTC') CODEC(ZSTD(1))")],
    "dedupe NONE": [("UInt64                              CODEC(ZSTD(1))", "UInt64 CODEC(NONE)")],
    "dedupe Delta": [("UInt64                              CODEC(ZSTD(1))", "UInt64 CODEC(Delta(8), ZSTD(1))")],
    "dedupe T64": [("UInt64                              CODEC(ZSTD(1))", "UInt64 CODEC(T64, ZSTD(1))")],
    "with text index": [],
}


def rows(batch: int) -> list[bytes]:
    """Rows of LOGS logs of one day, as ingest makes them, `batch` logs a request and ten clients at a time."""
    now = timestamps.now()
    start, span = now - timestamps.DAY, timestamps.DAY // LOGS * batch * 10
    generator, chance = Generator(seed=7), random.Random(7)
    out: list[bytes] = []
    for first in range(0, LOGS, batch):
        begin = start + first * (timestamps.DAY // LOGS)
        lines = generator.lines(sorted(min(begin + chance.randrange(span), now) for _ in range(batch)))
        normaliser = Normaliser("default", f"batch-{first}", True, now, 2 * timestamps.DAY, 1 << 18)
        for chunk in normaliser.chunks(records(lines, "application/x-ndjson"), Outcome()):
            out += chunk.data.split(b"\n")
    return out


async def measure(db: ClickHouse, name: str, data: list[bytes]) -> dict[str, float]:
    """Store `data` in a table with the codecs of `name`; bytes a log by column, and seconds."""
    ddl = DDL
    for old, new in CANDIDATES[name]:
        assert old in ddl, f"{name}: the schema has no {old!r}"
        ddl = ddl.replace(old, new)
    await db.command("DROP TABLE IF EXISTS logs SYNC")
    await db.command(ddl.replace("PARTITION BY toDate(timestamp)", "PARTITION BY tuple()"))
    if name == "with text index":
        await db.command(TEXT_INDEX)
    started = time.perf_counter()
    for start in range(0, len(data), INSERT):
        await db.insert("logs", b"\n".join(data[start : start + INSERT]))
    seconds = time.perf_counter() - started
    await db.command("OPTIMIZE TABLE logs FINAL")
    where = "WHERE table = 'logs' AND active AND database = currentDatabase()"
    columns = await db.select(
        "SELECT column, sum(column_data_compressed_bytes) AS bytes, sum(column_data_uncompressed_bytes) AS raw "
        f"FROM system.parts_columns {where} GROUP BY column"
    )
    (total,) = (await db.select(f"SELECT sum(bytes_on_disk) AS bytes FROM system.parts {where}")).splitlines()
    by_column = {row["column"]: row for row in map(msgspec.json.decode, columns.splitlines())}
    sizes = {column: row["bytes"] / LOGS for column, row in by_column.items()}
    raw = sum(row["raw"] for row in by_column.values()) / LOGS
    return sizes | {"on disk": msgspec.json.decode(total)["bytes"] / LOGS, "raw": raw, "insert s": seconds}


async def main() -> None:
    """Measure every candidate and print a table."""
    shown = (
        "timestamp",
        "service",
        "level",
        "message",
        "metadata",
        "trace_id",
        "span_id",
        "dedupe",
        "on disk",
        "insert s",
    )
    with tempfile.TemporaryDirectory() as folder:
        server = ClickHouse.embedded(Path(folder), "default")
        await server.command("CREATE DATABASE bench ENGINE = Atomic")
        db = ClickHouse.embedded(Path(folder), "bench")
        for batch in (BATCH, 1):
            data = rows(batch)
            text = b"\n".join(data)
            json_bytes = len(text) / LOGS
            print(f"\n{LOGS} logs of one day, {batch} a request; {json_bytes:.0f} bytes a log as JSON")
            packed = len(gzip.compress(text, 6)) / LOGS, len(zstd.compress(text, 3)) / LOGS
            print(f"gzip {packed[0]:.1f}, zstd {packed[1]:.1f} bytes a log")
            print(f"{'bytes a log':22}" + "".join(f"{column:>10}" for column in shown) + f"{'of JSON':>10}")
            for name in CANDIDATES if batch > 1 else ("shipped", "dedupe NONE", "dedupe Delta", "dedupe T64"):
                sizes = await measure(db, name, data)
                figures = "".join(f"{sizes[column]:10.2f}" for column in shown)
                print(f"{name:22}{figures}{sizes['on disk'] / json_bytes:10.1%}", flush=True)
        await db.close()


if __name__ == "__main__":
    asyncio.run(main())
