"""Splunk's HTTP Event Collector: its events and raw lines become logs, and it is answered as Splunk answers."""

import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from functions.common import identity, timestamps
from functions.common.errors import BadRequest, KafkaUnavailable, TooLarge, TorporError, UnsupportedMediaType
from functions.common.host import Host
from functions.common.record import UNKNOWN_SERVICE, Record, decode
from functions.ingest.dialects.splunk import Splunk, health, new
from functions.ingest.function import Ingest
from functions.ingest.intake import Config
from functions.ingest.normalise import LineError, Normaliser, Outcome
from tests.support.memory import MemoryPublisher

SECOND = timestamps.now() // timestamps.NANOSECONDS
NOW = SECOND * timestamps.NANOSECONDS
EVENT, RAW = "/services/collector/event", "/services/collector/raw"
PATHS = ["/services/collector", EVENT, f"{EVENT}/1.0", RAW, f"{RAW}/1.0"]
thorough = settings(deadline=None, max_examples=1000)


def dialect(path: str = EVENT, **query: str) -> Splunk:
    scope = {"type": "http", "path": path, "query_string": urlencode(query).encode(), "headers": []}
    return new(Request({**scope, "scheme": "http", "server": ("localhost", 80)}))


def read(body: bytes, path: str = EVENT, **query: str) -> tuple[list[Record], list[LineError]]:
    """The rows of a body, and all that is wrong with it."""
    outcome = Outcome(max_errors=10_000)
    normaliser = Normaliser("t", "b", False, NOW, 30 * timestamps.DAY, 256 * 1024)
    chunks = list(normaliser.chunks(dialect(path, **query).records(body), outcome))
    return [decode(line) for chunk in chunks for line in chunk.data.split(b"\n") if line], outcome.errors


def log(event: dict[str, Any] | bytes, **query: str) -> Record:
    (row,), errors = read(event if isinstance(event, bytes) else json.dumps(event).encode(), **query)
    assert errors == []
    return row


def fault(event: dict[str, Any] | bytes) -> tuple[str | None, str]:
    rows, (error,) = read(event if isinstance(event, bytes) else json.dumps(event).encode())
    assert rows == [] and error.line == 1
    return error.field, error.error


# An event


def test_a_full_event_is_a_log() -> None:
    event = {
        "time": SECOND,
        "host": "web-1",
        "source": "checkout",
        "sourcetype": "_json",
        "index": "main",
        "event": {"message": "paid", "level": "warning", "trace_id": "4bf9", "span_id": "00f0", "amount": 12.50},
        "fields": {"region": "eu", "tags": ["a", "b"], "tries": 3},
    }
    metadata = {
        "host": "web-1",
        "sourcetype": "_json",
        "index": "main",
        "region": "eu",
        "tags": '["a", "b"]',
        "tries": "3",
        "amount": "12.5",
    }
    base = identity.of_batch("t", "b")
    assert log(event) == Record("t", str(NOW), "checkout", "WARN", "paid", metadata, "4bf9", "00f0", base + 1)


def test_an_event_needs_only_its_event() -> None:
    row = log({"event": "hello"})
    assert (row.timestamp, row.service, row.level, row.message) == (str(NOW), UNKNOWN_SERVICE, "INFO", "hello")
    assert row.metadata == {}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (b'"text \\u00fc"', "text ü"),
        (b"1.10", "1.10"),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"true", "true"),
        (b'[1, {"a":2}]', '[1, {"a":2}]'),
        (b'{"message":"m","msg":"n"}', "m"),
        (b'{"msg":"n"}', "n"),
        (b'{"message":"","msg":"n"}', "n"),
        (b'{"message":null,"msg":"n"}', "n"),
        (b'{"message":42}', "42"),
        (b'{"message":{"a": 1.0}}', '{"a": 1.0}'),
        (b'{"a": 1.0}', '{"a": 1.0}'),
    ],
)
def test_the_event_is_the_message(event: bytes, message: str) -> None:
    assert log(b'{"event":%s}' % event).message == message


