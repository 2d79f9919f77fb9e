"""Load: send generated logs to ingest at a held rate and see that a search finds every one: `make load RATE=1000`.

The loop is open: each batch has its intended time and does not wait for the answers to those before it, and latency
counts from that time, so that a stall shows in full. What may be sent again is sent again under the same
Idempotency-Key, so that no log counts twice.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import math
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import httpx
import msgspec
from tqdm import tqdm

from functions.common import timestamps
from functions.common.config import ConfigError, environment, load, setting
from functions.local.generate import Generator

IN_FLIGHT = 64
"""Requests under way at a time; a batch that finds as many starts late."""
TRIES = 5
MAX_WAIT = 30.0
"""Seconds that a Retry-After may ask for, and that the search has to find all logs."""
LATE = 0.05
"""Seconds after its intended time from which a batch counts as late."""
_MAX_BATCH = 50_000
_NOTE_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of load."""

    rate: int = setting(1000, "Logs a second")
    duration: float = setting(60.0, "Seconds to send for")
    batch: int = setting(0, "Logs a request; 0: a twentieth of a second's logs, 1 to 1000")
    ingest_url: str = setting("http://localhost:8081", "Where ingest listens")
    query_url: str = setting("http://localhost:8083", "Where query listens")
    seed: int = setting(0, "Seed of the generated logs; 0: a random one")

    def __post_init__(self) -> None:
        if self.rate < 1:
            raise ValueError(f"RATE is {self.rate}: expected 1 or more")
        if not 0 < self.duration < math.inf:
            raise ValueError(f"DURATION is {self.duration}: expected more than 0 seconds")
        if not 0 <= self.batch <= _MAX_BATCH:
            raise ValueError(f"BATCH is {self.batch}: expected 0 to {_MAX_BATCH}")
        for variable, url in (("INGEST_URL", self.ingest_url), ("QUERY_URL", self.query_url)):
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{variable} is {url!r}: expected http://host:port")

    @property
    def total(self) -> int:
        """Logs to send."""
        return max(1, round(self.rate * self.duration))

    @property
    def batch_size(self) -> int:
        """Logs a request."""
        return self.batch or min(max(self.rate // 20, 1), 1000)


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Logs number `first` to `first + count - 1`, to be sent `due` seconds after the start."""

    first: int
    count: int
    due: float

    def times(self, start: int, rate: int) -> list[int]:
        """The timestamps of the logs in nanoseconds: log number n happens n / rate seconds after `start`."""
        return [start + n * timestamps.NANOSECONDS // rate for n in range(self.first, self.first + self.count)]


@dataclasses.dataclass
class Tally:
    """What became of the logs; `latencies` and `lateness` are in seconds, one for each batch."""

    sent: int = 0
    accepted: int = 0
    rejected: int = 0
    failed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    again: int = 0
    latencies: list[float] = dataclasses.field(default_factory=list)
    lateness: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Logs whose fate is known."""
        return self.accepted + self.rejected + self.failed.total()

    def fail(self, status: str, count: int, reason: str) -> None:
        """Count logs as failed; the first reason of each status is kept."""
        self.failed[status] += count
        self.reasons.setdefault(status, reason[:300])


class Answer(msgspec.Struct):
    """What is read of ingest's answer."""

    accepted: int
    rejected: int


class Found(msgspec.Struct):
    """What is read of query's answer."""

    total: int


def schedule(total: int, rate: int, size: int) -> Iterator[Batch]:
    """The batches of `total` logs, numbered from 1; each is due when its last log has happened."""
    for first in range(1, total + 1, size):
        count = min(size, total + 1 - first)
        yield Batch(first, count, (first + count - 1) / rate)


def wait_before_retry(tried: int, status: int | None, retry_after: str = "") -> float | None:
    """Seconds until a batch that was tried `tried` times is sent again, or None if it is not.

    `status` is None if there was no answer. A Retry-After of whole seconds is honoured, up to MAX_WAIT.
    """
    if tried >= TRIES or status not in (None, 429, 503):
        return None
    asked = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else 0.0
    return min(max(0.1 * 2 ** (tried - 1), asked), MAX_WAIT)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 to 1) of them do not exceed; 0 if there are none."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else 0.0


def summary(tally: Tally, rate: int) -> str:
    """What was sent and what came of it, as lines for a person."""
    held = tally.sent / tally.seconds if tally.seconds else 0.0
    late = sum(lateness > LATE for lateness in tally.lateness)
    p50, p95, p99, worst = (1000 * percentile(tally.latencies, share) for share in (0.5, 0.95, 0.99, 1.0))
    behind = 1000 * percentile(tally.lateness, 0.99)
    lines = [
        f"sent      {tally.sent:,} logs in {len(tally.lateness):,} requests, {tally.again:,} of them sent again",
        f"accepted  {tally.accepted:,}",
        f"rejected  {tally.rejected:,}",
        f"failed    {tally.failed.total():,}",
        *(f"  {status}: {count:,}; {tally.reasons[status]}" for status, count in tally.failed.most_common()),
        f"rate      {held:,.0f} logs/s of {rate:,} asked ({held / rate:.1%})",
        f"late      {late:,} requests started over {LATE * 1000:.0f} ms late, p99 {behind:.1f} ms",
        f"latency   p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms, max {worst:.1f} ms",
    ]
    return "\n".join(lines)


def fault(tally: Tally, found: int | None) -> str:
    """Why the run has failed, or nothing if every log sent was accepted and found once."""
    faults = []
    if lost := tally.failed.total() + tally.rejected:
        faults.append(f"{lost:,} of {tally.sent:,} logs were not accepted")
    if found is None:
        faults.append("query did not answer, so nothing proves that the logs can be found")
    elif found != tally.accepted:
        faults.append(f"a search finds {found:,} logs and {tally.accepted:,} were accepted")
    return "; ".join(faults)
