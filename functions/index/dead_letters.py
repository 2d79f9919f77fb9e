"""The dead letters: list them, show one, replay them. `python -m functions.index.dead_letters`, or `make dead-letters`.

Index leaves lines there that ClickHouse refuses, KafkaSource whole events that index refused or could not take for too
long. A replay sends them through the log topic again. They hold their identity: what is replayed twice is found once.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import heapq
import itertools
import json
import logging
import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from functions.common.config import ConfigError, environment, load
from functions.common.errors import KafkaUnavailable, NotOurs, TorporError
from functions.common.kafka import KafkaConfig, KafkaPublisher, Publisher
from functions.index.letter import Letter, again, escaped, read_letter
from functions.index.topic import Offsets, Reader, parse_offsets

LIMIT = 100
TOGETHER = 50
"""Letters that are published at a time."""
NAMED = 100
"""Letters that are named as left; of the others only the number is told."""
COMMANDS = ("list", "show", "replay")


def line(letter: Letter) -> str:
    """A letter in three lines."""
    code = f"  code {letter.code}" if letter.code else ""
    origin = f"event {letter.origin_id or 'unknown'} at {letter.origin or 'unknown'}"
    texts = (
        f"{letter.number}  {letter.time}  {letter.tenant or 'no tenant'}{code}  {letter.reason}",
        origin,
        f"{len(letter.data):,} bytes  {letter.head}",
    )
    return "\n    ".join(escaped(text) for text in texts)


def list_letters(config: KafkaConfig, limit: int, as_json: bool) -> int:
    """Print the newest letters, the newest last."""
    count = itertools.count()
    letters = (letter for letter, _ in zip(_letters(config, None), count, strict=False))
    newest = sorted(heapq.nlargest(limit, letters, key=_age), key=_age)
    for letter in newest:
        print(json.dumps(letter.summary()) if as_json else line(letter))
    total = next(count)
    if not as_json:
        print(f"{total:,} dead letters" + (f"; these are the newest {limit:,}" if total > limit else ""))
    return 0


def show(config: KafkaConfig, number: str) -> int:
    """Print one letter whole."""
    for letter in _letters(config, parse_offsets(number)):
        rows = {"left": letter.time, "reason": letter.reason, **letter.attributes}
        print(letter.number)
        for name, value in rows.items():
            print(f"  {escaped(name):<22} {escaped(value)}")
        print(f"{len(letter.data):,} bytes:")
        print(escaped(letter.data.decode(errors="backslashreplace"), keep="\n"))
        return 0
    return _failed(f"there is no dead letter {number.replace(':', '/')}")


@dataclasses.dataclass
class Outcome:
    """What a replay did: how many letters it published, or would, and why others were left.

    `missing` holds the numbers of those that were asked for and are yet to be found.
    """

    published: int = 0
    repeated: int = 0
    left: int = 0
    reasons: list[str] = dataclasses.field(default_factory=list)
    missing: set[str] = dataclasses.field(default_factory=set)


async def replay(letters: Iterator[Letter], publisher: Publisher | None, topic: str, outcome: Outcome) -> None:
    """Publish each letter's logs to `topic` once, or with no publisher only count them."""
    seen: set[bytes] = set()
    while batch := await asyncio.to_thread(lambda: list(itertools.islice(letters, TOGETHER))):
        events = []
        for letter in batch:
            outcome.missing.discard(letter.number)
            try:
                event = again(letter)
            except NotOurs as error:
                outcome.left += 1
                if len(outcome.reasons) < NAMED:
                    outcome.reasons.append(f"{letter.number} {error}")
                continue
            # A line that was replayed and refused again lies there twice: without this, each replay would double it.
            mark = hashlib.blake2b(f"{letter.tenant}\0".encode() + letter.data, digest_size=16).digest()
            if mark in seen:
                outcome.repeated += 1
            else:
                seen.add(mark)
                events.append(event)
        if publisher:
            await asyncio.gather(*(publisher.publish(topic, key, data, headers) for key, data, headers in events))
        outcome.published += len(events)


