"""Apply schema/: numbered SQL files once each, in order, and what settings decide whenever it changed.

`python -m functions.common.migrate` (or `make migrate`) applies it to the server that the CLICKHOUSE_ settings name.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from functions.common.clickhouse import ClickHouse, ClickHouseConfig
from functions.common.config import ConfigError, environment, load, setting
from functions.common.errors import TorporError

SCHEMA = Path(__file__).parents[2] / "schema"


@dataclasses.dataclass(frozen=True)
class SchemaConfig:
    """What the schema leaves to settings."""

    schema_variant: str = setting("single", "`single` for one ClickHouse server, `cluster` for replicas and shards")
    retention_days: int = setting(30, "Days after which logs are deleted; ingest refuses older ones")
    text_index: bool = setting(True, "Index the words of messages: faster search for rare words, about 20 bytes a log")

    def __post_init__(self) -> None:
        if self.schema_variant not in ("single", "cluster"):
            raise ValueError(f"SCHEMA_VARIANT is {self.schema_variant!r}: expected single or cluster")
        if not 1 <= self.retention_days <= 3650:
            raise ValueError(f"RETENTION_DAYS is {self.retention_days}: expected 1 to 3650")


class EditedFileError(TorporError):
    """A file differs from what was applied under its name."""


async def migrate(
    open_database: Callable[[str], ClickHouse], database: str, config: SchemaConfig, schema: Path = SCHEMA
) -> list[str]:
    """Bring `database` to the state that `schema` describes; return the names of the files applied now.

    `open_database` gives the database of that name on one server. Raises EditedFileError, before anything is changed,
    if an applied file was edited.
    """
    folder = schema / config.schema_variant
    server = open_database("default")
    on_cluster = " ON CLUSTER '{cluster}'" if config.schema_variant == "cluster" else ""
    await server.command(f"CREATE DATABASE IF NOT EXISTS {database}{on_cluster} ENGINE = Atomic")
    await server.close()
    db = open_database(database)
    try:
        ledger, *numbered = sorted(folder.glob("*.sql"))
        await _run(db, ledger.read_text())
        applied = await _applied(db)
        todo = [path for path in numbered if _is_new(path, applied)]
        texts = [(path.name, path.read_text()) for path in todo]
        texts += [(name, text) for name, text in _from_settings(folder, config) if applied.get(name) != _checksum(text)]
        for name, text in texts:
            await _run(db, text)
            row = msgspec.json.encode({"name": name, "checksum": _checksum(text)})
            await db.insert("schema_ledger", row)
        return [name for name, _ in texts]
    finally:
        await db.close()


def statements(text: str) -> Iterator[str]:
    """Split a file into statements: each ends with a semicolon at the end of a line."""
    for part in (text.rstrip() + "\n").split(";\n"):
        if part.strip():
            yield part.strip()


async def _run(db: ClickHouse, text: str) -> None:
    for statement in statements(text):
        await db.command(statement)


async def _applied(db: ClickHouse) -> dict[str, str]:
    rows = await db.select("SELECT name, argMax(checksum, applied_at) AS checksum FROM schema_ledger GROUP BY name")
    return {row["name"]: row["checksum"] for row in map(msgspec.json.decode, rows.splitlines())}


def _is_new(path: Path, applied: dict[str, str]) -> bool:
    if path.name not in applied:
        return True
    if applied[path.name] != _checksum(path.read_text()):
        raise EditedFileError(f"{path.name} was edited after it was applied; undo the edit and add a new file instead")
    return False


def _from_settings(folder: Path, config: SchemaConfig) -> Iterator[tuple[str, str]]:
    retention = (folder / "settings" / "retention.sql").read_text()
    yield "retention", retention.replace("{retention_days}", str(config.retention_days))
    text_index = "text_index_on.sql" if config.text_index else "text_index_off.sql"
    yield "text_index", (folder / "settings" / text_index).read_text()


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    """Apply the schema to the configured server and say what was done."""
    try:
        server, schema = load(ClickHouseConfig, environment()), load(SchemaConfig, environment())

        def open_database(name: str) -> ClickHouse:
            return ClickHouse.server(dataclasses.replace(server, clickhouse_database=name))

        applied = asyncio.run(migrate(open_database, server.clickhouse_database, schema))
    except (ConfigError, TorporError) as error:
        sys.exit(f"migrate: {error}")
    print("applied " + ", ".join(applied) if applied else "nothing to apply: the schema is up to date")


if __name__ == "__main__":
    main()
