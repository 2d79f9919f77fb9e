"""Arbitrary and mutated bytes through everything that decodes: nothing but an error of ours comes out."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections.abc import Mapping

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.common import timestamps
from functions.common.errors import TorporError
from functions.common.event import MAX_DATA_BYTES
from functions.common.record import decode as decode_row
from functions.ingest import decode
from functions.ingest.dialects import cloudevents, json_records
from functions.ingest.normalise import Chunk, Normaliser, Outcome
from functions.ingest.records import Numbered

LIMIT = 64 * 1024
BOUNDED = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

LINES = b"\n".join(
    json.dumps(record).encode()
    for record in (
        {"service": "a", "message": "m", "level": "warn", "metadata": {"k": "v", "n": 1}, "trace_id": "t"},
        {"service": "b", "message": {"nested": [1, 2.5, None, True]}, "timestamp": "2026-01-31T12:00:00.5Z", "id": "7"},
        {"service": "c", "timestamp": 1769860800, "unknown": [], "span_id": "s"},
        {"service": "é😀", "message": "\x00\x1b[2J\u202e"},
    )
)
EVENT = json.dumps(
    {
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "t",
        "time": "2026-01-31T12:00:00Z",
        "data": {"message": "m"},
    }
)
PACKED = {
    "gzip": gzip.compress(LINES, mtime=0) + gzip.compress(b"", mtime=0),
    "deflate": zlib.compress(LINES),
    "zstd": zstd.compress(LINES) + zstd.compress(b""),
}
KINDS = st.sampled_from(["", "application/json", "application/x-ndjson", "text/plain"])
TEXTS = st.text() | st.sampled_from(["1.0", "%ff", "%00", '"a\\"b"', "\xff", "2026-01-31T12:00:00Z", "€"])


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with some of it cut, doubled, overwritten or moved."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        piece = bytes(data[start:end])
        choice = draw(st.integers(0, 3))
        new = (b"", piece * 2, draw(st.binary(max_size=8)), piece[::-1])[choice]
        data[start:end] = new
    return bytes(data)


def unpacked(body: bytes, encoding: str) -> bytes | None:
    """What a body holds, or None if it is refused."""
    try:
        data = decode.inflate(body, encoding, LIMIT)
    except TorporError:
        return None
    assert len(data) <= LIMIT
    return data


def normalised(records: Numbered, *, repeatable: bool = False) -> list[Chunk]:
    """The rows of records: each must be one that index can read."""
    outcome = Outcome()
    normaliser = Normaliser("tenant", "batch", repeatable, timestamps.now(), 30 * timestamps.DAY, 1024)
    chunks = list(normaliser.chunks(records, outcome))
    rows = [decode_row(line) for chunk in chunks for line in chunk.data.split(b"\n")]
    assert outcome.accepted == len(rows) == sum(chunk.count for chunk in chunks)
    assert len(outcome.errors) <= outcome.rejected
    for row in rows:
        assert row.service and len(row.timestamp) == 19 and 0 <= row.dedupe < 1 << 64
    assert all(len(chunk.data) <= MAX_DATA_BYTES for chunk in chunks)
    return chunks


@pytest.mark.parametrize("encoding", [*PACKED, "", "br"])
def test_arbitrary_bytes_unpack_to_no_more_than_the_limit_or_are_refused(encoding: str) -> None:
    @BOUNDED
    @given(st.binary(max_size=2000))
    def check(body: bytes) -> None:
        unpacked(body, encoding)

    check()


@pytest.mark.parametrize("encoding", PACKED)
def test_changed_packages_are_refused_or_unpack_within_the_limit(encoding: str) -> None:
    @BOUNDED
    @given(mutated(PACKED[encoding]))
    def check(body: bytes) -> None:
        unpacked(body, encoding)

    check()


@pytest.mark.parametrize("encoding", PACKED)
def test_a_package_cut_anywhere_is_refused(encoding: str) -> None:
    whole = {"gzip": gzip.compress(LINES, mtime=0), "deflate": zlib.compress(LINES), "zstd": zstd.compress(LINES)}[
        encoding
    ]
    assert unpacked(whole, encoding) == LINES
    assert {unpacked(whole[:length], encoding) for length in range(1, len(whole))} == {None}


@BOUNDED
@given(
    st.binary(max_size=500) | mutated(LINES) | mutated(b"[" + LINES.replace(b"\n", b",") + b"]"), KINDS, st.booleans()
)
def test_arbitrary_and_changed_bodies_become_rows_or_named_refusals(body: bytes, kind: str, repeatable: bool) -> None:
    with contextlib.suppress(TorporError):
        normalised(json_records.records(body, kind), repeatable=repeatable)


@BOUNDED
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value_in_any_field_becomes_a_row_or_a_named_refusal(value: object) -> None:
    fields = ("service", "message", "level", "metadata", "trace_id", "span_id", "id", "timestamp", "other")
    lines = [
        json.dumps({"service": "s", "timestamp": "2026-01-01T00:00:00Z", field: value}).encode() for field in fields
    ]
    normalised(json_records.records(b"\n".join(lines), "application/x-ndjson"))


@BOUNDED
@given(st.text())
def test_any_text_of_an_accepted_record_stands_in_its_row_unchanged(text: str) -> None:
    line = json.dumps({"service": "s", "message": text, "metadata": {text: text}}).encode()
    (chunk,) = normalised([(1, json_records.read(line))])
    row = decode_row(chunk.data)
    assert (row.message, row.metadata) == (text, {text: text})


@BOUNDED
@given(
    st.binary(max_size=300) | mutated(EVENT.encode()) | mutated(f"[{EVENT},{EVENT}]".encode()),
    st.sampled_from([cloudevents.STRUCTURED, cloudevents.BATCHED]),
)
def test_arbitrary_and_changed_events_become_rows_or_named_refusals(body: bytes, kind: str) -> None:
    events({}, kind, body)


@BOUNDED
@given(
    st.dictionaries(
        st.sampled_from(["specversion", "id", "source", "type", "time", "subject", "data", "traceparent", ""]), TEXTS
    ),
    st.binary(max_size=99),
    KINDS,
)
def test_arbitrary_attributes_in_headers_become_rows_or_named_refusals(
    attributes: Mapping[str, str], body: bytes, kind: str
) -> None:
    good = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": "2026-01-31T12:00:00Z"}
    events({f"ce-{name}": value for name, value in {**good, **attributes}.items()}, kind, body)


def events(headers: Mapping[str, str], kind: str, body: bytes) -> None:
    """Read events and normalise them; refusals are fine."""
    with contextlib.suppress(TorporError):
        normalised(cloudevents.records(headers, kind, body), repeatable=True)
