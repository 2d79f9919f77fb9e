"""Dead letters and replays, without Kafka and without a network."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.common import timestamps
from functions.common.errors import KafkaUnavailable, NotOurs
from functions.common.event import TYPE, DeadLetter, Event
from functions.common.record import Record as Log
from functions.common.record import encode
from functions.index import dead_letters, poster
from functions.index.dead_letters import Outcome, replay
from functions.index.letter import Letter, again, escaped, read_letter
from functions.index.poster import Poster
from functions.index.replay import Choice, Replay, parse, parse_time
from functions.index.topic import parse_offsets
from tests.support.memory import MemoryPublisher
from tests.support.sink import Sink

LOG = encode(Log("acme", "1769860800123456789", "shop", "INFO", "hello", {}, "", "", 7))


@dataclasses.dataclass(frozen=True)
class Record:
    """A Kafka record."""

    headers: Sequence[tuple[str, bytes | None]]
    value: bytes | None = LOG
    key: bytes | None = None
    topic: str = "logs"
    partition: int = 2
    offset: int = 17
    timestamp: int = 1_769_860_800_123


def left_by_index(data: bytes = LOG, reason: str = "no such level", tenant: str = "acme") -> Letter:
    headers = DeadLetter(Event("one", tenant, b"", "3/9"), data, reason, 27).kafka_headers()
    return read_letter(Record(headers, data))


def left_by_source(answer: bytes | None = None, **attributes: str) -> Letter:
    headers = dict(Event("one", "acme", LOG).kafka_headers())
    headers |= {
        "ce_knativeerrordest": b"http://index/",
        "ce_knativekafkapartition": b"3",
        "ce_knativekafkaoffset": b"9",
    }
    if answer is not None:
        headers |= {"ce_knativeerrorcode": b"422", "ce_knativeerrordata": base64.b64encode(answer)}
    headers |= {f"ce_{name}": value.encode() for name, value in attributes.items()}
    return read_letter(Record([(name, value) for name, value in headers.items() if value]))


def test_a_line_left_by_index_is_told_with_reason_code_and_origin() -> None:
    letter = left_by_index()
    assert letter.summary() == {
        "number": "2/17",
        "time": "2026-01-31T12:00:00.123Z",
        "tenant": "acme",
        "type": "io.torpor.logs.deadletter.v1",
        "reason": "no such level",
        "code": "27",
        "origin_id": "one",
        "origin": "3/9",
        "bytes": len(LOG),
        "head": LOG.decode(),
    }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"type":"about:blank","detail":"the event has no ce-tenant"}', "the event has no ce-tenant"),
        (b"no\nJSON \xff", "no JSON \\xff"),
        (b"[1]", "[1]"),
        (b"", "status 422"),
        (None, "no answer from http://index/"),
    ],
)
def test_the_reason_of_what_the_source_left_is_the_answer_that_it_got(answer: bytes | None, reason: str) -> None:
    letter = left_by_source(answer)
    assert (letter.reason, letter.origin_id, letter.origin) == (reason, "one", "3/9")


def test_an_answer_that_is_kept_as_plain_text_is_told_as_it_is() -> None:
    assert left_by_source(b"", knativeerrordata="not taken, sorry").reason == "not taken, sorry"


def test_a_record_that_is_no_cloudevent_is_listed_too() -> None:
    letter = read_letter(Record([("x", None)], None))
    assert (letter.tenant, letter.data) == ("", b"")
    assert "no CloudEvent" in letter.reason
    assert "no CloudEvent" in dead_letters.line(letter)


def test_a_line_becomes_a_new_event_of_its_tenant() -> None:
    key, data, headers = again(left_by_index())
    http = {name.replace("_", "-"): value.decode() for name, value in headers}
    assert Event.from_http(http, data) == Event(key, "acme", LOG)
    assert key != "one"


def test_an_event_that_the_source_left_becomes_what_it_was() -> None:
    event = Event("one", "acme", LOG)
    key, data, headers = again(left_by_source(b"away"))
    names = {name for name, _ in event.kafka_headers()}
    assert (key, data, {name for name, _ in headers}) == ("one", LOG, names)
    same = names - {"ce_time"}
    assert [(n, v) for n, v in sorted(headers) if n in same] == [
        (n, v) for n, v in sorted(event.kafka_headers()) if n in same
    ]


@pytest.mark.parametrize(
    ("letter", "why"),
    [
        (left_by_index(b'{"tenant":'), "not a row"),
        (left_by_index(LOG.replace(b"acme", b"evil")), "tenant"),
        (left_by_source(type="dev.knative.kafka.event"), "type dev.knative.kafka.event"),
        (left_by_source(tenant=""), "ce-tenant"),
        (read_letter(Record(Event("one", "acme", LOG).kafka_headers())), "nothing says why"),
        (read_letter(Record([])), "type unknown"),
    ],
)
def test_what_index_would_refuse_for_certain_is_left_and_the_reason_is_named(letter: Letter, why: str) -> None:
    with pytest.raises(NotOurs, match=why):
        again(letter)


async def test_a_replay_publishes_each_log_once_and_names_what_it_leaves() -> None:
    publisher, outcome = MemoryPublisher(), Outcome()
    letters = [left_by_index(), left_by_index(), left_by_index(b"{"), left_by_source(type="other")]
    await replay(iter(letters), publisher, "logs", outcome)
    assert [(topic, value) for topic, _, value, _ in publisher.records] == [("logs", LOG)]
    assert (outcome.published, outcome.repeated, outcome.left) == (1, 1, 2)
    assert [text.split()[0] for text in outcome.reasons] == ["2/17", "2/17"]


async def test_a_dry_replay_publishes_nothing_and_counts_the_same() -> None:
    outcome = Outcome()
    await replay(iter([left_by_index()] * 3), None, "logs", outcome)
    assert (outcome.published, outcome.repeated) == (1, 2)


async def test_a_replay_that_kafka_does_not_take_fails() -> None:
    publisher, outcome = MemoryPublisher(), Outcome()
    publisher.failure = KafkaUnavailable("away")
    with pytest.raises(KafkaUnavailable):
        await replay(iter([left_by_index()]), publisher, "logs", outcome)
    assert outcome.published == 0


@given(st.text() | st.binary().map(lambda data: data.decode(errors="backslashreplace")))
def test_what_is_printed_cannot_drive_a_terminal(text: str) -> None:
    assert escaped(text).isprintable()
    assert all(part.isprintable() for part in escaped(text, keep="\n").split("\n"))


def test_escapes_show_what_was_there() -> None:
    assert escaped("a\x1b[2Jü\u202e\x9b\t\\") == "a\\x1b[2Jü\\u202e\\x9b\\t\\"
    assert "\x1b" not in dead_letters.line(left_by_index(b"\x1b[31m", "\x1b]0;x\x07"))


@pytest.mark.parametrize("arguments", [["replay"], ["replay", "--all", "0/1"], ["show", "1"], ["show", "0/1-"], ["no"]])
def test_wrong_arguments_end_the_command(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        dead_letters.parse(arguments)


def test_without_arguments_the_newest_are_listed() -> None:
    assert dead_letters.parse([]).command == "list"
    assert dead_letters.parse(["--limit", "5"]).limit == 5


def test_offsets_are_partition_first_and_last() -> None:
    offsets = parse_offsets("0:100-200, 3:17,3:50-")
    assert offsets == {0: [range(100, 201)], 3: [range(17, 18), range(50, sys.maxsize)]}


@pytest.mark.parametrize("text", ["", "0", "0:", "0:5-4", "0:-5", "x:1", "0:1,", "-1:0", "0:1--2", "0:٣"])
def test_other_offsets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"range|ends before"):
        parse_offsets(text)


def test_a_time_is_a_moment_or_so_long_ago() -> None:
    now = timestamps.parse("2026-01-31T12:00Z")
    assert parse_time("-15m", now) == timestamps.parse("2026-01-31T11:45Z")
    assert parse_time("2026-01-31T11:45Z", now) == timestamps.parse("2026-01-31T11:45Z")


def test_the_choice_is_of_offsets_or_of_time() -> None:
    choice, dry = parse(["--from", "-15m", "--to", "2261-01-01", "--dry-run"])
    assert dry and choice.offsets is None
    assert time.time_ns() - choice.start == pytest.approx(900 * 10**9, abs=10**9)
    assert parse(["--offsets", "0:5"]) == (Choice({0: [range(5, 6)]}), False)
    assert parse(["--all"]) == (Choice(), False)
    record = Record([])
    moment = record.timestamp * 10**6
    assert Choice(None, moment, moment + 1).takes(record)
    assert not Choice(None, moment - 1, moment).takes(record)
    assert not Choice(None, moment + 1).takes(record)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--all", "--from", "-1h"],
        ["--offsets", "0:1", "--all"],
        ["--from", "soon"],
        ["--from", "-1h", "--to", "-2h"],
    ],
)
def test_a_choice_that_is_none_ends_the_command(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)


EVENT = Record(Event("ü", "acme", LOG).kafka_headers())


def test_an_event_is_posted_as_kafkasource_posts_it_until_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poster, "BACKOFF", (0.01, 0.01))
    with Sink(503, 429, 204).running() as sink, contextlib.closing(Poster(sink.url)) as posting:
        assert posting.deliver(EVENT).stored
        assert len(sink.posts) == 3
        headers, body = sink.posts[-1]
        assert Event.from_http(headers, body) == Event("ü", "acme", LOG, "2/17")
        assert (headers["ce-type"], headers["content-type"]) == (TYPE, "application/x-ndjson")
        assert posting.reachable()


def test_an_event_that_is_refused_is_not_posted_again() -> None:
    with Sink(422).running() as sink, contextlib.closing(Poster(sink.url)) as posting:
        outcome = posting.deliver(EVENT)
        assert (outcome.status, outcome.stored, len(sink.posts)) == ("422", False, 1)
        assert "this is 422" in outcome.text
        assert not posting.stop.is_set()
        assert posting.deliver(Record([("x", None)])).status == "no event"


def test_what_index_cannot_take_however_often_it_is_asked_stops_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poster, "BACKOFF", (0.01, 0.01))
    with Sink(503).running() as sink, contextlib.closing(Poster(sink.url)) as posting:
        assert posting.deliver(EVENT).status == "503"
        assert len(sink.posts) == 3
        assert posting.stop.is_set()
        summary = Replay(posting).summary(dry=False)
        assert "stopped before the end" in summary
    with contextlib.closing(Poster("http://127.0.0.1:9/")) as posting:
        assert not posting.reachable()
        assert posting.deliver(EVENT).status == "no answer"
