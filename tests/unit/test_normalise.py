"""A record becomes a row, or is rejected with the field at fault and the reason."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common import identity
from functions.common.errors import TooLarge
from functions.common.event import MAX_DATA_BYTES, MAX_LOGS
from functions.common.record import COLUMNS, LEVEL_ALIASES, LEVELS, Incoming, Record, decode
from functions.common.timestamps import DAY, NANOSECONDS, iso
from functions.ingest import normalise
from functions.ingest.dialects.json_records import read
from functions.ingest.normalise import (
    MAX_ERRORS,
    MAX_METADATA,
    MAX_SERVICE_BYTES,
    MAX_TRACE_BYTES,
    Chunk,
    LineError,
    Normaliser,
    Outcome,
)
from functions.ingest.records import Rejected

NOW = 1_790_000_000 * NANOSECONDS
MAX_MESSAGE = 256 * 1024
quick = settings(deadline=None, max_examples=60)


def normaliser(**options: Any) -> Normaliser:
    given = {"tenant": "t", "batch": "b", "repeatable": False, "now": NOW, "retention": 30 * DAY}
    return Normaliser(**{**given, "max_message": MAX_MESSAGE, **options})


def run(raws: list[bytes], **options: Any) -> tuple[list[Record], Outcome]:
    outcome = Outcome()
    chunks = list(normaliser(**options).chunks(enumerate(map(read, raws), 1), outcome))
    rows = [decode(line) for chunk in chunks for line in chunk.data.split(b"\n")]
    assert sum(chunk.count for chunk in chunks) == len(rows) == outcome.accepted
    assert outcome.accepted + outcome.rejected == len(raws)
    return rows, outcome


def taken(record: bytes | dict[str, Any], **options: Any) -> Record:
    raw = record if isinstance(record, bytes) else json.dumps({"service": "s", **record}).encode()
    rows, outcome = run([raw], **options)
    assert outcome.errors == []
    return rows[0]


def refused(record: bytes | dict[str, Any], **options: Any) -> tuple[str | None, str]:
    raw = record if isinstance(record, bytes) else json.dumps({"service": "s", **record}).encode()
    rows, outcome = run([raw], **options)
    assert rows == []
    return outcome.errors[0].field, outcome.errors[0].error


def test_a_record_needs_a_service_only() -> None:
    base = identity.of_batch("t", "b")
    assert taken(b'{"service":"s"}') == Record("t", str(NOW), "s", "INFO", "", {}, "", "", base + 1)


def test_a_full_record_becomes_a_row() -> None:
    record = {
        "service": "pay",
        "message": "ünïcode ☃",
        "timestamp": iso(NOW - 1),
        "level": "error",
        "metadata": {"k": "v"},
        "trace_id": "4bf9",
        "span_id": "00f0",
        "id": "order-1",
    }
    row = Record(
        "t",
        str(NOW - 1),
        "pay",
        "ERROR",
        "ünïcode ☃",
        {"id": "order-1", "k": "v"},
        "4bf9",
        "00f0",
        identity.of_id("t", "order-1"),
    )
    assert taken(record) == row


def test_rows_are_numbered_as_their_lines() -> None:
    rows, outcome = run([b'{"service":"a"}', b"broken", b'{"service":"b"}'])
    base = identity.of_batch("t", "b")
    assert [row.dedupe for row in rows] == [base + 1, base + 3]
    assert [error.line for error in outcome.errors] == [2]


def test_rows_without_a_timestamp_share_that_of_the_request() -> None:
    rows, _ = run([b'{"service":"a"}'] * 3)
    assert {row.timestamp for row in rows} == {str(NOW)}
    assert len({row.dedupe for row in rows}) == 3


def test_a_bad_record_is_named_by_line_and_field() -> None:
    _, outcome = run([b'{"service":"a"}', b'{"message":"x"}'])
    assert outcome.errors == [LineError(2, "service", "missing")]


def test_an_answer_names_some_bad_records_and_counts_all() -> None:
    _, outcome = run([b"x"] * (MAX_ERRORS + 50))
    assert outcome.rejected == MAX_ERRORS + 50
    assert [error.line for error in outcome.errors] == list(range(1, MAX_ERRORS + 1))


@pytest.mark.parametrize("max_errors", [0, 1, MAX_ERRORS + 20])
def test_an_answer_names_as_many_bad_records_as_its_protocol_asks_for(max_errors: int) -> None:
    outcome = Outcome(max_errors=max_errors)
    assert list(normaliser().chunks([(n, Incoming()) for n in range(1, MAX_ERRORS + 51)], outcome)) == []
    assert (outcome.accepted, outcome.rejected) == (0, MAX_ERRORS + 50)
    assert [error.line for error in outcome.errors] == list(range(1, max_errors + 1))


def test_a_record_that_could_not_be_read_is_named_with_the_reason_of_its_decoder() -> None:
    outcome = Outcome()
    records: list[tuple[int, Incoming | Rejected]]
    records = [(1, Incoming("a")), (2, Rejected("body", "no text")), (5, Rejected(None, "broken")), (6, Incoming("b"))]
    (chunk,) = normaliser().chunks(records, outcome)
    assert [decode(line).service for line in chunk.data.split(b"\n")] == ["a", "b"]
    assert outcome.errors == [LineError(2, "body", "no text"), LineError(5, None, "broken")]
    assert (outcome.accepted, outcome.rejected) == (2, 2)


def test_bad_records_of_a_request_that_cannot_all_have_a_number_are_too_many_too() -> None:
    with pytest.raises(TooLarge, match="records"):
        list(normaliser().chunks([(identity.MAX_RECORDS, Rejected(None, "broken"))], Outcome()))


# Levels


@pytest.mark.parametrize("alias", sorted(LEVEL_ALIASES))
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_every_name_of_a_level_is_known_in_any_case(alias: str, case: Any) -> None:
    row = taken({"level": case(alias)})
    assert (row.level, row.metadata) == (LEVEL_ALIASES[alias], {})


@pytest.mark.parametrize(
    ("level", "kept"), [("loud", "loud"), (17, "17"), (True, "true"), (1.5, "1.5"), ({"n": 1}, '{"n": 1}'), ("", "")]
)
def test_an_unknown_level_is_kept_as_metadata(level: object, kept: str) -> None:
    row = taken({"level": level})
    assert (row.level, row.metadata) == ("INFO", {"level": kept})


# Fields


def test_nulls_count_as_absent() -> None:
    nulls = dict.fromkeys(("message", "timestamp", "level", "metadata", "trace_id", "span_id", "id", "other"))
    assert taken(nulls) == taken({})
    assert taken({"metadata": {"a": None, "b": "x"}}).metadata == {"b": "x"}
    assert refused({"service": None}) == ("service", "missing")


def test_of_a_field_given_twice_the_last_one_counts() -> None:
    row = taken(b'{"service":"a","service":"b","x":1,"x":2,"level":"info","level":"warn"}')
    assert (row.service, row.level, row.metadata) == ("b", "WARN", {"x": "2"})


def test_the_tenant_is_not_for_the_client_to_say() -> None:
    row = taken({"tenant": "other", "dedupe": 1})
    assert (row.tenant, row.metadata) == ("t", {"tenant": "other", "dedupe": "1"})


def test_an_empty_service_is_a_missing_one() -> None:
    assert refused({"service": ""}) == ("service", "missing")


# Text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "\x1b[2J\x1b]8;;",
        "a\r\nb",
        "\u202etxt.exe",
        "\ufeff",
        "${jndi:ldap://x}",
        "'; DROP TABLE logs; --",
        '"\\"',
        "👩‍👩‍👧",
        "\uffff",
        "\U0010ffff",
        "\u2028",
    ],
)
def test_text_is_stored_as_it_was_sent(text: str) -> None:
    row = taken({"message": text, "metadata": {text: text}, "id": text, "timestamp": NOW, "other": text})
    assert row.message == row.metadata[text] == row.metadata["other"] == text


# Limits


def test_a_message_may_have_the_limit_in_bytes_and_no_byte_more() -> None:
    assert len(taken({"message": "x" * MAX_MESSAGE}).message) == MAX_MESSAGE
    assert taken({"message": "é" * (MAX_MESSAGE // 2)}).message == "é" * (MAX_MESSAGE // 2)
    assert refused({"message": "x" * (MAX_MESSAGE + 1)}) == ("message", "262145 bytes; the limit is 262144")
    assert refused({"message": "é" * (MAX_MESSAGE // 2) + "x"}) == ("message", "262145 bytes; the limit is 262144")
    assert refused({"message": "👾" * (MAX_MESSAGE // 4 + 1)})[0] == "message"


@pytest.mark.parametrize(
    ("field", "limit"), [("service", MAX_SERVICE_BYTES), ("trace_id", MAX_TRACE_BYTES), ("span_id", MAX_TRACE_BYTES)]
)
def test_names_have_limits_in_bytes(field: str, limit: int) -> None:
    full = "é" * (limit // 2) + "x" * (limit % 2)
    assert getattr(taken({field: full}), field) == full
    assert refused({field: full + "x"}) == (field, f"{limit + 1} bytes; the limit is {limit}")


def test_metadata_has_a_limit_of_entries() -> None:
    entries = {str(number): "" for number in range(MAX_METADATA)}
    assert len(taken({"metadata": entries}).metadata) == MAX_METADATA
    assert refused({"metadata": entries, "one": "more"}) == ("metadata", "1001 entries; the limit is 1000")


def test_a_record_larger_than_an_event_is_refused() -> None:
    field, error = refused({"metadata": {"k": "x" * MAX_DATA_BYTES}})
    assert field is None
    assert error.endswith("bytes as JSON; the limit is 1000000")


def test_a_message_that_grows_as_json_may_be_too_large_for_an_event() -> None:
    assert refused({"message": "\0" * MAX_MESSAGE})[0] is None


def test_a_request_has_no_more_records_than_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_RECORDS", 4)
    assert len(run([b'{"service":"s"}'] * 3)[0]) == 3
    with pytest.raises(TooLarge, match="more than 3 records"):
        run([b'{"service":"s"}'] * 4)


# Time


@pytest.mark.parametrize("value", [iso(NOW - DAY), (NOW - DAY) // NANOSECONDS, NOW - DAY, (NOW - DAY) / 1e9])
def test_a_timestamp_has_many_forms(value: str | float) -> None:
    assert taken({"timestamp": value}).timestamp == str(NOW - DAY)


def test_a_timestamp_is_nineteen_digits() -> None:
    row = taken({"timestamp": 999_999_999}, retention=100_000 * DAY)
    assert row.timestamp == "0999999999000000000"


def test_a_timestamp_may_be_as_old_as_logs_are_kept_and_a_day_ahead() -> None:
    assert taken({"timestamp": NOW - 30 * DAY}).timestamp == str(NOW - 30 * DAY)
    assert taken({"timestamp": NOW + DAY}).timestamp == str(NOW + DAY)
    too_old = ("timestamp", "older than the 30 days that logs are kept")
    assert refused({"timestamp": NOW - 30 * DAY - 1}) == too_old
    assert refused({"timestamp": NOW + DAY + 1}) == ("timestamp", "more than a day ahead")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'""', "is not a time"),
        (b'"yesterday"', "is not a time"),
        (b"0", "is not a time"),
        (b"-1", "is not a time"),
        (b"1e30", "is not a time"),
        (b"100000000000000000000", "is not a time"),
        (b"1e400", "neither text nor a number"),
        (b"9" * 5000, "neither text nor a number"),
        (b"true", "neither text nor a number"),
        (b"[1]", "neither text nor a number"),
        (b"{}", "neither text nor a number"),
        (b'"9999-12-31T23:59:59Z"', "more than a day ahead"),
        (b'"10000-01-01T00:00:00Z"', "is not a time"),
        (b'"2026-02-30T00:00:00Z"', "is not a time"),
        (b'"2026-01-31T00:00:00+99:99"', "no such time zone"),
    ],
)
def test_a_timestamp_that_is_none_is_refused(raw: bytes, reason: str) -> None:
    field, error = refused(b'{"service":"s","timestamp":' + raw + b"}")
    assert field == "timestamp"
    assert reason in error
    assert len(error) < 200


def test_a_record_with_an_id_must_bring_its_timestamp() -> None:
    field, error = refused({"id": "1"})
    assert field == "timestamp"
    assert error.startswith("missing: a record with an id")


def test_a_record_of_a_repeatable_request_must_bring_its_timestamp() -> None:
    assert refused({}, repeatable=True)[0] == "timestamp"
    assert taken({"timestamp": NOW}, repeatable=True).timestamp == str(NOW)


# Identity


def test_an_id_makes_the_record_the_same_in_any_request() -> None:
    record = {"id": "order-1", "timestamp": NOW}
    one, other = taken(record, batch="one"), taken(record, batch="other")
    assert one == other
    assert one.metadata == {"id": "order-1"}
    assert taken(record, tenant="other").dedupe != one.dedupe


@pytest.mark.parametrize(("value", "kept"), [(5, "5"), (1.5, "1.5"), ({"a": 1}, '{"a": 1}')])
def test_an_id_that_is_not_text_is_its_json_text(value: object, kept: str) -> None:
    row = taken({"id": value, "timestamp": NOW})
    assert (row.metadata, row.dedupe) == ({"id": kept}, identity.of_id("t", kept))


def test_the_same_request_makes_the_same_rows() -> None:
    raws = [b'{"service":"a","timestamp":1790000000}', b'{"service":"b","timestamp":1790000000}']
    assert run(raws) == run(raws, now=NOW + 5)
    assert {row.dedupe for row in run(raws)[0]}.isdisjoint(row.dedupe for row in run(raws, batch="other")[0])


# Properties

names = st.text(min_size=1, max_size=20)
json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@quick
@given(
    service=names,
    message=st.text(max_size=200),
    timestamp=st.integers(NOW - 30 * DAY, NOW + DAY),
    level=st.sampled_from(LEVELS),
    metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=5),
    trace_id=st.text(max_size=32),
    extra=st.dictionaries(names.filter(lambda name: name not in (*COLUMNS, "id")), json_values, max_size=3),
    ascii_only=st.booleans(),
)
def test_what_is_taken_reads_back_with_equal_fields(
    service: str,
    message: str,
    timestamp: int,
    level: str,
    metadata: dict[str, str],
    trace_id: str,
    extra: dict[str, Any],
    ascii_only: bool,
) -> None:
    record = {"service": service, "message": message, "timestamp": iso(timestamp), "level": level}
    sent = {**record, "metadata": metadata, "trace_id": trace_id, **extra}
    row = taken(json.dumps(sent, ensure_ascii=ascii_only).encode())
    assert (row.service, row.message, row.level, row.trace_id) == (service, message, level, trace_id)
    assert row.timestamp == f"{timestamp:019d}"
    assert metadata.items() <= row.metadata.items()
    assert row.metadata.keys() == metadata.keys() | extra.keys()
    for name in extra.keys() - metadata.keys():  # of two with one name, the one in metadata counts
        text = row.metadata[name]
        assert extra[name] == (text if isinstance(extra[name], str) else json.loads(text))


@quick
@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda noise: b'{"service":"s","x":' + noise + b"}"))
def test_noise_is_taken_or_rejected_and_never_an_unknown_error(noise: bytes) -> None:
    rows, outcome = run([noise])
    assert len(rows) + outcome.rejected == 1


@quick
@given(st.lists(st.sampled_from([0, 1, 40, 90, 200]), max_size=60), st.integers(250, 600), st.integers(1, 9))
def test_chunks_keep_order_and_bounds(sizes: list[int], max_bytes: int, max_logs: int) -> None:
    outcome = Outcome()
    raws = [json.dumps({"service": "s", "message": "x" * size}).encode() for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalise, "MAX_DATA_BYTES", max_bytes)
        patch.setattr(normalise, "MAX_LOGS", max_logs)
        given = list(normaliser().chunks(enumerate(map(read, raws), 1), outcome))
    chunks = [chunk for chunk in given if chunk.count]  # the others only give the caller its turn
    assert all(not chunk.data for chunk in given if not chunk.count)
    assert all(0 < len(chunk.data) <= max_bytes and 0 < chunk.count <= max_logs for chunk in chunks)
    rows = [decode(line) for chunk in chunks for line in chunk.data.split(b"\n")]
    assert [row.dedupe for row in rows] == sorted(row.dedupe for row in rows)
    assert outcome.accepted == len(rows) == sum(chunk.count for chunk in chunks)
    rejected = {error.line for error in outcome.errors}
    assert [len(row.message) for row in rows] == [size for line, size in enumerate(sizes, 1) if line not in rejected]
    for chunk, following in itertools.pairwise(chunks):  # none ends early
        first = following.data.split(b"\n")[0]
        assert chunk.count == max_logs or len(chunk.data) + 1 + len(first) > max_bytes


def test_the_real_bounds_of_a_chunk_are_those_of_an_event() -> None:
    outcome = Outcome()
    chunks = list(normaliser().chunks(((n, Incoming("s")) for n in range(1, MAX_LOGS + 2)), outcome))
    assert sum(chunk.count for chunk in chunks) == MAX_LOGS + 1
    assert 0.99 * MAX_DATA_BYTES < len(chunks[0].data) <= MAX_DATA_BYTES
    assert chunks[0].count < MAX_LOGS


def test_among_bad_records_the_caller_gets_its_turn() -> None:
    outcome = Outcome()
    chunks = list(normaliser().chunks(((n, Incoming()) for n in range(1, 2 * MAX_LOGS + 1)), outcome))
    assert [chunk.count for chunk in chunks] == [0, 0]
    assert outcome.rejected == 2 * MAX_LOGS


def test_no_records_make_no_chunk() -> None:
    outcome = Outcome()
    assert list(normaliser().chunks([], outcome)) == []
    assert (outcome.accepted, outcome.rejected) == (0, 0)


def test_a_chunk_is_read_by_clickhouse_as_one_row_a_line() -> None:
    records = [(1, read(b'{"service":"a\\n"}')), (2, read(b'{\n"service"\n:\n"b"}'))]
    chunks = list(normaliser().chunks(records, Outcome()))
    assert [chunk.count for chunk in chunks] == [2]
    assert chunks == [Chunk(chunks[0].data, 2)]
    assert [msgspec.json.decode(line)["service"] for line in chunks[0].data.split(b"\n")] == ["a\n", "b"]
