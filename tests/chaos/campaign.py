"""A campaign: rounds of warm-up, fault under load, heal, drain and judge; one line of figures each, and a verdict."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sys
import time
from collections.abc import Sequence

from tests.chaos.actions import Strikes
from tests.chaos.arena import Arena
from tests.chaos.client import Load
from tests.chaos.faults import FAULTS
from tests.chaos.judge import DRAINED_SECONDS, HEALTHY_SECONDS, Figures, drained, judge
from tests.chaos.ledger import Ledger
from tests.chaos.payload import SECOND
from tests.chaos.supervisor import until

MIN_ACKED = 1000
_ENOUGH_SECONDS = 60.0
_FAULT_SECONDS = 3600.0
_LONG_PACE = 4.0
"""A long campaign sends less at a time, or its last judge would count for an hour."""


@dataclasses.dataclass
class Round:
    """One fault's figures, and why they do not count, if so."""

    name: str
    figures: Figures
    problems: list[str]


class Campaign:
    """Rounds in one arena with one ledger."""

    def __init__(
        self, arena: Arena, seed: str, *, seconds: float, long: bool, label: str = "", drain: float = DRAINED_SECONDS
    ) -> None:
        self.arena, self.seed, self.seconds, self.long = arena, seed, seconds, long
        self._label, self._drain = label, drain
        self.ledger = Ledger(arena.directory / "ledger.jsonl")
        # In the past, so that nothing of it is ahead of its time.
        self.base = time.time_ns() // SECOND * SECOND - 7200 * SECOND
        self.rounds: list[Round] = []
        self._phase = ""

    async def run(self, names: Sequence[str]) -> bool:
        """Run a round of each fault and judge everything once more; say whether all promises were kept."""
        for name in names:
            self.rounds.append(await self.round(name))
        self.rounds.append(await self._everything())
        return not any(each.problems for each in self.rounds)

    async def round(self, name: str) -> Round:
        """Run one fault and print its line."""
        prefix = f"{self._label}{len(self.rounds):03d}-{name}-"
        load = Load(
            self.arena.ingest_url,
            self.ledger,
            f"{self.seed}/{name}",
            prefix,
            self.base,
            _LONG_PACE if self.long else 1.0,
        )
        fault = FAULTS[name]
        strikes = Strikes(
            self.arena, load, random.Random(f"{self.seed}/fault/{name}"), fault.most if self.long else fault.strikes
        )
        self.arena.proxies["index"].deliveries.clear()
        if not self.long:
            # Merges would hide what was written twice. In a long round there would be too many parts without them.
            await self.arena.sql("SYSTEM STOP MERGES logs")
        progress = asyncio.create_task(self._progress(name, load, strikes))
        load.start()
        try:
            problems, figures = await self._phases(name, load, strikes)
        except Exception as error:  # noqa: BLE001  one round that breaks off must not hide the others
            problems, figures = [f"broke off in {self._phase}: {type(error).__name__} {error}"], Figures()
            await self.arena.heal()
        finally:
            progress.cancel()
            await load.abandon()
        await self.arena.sql("SYSTEM START MERGES logs")
        return self._report(name, figures, problems)

    async def _phases(self, name: str, load: Load, strikes: Strikes) -> tuple[list[str], Figures]:
        problems: list[str] = []
        self._phase = "warm-up"
        await asyncio.sleep(1.0)
        self._phase = "fault"
        end = time.monotonic() + self.seconds
        await asyncio.wait_for(FAULTS[name].act(strikes), _FAULT_SECONDS)
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        self._phase = "heal"
        await self.arena.heal()
        healed = time.monotonic()
        if not await until(lambda: load.last_ok > healed or load.failed, HEALTHY_SECONDS):
            problems.append("ingest did not recover")
        first_ok = load.last_ok - healed
        await until(lambda: len(load.acked) >= MIN_ACKED or load.failed, _ENOUGH_SECONDS)
        await load.stop()
        self._phase = "drain"
        account = await asyncio.to_thread(self.ledger.read, load.prefix)
        began = time.monotonic()
        if not await drained(self.arena, load, len(account.acked), self._drain):
            problems.append("what was acknowledged was not drained in time")
        drain = time.monotonic() - began
        self._phase = "judge"
        figures = await judge(self.arena, self.ledger, self.base, load.prefix, load.services)
        figures.attempts_max = max(self.arena.proxies["index"].deliveries.values(), default=0)
        figures.first_ok_s, figures.drain_s = first_ok, drain
        figures.p99_ms = sorted(load.latencies)[int(len(load.latencies) * 0.99)] * 1000 if load.latencies else 0.0
        figures.n_faults = strikes.fired
        if strikes.fired < strikes.planned:
            problems.append(f"void: {strikes.fired} of {strikes.planned} faults fired")
        if figures.acked < MIN_ACKED:
            problems.append(f"void: only {figures.acked} acknowledged")
        return problems, figures

    async def _everything(self) -> Round:
        """All rounds together: nothing that an earlier round counted may have changed since."""
        figures = await judge(self.arena, self.ledger, self.base, "", [])
        figures.dup_raw = max(figures.dup_raw, sum(each.figures.dup_raw for each in self.rounds))
        figures.n_faults = sum(each.figures.n_faults for each in self.rounds)
        problems = []
        if (sum_of_rounds := sum(each.figures.stored for each in self.rounds)) != figures.stored:
            problems.append(f"the rounds stored {sum_of_rounds}, and now there are {figures.stored}")
        if not figures.dup_raw:
            problems.append("void: nothing was ever stored twice")
        if not figures.unknown:
            problems.append("void: no outcome was ever unknown")
        return self._report("all", figures, problems)

    def _report(self, name: str, figures: Figures, problems: list[str]) -> Round:
        figures.seed = self.seed
        problems += figures.broken()
        _clear()
        print(figures.line(name), flush=True)
        for problem in problems:
            print(f"  FAILED {name}: {problem}", flush=True)
        return Round(name, figures, problems)

    async def _progress(self, name: str, load: Load, strikes: Strikes) -> None:
        while sys.stdout.isatty():
            fired = f"{strikes.fired}/{strikes.planned}"
            print(f"\r\x1b[K{name} {self._phase}: {len(load.acked)} acknowledged, {fired} faults", end="", flush=True)
            await asyncio.sleep(0.3)


def _clear() -> None:
    if sys.stdout.isatty():
        print("\r\x1b[K", end="")
