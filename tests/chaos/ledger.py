"""The ledger: what was sent and what became of it, on disk before the client goes on.

It lies outside every process that faults hit, and is only ever appended to. The judge reads it back from the file.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from tests.chaos.payload import Log

TENANT = "default"
Outcome = Literal["ok", "rejected", "unknown"]


class Entry(msgspec.Struct, omit_defaults=True):
    """One line: logs as they are about to be sent, or the outcome of one attempt to send them."""

    outcome: Literal["sent", "ok", "rejected", "unknown"]
    ids: list[str]
    hashes: list[str] = []
    tenant: str = TENANT


@dataclasses.dataclass
class Account:
    """What the ledger says of some logs: hash by id, and the ids of every outcome. An id may have several outcomes."""

    hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    acked: set[str] = dataclasses.field(default_factory=set)
    refused: set[str] = dataclasses.field(default_factory=set)
    unknown: set[str] = dataclasses.field(default_factory=set)

    @property
    def rejected(self) -> set[str]:
        """Ids that were refused and never taken."""
        return self.refused - self.acked


class Ledger:
    """An append-only file; an entry is on disk when the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._waiting: list[Entry] = []
        self._flushing: asyncio.Task[None] | None = None

    async def sent(self, logs: Sequence[Log]) -> None:
        """Note logs before they are sent, for the first time or again."""
        await self._append(Entry("sent", [log.uid for log in logs], [log.hash for log in logs]))

    async def outcome(self, outcome: Outcome, ids: list[str]) -> None:
        """Note what an attempt came to."""
        if ids:
            await self._append(Entry(outcome, ids))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def read(self, prefix: str = "") -> Account:
        """Read the file back: the account of all logs whose id begins with `prefix`."""
        account = Account()
        outcomes = {"ok": account.acked, "rejected": account.refused, "unknown": account.unknown}
        with self.path.open("rb") as file:
            for line in file:
                entry = _decode(line)
                if not entry.ids[0].startswith(prefix):
                    continue
                if entry.outcome == "sent":
                    account.hashes.update(zip(entry.ids, entry.hashes, strict=True))
                else:
                    outcomes[entry.outcome].update(entry.ids)
        return account

    async def _append(self, entry: Entry) -> None:
        self._waiting.append(entry)
        # Entries that wait while the disk is busy share the next write.
        while entry in self._waiting:
            if self._flushing is None:
                self._flushing = asyncio.create_task(self._flush())
            await asyncio.shield(self._flushing)

    async def _flush(self) -> None:
        entries, self._waiting = self._waiting, []
        try:
            await asyncio.to_thread(self._write, b"".join(_encode(entry) + b"\n" for entry in entries))
        finally:
            self._flushing = None

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fsync(self._file)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode
