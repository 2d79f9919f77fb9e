"""Torpor's gRPC messages: each field, metadata of every kind, broken messages, and bytes of any kind."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common import timestamps
from functions.common.errors import BadRequest
from functions.common.record import LEVELS, Incoming
from functions.ingest.dialects import entries
from functions.ingest.normalise import Normaliser, Outcome
from functions.ingest.proto.log_pb2 import LogBatch, LogEntry
from functions.ingest.records import Rejected

NOW = timestamps.now()
ISO = timestamps.iso(NOW)


def of(**fields: Any) -> Incoming | Rejected:
    """The record of an entry that went over the wire."""
    data = LogEntry(**fields).SerializeToString()
    ((number, record),) = entries.records([data])
    assert number == 1
    return record


def taken(**fields: Any) -> Incoming:
    record = of(**fields)
    assert isinstance(record, Incoming), record
    return record


def test_every_field_has_its_place() -> None:
    record = taken(
        timestamp=ISO,
        service="pay",
        level="warning",
        message="out of paper",
        metadata='{"tray":"2"}',
        id="u-1",
        trace_id="ab" * 16,
        span_id="cd" * 8,
    )
    assert record == Incoming("pay", "out of paper", ISO, "warning", {"tray": "2"}, "ab" * 16, "cd" * 8, "u-1")


def test_an_entry_without_fields_is_a_record_without_them() -> None:
    assert taken() == Incoming()
    assert taken().timestamp is None
    assert taken().level == "INFO"


@pytest.mark.parametrize(
    ("metadata", "texts"),
    [
        ("", {}),
        ("{}", {}),
        (' {"a" : "b"}\n', {"a": "b"}),
        ('{"a":"ü☃\\u0041\\n"}', {"a": "ü☃A\n"}),
        ('{"n":1,"f":1.50,"e":1e3,"big":123456789012345678901234567890}',
         {"n": "1", "f": "1.50", "e": "1e3", "big": "123456789012345678901234567890"}),
        ('{"t":true,"f":false,"none":null,"text":"null"}', {"t": "true", "f": "false", "text": "null"}),
        ('{"list":[1, "two"],"object":{"a": null}}', {"list": '[1, "two"]', "object": '{"a": null}'}),
        ('{"twice":"one","twice":"other"}', {"twice": "other"}),
        ('{"":"empty"}', {"": "empty"}),
    ],
)  # fmt: skip
def test_metadata_is_an_object_of_any_values(metadata: str, texts: dict[str, str]) -> None:
    assert taken(metadata=metadata).metadata == texts


@pytest.mark.parametrize(
    "metadata",
    ["null", "1", '"text"', "[]", '["a"]', "true", "{", '{"a"}', '{"a":1}}', "{'a':1}", '{"a":NaN}', '{1:2}', " ",
     '{"a":"\\ud800"}', '{"a":' * 100_000, "[" * 100_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_metadata_that_is_no_object_is_named(metadata: str) -> None:
    record = of(service="s", metadata=metadata)
    assert isinstance(record, Rejected)
    assert (record.field, str(record)) == ("metadata", "not a JSON object")


def test_metadata_that_is_read_far_down_the_stack_is_rejected_at_worst() -> None:
    def read_at(depth: int) -> Incoming | Rejected:
        return read_at(depth - 1) if depth else of(metadata='{"a":' + "[" * 500 + "]" * 500 + "}")

    assert isinstance(read_at(sys.getrecursionlimit() // 2), Rejected)


def test_a_record_with_broken_metadata_does_not_take_the_others_with_it() -> None:
    good = LogEntry(service="s", message="good")
    data = LogBatch(logs=[good, LogEntry(metadata="{"), good]).SerializeToString()
    (first, before), (second, broken), (third, after) = entries.records(entries.batch(data))
    assert (first, second, third) == (1, 2, 3)
    assert before == after == Incoming("s", "good")
    assert isinstance(broken, Rejected)


def test_records_are_numbered_from_where_the_call_is() -> None:
    first, broken, last = entries.records([LogEntry(service="a").SerializeToString(), b"\xff", b""], 7)
    assert (first, last) == ((7, Incoming("a")), (9, Incoming()))
    assert broken[0] == 8 and isinstance(broken[1], Rejected)


@pytest.mark.parametrize("data", [b"\xff", b"\n\x05abc", b"\n\x01\xff", b"\x12\x02\xc3\x28", b"{}"])
def test_bytes_that_are_no_entry_are_a_bad_record(data: bytes) -> None:
    record = entries.entry(data)
    assert isinstance(record, Rejected)
    assert (record.field, str(record)) == (None, "the message is not a LogEntry")
    ((number, rejected),) = entries.records([data], 3)
    assert number == 3 and isinstance(rejected, Rejected) and str(rejected) == str(record)


@pytest.mark.parametrize("data", [b"\xff", b"\n\x05abc", b"\x09abc", b"\x02\x00", b"\x0b", b"{}"])
def test_bytes_that_are_no_batch_are_a_bad_request(data: bytes) -> None:
    with pytest.raises(BadRequest, match="not a LogBatch"):
        entries.batch(data)


def test_an_entry_that_is_none_does_not_take_the_others_with_it() -> None:
    good = b"\n\x03\x12\x01s"
    first, broken, last = entries.records(entries.batch(good + b"\n\x03\x12\x01\xff" + good))
    assert (first, last) == ((1, Incoming("s")), (3, Incoming("s")))
    assert isinstance(broken[1], Rejected)


def test_fields_of_a_newer_schema_are_ignored() -> None:
    data = LogEntry(service="s").SerializeToString() + b"\xfa\x3f\x01x"
    assert list(entries.records([data])) == [(1, Incoming("s"))]
    assert len(entries.batch(b"\xfa\x3f\x01x")) == 0
    assert len(entries.batch(b"")) == 0


# Any bytes at all


def rows(numbered: list[tuple[int, Incoming | Rejected]]) -> Outcome:
    """What becomes of the records."""
    assert all(isinstance(record, Incoming | Rejected) for _, record in numbered)
    outcome = Outcome("b")
    normaliser = Normaliser("t", "b", False, NOW, 30 * timestamps.DAY, 1000)
    list(normaliser.chunks(numbered, outcome))
    assert outcome.accepted + outcome.rejected == len(numbered)
    return outcome


plain = st.text(max_size=20)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3),
    max_leaves=8,
).map(json.dumps)
given_entries = st.builds(
    LogEntry,
    timestamp=plain | st.integers(0, 2**64).map(str) | st.datetimes().map(str),
    service=plain,
    level=plain | st.sampled_from(LEVELS),
    message=plain,
    metadata=plain | documents,
    id=plain,
    trace_id=plain,
    span_id=plain,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    changed = bytearray(LogBatch(logs=draw(st.lists(given_entries, max_size=4))).SerializeToString())
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(changed)))
        changed[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=4))
    return bytes(changed)


@given(st.binary(max_size=200) | mutated())
@settings(max_examples=1000, deadline=None)
def test_no_bytes_break_the_decoders(data: bytes) -> None:
    rows(list(entries.records([data])))
    try:
        logs = entries.batch(data)
    except BadRequest:
        return
    rows(list(entries.records(logs)))


@given(documents | plain)
@settings(max_examples=1000, deadline=None)
def test_metadata_is_taken_exactly_if_it_is_an_object(metadata: str) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(constant)  # Python reads NaN and Infinity; JSON has no such values

    value: Any = {}
    try:
        value = json.loads(metadata, parse_constant=refuse) if metadata else {}
    except ValueError:
        value = None
    record = of(metadata=metadata)
    assert isinstance(record, Incoming) == isinstance(value, dict)
    if isinstance(record, Incoming):
        assert record.metadata.keys() == {name for name, held in value.items() if held is not None}
        assert all(held == record.metadata[name] for name, held in value.items() if isinstance(held, str))


incoming = st.builds(
    Incoming,
    service=plain,
    message=st.text(),
    timestamp=st.none() | st.integers(10**17, 2**63 - 1).map(str) | st.integers(10**17, 2**60).map(timestamps.iso),
    level=st.sampled_from(LEVELS) | st.text(min_size=1, max_size=20),
    metadata=st.dictionaries(plain, plain, max_size=5),
    trace_id=plain,
    span_id=plain,
    id=plain,
)


@given(st.lists(incoming, max_size=5))
@settings(max_examples=1000, deadline=None)
def test_good_records_come_through_unchanged(records: list[Incoming]) -> None:
    sent = [
        LogEntry(
            timestamp=str(record.timestamp or ""),
            service=record.service,
            level=str(record.level),
            message=record.message,
            metadata=json.dumps(record.metadata) if record.metadata else "",
            id=record.id,
            trace_id=record.trace_id,
            span_id=record.span_id,
        )
        for record in records
    ]
    read = entries.records(entries.batch(LogBatch(logs=sent).SerializeToString()))
    assert [record for _, record in read] == records


@given(st.integers(NOW - timestamps.DAY, NOW))
@settings(max_examples=1000, deadline=None)
def test_a_time_is_exact_to_the_nanosecond_as_digits_and_as_text(time: int) -> None:
    assert timestamps.parse(taken(timestamp=str(time)).timestamp or 0) == time
    assert timestamps.parse(taken(timestamp=timestamps.iso(time)).timestamp or 0) == time


BAD: list[tuple[dict[str, str], str]] = [
    ({}, "service"),
    ({"service": "s", "timestamp": "soon"}, "timestamp"),
    ({"service": "s", "timestamp": "2001-01-01T00:00:00Z"}, "timestamp"),
    ({"service": "s", "id": "1"}, "timestamp"),
    ({"service": "s", "metadata": "[]"}, "metadata"),
    ({"service": "s", "metadata": json.dumps(dict.fromkeys(map(str, range(1001)), 1))}, "metadata"),
    ({"service": "s" * 256}, "service"),
    ({"service": "s", "message": "m" * 1001}, "message"),
    ({"service": "s", "trace_id": "t" * 129}, "trace_id"),
    ({"service": "s", "span_id": "t" * 129}, "span_id"),
]


@given(st.lists(st.none() | st.sampled_from(BAD), max_size=12))
@settings(max_examples=1000, deadline=None)
def test_of_a_mixed_batch_exactly_the_bad_records_are_reported(mixed: list[tuple[dict[str, str], str] | None]) -> None:
    logs = [LogEntry(**bad[0]) if bad else LogEntry(service="good", level="odd") for bad in mixed]
    outcome = rows(list(entries.records(entries.batch(LogBatch(logs=logs).SerializeToString()))))
    expected = [(number, bad[1]) for number, bad in enumerate(mixed, 1) if bad]
    assert [(error.line, error.field) for error in outcome.errors] == expected
