"""Load: send generated logs to ingest at a held rate and see that a search finds every one: `make load RATE=1000`.

The loop is open: each batch has its intended time and does not wait for the answers to those before it, and latency
counts from that time, so that a stall shows in full. What may be sent again is sent again under the same
Idempotency-Key, so that no log counts twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec
from tqdm import tqdm

from functions.common import timestamps
from functions.common.config import ConfigError, environment, load, setting
from functions.local.generate import Generator
from functions.local.report import Tally, fault, summary

IN_FLIGHT = 64
"""Requests under way at a time; a batch that finds as many starts late."""
BACKOFF = (0.1, 0.2, 0.4, 0.8)
"""Seconds before the second and each further try of a batch, if ingest asks for no more."""
MAX_WAIT = 30.0
"""Seconds that a Retry-After may ask for, and that the search has to find all logs."""
_MAX_BATCH = 50_000
_MAX_DURATION = 1_000_000
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
        if not 0 < self.duration <= _MAX_DURATION:
            raise ValueError(f"DURATION is {self.duration}: expected more than 0 and up to {_MAX_DURATION} seconds")
        if not 0 <= self.batch <= _MAX_BATCH:
            raise ValueError(f"BATCH is {self.batch}: expected 0 to {_MAX_BATCH}")
        for variable, url in (("INGEST_URL", self.ingest_url), ("QUERY_URL", self.query_url)):
            if not _is_address(url):
                raise ValueError(f"{variable} is {url!r}: expected http://host:port")

    @property
    def total(self) -> int:
        """Logs to send."""
        return max(1, round(self.rate * self.duration))

    @property
    def batch_size(self) -> int:
        """Logs a request."""
        return self.batch or min(max(self.rate // 20, 1), 1000)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Logs number `first` to `first + count - 1`, to be sent `due` seconds after the start."""

    first: int
    count: int
    due: float

    def times(self, start: int, rate: int) -> list[int]:
        """The timestamps of the logs in nanoseconds: log number n happens n / rate seconds after `start`."""
        return [start + n * timestamps.NANOSECONDS // rate for n in range(self.first, self.first + self.count)]


class Reply(NamedTuple):
    """How a request ended; `status` is None if there was no answer."""

    status: int | None
    text: str
    retry_after: str = ""


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

    `status` is None if there was no answer. A Retry-After in seconds is honoured, up to MAX_WAIT.
    """
    if tried > len(BACKOFF) or status not in (None, 429, 503):
        return None
    asked = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else 0.0
    return min(max(BACKOFF[tried - 1], asked), MAX_WAIT)


class Load:
    """One run; `stop` ends the sending early."""

    def __init__(self, config: Config, client: httpx.AsyncClient, seed: int) -> None:
        self.config = config
        self.id = secrets.token_hex(6)
        self.tally = Tally()
        self.stop = asyncio.Event()
        self._client = client
        self._generator = Generator(seed, {"load_id": self.id})
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._start = 0
        self._begun = 0.0

    async def send(self) -> None:
        """Send the batches as they are due; return when all that were sent are answered or given up."""
        config, tally = self.config, self.tally
        self._start, self._begun = timestamps.now(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for batch in schedule(config.total, config.rate, config.batch_size):
                # Made before it is due: to make it takes time, too.
                body = self._generator.lines(batch.times(self._start, config.rate))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), max(batch.due - self._passed(), 0))
                await self._slots.acquire()
                if self.stop.is_set():
                    break
                tally.seconds = self._passed()
                tally.lateness.append(tally.seconds - batch.due)
                tally.sent += batch.count
                group.create_task(self._deliver(batch, body))

    async def find(self) -> tuple[int | None, str]:
        """How many logs of this run a search counts, or None and why there is no answer.

        Asks until it is as many as were accepted, or MAX_WAIT has passed.
        """
        end = self._start + int((self.tally.seconds + 1) * timestamps.NANOSECONDS)
        parameters = {
            "metadata.load_id": self.id,
            "total": "exact",
            "limit": "1",
            "start_time": timestamps.iso(self._start - timestamps.NANOSECONDS),
            "end_time": timestamps.iso(end),
        }
        url = self.config.query_url.rstrip("/") + "/api/v1/logs"
        deadline = time.monotonic() + MAX_WAIT
        while True:
            found, reason = None, ""
            try:
                response = await self._client.get(url, params=parameters)
                found = msgspec.json.decode(response.content, type=Found).total
            except httpx.RequestError:
                reason = f"nothing answers at {self.config.query_url}"
            except msgspec.DecodeError:
                reason = f"{response.status_code} {response.text[:300]}"
            if (found or 0) >= self.tally.accepted or time.monotonic() > deadline:
                return found, reason
            await asyncio.sleep(0.5)

    def _passed(self) -> float:
        return time.perf_counter() - self._begun

    async def _deliver(self, batch: Batch, body: bytes) -> None:
        """Send the batch until it is answered for good or the tries are used up."""
        try:
            for tried in itertools.count(1):
                reply = await self._post(batch, body)
                wait = wait_before_retry(tried, reply.status, reply.retry_after)
                if wait is None:
                    break
                self.tally.repeats += 1
                await asyncio.sleep(wait)
        finally:
            self._slots.release()
        self._count(batch, reply)

    async def _post(self, batch: Batch, body: bytes) -> Reply:
        url = self.config.ingest_url.rstrip("/") + "/api/v1/ingest"
        headers = {"content-type": "application/x-ndjson", "idempotency-key": f"load-{self.id}-{batch.first}"}
        try:
            response = await self._client.post(url, content=body, headers=headers)
        except httpx.RequestError as error:
            return Reply(None, f"{type(error).__name__} {error}")
        return Reply(response.status_code, response.text, response.headers.get("retry-after", ""))

    def _count(self, batch: Batch, reply: Reply) -> None:
        tally, status = self.tally, str(reply.status or "no answer")
        try:
            answer = msgspec.json.decode(reply.text, type=Answer) if reply.status == 200 else None
        except msgspec.DecodeError:
            answer, status = None, "unreadable 200"
        if answer is None:
            tally.failed[status] += batch.count
            return tally.note(status, reply.text)
        tally.latencies.append(self._passed() - batch.due)
        tally.accepted += answer.accepted
        tally.rejected += answer.rejected
        if answer.rejected:
            tally.note("rejected", reply.text)


async def run(config: Config) -> int:
    """Send, print what came of it, search; return the exit code."""
    seed = config.seed or secrets.randbelow(2**31 - 1) + 1
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=httpx.Timeout(30, connect=5)) as client:
        try:
            await client.get(config.ingest_url)
        except httpx.RequestError:
            return _failed(f"nothing answers at {config.ingest_url}; start it with make run")
        load = Load(config, client, seed)
        print(f"load {load.id}: {config.total:,} logs, {config.batch_size:,} a request, SEED={seed}", flush=True)
        await _send(load)
        print(summary(load.tally, config.rate), flush=True)
        if not load.tally.accepted:
            return _failed(fault(load.tally, 0) or "nothing was sent")
        asked = time.monotonic()
        found, reason = await load.find()
    seconds = f"{time.monotonic() - asked:.1f} s after the last answer"
    print(f"search    {reason if found is None else f'finds {found:,}'}, {seconds}")
    problem = fault(load.tally, found)
    return _failed(problem) if problem else 0


async def _send(load: Load) -> None:
    """Send and show the progress. The first Ctrl-C ends the sending, the next one the program."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        load.stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    progress = asyncio.create_task(_show(load.tally, load.config.total))
    try:
        await load.send()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        progress.cancel()
        await asyncio.wait([progress])


async def _show(tally: Tally, total: int) -> None:
    """A bar on a terminal, elsewhere a line now and then; until it is cancelled."""
    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit=" logs", unit_scale=True, disable=not terminal) as bar:
        try:
            while True:
                await asyncio.sleep(0.2 if terminal else _NOTE_SECONDS)
                bar.update(tally.done - bar.n)
                if not terminal:
                    print(f"{tally.done:,} of {total:,} logs", file=sys.stderr, flush=True)
        finally:
            bar.update(tally.done - bar.n)


def _failed(text: str) -> int:
    print(f"load: {text}", file=sys.stderr)
    return 1


def main() -> None:
    """Run with the settings of the environment."""
    try:
        sys.exit(asyncio.run(run(load(Config, environment()))))
    except ConfigError as error:
        sys.exit(f"load: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