async def replay_command(config: KafkaConfig, numbers: Sequence[str], dry: bool) -> int:
    """Replay the letters of these numbers, or all if there are none, and say what came of it."""
    config = dataclasses.replace(config, kafka_create_topics=False)
    publisher = None if dry else KafkaPublisher(config)
    outcome, failure = Outcome(missing={number.replace(":", "/") for number in numbers}), ""
    if publisher:
        await publisher.start()
    try:
        letters = _letters(config, parse_offsets(",".join(numbers)) if numbers else None)
        await replay(letters, publisher, config.kafka_topic, outcome)
    except KafkaUnavailable as error:
        failure = f"{error}; to repeat the replay is safe"
    finally:
        if publisher:
            await publisher.stop()
    print(f"{'would replay' if dry else 'replayed'} {outcome.published:,}, left {outcome.left:,}", end="")
    print(f", passed over {outcome.repeated:,} that lie there twice" if outcome.repeated else "")
    for text in outcome.reasons:
        print(f"  left {escaped(text)}")
    if failure or outcome.missing:
        return _failed(failure or f"there is no dead letter {', '.join(sorted(outcome.missing))}")
    return 1 if numbers and outcome.left else 0


def _letters(config: KafkaConfig, offsets: Offsets | None) -> Iterator[Letter]:
    """The letters, with a progress bar if they take more than a second."""
    reader = Reader(config, config.kafka_dead_letter_topic, offsets)
    with tqdm(unit=" letters", delay=1, leave=False, disable=not sys.stderr.isatty()) as bar:
        for record in reader:
            yield read_letter(record)
            bar.total = reader.total or None
            bar.update(reader.passed - bar.n)


def _age(letter: Letter) -> tuple[str, int, int]:
    return letter.time, letter.partition, letter.offset


def _failed(text: str) -> int:
    print(f"dead-letters: {text}", file=sys.stderr)
    return 1


def _number(text: str) -> str:
    place = text.replace("/", ":")
    parse_offsets(place)
    if not place.replace(":", "").isdecimal():
        raise ValueError
    return place


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command's arguments. Ends the program if they are wrong."""
    _number.__name__ = "PARTITION/OFFSET"  # argparse names it in its complaint
    parser = argparse.ArgumentParser(prog="python -m functions.index.dead_letters", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    listing = commands.add_parser("list", help="the newest, the newest last; this is the default")
    listing.add_argument("--limit", type=int, default=LIMIT, help="how many (default %(default)s)")
    listing.add_argument("--json", action="store_true", help="as JSON lines")
    showing = commands.add_parser("show", help="one, with all attributes and all bytes")
    showing.add_argument("number", type=_number, metavar="PARTITION/OFFSET")
    replaying = commands.add_parser("replay", help="send them through the log topic again")
    replaying.add_argument("numbers", type=_number, nargs="*", metavar="PARTITION/OFFSET")
    replaying.add_argument("--all", action="store_true", help="all of them")
    replaying.add_argument("--dry-run", action="store_true", help="say what would be replayed")
    if not arguments or arguments[0] not in (*COMMANDS, "-h", "--help"):
        arguments = ["list", *arguments]
    options = parser.parse_args(arguments)
    if options.command == "replay" and options.all == bool(options.numbers):
        parser.error("say which to replay: their numbers, or --all")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger("kafka").setLevel("CRITICAL")  # an outage is told once, by us
    try:
        config = load(KafkaConfig, environment())
        if options.command == "show":
            return show(config, options.number)
        if options.command == "replay":
            return asyncio.run(replay_command(config, options.numbers, options.dry_run))
        return list_letters(config, options.limit, options.json)
    except (ConfigError, TorporError) as error:
        return _failed(str(error))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
