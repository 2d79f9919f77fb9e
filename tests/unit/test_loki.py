"""Loki's push API: streams as JSON and protobuf become records, and clients are answered as Loki answers them."""

import contextlib
import dataclasses
import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import cramjam
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from functions.common import identity, timestamps
from functions.common.errors import BadRequest, KafkaUnavailable, Overloaded, TooLarge, TorporError
from functions.common.errors import UnsupportedMediaType as Unsupported
from functions.common.host import Host
from functions.common.identity import MAX_RECORDS
from functions.common.record import Incoming, Record, decode
from functions.ingest.decode import inflate
from functions.ingest.dialects import loki_fields
from functions.ingest.dialects.loki import Loki
from functions.ingest.dialects.loki_fields import NoStreams
from functions.ingest.dialects.loki_protobuf import parse_labels
from functions.ingest.function import Ingest
from functions.ingest.intake import Config
from functions.ingest.normalise import MAX_METADATA, LineError, Normaliser, Outcome
from functions.ingest.proto.loki_pb2 import PushRequest
from functions.ingest.records import Rejected
from tests.support.memory import MemoryPublisher

PATH = "/loki/api/v1/push"
JSON, PROTOBUF = "application/json", "application/x-protobuf"
NOW = timestamps.now()
thorough = settings(max_examples=1000, deadline=None)

Entry = tuple[int, str, dict[str, str]]
Streams = list[tuple[dict[str, str], list[Entry]]]


def request(content_type: str = "") -> Loki:
    headers = [(b"content-type", content_type.encode())] if content_type else []
    return Loki(Request({"type": "http", "headers": headers}))


def as_json(streams: Streams) -> bytes:
    return json.dumps(
        {
            "streams": [
                {"stream": labels, "values": [[str(time), line, more] for time, line, more in entries]}
                for labels, entries in streams
            ]
        }
    ).encode()


def notation(labels: dict[str, str]) -> str:
    """Labels as Go writes them with %q, near enough."""
    pairs = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items())
    return "{" + ", ".join(pairs) + "}"


def as_protobuf(streams: Streams) -> bytes:
    push = PushRequest()
    for labels, entries in streams:
        stream = push.streams.add(labels=notation(labels).encode())
        for time, line, more in entries:
            entry = stream.entries.add(line=line.encode())
            entry.timestamp.seconds, entry.timestamp.nanos = divmod(time, timestamps.NANOSECONDS)
            for name, value in more.items():
                entry.structured_metadata.add(name=name.encode(), value=value.encode())
    return push.SerializeToString()


ENCODERS: dict[str, Callable[[Streams], bytes]] = {JSON: as_json, PROTOBUF: as_protobuf}
both = pytest.mark.parametrize("kind", [JSON, PROTOBUF])


def read(kind: str, body: bytes) -> list[tuple[int, Incoming | Rejected]]:
    return list(request(kind).records(body))


def one(kind: str, labels: dict[str, str], more: dict[str, str] | None = None) -> Incoming:
    """The record of one entry."""
    ((number, record),) = read(kind, ENCODERS[kind]([(labels, [(NOW, "line", more or {})])]))
    assert number == 1
    assert isinstance(record, Incoming)
    return record


def values(*entries: object, stream: object = None) -> bytes:
    """A JSON request of one stream with these values."""
    return json.dumps({"streams": [{"stream": stream or {"app": "a"}, "values": entries}]}).encode()


def rejection(body: bytes, kind: str = JSON) -> tuple[str | None, str]:
    """Why the one entry of a request is rejected."""
    ((_, record),) = read(kind, body)
    assert isinstance(record, Rejected)
    return record.field, str(record)


def stored(kind: str, body: bytes) -> tuple[list[Record], Outcome]:
    """The rows that a request becomes, and what was rejected."""
    outcome = Outcome("batch", max_errors=10**6)
    normaliser = Normaliser("t", "batch", False, NOW, 30 * timestamps.DAY, 262_144)
    chunks = list(normaliser.chunks(request(kind).records(body), outcome))
    return [decode(line) for chunk in chunks for line in chunk.data.split(b"\n") if line], outcome


