"""Index a part of the log topic again: `python -m functions.index.replay`, or `make replay`.

Each event is posted to index as KafkaSource posts it. The logs hold their identity, so those that are stored already
stay one: counts change only where something was missing.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import logging
import re
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from tqdm import tqdm

from functions.common import timestamps
from functions.common.config import ConfigError, environment, load, setting
from functions.common.envelope import Record
from functions.common.errors import TorporError
from functions.common.kafka import KafkaConfig
from functions.index.letter import escaped
from functions.index.poster import IN_FLIGHT, Outcome, Poster
from functions.index.topic import Offsets, Reader, parse_offsets

_MILLISECOND = 1_000_000
_NEVER = 1 << 63


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of replay."""

    kafka: KafkaConfig = dataclasses.field(default_factory=KafkaConfig)
    index_url: str = setting("http://localhost:8082", "Where index listens")

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/\s]", self.index_url):
            raise ValueError(f"INDEX_URL is {self.index_url!r}: expected http://host:port")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to post: `offsets`, or everything if that is None, of the time from `start` to before `end`, in ns."""

    offsets: Offsets | None = None
    start: int = 0
    end: int = _NEVER

    def takes(self, record: Record) -> bool:
        """Whether a record of the offsets is of the time, too."""
        return self.start <= record.timestamp * _MILLISECOND < self.end


@dataclasses.dataclass
class Count:
    """Events of a partition, their logs, and the bytes of them."""

    events: int = 0
    logs: int = 0
    size: int = 0

    def add(self, data: bytes) -> None:
        """One event more."""
        self.events += 1
        self.logs += sum(1 for line in data.split(b"\n") if line.strip())
        self.size += len(data)

    def __str__(self) -> str:
        return f"{self.events:,} events, {self.logs:,} logs, {self.size:,} bytes"


class Replay:
    """One run. It stops at the first event that index cannot take now, however often it is asked."""

    def __init__(self, poster: Poster) -> None:
        self.counts: dict[int, Count] = collections.defaultdict(Count)
        self.statuses: collections.Counter[str] = collections.Counter()
        self.reasons: dict[str, str] = {}
        self.stored = 0
        self._poster = poster

    def run(self, reader: Reader, choice: Choice, dry: bool) -> None:
        """Post what the choice takes of the reader's records, or only count it."""
        under_way: set[Future[tuple[Record, Outcome]]] = set()
        terminal = sys.stderr.isatty()
        with tqdm(unit=" records", disable=not terminal) as bar, ThreadPoolExecutor(IN_FLIGHT) as threads:
            try:
                for record in reader:
                    if self._poster.stop.is_set():
                        break
                    if choice.takes(record):
                        self.counts[record.partition].add(record.value or b"")
                        if not dry:
                            under_way.add(threads.submit(self._deliver, record))
                    if len(under_way) >= IN_FLIGHT:
                        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                        self._note(done)
                    bar.total = reader.total or None
                    bar.update(reader.passed - bar.n)
            except KeyboardInterrupt:
                self._poster.stop.set()
                raise
            finally:
                self._note(wait(under_way).done)

    def summary(self, dry: bool) -> str:
        """What was posted and what came of it, as lines for a person."""
        total = Count(*(sum(getattr(count, name) for count in self.counts.values()) for name in Count().__dict__))
        lines = [f"partition {number}: {count}" for number, count in sorted(self.counts.items())]
        if dry:
            return "\n".join([*lines, f"would post {total}"])
        refused = self.statuses.total() - self.stored
        lines += [f"posted  {total}", f"stored  {self.stored:,} events", f"refused {refused:,} events"]
        for status, count in sorted(self.statuses.items()):
            first = f"; the first: {self.reasons[status]}" if status in self.reasons else ""
            lines.append(f"  {status}: {count:,}{first}")
        if self._poster.stop.is_set():
            lines.append("stopped before the end, as index takes no events now; to repeat the replay is safe")
        return "\n".join(lines)

    def _deliver(self, record: Record) -> tuple[Record, Outcome]:
        return record, self._poster.deliver(record)

    def _note(self, done: set[Future[tuple[Record, Outcome]]]) -> None:
        for record, outcome in (future.result() for future in done):
            self.statuses[outcome.status] += 1
            self.stored += outcome.stored
            if not outcome.stored:
                self.reasons.setdefault(outcome.status, f"{record.partition}/{record.offset} {escaped(outcome.text)}")


def parse_time(text: str, now: int) -> int:
    """Nanoseconds of a time (RFC 3339, a number, or `-15m` before now). Raises ValueError."""
    return max(timestamps.parse_or_ago(text, now), 0)


def parse(arguments: Sequence[str]) -> tuple[Choice, bool]:
    """The command's arguments: what to post, and whether only to say so. Ends the program if they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m functions.index.replay", description=__doc__)
    parser.add_argument("--from", dest="start", metavar="TIME", help="events of this time (2026-01-31T12:00Z) or later")
    parser.add_argument("--to", dest="end", metavar="TIME", help="events before this time; -15m is 15 minutes ago")
    parser.add_argument("--offsets", metavar="RANGES", help="0:100-200,3:0- is offsets 100 to 200 of 0 and all of 3")
    parser.add_argument("--all", action="store_true", help="the whole topic")
    parser.add_argument("--dry-run", action="store_true", help="say what would be posted, and post nothing")
    joined = [*arguments]
    for name in ("--from", "--to"):
        # Else argparse would take -15m for an option.
        if name in joined[:-1]:
            at = joined.index(name)
            joined[at : at + 2] = [f"{name}={joined[at + 1]}"]
    options = parser.parse_args(joined)
    if sum((options.all, bool(options.offsets), bool(options.start or options.end))) != 1:
        parser.error("say what to replay: --from or --to or both, or --offsets, or --all")
    try:
        now = timestamps.now()
        offsets = parse_offsets(options.offsets) if options.offsets else None
        start = parse_time(options.start, now) if options.start else 0
        end = parse_time(options.end, now) if options.end else _NEVER
    except ValueError as error:
        parser.error(str(error))
    if start >= end:
        parser.error("--from is not before --to")
    return Choice(offsets, start, end), options.dry_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay as the arguments say and return the exit status."""
    choice, dry = parse(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger("kafka").setLevel("CRITICAL")  # an outage is told once, by us
    try:
        config = load(Config, environment())
    except ConfigError as error:
        sys.exit(f"replay: {error}")
    poster = Poster(config.index_url)
    if not dry and not poster.reachable():
        sys.exit(f"replay: nothing answers at {config.index_url}; INDEX_URL says where index listens")
    replay = Replay(poster)
    reader = Reader(config.kafka, config.kafka.kafka_topic, choice.offsets, choice.start // _MILLISECOND)
    try:
        replay.run(reader, choice, dry)
    except TorporError as error:
        print(replay.summary(dry))
        sys.exit(f"replay: {error}")
    print(replay.summary(dry))
    return 1 if replay.statuses.total() > replay.stored else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
