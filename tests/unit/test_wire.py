"""Protobuf taken apart: the same as the library finds, and within memory whatever comes."""

import tracemalloc

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common.errors import TooLarge
from functions.common.identity import MAX_RECORDS
from functions.ingest.dialects import entries, loki_protobuf, otlp_protobuf, wire
from functions.ingest.proto.log_pb2 import LogBatch, LogEntry
from functions.ingest.proto.loki_pb2 import Stream

TEXTS = st.text(max_size=300)
ENTRIES = st.builds(LogEntry, service=TEXTS, message=TEXTS, metadata=TEXTS)


@given(st.lists(ENTRIES, max_size=5))
def test_the_messages_in_a_message_are_found_in_their_order(logs: list[LogEntry]) -> None:
    data = LogBatch(logs=logs).SerializeToString()
    assert [LogEntry.FromString(part) for part in wire.split(data)[0]] == logs


@given(st.binary(max_size=100), st.lists(st.binary(max_size=200), max_size=5))
def test_two_fields_are_told_apart_and_unknown_ones_passed_over(labels: bytes, lines: list[bytes]) -> None:
    stream = Stream(labels=labels)
    for line in lines:
        stream.entries.add(line=line)
    unknown = b"\x18\x96\x01" + b"\x21" + bytes(8) + b"\x2d" + bytes(4) + b"\xfa\x3f\x01x"
    first, second = wire.split(unknown + stream.SerializeToString() + unknown)
    assert first == ([labels] if labels else [])
    assert second == [entry.SerializeToString() for entry in stream.entries]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\n",
        b"\n\x05abc",
        b"\x08",
        b"\x08" + b"\xff" * 10,
        b"\x09abc",
        b"\x0dabc",
        b"\x0b\x0c",
        b"\x02\0",
        b"\0",
    ],
)
def test_bytes_that_are_no_message_are_told(data: bytes) -> None:
    with pytest.raises(DecodeError):
        wire.split(data)


@given(st.binary(max_size=200))
@settings(max_examples=1000, deadline=None)
def test_what_the_library_refuses_at_the_outermost_level_is_refused(data: bytes) -> None:
    try:
        wire.split(data)
    except DecodeError:
        return
    try:
        LogBatch.FromString(data)
    except DecodeError:  # one of its logs is none: that is one record's fault
        assert any(_is_bad(part) for part in wire.split(data)[0])


def _is_bad(data: bytes) -> bool:
    try:
        LogEntry.FromString(data)
    except DecodeError:
        return True
    return False


@pytest.mark.parametrize("read", [otlp_protobuf.records, loki_protobuf.records, entries.batch])
def test_a_million_messages_of_nothing_are_too_large(read: object) -> None:
    assert callable(read)
    with pytest.raises(TooLarge, match=str(MAX_RECORDS - 1)):
        list(read(b"\n\0" * MAX_RECORDS))


def test_very_many_tiny_messages_take_little_memory() -> None:
    # As one message of the library they were 80 times their size.
    data = b"\n\0" * 100_000
    tracemalloc.start()
    try:
        assert len(entries.batch(data)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 1_600_000
    finally:
        tracemalloc.stop()