def test_members_of_the_event_are_metadata_as_they_were_written() -> None:
    row = log(b'{"event":{"msg":"m","number":1.10,"nested":{"a": [1]},"yes":true,"nothing":null,"text":"1"}}')
    assert row.metadata == {"number": "1.10", "nested": '{"a": [1]}', "yes": "true", "text": "1"}


def test_an_event_without_a_message_is_its_json_text_and_its_members_are_metadata() -> None:
    row = log(b'{"event":{"user": "ann", "level": "error"}}')
    assert (row.message, row.level, row.metadata) == ('{"user": "ann", "level": "error"}', "ERROR", {"user": "ann"})


def test_what_has_the_same_name_is_kept_under_another() -> None:
    row = log(
        {"host": "a", "source": "s", "fields": {"host": "b", "x": "1"}, "event": {"msg": "m", "host": "c", "x": 1}}
    )
    assert row.metadata == {"host": "a", "fields.host": "b", "event.host": "c", "x": "1"}
    again = log({"host": "a", "source": "s", "fields": {"event.host": "d"}, "event": {"msg": "m", "host": "c"}})
    assert again.metadata == {"host": "a", "event.host": "d", "event.event.host": "c"}


def test_unknown_members_and_members_of_other_types_are_metadata() -> None:
    row = log(b'{"event":"m","colour":"red","host":5,"index":null,"source":"s"}')
    assert (row.service, row.metadata) == ("s", {"colour": "red", "host": "5"})


@pytest.mark.parametrize("given", [{"fields": None}, {"fields": {}}, {"time": None}, {"host": None}, {"host": ""}])
def test_null_and_empty_members_count_as_absent(given: dict[str, Any]) -> None:
    row = log({"event": "m", **given})
    assert (row.timestamp, row.metadata) == (str(NOW), {})


# Service, level, identity


@pytest.mark.parametrize(
    ("event", "service", "metadata"),
    [
        ({"fields": {"service.name": "a", "service": "b"}, "source": "c"}, "a", {"service": "b", "source": "c"}),
        ({"fields": {"service": "b"}, "source": "c"}, "b", {"source": "c"}),
        ({"event": {"msg": "m", "service": "d"}, "source": "c"}, "d", {"source": "c"}),
        ({"event": {"msg": "m", "service": {"name": "d"}}, "source": "c"}, "c", {"service": '{"name": "d"}'}),
        ({"source": "c", "sourcetype": "e", "host": "f"}, "c", {"sourcetype": "e", "host": "f"}),
        ({"sourcetype": "e", "host": "f"}, "e", {"host": "f"}),
        ({"host": "f", "index": "g"}, "f", {"index": "g"}),
        ({"index": "g"}, UNKNOWN_SERVICE, {"index": "g"}),
    ],
)
def test_the_service_is_the_first_that_is_named(event: dict[str, Any], service: str, metadata: dict[str, str]) -> None:
    row = log({"event": "m", **event})
    assert (row.service, row.metadata) == (service, metadata)


def test_a_source_too_long_for_a_service_is_cut_and_kept_whole_as_metadata() -> None:
    source = "/var/log/" + "ü" * 200
    row = log({"event": "m", "source": source})
    assert source.startswith(row.service) and len(row.service.encode()) == 255
    assert row.metadata == {"source": source}


@pytest.mark.parametrize(
    ("event", "fields", "level", "metadata"),
    [
        ({"level": "warn"}, {"level": "error"}, "WARN", {"level": "error"}),
        ({"severity": "CRITICAL"}, {}, "FATAL", {}),
        ({"log_level": "DEBUG"}, {}, "DEBUG", {}),
        ({}, {"severity": "err"}, "ERROR", {}),
        ({}, {"otel.log.severity.text": "Error"}, "ERROR", {}),
        ({"level": "odd", "severity": "error"}, {}, "ERROR", {"level": "odd"}),
        ({"level": "odd"}, {"level": "other"}, "INFO", {"level": "other", "event.level": "odd"}),
        ({"level": 30}, {}, "INFO", {"level": "30"}),
    ],
)
def test_the_level_is_the_first_that_is_one(
    event: dict[str, Any], fields: dict[str, str], level: str, metadata: dict[str, str]
) -> None:
    row = log({"event": {"msg": "m", **event}, "fields": fields})
    assert (row.level, row.metadata) == (level, metadata)


