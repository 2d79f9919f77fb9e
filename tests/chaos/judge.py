"""The judge: compares the ledger with what search, export, the table itself and the dead letters hold."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter

from tests.chaos.arena import Arena
from tests.chaos.client import Load
from tests.chaos.ledger import Account, Ledger
from tests.chaos.views import View, aggregate, all_pages, client, parameters_of, stored_rows, total, up, whole_export

HEALTHY_SECONDS = 180.0
DRAINED_SECONDS = 120.0
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


async def drained(arena: Arena, load: Load, acked: int, seconds: float) -> bool:
    """Wait until as many logs are found as were acknowledged and the source has nothing left."""
    deadline = time.monotonic() + seconds
    async with client() as http:
        await up(arena)
        # More may be found than were acknowledged: what nobody got an answer to.
        while (found := await total(http, arena, parameters_of(load.base, load.services))) < acked:
            if found + len(await asyncio.to_thread(arena.topics.dead_letter_ids, load.prefix)) >= acked:
                break
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)
    return await arena.idle(deadline - time.monotonic())


async def judge(arena: Arena, ledger: Ledger, base: int, prefix: str, services: list[str]) -> Figures:
    """Compare the logs whose ids begin with `prefix`, of these services, or all of both if they are empty."""
    await up(arena)
    account = await asyncio.to_thread(ledger.read, prefix)
    parameters = parameters_of(base, services)
    async with client() as http:
        raw, differing = await stored_rows(arena, prefix)
        seen = await all_pages(http, arena, parameters)
        file = await whole_export(http, arena, parameters)
        counted = await aggregate(http, arena, parameters)
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
