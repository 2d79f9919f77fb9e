"""Clients that never give up early: what has no answer yet is sent again with the same identity.

Some give every log an id of its own, some send batches under an Idempotency-Key, and one sends what was taken before
once more, in batches cut differently.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import httpx

from tests.chaos import payload
from tests.chaos.ledger import Ledger
from tests.chaos.payload import Log

ANSWER_SECONDS = 4.0
MOST_ATTEMPTS = 200
GIVE_UP_SECONDS = 150.0
_LONGEST_PAUSE = 1.0
_REMEMBERED = 2000
_NAMED = 100
"""Refused lines that an answer names."""


class Load:
    """All clients of one round. `prefix` begins every id and every service, so that rounds do not mix."""

    def __init__(self, url: str, ledger: Ledger, seed: str, prefix: str, base: int, pace: float) -> None:
        self.url, self.ledger, self.seed, self.prefix, self.base = url, ledger, seed, prefix, base
        self.pace = pace
        """Factor of the pauses between batches."""
        self.services = [f"{prefix}service-{number}" for number in range(3)]
        self.recent: deque[Log] = deque(maxlen=_REMEMBERED)
        self.latencies: list[float] = []
        self.acked: set[str] = set()
        self.last_ok = 0.0
        self.stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send."""
        clients = [Sender(self, 0), Sender(self, 1), Keyed(self, 2), Keyed(self, 3), Resender(self, 4)]
        self._tasks = [asyncio.create_task(client.run()) for client in clients]

    async def stop(self) -> None:
        """Begin nothing new and return when every batch has its outcome, or is given up."""
        self.stopping.set()
        await asyncio.gather(*self._tasks)

    async def abandon(self) -> None:
        """End all clients at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def failed(self) -> bool:
        """Whether a client ended before it was told to: `stop` raises why."""
        return any(task.done() for task in self._tasks)


class Client:
    """One client and its connection."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.rng = random.Random(f"{load.seed}/client/{number}")
        # How often it must try again follows from time: the payloads must not follow from that.
        self._chance = random.Random(f"{load.seed}/pauses/{number}")
        self.name = f"{load.prefix}{number}"
        self._sequence = 0
        self._http = httpx.AsyncClient(trust_env=False, timeout=ANSWER_SECONDS)

    async def run(self) -> None:
        """Send batch after batch."""
        async with self._http:
            while not self.load.stopping.is_set():
                await self.step()
                await asyncio.sleep(self._chance.uniform(0.05, 0.2) * self.load.pace)

    async def step(self) -> None:
        """Send the next batch."""
        raise NotImplementedError

    def batch(self, *, own_ids: bool) -> list[Log]:
        """New logs, a few of them bad."""
        size = self.rng.choice((1, 5, 20, 20, 50, 150))
        bad = self.rng.random()
        # One batch in a hundred is bad from end to end, and some have a few bad lines.
        share = 1.0 if bad < 0.01 else 0.05 if bad < 0.1 else 0.0
        return [self._log(own_ids, self.rng.random() < share) for _ in range(size)]

    def _log(self, own_id: bool, bad: bool) -> Log:
        self._sequence += 1
        uid = f"{self.name}-{self._sequence}"
        # Milliseconds, so that logs share a timestamp, and now and then a log that is days late.
        timestamp = self.load.base + self._sequence // 7 * 1_000_000
        if self.rng.random() < 0.002:
            timestamp -= self.rng.randrange(1, 4) * payload.DAY
        service = self.rng.choice(self.load.services)
        if bad:
            return payload.make_bad(self.rng, uid, service, timestamp)
        return payload.make(self.rng, uid, service, timestamp, own_id=own_id)

    async def deliver(self, logs: Sequence[Log], key: str = "") -> None:
        """Send logs until they have an outcome, and put every outcome into the ledger."""
        await self.load.ledger.sent(logs)
        body = b"\n".join(log.line for log in logs)
        headers = {"content-type": "application/x-ndjson"} | ({"idempotency-key": key} if key else {})
        deadline = time.monotonic() + GIVE_UP_SECONDS
        for attempt in range(MOST_ATTEMPTS):
            answer = await self._post(body, headers)
            if answer is not None and answer.status_code not in (429, 503):
                await self._settle(logs, answer)
                return
            # Even a 503 leaves open whether Kafka took it: it may follow a lost acknowledgement.
            await self.load.ledger.outcome("unknown", [log.uid for log in logs])
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(min(0.05 * 2**attempt, _LONGEST_PAUSE) * self._chance.uniform(0.5, 1.5))

    async def _post(self, body: bytes, headers: dict[str, str]) -> httpx.Response | None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._http.post(self.load.url, content=body, headers=headers)
        except (httpx.TransportError, TimeoutError):
            return None
        if answer.status_code == 200:
            self.load.last_ok = time.monotonic()
            self.load.latencies.append(self.load.last_ok - started)
        return answer

    async def _settle(self, logs: Sequence[Log], answer: httpx.Response) -> None:
        if answer.status_code not in (200, 400):
            raise RuntimeError(f"ingest answers {answer.status_code}: {answer.text[:300]}")
        report: dict[str, Any] = answer.json()
        taken = [log for log in logs if log.good]
        lines = [line for line, log in enumerate(logs, 1) if not log.good]
        named = [error["line"] for error in report["errors"]]
        if (report["accepted"], report["rejected"], named) != (len(taken), len(lines), lines[:_NAMED]):
            raise RuntimeError(f"ingest answers other than it should: {answer.text[:300]}")
        await self.load.ledger.outcome("ok", [log.uid for log in taken])
        await self.load.ledger.outcome("rejected", [log.uid for log in logs if not log.good])
        self.load.acked.update(log.uid for log in taken)
        self.taken(taken)

    def taken(self, logs: list[Log]) -> None:
        """These were accepted."""


class Sender(Client):
    """Gives every log an id."""

    async def step(self) -> None:
        """Send the next batch."""
        await self.deliver(self.batch(own_ids=True))

    def taken(self, logs: list[Log]) -> None:
        """Leave them to the one who sends again."""
        self.load.recent.extend(logs)


class Keyed(Client):
    """Sends every batch under a key, and now and then the same one twice at the same time, or again later."""

    async def step(self) -> None:
        """Send the next batch."""
        logs, key = self.batch(own_ids=False), f"{self.name}-key-{self._sequence}"
        copies = 2 if self.rng.random() < 0.1 else 1
        await asyncio.gather(*(self.deliver(logs, key) for _ in range(copies)))
        if self.rng.random() < 0.05:
            await self.deliver(logs, key)


class Resender(Client):
    """Sends again what others have sent under ids, each time in other company."""

    async def step(self) -> None:
        """Send a handful of what was taken before."""
        if self.load.recent:
            await self.deliver(self.rng.sample(self.load.recent, min(len(self.load.recent), self.rng.randrange(1, 60))))