def test_trace_and_span_come_from_the_event_or_its_fields() -> None:
    row = log({"event": {"msg": "m", "trace_id": "t1"}, "fields": {"trace_id": "t2", "span_id": "s2"}})
    assert (row.trace_id, row.span_id, row.metadata) == ("t1", "s2", {"trace_id": "t2"})


@pytest.mark.parametrize("place", ["fields", "event"])
def test_a_log_record_uid_is_the_identity(place: str) -> None:
    event = {"time": SECOND, "event": {"msg": "m", "id": "9"}, "fields": {}}
    event[place] = {**event[place], "log.record.uid": "u-1"}  # type: ignore[dict-item]  # the members are of many types
    row = log(event)
    assert row.dedupe == identity.of_id("t", "u-1")
    assert row.metadata == {"id": "9", "log.record.uid": "u-1"}


def test_an_event_with_an_identity_must_bring_its_time() -> None:
    assert fault({"event": "m", "fields": {"log.record.uid": "u"}})[0] == "timestamp"


# Time


@pytest.mark.parametrize(
    ("written", "nanoseconds"),
    [
        (f"{SECOND}", NOW),
        (f"{SECOND}.253123456", NOW + 253_123_456),
        (f'"{SECOND}.253123456"', NOW + 253_123_456),
        (f'" {SECOND}.5 "', NOW + 500_000_000),
        (f"{SECOND}.000000001", NOW + 1),
        (f"{SECOND}.9999999999999", NOW + 999_999_999),
        (f"{SECOND // 10**9}.{SECOND % 10**9:09d}253123456e9", NOW + 253_123_456),
        (f"{SECOND}.5E+0", NOW + 500_000_000),
        (f"{SECOND}123", NOW + 123_000_000),
        (f"{SECOND}123.456789", NOW + 123_456_789),
        (f'"{SECOND}123456.789"', NOW + 123_456_789),
        (f"{SECOND}123456789", NOW + 123_456_789),
        (f"{SECOND}123456789.9", NOW + 123_456_789),
        (f'"{timestamps.iso(NOW + 7)}"', NOW + 7),
    ],
)
def test_a_time_is_exact(written: str, nanoseconds: int) -> None:
    assert log(b'{"time":%s,"event":"m"}' % written.encode()).timestamp == str(nanoseconds)