# Entries


@both
def test_timestamp_line_and_labels_of_an_entry_make_a_record(kind: str) -> None:
    body = ENCODERS[kind](
        [({"app": "shop", "host": "n1"}, [(1_700_000_000_123_456_789, "déjà\nvu \x00", {"pod": "p"})])]
    )
    assert read(kind, body) == [
        (1, Incoming("shop", "déjà\nvu \x00", 1_700_000_000_123_456_789, "INFO", {"host": "n1", "pod": "p"}))
    ]


@both
def test_entries_are_counted_through_all_streams(kind: str) -> None:
    streams: Streams = [({"app": str(n)}, [(NOW, f"{n}.{m}", {}) for m in range(n)]) for n in (2, 0, 3)]
    told = [
        (number, record.message)
        for number, record in read(kind, ENCODERS[kind](streams))
        if isinstance(record, Incoming)
    ]
    assert told == [(1, "2.0"), (2, "2.1"), (3, "3.0"), (4, "3.1"), (5, "3.2")]


def test_a_request_without_a_content_type_is_json() -> None:
    assert len(read("", values([str(NOW), "x"]))) == 1
    assert len(read("application/json; charset=utf-8", values([str(NOW), "x"]))) == 1


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/protobuf", "application/x-ndjson", "application/x-protobuff"]
)
def test_another_content_type_is_not_supported(kind: str) -> None:
    with pytest.raises(Unsupported, match=kind):
        read(kind, values([str(NOW), "x"]))


def test_protobuf_comes_packed_with_snappy_and_json_as_it_is() -> None:
    assert request(PROTOBUF).encoding == request("Application/X-Protobuf; a=b").encoding == "snappy"
    assert request(JSON).encoding == request().encoding == ""


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"[]",
            b"null",
            b'{"streams":{}}',
            b'{"streams":[1]}',
            b'{"streams":[',
            b'{"streams":[]}x',
            b"[" * 100_000,
        ),
        *(b'{"streams":[{}]}', b'{"streams":[{"stream":{}}]}', b'{"streams":[{"stream":{},"values":{}}]}'),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_json_that_is_no_push_request_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not a push request in JSON"):
        read(JSON, body)


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05", as_json([({"a": "b"}, [])])])
def test_protobuf_that_does_not_parse_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not a push request in protobuf"):
        read(PROTOBUF, body)


@pytest.mark.parametrize(
    ("kind", "body"), [(JSON, b"{}"), (JSON, b'{"streams":null}'), (JSON, b'{"x":1}'), (PROTOBUF, b"")]
)
def test_a_request_without_streams_is_refused_as_loki_refuses_it(kind: str, body: bytes) -> None:
    with pytest.raises(NoStreams) as caught:
        read(kind, body)
    assert request().problem(caught.value).status_code == 422


@both
def test_streams_without_entries_hold_nothing(kind: str) -> None:
    assert read(kind, ENCODERS[kind]([({"app": "a"}, [])])) == []
    assert read(JSON, b'{"streams":[{"stream":{},"values":null}]}') == []


