"""Stand-ins for unit tests, which need no network: a publisher and a database that only remember.

They are held to the real ones by tests/contract/test_stand_ins.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from functions.common.clickhouse import ClickHouse
from functions.common.errors import TorporError
from functions.common.kafka import Headers


class MemoryPublisher:
    """Keeps what is published; `failure` is raised instead while it is set, and `gate` holds publishing back."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, bytes, Headers]] = []
        self.failure: TorporError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> None:
        """Nothing to connect to."""

    async def publish(self, topic: str, key: str, value: bytes, headers: Headers) -> None:
        """Keep the record, or fail as told."""
        await self.gate.wait()
        if self.failure:
            raise self.failure
        self.records.append((topic, key, value, headers))

    async def ready(self) -> None:
        """Ready unless told to fail."""
        if self.failure:
            raise self.failure

    async def stop(self) -> None:
        """Nothing to disconnect from."""


class MemoryClickHouse(ClickHouse):
    """Keeps what is inserted; `refuse` may raise for the rows it is shown, `answer` is what every SELECT returns."""

    def __init__(self) -> None:
        self.inserts: list[tuple[str, bytes, str]] = []
        self.selects: list[tuple[str, dict[str, Any], dict[str, Any], str]] = []
        self.answer = b""
        self.failure: TorporError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def refuse(self, rows: bytes) -> None:
        """Raise BadRows if these rows are to be refused; by default none are."""

    async def ping(self) -> str:
        """A version, unless told to fail."""
        if self.failure:
            raise self.failure
        return "0.0.0.0"

    async def insert(self, table: str, rows: bytes, token: str = "") -> None:
        """Keep the rows, or fail as told."""
        await self.gate.wait()
        if self.failure:
            raise self.failure
        self.refuse(rows)
        self.inserts.append((table, rows, token))

    async def select(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, int | str] | None = None,
        output: str = "JSONEachRow",
    ) -> bytes:
        """Keep the statement and return `answer`."""
        if self.failure:
            raise self.failure
        self.selects.append((sql, dict(parameters or {}), dict(settings or {}), output))
        return self.answer

    async def close(self) -> None:
        """Nothing to let go of."""