@pytest.mark.parametrize(
    "written",
    [
        *("true", "[]", "{}", '"soon"', '""', "0", "0.0", "-5.5", "1e99", "1e999999999", "1e-5", '"١.٥"', '"nan"'),
        *("9" * 5000, "1." + "9" * 5000 + "e9", "10000000000000000000.5", "9" * 19 + ".5"),
        *('"1.5.5"', '"1."', '".5"', "1.769860800", "17698608.5"),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_time_is_named(written: str) -> None:
    field, _ = fault(b'{"time":%s,"event":"m"}' % written.encode())
    assert field in ("time", "timestamp")


def test_an_event_inherits_nothing_from_the_one_before() -> None:
    rows, _ = read(
        json.dumps({"time": SECOND - 9, "host": "a", "index": "i", "event": "m"}).encode() + b'{"event":"n"}'
    )
    assert (rows[1].timestamp, rows[1].service, rows[1].metadata) == (str(NOW), UNKNOWN_SERVICE, {})


def test_the_query_gives_what_an_event_lacks() -> None:
    query = {"host": "h", "source": "s", "sourcetype": "st", "index": "i", "channel": "c", "time": f"{SECOND}.25"}
    assert log({"event": "m"}, **query).timestamp == str(NOW + 250_000_000)
    row = log({"event": "m", "time": SECOND, "host": "own", "source": "mine"}, **query, token="secret")
    assert (row.timestamp, row.service) == (str(NOW), "mine")
    assert row.metadata == {"host": "own", "sourcetype": "st", "index": "i", "channel": "c"}


# Events in a body

TWO = [b'{"event":"a } {\\" }{"}', b'{"event":{"msg":"b\\\\","x":[{},{}]}}']


@pytest.mark.parametrize(
    "body",
    [
        b"".join(TWO),
        b"\n".join(TWO),
        b"\r\n\r\n \t".join(TWO) + b"\n\n",
        b"\xef\xbb\xbf \n" + b" ".join(TWO),
        b"[" + b",".join(TWO) + b"]",
        b" [\n" + b" ,\n".join(TWO) + b"]\n",
        b"\n".join(json.dumps(json.loads(event), indent=2).encode() for event in TWO),
    ],
)
def test_events_come_one_after_another_or_in_an_array(body: bytes) -> None:
    rows, errors = read(body)
    assert errors == []
    assert [row.message for row in rows] == ['a } {" }{', "b\\"]


@pytest.mark.parametrize(
    ("event", "field", "error"),
    [
        (b"{}", "event", "Event field is required"),
        (b'{"time":1}', "event", "Event field is required"),
        *((b'{"event":%s}' % e, "event", "Event field cannot be blank") for e in (b'""', b'" \\n"', b"null", b"{ }")),
        (b'{"event":[]}', "event", "Event field cannot be blank"),
        (b'{"event":"m","fields":["a"]}', "fields", "Error in handling indexed fields"),
        (b'{"event":"m","fields":"a"}', "fields", "Error in handling indexed fields"),
        (b"5", None, "not a JSON object"),
        (b'{"event":"\xff"}', None, "not UTF-8"),
        (b'{"event":{"\xff":1}}', None, "not UTF-8"),
        (b'{"event":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "not JSON: nested too deeply"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_a_bad_event_is_named_and_the_others_are_taken(event: bytes, field: str | None, error: str) -> None:
    assert fault(event) == (field, error)
    if event.startswith(b"{"):
        rows, errors = read(b'{"event":"a"}' + event + b'\n{"event":"b"}')
        assert [row.message for row in rows] == ["a", "b"]
        assert errors == [LineError(2, field, error)]


@pytest.mark.parametrize(
    "event", [b'"\\ud83d"', b"NaN", b'"' + b"x" * 5_000_000 + b'"'], ids=["half a pair", "NaN", "too large"]
)
def test_what_cannot_be_read_but_has_an_end_costs_only_its_event(event: bytes) -> None:
    rows, (error,) = read(b'{"event":"a"}{"event":%s}{"event":"b"}' % event)
    assert [row.message for row in rows] == ["a", "b"]
    assert error.line == 2


@pytest.mark.parametrize(
    "broken", [b"{", b'{"event":}', b'{"event":"b}', b"x", b'{"event":"b"},', b'{"event":"b"}}', b"]"]
)
def test_broken_json_and_what_follows_is_one_rejected_record(broken: bytes) -> None:
    rows, errors = read(b'{"event":"a"}\n{"event":"a"}\n' + broken + b'\n{"event":"c"}\n{"event":"d"}')
    # What stands between two events belongs to the one before it.
    assert {row.message for row in rows} == {"a"}
    assert [error.line for error in errors] == [len(rows) + 1]


@pytest.mark.parametrize("body", [b'[{"event":"a"}', b'[{"event":"a"},]', b"[" * 100_000, b'[{"event":"a"}]x'])
def test_a_broken_array_is_one_rejected_record(body: bytes) -> None:
    assert fault(body)[1].startswith("the array is not JSON")


def test_bad_items_of_an_array_are_named() -> None:
    rows, errors = read(b'[{"event":"a"},7,[],{},{"event":"b"}]')
    assert [row.message for row in rows] == ["a", "b"]
    assert [error.line for error in errors] == [2, 3, 4]


@pytest.mark.parametrize("body", [b"[" + b"0," * 3_000_000 + b"0]"])
def test_an_array_of_millions_is_refused_before_it_is_read(body: bytes) -> None:
    with pytest.raises(TooLarge):
        read(body)


# Each name is taken already, and so is the one it would be kept under.
CHAIN = b",".join(b'"%sa":1' % (b"event." * number) for number in range(800))


@pytest.mark.parametrize(
    "body",
    [
        b'{"event":"' + b"}{" * 1_000_000 + b'"}',
        b'{"event":"' + b"}{" * 1_000_000,
        b'{"event":"' + b'}{\\"' * 700_000,
        b"}" + b" " * 2_000_000,
        b'{"event":{"a":[' + b'{"b":{} },' * 200_000 + b"0]}}",
        b'"' * 2_000_000,
        b"{" * 2_000_000,
        b"\\" * 2_000_000 + b"}{",
        b'{"event":"a"}' + b" " * 2_000_000 + b'{"event":"b"}',
        b'{"fields":{%s},"event":{%s}}' % (CHAIN, CHAIN.replace(b"1", b"2")),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_hostile_bodies_cost_no_more_than_their_size(body: bytes) -> None:
    started = time.process_time()
    for path in (EVENT, RAW):
        read(body, path)
    assert time.process_time() - started < 3


# Raw


def test_raw_text_is_a_log_a_line() -> None:
    query = {
        "host": "h",
        "source": "s",
        "sourcetype": "st",
        "index": "i",
        "channel": "c",
        "time": f"{SECOND}.000000007",
    }
    rows, errors = read(b'\xef\xbb\xbfone\r\n\n \t\n\tat two\n{"event":"three"}', RAW, **query)
    assert errors == []
    assert [row.message for row in rows] == ["one", "\tat two", '{"event":"three"}']
    metadata = {"host": "h", "sourcetype": "st", "index": "i", "channel": "c"}
    assert {(row.timestamp, row.service, row.level) for row in rows} == {(str(NOW + 7), "s", "INFO")}
    assert [row.metadata for row in rows] == [metadata] * 3
    assert [row.dedupe - identity.of_batch("t", "b") for row in rows] == [1, 2, 3]


def test_raw_text_without_a_query_is_of_an_unknown_service() -> None:
    (row,), _ = read(b"one", RAW)
    assert (row.timestamp, row.service, row.metadata) == (str(NOW), UNKNOWN_SERVICE, {})


def test_a_raw_line_that_is_not_utf_8_is_named_and_the_others_are_taken() -> None:
    rows, errors = read(b"one\n\n\xff\nthree", RAW)
    assert [row.message for row in rows] == ["one", "three"]
    assert errors == [LineError(2, None, "not UTF-8")]


def test_a_time_of_the_query_that_is_none_is_named() -> None:
    rows, errors = read(b"one", RAW, time="soon")
    assert rows == [] and errors[0].field == "timestamp"


def test_more_lines_than_a_request_may_hold_are_refused() -> None:
    with pytest.raises(TooLarge):
        read(b"\n" * identity.MAX_RECORDS, RAW)


# Properties

texts = st.text(st.characters(codec="utf-8") | st.sampled_from('{}[]"\\ ,:\n'))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = (
    st.sampled_from(["event", "time", "host", "source", "sourcetype", "index", "fields", "service", "level"]) | texts
)
envelopes = st.dictionaries(names, json_values | st.dictionaries(names, json_values, max_size=4), max_size=6)
gaps = st.text(" \t\r\n", max_size=3)
good = st.builds(
    lambda event, number, nanosecond: (event, number, nanosecond),
    texts.filter(lambda text: text.strip() != "" and not text.isspace()),
    st.dictionaries(texts, texts, max_size=3),
    st.integers(0, 10**9 - 1),
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Anything, or events that were tampered with."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=80))
    events = [json.dumps(event, ensure_ascii=draw(st.booleans())) for event in draw(st.lists(envelopes, max_size=4))]
    body = bytearray(draw(gaps).join(events).encode())
    if draw(st.booleans()):
        body = bytearray(b"[" + ",".join(events).encode() + b"]")
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(body)))
        body[place : place + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3) | st.sampled_from([b"}", b'"', b"{"])
        )
    return bytes(body)


@thorough
@given(bodies(), st.dictionaries(st.sampled_from(["time", "host", "source", "index"]), texts, max_size=2))
def test_no_body_of_events_raises_anything_but_a_torpor_error(body: bytes, query: dict[str, str]) -> None:
    try:
        rows, errors = read(body, EVENT, **query)
    except TorporError:
        return
    numbers = [row.dedupe - identity.of_batch("t", "b") for row in rows if "log.record.uid" not in row.metadata]
    assert not {error.line for error in errors} & set(numbers)


@thorough
@given(st.binary(max_size=200) | texts.map(str.encode), st.dictionaries(st.sampled_from(["time", "host"]), texts))
def test_no_raw_body_raises_anything_but_a_torpor_error(body: bytes, query: dict[str, str]) -> None:
    try:
        rows, errors = read(body, RAW, **query)
    except TorporError:
        return
    assert len(rows) + len(errors) <= body.count(b"\n") + 1


@thorough
@given(good, st.booleans(), st.booleans())
def test_a_good_event_survives_unchanged(
    content: tuple[str, dict[str, str], int], as_text: bool, ensure_ascii: bool
) -> None:
    message, fields, nanosecond = content
    event = {
        "host": "h",
        "source": "s",
        "event": message,
        "fields": {f"x{name}": text for name, text in fields.items()},
    }
    moment = f'"{SECOND}.{nanosecond:09d}"' if as_text else f"{SECOND}.{nanosecond:09d}"
    row = log(f'{{"time":{moment},{json.dumps(event, ensure_ascii=ensure_ascii)[1:]}'.encode())
    assert (row.message, row.service) == (message, "s")
    assert row.timestamp == str(NOW + nanosecond)
    assert row.metadata == {"host": "h", **event["fields"]}  # type: ignore[dict-item]  # the members are of many types


@thorough
@given(st.lists(texts), st.integers(0, 10**9 - 1))
def test_good_raw_lines_survive_unchanged(lines: list[str], nanosecond: int) -> None:
    lines = [line for text in lines for line in text.split("\n")]
    lines = [line for line in lines if line.encode().strip() and not line.endswith("\r") and "\ufeff" not in line]
    rows, errors = read("\n".join(lines).encode(), RAW, time=f"{SECOND}.{nanosecond:09d}", source="s")
    assert errors == []
    assert [row.message for row in rows] == lines
    assert {row.timestamp for row in rows} <= {str(NOW + nanosecond)}


BAD = ["{}", '{"event":""}', '{"event":null}', '{"event":"m","time":[]}', '{"event":"m","time":"soon"}']
BAD += ['{"event":"m","fields":[]}', '{"event":"m","time":5}', '{"event":"\\ud800"}', '{"event":NaN}']


@thorough
@given(st.lists(good.map(lambda content: json.dumps({"event": content[0]})) | st.sampled_from(BAD), min_size=1), gaps)
def test_a_mixed_request_reports_exactly_its_bad_events(events: list[str], gap: str) -> None:
    rows, errors = read(gap.join(events).encode())
    assert [error.line for error in errors] == [number for number, event in enumerate(events, 1) if event in BAD]
    assert [row.message for row in rows] == [json.loads(event)["event"] for event in events if event not in BAD]


# Through ingest


@dataclasses.dataclass
class Face:
    """Ingest as a client sees it, and what it published."""

    publisher: MemoryPublisher
    client: httpx.AsyncClient

    async def post(self, body: bytes, path: str = EVENT, **headers: str) -> httpx.Response:
        return await self.client.post(path, content=body, headers=headers)

    @property
    def rows(self) -> list[Record]:
        return [decode(line) for _, _, value, _ in self.publisher.records for line in value.split(b"\n")]


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    publisher = MemoryPublisher()
    function = Ingest(Config(), publisher)
    await function.start()
    transport = httpx.ASGITransport(app=Host(function), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
        yield Face(publisher, client)
    await function.stop()


def told(answer: httpx.Response, status: int, code: int) -> dict[str, Any]:
    """The body of an answer that is as it should be."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    body: dict[str, Any] = answer.json()
    assert body["code"] == code and body["text"]
    return body


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain; charset=utf-7", "x", ""])
async def test_every_path_takes_logs_of_any_content_type(face: Face, path: str, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await face.client.post(path, content=b'{"event":"a"}', headers=headers, params={"source": "s"})
    assert told(answer, 200, 0) == {"text": "Success", "code": 0}
    (row,) = face.rows
    assert (row.service, row.message) == ("s", '{"event":"a"}' if "raw" in path else "a")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"", b" \r\n\n ", b"\xef\xbb\xbf"])
async def test_a_body_without_logs_is_no_data(face: Face, path: str, body: bytes) -> None:
    assert told(await face.post(body, path), 400, 5) == {"text": "No data", "code": 5}


async def test_an_array_without_events_is_no_data(face: Face) -> None:
    told(await face.post(b"[ ]"), 400, 5)


@pytest.mark.parametrize(
    ("event", "code", "text"),
    [
        (b"{}", 12, "Event field is required"),
        (b'{"event":""}', 13, "Event field cannot be blank"),
        (b'{"event":"m","fields":7}', 15, "Error in handling indexed fields"),
        (b'{"event":"m","time":"soon"}', 6, "Invalid data format: timestamp: 'soon' is not a time"),
        (b"{broken", 6, "Invalid data format: not JSON"),
    ],
)
async def test_the_first_bad_event_is_named_and_what_was_taken_is_counted(
    face: Face, event: bytes, code: int, text: str
) -> None:
    body = told(await face.post(b'{"event":"a"}{"event":"b"}' + event), 400, code)
    assert body["invalid-event-number"] == 2
    assert body["text"].startswith(text) and body["text"].endswith("(events taken: 2, not taken: 1)")
    assert [row.message for row in face.rows] == ["a", "b"]


async def test_a_busy_kafka_is_a_busy_server(face: Face) -> None:
    face.publisher.failure = KafkaUnavailable("no")
    answer = await face.post(b'{"event":"a"}')
    assert told(answer, 503, 9) == {"text": "Server is busy", "code": 9}
    assert answer.headers["retry-after"] == "2"


async def test_a_request_too_large_is_told_so(face: Face) -> None:
    assert "20971520" in told(await face.post(b" " * 21_000_000), 413, 6)["text"]


async def test_a_body_that_is_not_as_it_says_is_invalid(face: Face) -> None:
    told(await face.client.post(EVENT, content=b"x", headers={"content-encoding": "gzip"}), 400, 6)
    told(await face.client.post(EVENT, content=b"x", headers={"content-encoding": "br"}), 400, 6)


async def test_acknowledgement_is_not_offered(face: Face) -> None:
    assert (await face.post(b'{"acks":[0]}', "/services/collector/ack")).status_code == 404


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(BadRequest("why"), 400, 6), (TooLarge("why"), 413, 6), (UnsupportedMediaType("why"), 400, 6)],
)
def test_an_error_is_told_with_its_reason(error: Exception, status: int, code: int) -> None:
    answer = dialect().problem(error)
    assert answer.status_code == status
    assert json.loads(bytes(answer.body)) == {"text": "why", "code": code}


def test_what_is_not_ours_is_logged_and_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    answer = dialect().problem(RuntimeError("secret"))
    assert answer.status_code == 500
    assert json.loads(bytes(answer.body)) == {"text": "Internal server error", "code": 8}
    assert "secret" in caplog.text


def test_health_is_told_as_splunk_tells_it() -> None:
    assert (health(True).status_code, json.loads(bytes(health(True).body))["code"]) == (200, 17)
    assert (health(False).status_code, json.loads(bytes(health(False).body))["code"]) == (503, 18)