# Bad entries


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ([], None),
        ([str(NOW)], None),
        ([str(NOW), "x", {}, 1], None),
        ({"ts": "1", "line": "x"}, None),
        ("x", None),
        (None, None),
        ([NOW, "x"], "timestamp"),
        ([None, "x"], "timestamp"),
        (["2026-01-31T12:00:00Z", "x"], "timestamp"),
        (["", "x"], "timestamp"),
        (["-1", "x"], "timestamp"),
        ([" " + str(NOW), "x"], "timestamp"),
        (["١٧٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠", "x"], "timestamp"),
        (["9" * 5000, "x"], "timestamp"),
        ([str(NOW // 1_000_000_000), "x"], "timestamp"),
        ([str(NOW // 1000), "x"], "timestamp"),
        (["0000000000000000001", "x"], "timestamp"),
        ([str(NOW), 5], "message"),
        ([str(NOW), None], "message"),
        ([str(NOW), {"a": "b"}], "message"),
        ([str(NOW), "x", "trace"], "metadata"),
        ([str(NOW), "x", ["a"]], "metadata"),
    ],
)
def test_a_json_value_of_another_shape_is_rejected_and_the_others_are_not(entry: object, field: str | None) -> None:
    good = [str(NOW), "good"]
    records = read(JSON, values(good, entry, good))
    assert [number for number, record in records if isinstance(record, Rejected)] == [2]
    bad = records[1][1]
    assert isinstance(bad, Rejected)
    assert bad.field == field
    assert str(bad)


@pytest.mark.parametrize(
    ("kind", "entry", "field"),
    [
        (PROTOBUF, (NOW, "bad", {}), "message"),
        (PROTOBUF, (NOW, "x", {"bad": "y"}), "metadata"),
        (PROTOBUF, (NOW, "x", {"y": "bad"}), "metadata"),
        (JSON, (NOW, "bad", {}), None),  # its decoder does not say where
        (JSON, (NOW, "x", {"bad": "y"}), "metadata"),
        (JSON, (NOW, "x", {"y": "bad"}), "metadata"),
    ],
)
def test_text_that_is_not_utf8_rejects_its_entry_and_no_other(kind: str, entry: Entry, field: str | None) -> None:
    good: Entry = (NOW, "good", {"a": "é"})
    body = ENCODERS[kind]([({"app": "a"}, [good, entry, good])]).replace(b"bad", b"b\xe4d")
    rows, outcome = stored(kind, body)
    assert [row.message for row in rows] == ["good", "good"]
    (error,) = outcome.errors
    assert (error.line, error.field) == (2, field)
    assert "utf-8" in error.error.lower()


def test_labels_that_are_not_utf8_reject_each_entry_of_their_stream_in_json() -> None:
    body = values([str(NOW), "x"], [str(NOW), "y"], stream={"app": "bad"}).replace(b"bad", b"b\xe4d")
    assert [getattr(record, "field", "") for _, record in read(JSON, body)] == ["labels", "labels"]


def test_structured_metadata_that_is_not_text_becomes_its_json_text() -> None:
    ((_, record),) = read(JSON, values([str(NOW), "x", {"n": 1.50, "deep": {"a": [1]}, "no": None, "t": "é"}]))
    assert isinstance(record, Incoming)
    assert record.metadata == {"n": "1.5", "deep": '{"a": [1]}', "t": "é"}
    assert isinstance(read(JSON, values([str(NOW), "x", None]))[0][1], Incoming)


def test_labels_that_are_not_text_become_their_json_text() -> None:
    ((_, record),) = read(JSON, values([str(NOW), "x"], stream={"app": "a", "code": 200, "no": None}))
    assert isinstance(record, Incoming)
    assert (record.service, record.metadata) == ("a", {"code": "200"})


@pytest.mark.parametrize("stream", ["text", [1], 5])
def test_labels_that_are_no_object_reject_each_entry_of_their_stream(stream: object) -> None:
    body = {"streams": [{"stream": s, "values": [[str(NOW), "x"]] * 2} for s in ({"app": "a"}, stream, {"app": "b"})]}
    records = read(JSON, json.dumps(body).encode())
    assert [(number, record.field) for number, record in records if isinstance(record, Rejected)] == [
        (3, "labels"),
        (4, "labels"),
    ]
    assert [number for number, _ in records] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(0, 0), (-5, 0), (NOW // 10**9, -1), (NOW // 10**9, 10**9), (99_999_999, 999_999_999)]
)
def test_a_protobuf_entry_without_a_usable_timestamp_is_rejected(seconds: int, nanos: int) -> None:
    push = PushRequest()
    entry = push.streams.add(labels=b'{app="a"}').entries.add(line=b"x")
    entry.timestamp.seconds, entry.timestamp.nanos = seconds, nanos
    assert rejection(push.SerializeToString(), PROTOBUF)[0] == "timestamp"


def test_a_timestamp_beyond_every_clock_is_rejected_later_on() -> None:
    push = PushRequest()
    push.streams.add(labels=b'{app="a"}').entries.add(line=b"x").timestamp.seconds = 2**62
    rows, outcome = stored(PROTOBUF, push.SerializeToString())
    assert (rows, outcome.errors[0].field) == ([], "timestamp")


def test_structured_metadata_in_protobuf_that_names_something_twice_is_rejected() -> None:
    push = PushRequest()
    entry = push.streams.add(labels=b'{app="a"}').entries.add()
    entry.timestamp.FromNanoseconds(NOW)
    for value in (b"x", b"y"):
        entry.structured_metadata.add(name=b"a", value=value)
    assert rejection(push.SerializeToString(), PROTOBUF) == ("metadata", "a name occurs twice")


@pytest.mark.parametrize("bad", [b"{app=a}", b'{app="\xe4"}', b'{\xe4="a"}', b'{app="a"}\xff'])
def test_labels_that_cannot_be_parsed_reject_each_entry_of_their_stream(bad: bytes) -> None:
    push = PushRequest()
    for labels in (b'{app="a"}', bad, b'{app="b"}'):
        stream = push.streams.add(labels=labels)
        for _ in range(2):
            stream.entries.add(line=b"x").timestamp.FromNanoseconds(NOW)
    rows, outcome = stored(PROTOBUF, push.SerializeToString())
    assert [row.service for row in rows] == ["a", "a", "b", "b"]
    assert [(error.line, error.field) for error in outcome.errors] == [(3, "labels"), (4, "labels")]


@both
def test_more_labels_than_a_record_may_hold_reject_each_entry(kind: str) -> None:
    streams: Streams = [({f"l{n}": "v" for n in range(MAX_METADATA + 1)}, [(NOW, "x", {"a": "b"})])]
    assert rejection(ENCODERS[kind](streams), kind)[0] == "labels"


@both
def test_a_small_request_that_would_grow_without_bounds_is_too_large(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: Streams = [({"a": "v" * 1000}, [(NOW, "", {})] * 10)]
    assert len(read(kind, ENCODERS[kind](streams))) == 10
    monkeypatch.setattr(loki_fields, "MAX_LABEL_BYTES", 10_000)
    with pytest.raises(TooLarge, match="10000 bytes"):
        read(kind, ENCODERS[kind](streams))


@both
def test_more_streams_than_a_request_may_hold_records_are_too_large(kind: str) -> None:
    streams = b"".join([b'{"stream":{},"values":[]},'] * MAX_RECORDS)[:-1]
    body = b'{"streams":[' + streams + b"]}" if kind == JSON else b"\n\0" * MAX_RECORDS
    with pytest.raises(TooLarge, match=r"1048575 (streams|records)"):
        read(kind, body)


# Labels in Loki's notation


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("{}", {}),
        ('{a="b"}', {"a": "b"}),
        ('{a="b", c="d\\"e"}', {"a": "b", "c": 'd"e'}),
        (' { a = "b" ,\tc="d", } ', {"a": "b", "c": "d"}),
        ('{a="b,c=\\"d\\"}"}', {"a": 'b,c="d"}'}),
        ('{a=""}', {"a": ""}),
        ('{a=`b\\n"\r\n`}', {"a": 'b\\n"\n'}),
        (r'{a="\a\b\f\n\r\t\v\\\""}', {"a": '\a\b\f\n\r\t\v\\"'}),
        (r'{a="\x41\101é\u00e9\U0001F600"}', {"a": "AAéé😀"}),
        (r'{a="\xc3\xa9\303\251"}', {"a": "éé"}),
        ('{"service.name"="a", _b1="c"}', {"service.name": "a", "_b1": "c"}),
    ],
)
def test_labels_are_read_in_lokis_notation(text: str, labels: dict[str, str]) -> None:
    assert parse_labels(text) == labels


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "}", "{,}", "a", "{a}", "{a=b}", "{a='b'}", "{a=`b}", '{="b"}', '{a!="b"}', '{a=~"b"}', '{é="b"}'),
        *('{a="b"', '{a="b"}x', '{a="b"} {c="d"}', '{1a="b"}', '{a.b="c"}', '{a="b" c="d"}', '{a="b",,c="d"}'),
        *(
            '{a="b\nc"}',
            '{a="\\"}',
            r'{a="\q"}',
            r'{a="\8"}',
            r'{a="\x4"}',
            r'{a="\u12"}',
            r'{a="\777"}',
            r'{a="\xff"}',
        ),
        *(r'{a="\ud800"}', r'{a="\U00110000"}', r'{a="\UFFFFFFFF"}', r'{"\q"="b"}', '{a="1", a="1"}'),
        *('{a="' + "x" * 100_000, "{" + 'a="b' * 100_000, "{" + 'a="b",' * 2),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_labels_in_another_notation_are_rejected(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_labels(text)
    assert caught.value.field == "labels"
    assert len(str(caught.value)) < 200


# Columns


@both
@pytest.mark.parametrize(
    "name",
    [
        *("service_name", "service", "app", "application", "app_name", "name", "app_kubernetes_io_name", "container"),
        *("container_name", "k8s_container_name", "component", "workload", "job", "k8s_job_name"),
    ],
)
def test_a_label_that_names_the_service_goes_to_its_column(kind: str, name: str) -> None:
    record = one(kind, {name: "shop", "host": "n1"})
    assert (record.service, record.metadata) == ("shop", {"host": "n1"})


@both
def test_the_first_label_in_lokis_order_names_the_service_and_the_others_are_kept(kind: str) -> None:
    record = one(kind, {"job": "j", "container": "c", "service_name": "", "app": "a"}, {"service_name": "s"})
    assert record.service == "a"
    assert record.metadata == {"job": "j", "container": "c", "label.service_name": "", "service_name": "s"}


@both
@pytest.mark.parametrize("name", ["service_name", "service.name"])
def test_structured_metadata_names_the_service_if_no_label_does(kind: str, name: str) -> None:
    record = one(kind, {"host": "n1"}, {name: "shop"})
    assert (record.service, record.metadata) == ("shop", {"host": "n1"})


@both
def test_a_log_that_nothing_names_a_service_for_has_an_unknown_one(kind: str) -> None:
    assert one(kind, {"host": "n1"}).service == "unknown_service"
    assert one(kind, {}).metadata == {}


@both
@pytest.mark.parametrize("name", ["level", "detected_level", "severity", "severity_text", "lvl"])
def test_a_level_goes_to_its_column_from_structured_metadata_first(kind: str, name: str) -> None:
    assert one(kind, {"app": "a", name: "Error"}).level == "ERROR"
    record = one(kind, {"app": "a", "level": "debug"}, {name: "FATAL"})
    assert record.level == "FATAL"
    assert record.metadata == {"label.level" if name == "level" else "level": "debug"}


@both
def test_a_level_in_another_word_is_kept_beside_its_column(kind: str) -> None:
    record = one(kind, {"app": "a", "level": "alert"})
    assert (record.level, record.metadata) == ("FATAL", {"level": "alert"})


@both
def test_an_unknown_level_is_passed_over_and_kept(kind: str) -> None:
    record = one(kind, {"app": "a", "severity": "warn"}, {"detected_level": "unknown"})
    assert (record.level, record.metadata) == ("WARN", {"detected_level": "unknown"})
    assert one(kind, {"app": "a", "lvl": "odd"}).level == "INFO"


@both
@pytest.mark.parametrize("names", [("trace_id", "span_id"), ("traceID", "spanID"), ("traceid", "spanid")])
def test_trace_and_span_go_to_their_columns_from_structured_metadata_first(kind: str, names: tuple[str, str]) -> None:
    trace, span = names
    record = one(kind, {"app": "a", trace: "t1", span: "s1"})
    assert (record.trace_id, record.span_id, record.metadata) == ("t1", "s1", {})
    record = one(kind, {"app": "a", trace: "t1", span: "s1"}, {trace: "t2", span: "s2"})
    assert (record.trace_id, record.span_id) == ("t2", "s2")
    assert record.metadata == {f"label.{trace}": "t1", f"label.{span}": "s1"}


@both
def test_structured_metadata_wins_over_a_label_of_its_name_which_is_kept(kind: str) -> None:
    record = one(kind, {"pod": "p1", "same": "x", "job": "j"}, {"pod": "p2", "same": "x", "label.pod": "p3"})
    assert record.metadata == {"pod": "p2", "same": "x", "label.pod": "p3", "label.label.pod": "p1"}


@both
def test_entries_of_a_stream_keep_their_structured_metadata_apart(kind: str) -> None:
    body = ENCODERS[kind]([({"app": "a"}, [(NOW, "", {"n": "1"}), (NOW, "", {}), (NOW, "", {"m": "2"})])])
    metadata = [record.metadata for _, record in read(kind, body) if isinstance(record, Incoming)]
    assert metadata == [{"n": "1"}, {}, {"m": "2"}]


# Answers


def text(answer: Response | httpx.Response) -> str:
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    body = answer.content.decode() if isinstance(answer, httpx.Response) else bytes(answer.body).decode()
    assert body.endswith("\n")
    return body[:-1]


def test_the_answer_names_how_many_entries_were_rejected_and_the_first_of_them() -> None:
    errors = [LineError(3, "timestamp", "too old"), LineError(9, None, "odd")]
    answer = request().answer(Outcome("b", 8, 2, errors))
    assert answer.status_code == 400
    assert text(answer) == "2 of 10 entries rejected: entry 3: timestamp: too old; entry 9: odd"


def test_a_long_answer_is_one_line_that_says_that_it_leaves_some_out() -> None:
    _, outcome = stored(JSON, values(*[[str(NOW), n] for n in range(100)]))
    outcome.errors = outcome.errors[: request().max_errors]
    told = text(request().answer(outcome))
    assert told.startswith("100 of 100 entries rejected: entry 1: message: ")
    assert told.endswith("; ...")
    assert "\n" not in told
    assert len(told) < 1024


@pytest.mark.parametrize(
    ("error", "status", "after"),
    [
        (BadRequest("no"), 400, None),
        (Unsupported("no"), 415, None),
        (TooLarge("no"), 413, None),
        (KafkaUnavailable("no"), 503, "2"),
        (Overloaded("no"), 429, "1"),
    ],
)
def test_a_problem_is_told_as_text_with_a_status_that_says_whether_to_send_again(
    error: TorporError, status: int, after: str | None
) -> None:
    answer = request().problem(error)
    assert (answer.status_code, answer.headers.get("retry-after"), text(answer)) == (status, after, "no")


def test_an_unexpected_fault_is_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = request().problem(RuntimeError("password=hunter2"))
    assert answer.status_code == 500
    assert "hunter2" not in text(answer)
    assert "hunter2" in caplog.text


# Snappy


def pack(body: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(body))


def test_a_body_packed_with_snappy_is_unpacked_up_to_the_limit() -> None:
    body = b"hello " * 1000
    assert inflate(pack(body), "snappy", len(body)) == body
    assert inflate(pack(b""), " Snappy ", 0) == b""
    with pytest.raises(TooLarge, match=str(len(body) - 1)):
        inflate(pack(body), "snappy", len(body) - 1)


def test_a_snappy_header_that_claims_gigabytes_is_refused_before_anything_is_unpacked() -> None:
    with pytest.raises(TooLarge):
        inflate(b"\xff\xff\xff\xff\x0f", "snappy", 1000)


def test_broken_snappy_is_a_bad_request() -> None:
    packed = pack(b"hello " * 100)
    framed = bytes(cramjam.snappy.compress(b"hello"))
    for body in [packed[:end] for end in range(len(packed))] + [packed + b"more", b"\xff" * 10, framed]:
        with pytest.raises(BadRequest, match="snappy"):
            inflate(body, "snappy", 10**6)


@given(st.binary(max_size=50))
def test_noise_in_place_of_snappy_is_refused_or_unpacked(noise: bytes) -> None:
    with contextlib.suppress(BadRequest, TooLarge):
        assert len(inflate(noise, "snappy", 1000)) <= 1000


# Properties

short = st.text(max_size=4)
name = st.sampled_from(
    ["app", "job", "service_name", "level", "severity", "trace_id", "traceID", "span_id", "pod", "host", "id"]
)
texts = st.dictionaries(name, short | st.sampled_from(["error", "Warning", "odd"]), max_size=3)
when = st.integers(NOW - timestamps.DAY, NOW)
good_streams = st.lists(st.tuples(texts, st.lists(st.tuples(when, short, texts), max_size=2)), min_size=1, max_size=2)


@st.composite
def bodies(draw: st.DrawFn, kind: str) -> bytes:
    """Noise, and good requests with a part of them cut out or replaced."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=60))
    body = ENCODERS[kind](draw(good_streams))
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(body)))
        end = start + draw(st.integers(0, 3))
        tokens = (b'"', b"\\", b"{", b"]", b"null", b"\xff", b"1e999", b"\\ud800", b"\x00", b"\x12\x00")
        body = body[:start] + draw(st.sampled_from(tokens) | st.binary(max_size=3)) + body[end:]
    return body


@both
def test_whatever_comes_no_unknown_error_escapes(kind: str) -> None:
    @thorough
    @given(bodies(kind))
    def holds(body: bytes) -> None:
        try:
            rows, outcome = stored(kind, body)
        except TorporError:
            return
        assert len(rows) == outcome.accepted
        assert len(outcome.errors) == outcome.rejected

    holds()


def kept(row: Record, name: str, value: str) -> bool:
    """Whether a label or structured metadata lies in the row: as metadata, or unchanged in a column."""
    columns = (row.service, row.trace_id, row.span_id)
    named = [held for key, held in row.metadata.items() if key.split("label.")[-1] == name]
    return value in named or value in columns or value.upper() == row.level


@both
def test_a_good_request_is_stored_unchanged(kind: str) -> None:
    @thorough
    @given(good_streams)
    def holds(streams: Streams) -> None:
        rows, outcome = stored(kind, ENCODERS[kind](streams))
        entries = [(labels, entry) for labels, entries in streams for entry in entries]
        assert (outcome.accepted, outcome.rejected) == (len(entries), 0), outcome.errors
        for number, (row, (labels, (time, line, more))) in enumerate(zip(rows, entries, strict=True), 1):
            assert (int(row.timestamp), row.message) == (time, line)
            assert row.dedupe == identity.of_batch("t", "batch") + number
            assert all(kept(row, *pair) for pair in (*labels.items(), *more.items()))

    holds()


def spoiled_json(flags: list[list[int]]) -> bytes:
    bad: list[Any] = [[str(NOW)], [NOW, "x"], ["soon", "x"], [str(NOW), 1], {}, [str(NOW), "x", 5], ["1700000000", "x"]]
    good = [str(NOW), "x"]
    streams = [{"stream": {"a": "b"}, "values": [bad[f - 1] if f else good for f in stream]} for stream in flags]
    return json.dumps({"streams": streams}).encode()


def spoiled_protobuf(flags: list[list[int]]) -> bytes:
    push = PushRequest()
    bad = [(0, 0), (-1, 0), (1, 1), (NOW // 10**9, -1), (NOW // 10**9, 10**9), (2**60, 0)]
    for stream in flags:
        entries = push.streams.add(labels=b'{a="b"}').entries
        for flag in stream:
            time = entries.add(line=b"\xff" if flag == 7 else b"x").timestamp
            time.seconds, time.nanos = bad[flag - 1] if 0 < flag < 7 else divmod(NOW, 10**9)
    return push.SerializeToString()


@both
def test_a_mixed_request_is_told_exactly_its_bad_entries(kind: str) -> None:
    spoiled = {JSON: spoiled_json, PROTOBUF: spoiled_protobuf}[kind]

    @thorough
    @given(st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=3))
    def holds(flags: list[list[int]]) -> None:
        rows, outcome = stored(kind, spoiled(flags))
        flat = [flag for stream in flags for flag in stream]
        assert [error.line for error in outcome.errors] == [n for n, flag in enumerate(flat, 1) if flag]
        assert len(rows) == outcome.accepted == flat.count(0)

    holds()


printable = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8)


@given(st.dictionaries(st.sampled_from("abc"), printable))
def test_labels_written_in_lokis_notation_are_read_as_they_were(labels: dict[str, str]) -> None:
    assert parse_labels(notation(labels)) == labels


# Through ingest


@dataclasses.dataclass
class Face:
    """Ingest as a Loki client sees it, and what it published."""

    publisher: MemoryPublisher
    client: httpx.AsyncClient

    async def post(self, body: bytes, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(PATH, content=body, headers=given)

    @property
    def rows(self) -> list[Record]:
        return [decode(line) for _, _, value, _ in self.publisher.records for line in value.split(b"\n")]


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    publisher = MemoryPublisher()
    function = Ingest(Config(max_request_bytes=100_000), publisher)
    await function.start()
    transport = httpx.ASGITransport(app=Host(function), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
        yield Face(publisher, client)
    await function.stop()


GOOD: Streams = [({"app": "shop"}, [(NOW - 1, "first", {}), (NOW, "second", {"pod": "p"})])]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (as_json(GOOD), {"content_type": JSON}),
        (as_json(GOOD), {}),
        (gzip.compress(as_json(GOOD)), {"content_type": JSON, "content_encoding": "gzip"}),
        (pack(as_protobuf(GOOD)), {"content_type": PROTOBUF}),
        (pack(as_protobuf(GOOD)), {"content_type": PROTOBUF, "content_encoding": "snappy"}),
    ],
    ids=["json", "no type", "gzip", "protobuf", "snappy"],
)
async def test_a_push_is_stored_and_answered_without_a_body(face: Face, body: bytes, headers: dict[str, str]) -> None:
    answer = await face.post(body, **headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert [(int(row.timestamp), row.service, row.message, row.metadata) for row in face.rows] == [
        (NOW - 1, "shop", "first", {}),
        (NOW, "shop", "second", {"pod": "p"}),
    ]


async def test_a_partly_bad_push_stores_the_good_entries_and_names_the_others(face: Face) -> None:
    old = str(NOW - 40 * timestamps.DAY)
    answer = await face.post(values([str(NOW), "x"], [old, "y"], [5, "z"]), content_type=JSON)
    assert answer.status_code == 400
    told = text(answer)
    assert told.startswith("2 of 3 entries rejected: entry 2: timestamp: older than the 30 days that logs are kept; ")
    assert "; entry 3: timestamp: " in told
    assert [row.message for row in face.rows] == ["x"]


async def test_the_same_push_under_a_key_makes_the_same_rows(face: Face) -> None:
    for _ in range(2):
        assert (await face.post(pack(as_protobuf(GOOD)), content_type=PROTOBUF, idempotency_key="k")).status_code == 204
    first, second = (value for _, _, value, _ in face.publisher.records)
    assert first == second


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (as_protobuf(GOOD), {"content_type": PROTOBUF}, 400),
        (pack(b"\xff"), {"content_type": PROTOBUF}, 400),
        (b"", {"content_type": PROTOBUF}, 400),
        (b"{", {"content_type": JSON}, 400),
        (as_json(GOOD), {"content_type": f"{JSON}; charset=utf-7"}, 415),
        (as_json(GOOD), {"content_type": "text/plain"}, 415),
        (as_json(GOOD), {"content_encoding": "br"}, 415),
        (pack(bytes(200_000)), {"content_type": PROTOBUF}, 413),
        (pack(b""), {"content_type": PROTOBUF}, 422),
        (b'{"streams":[]}', {}, 422),
    ],
)
async def test_a_push_that_cannot_be_read_is_refused_in_plain_text(
    face: Face, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await face.post(body, **headers)
    assert answer.status_code == status
    assert text(answer)
    assert face.rows == []


async def test_a_push_whose_streams_are_empty_is_taken(face: Face) -> None:
    assert (await face.post(as_json([({"app": "a"}, [])]))).status_code == 204
    assert face.rows == []


async def test_a_push_that_kafka_does_not_take_is_to_be_sent_again(face: Face) -> None:
    face.publisher.failure = KafkaUnavailable("no connection to Kafka")
    answer = await face.post(as_json(GOOD), content_type=JSON)
    assert (answer.status_code, answer.headers["retry-after"], text(answer)) == (503, "2", "no connection to Kafka")
