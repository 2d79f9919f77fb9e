"""The embedded engine for tests. It opens one directory a process, so whoever needs a database gets it from here."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from functions.common.clickhouse import ClickHouse
from functions.common.migrate import SchemaConfig, migrate

_names: set[str] = set()


@functools.cache
def engine_path() -> Path:
    """The directory of this process's engine, made at the first call and removed when the process ends."""
    path = Path(tempfile.mkdtemp(prefix="torpor-engine-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def open_database(name: str) -> ClickHouse:
    """A database of the engine, which may not be there yet."""
    return ClickHouse.embedded(engine_path(), name)


async def fresh_database(name: str, config: SchemaConfig | None = None) -> ClickHouse:
    """A new database with the schema, which nobody else uses. Close it in the end."""
    if name in _names:
        raise ValueError(f"the database {name} is used by other tests")
    _names.add(name)
    await migrate(open_database, name, config or SchemaConfig())
    return open_database(name)
