"""Ingest over HTTP: what a client sends, what it is told, and what goes to Kafka."""

import asyncio
import dataclasses
import gzip
import json
import logging
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

import httpx
import pytest
from backports import zstd
from prometheus_client import REGISTRY

from functions.common import identity, timestamps
from functions.common.config import ConfigError, load
from functions.common.errors import KafkaUnavailable
from functions.common.event import MAX_DATA_BYTES, MAX_LOGS, TYPE
from functions.common.host import Host
from functions.common.kafka import Headers, KafkaConfig, KafkaPublisher
from functions.common.record import Record, decode
from functions.ingest.function import PATH, Ingest, new
from functions.ingest.intake import Config
from tests.support.memory import MemoryPublisher

NOW = timestamps.now() // timestamps.NANOSECONDS * timestamps.NANOSECONDS
LINE = b'{"service":"pay","message":"hello"}'
LINES = {"content-type": "application/x-ndjson"}


@dataclasses.dataclass
class Face:
    """Ingest as a client sees it, and what it published."""

    function: Ingest
    publisher: MemoryPublisher
    client: httpx.AsyncClient

    async def post(self, body: bytes | object, path: str = PATH, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=content, headers=given)

    @property
    def events(self) -> list[bytes]:
        return [value for _, _, value, _ in self.publisher.records]

    @property
    def rows(self) -> list[Record]:
        return [decode(line) for value in self.events for line in value.split(b"\n")]


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    async for face in started(Config()):
        yield face


async def started(config: Config) -> AsyncIterator[Face]:
    publisher = MemoryPublisher()
    function = Ingest(config, publisher)
    await function.start()
    # Whatever escapes the function must be seen by the test.
    transport = httpx.ASGITransport(app=Host(function), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
        yield Face(function, publisher, client)
    publisher.gate.set()
    await function.stop()


@pytest.fixture
async def small() -> AsyncIterator[Face]:
    """Ingest with room for little."""
    async for face in started(Config(max_request_bytes=1000, max_waiting_bytes=2000)):
        yield face


def problem(answer: httpx.Response, status: int) -> str:
    """The detail of a problem that is told as it should be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"] and body["type"] == "about:blank"
    detail: str = body["detail"]
    return detail


async def turns(count: int = 60) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# The answer


async def test_accepted_logs_are_counted_and_their_batch_is_named(face: Face) -> None:
    answer = await face.post(LINE + b"\n" + LINE + b"\n", **LINES)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    batch = body.pop("batch")
    assert body == {"accepted": 2, "rejected": 0, "errors": []}
    assert uuid.UUID(batch).version == 7
    base = identity.of_batch("default", batch)
    assert [row.dedupe for row in face.rows] == [base + 1, base + 2]


async def test_the_root_takes_logs_too(face: Face) -> None:
    assert (await face.post(LINE, path="/")).status_code == 200
    assert len(face.rows) == 1


async def test_an_event_goes_to_the_topic_of_logs(face: Face) -> None:
    await face.post(LINE, **LINES)
    ((topic, key, value, headers),) = face.publisher.records
    told = dict(headers)
    assert topic == "logs"
    assert key == told["ce_id"].decode() == told["ce_partitionkey"].decode()
    assert (told["ce_type"], told["ce_tenant"]) == (TYPE.encode(), b"default")
    assert decode(value).message == "hello"


async def test_three_bad_lines_of_ten_thousand_are_named_and_the_others_stored(face: Face) -> None:
    lines = [LINE] * 10_000
    lines[4], lines[4_999], lines[9_998] = b"{broken", b'{"message":"x"}', b'{"service":"s","timestamp":"soon"}'
    answer = await face.post(b"\n".join(lines), **LINES)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["accepted"], body["rejected"]) == (9_997, 3)
    assert [(error["line"], error["field"]) for error in body["errors"]] == [
        (5, None),
        (5_000, "service"),
        (9_999, "timestamp"),
    ]
    numbers = [row.dedupe - identity.of_batch("default", body["batch"]) for row in face.rows]
    assert numbers == [number for number in range(1, 10_001) if number not in (5, 5_000, 9_999)]


async def test_a_request_without_a_good_record_is_refused_with_the_first_reason(face: Face) -> None:
    answer = await face.post(b'{"message":"x"}\nbroken', **LINES)
    assert problem(answer, 400) == "no record was accepted; line 1: service: missing"
    body = answer.json()
    assert (body["accepted"], body["rejected"], len(body["errors"])) == (0, 2, 2)
    assert face.events == []


@pytest.mark.parametrize("body", [b"", b"\n\r\n \n", b"[]", b"\xef\xbb\xbf"])
async def test_a_body_without_logs_is_refused(face: Face, body: bytes) -> None:
    assert problem(await face.post(body), 400) == "there are no logs in the body"


# Shapes


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"service":"a"}\n{"service":"b"}', "application/x-ndjson"),
        (b'{"service":"a"}\r\n\r\n{"service":"b"}\r\n', "application/x-ndjson; charset=utf-8"),
        (b'\xef\xbb\xbf{"service":"a"}\n\n{"service":"b"}\n', "application/jsonl"),
        (b'{"service":"a"}\n{"service":"b"}', "application/json"),
        (b'[{"service":"a"},{"service":"b"}]', "application/json"),
        (b'\xef\xbb\xbf [\n  {\n    "service": "a"\n  },\n  {"service": "b"}\n]\n', "application/json; charset=UTF-8"),
        (b'{"service":"a"}\n{"service":"b"}', ""),
        (b'[{"service":"a"},{"service":"b"}]', ""),
    ],
)
async def test_logs_come_as_lines_and_arrays(face: Face, body: bytes, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await face.post(body, **headers)
    assert answer.json()["accepted"] == 2, answer.text
    assert [row.service for row in face.rows] == ["a", "b"]


@pytest.mark.parametrize("indent", [None, 2])
async def test_a_single_object_is_a_log_on_one_line_or_several(face: Face, indent: int | None) -> None:
    body = json.dumps({"service": "a", "deep": {"b": [1]}}, indent=indent).encode()
    assert (await face.post(body, content_type="application/json")).json()["accepted"] == 1


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[1,]", b'[{"service":"a"}'])
async def test_a_broken_array_is_refused_as_a_whole(face: Face, body: bytes) -> None:
    assert problem(await face.post(body, content_type="application/json"), 400).startswith("the array is not JSON")
    assert face.events == []


@pytest.mark.parametrize(
    "body",
    [b"{" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"NaN", b'{"service":"\\ud800"}', b"\x00", b'{"service":"\xff"}'],
    ids=lambda body: repr(body[:12]),
)
async def test_garbage_is_a_bad_request(face: Face, body: bytes) -> None:
    for content_type in ("application/json", "application/x-ndjson"):
        problem(await face.post(body, content_type=content_type), 400)
    assert face.events == []


# Content types and encodings


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/protobuf"])
async def test_another_content_type_is_refused_with_a_hint(face: Face, content_type: str) -> None:
    detail = problem(await face.post(LINE, content_type=content_type), 415)
    assert content_type in detail
    assert "Content-Type: application/x-ndjson" in detail


async def test_another_charset_is_refused(face: Face) -> None:
    problem(await face.post(LINE, content_type="application/json; charset=utf-7"), 415)


def bare_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


PACKED = [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", bare_deflate), ("zstd", zstd.compress)]


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
async def test_a_packed_body_is_unpacked(face: Face, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    assert (await face.post(pack(LINE), content_encoding=encoding)).json()["accepted"] == 1


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
async def test_packed_files_put_together_are_one_body(face: Face, pack: Callable[[bytes], bytes]) -> None:
    encoding = "gzip" if pack is gzip.compress else "zstd"
    body = pack(LINE + b"\n") + pack(LINE)
    assert (await face.post(body, content_encoding=encoding)).json()["accepted"] == 2


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
async def test_a_packed_body_cut_at_any_byte_stores_nothing(
    face: Face, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(LINE + b"\n" + LINE)
    for end in range(len(packed)):
        problem(await face.post(packed[:end], content_encoding=encoding), 400)
    assert face.events == []


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
async def test_garbage_after_a_packed_body_stores_nothing(
    face: Face, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    problem(await face.post(pack(LINE) + b"more of it, not packed", content_encoding=encoding), 400)
    assert face.events == []


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd,gzip", "compress"])
async def test_unknown_and_nested_encodings_are_refused(face: Face, encoding: str) -> None:
    problem(await face.post(gzip.compress(gzip.compress(LINE)), content_encoding=encoding), 415)


async def test_a_bomb_is_refused(face: Face) -> None:
    bomb = zstd.compress(bytes(100 * 1024 * 1024), 1)
    assert "20971520 bytes when it is unpacked" in problem(await face.post(bomb, content_encoding="zstd"), 413)


async def test_a_body_over_the_limit_is_refused_packed_and_unpacked(small: Face) -> None:
    line = b'{"service":"s","message":"' + b"x" * 1000 + b'"}'
    problem(await small.post(line), 413)
    problem(await small.post(gzip.compress(line), content_encoding="gzip"), 413)
    assert small.events == []


async def test_a_body_without_a_declared_length_is_read_up_to_the_limit(small: Face) -> None:
    async def parts(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield LINE + b"\n"

    answer = await small.client.post(PATH, content=parts(2), headers=LINES)
    assert answer.json()["accepted"] == 2
    problem(await small.client.post(PATH, content=parts(10**9), headers=LINES), 413)


# Identity


async def test_the_same_request_under_a_key_makes_byte_equal_rows(face: Face) -> None:
    lines = [json.dumps({"service": "s", "message": str(n), "timestamp": NOW - n}).encode() for n in range(50)]
    for _ in range(2):
        answer = await face.post(b"\n".join(lines), idempotency_key="order-7", **LINES)
        assert answer.json()["batch"] == "order-7"
    first, second = face.events
    assert first == second


async def test_another_key_or_tenant_makes_other_rows(face: Face) -> None:
    line = json.dumps({"service": "s", "timestamp": NOW}).encode()
    await face.post(line, idempotency_key="one")
    await face.post(line, idempotency_key="other")
    async for other in started(Config(tenant="other")):
        await other.post(line, idempotency_key="one")
        assert len({row.dedupe for row in face.rows + other.rows}) == 3
        assert {row.tenant for row in other.rows} == {"other"}


async def test_without_a_key_each_request_makes_new_logs(face: Face) -> None:
    for _ in range(2):
        await face.post({"service": "s", "timestamp": NOW})
    assert len({row.dedupe for row in face.rows}) == 2


async def test_under_a_key_a_record_without_a_timestamp_is_rejected_and_told_why(face: Face) -> None:
    body = LINE + b"\n" + json.dumps({"service": "s", "timestamp": NOW}).encode()
    answer = await face.post(body, idempotency_key="k", **LINES)
    assert (answer.json()["accepted"], answer.json()["rejected"]) == (1, 1)
    (error,) = answer.json()["errors"]
    assert (error["line"], error["field"]) == (1, "timestamp")
    assert "Idempotency-Key" in error["error"]


async def test_a_record_with_an_id_is_the_same_log_in_any_request(face: Face) -> None:
    record = {"service": "s", "id": "order-7", "timestamp": NOW}
    await face.post(record)
    await face.post([{"service": "other"}, record])
    assert face.rows[0] == face.rows[2]
    assert face.rows[0].dedupe == identity.of_id("default", "order-7")


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "x" * 256, "\x7f"])
async def test_a_key_that_is_none_is_refused(face: Face, key: str) -> None:
    assert "Idempotency-Key" in problem(await face.post(LINE, idempotency_key=key), 400)
    assert face.events == []


async def test_the_longest_key_is_taken(face: Face) -> None:
    record = {"service": "s", "timestamp": NOW}
    assert (await face.post(record, idempotency_key="~" * 255)).status_code == 200


# Settings


async def test_retention_and_message_limit_are_settings() -> None:
    async for face in started(Config(retention_days=1, max_message_bytes=3)):
        records = [
            {"service": "s", "message": "abc"},
            {"service": "s", "message": "abcd"},
            {"service": "s", "timestamp": NOW - 2 * timestamps.DAY},
            {"service": "s", "timestamp": NOW + 2 * timestamps.DAY},
        ]
        answer = await face.post(records)
        assert [error["error"] for error in answer.json()["errors"]] == [
            "4 bytes; the limit is 3",
            "older than the 1 days that logs are kept",
            "more than a day ahead",
        ]


async def test_topic_and_tenant_are_settings() -> None:
    async for face in started(Config(kafka=KafkaConfig(kafka_topic="mine"), tenant="acme")):
        await face.post(LINE)
        assert face.publisher.records[0][0] == "mine"
        assert face.rows[0].tenant == "acme"


def test_a_function_is_made_from_the_environment() -> None:
    function = new({"TENANT": "acme", "KAFKA_TOPIC": "mine", "MAX_MESSAGE_BYTES": "5"})
    config = function.intake.config
    assert (config.tenant, config.kafka.kafka_topic, config.max_message_bytes) == ("acme", "mine", 5)
    assert isinstance(function.intake._publisher, KafkaPublisher)
    with pytest.raises(ConfigError, match="RETENTION_DAYS"):
        new({"RETENTION_DAYS": "a month"})


# Events


async def test_requests_that_come_together_share_an_event(face: Face) -> None:
    face.publisher.gate.clear()
    posting = [asyncio.create_task(face.post({"service": f"s{number}"})) for number in range(100)]
    await turns()
    face.publisher.gate.set()
    answers = await asyncio.gather(*posting)
    assert {answer.json()["accepted"] for answer in answers} == {1}
    assert len({answer.json()["batch"] for answer in answers}) == 100
    assert len(face.events) <= 5  # those that four writers took, and one that formed meanwhile
    assert sorted(row.service for row in face.rows) == sorted(f"s{number}" for number in range(100))


async def test_no_request_is_answered_before_kafka_acknowledged(face: Face) -> None:
    face.publisher.gate.clear()
    posting = asyncio.create_task(face.post(LINE))
    await turns()
    assert not posting.done()
    face.publisher.gate.set()
    assert (await posting).status_code == 200


async def test_a_large_request_is_split_into_events_within_their_bounds(face: Face) -> None:
    records = [{"service": "s", "message": "x" * 500, "timestamp": NOW + n} for n in range(5_000)]
    assert (await face.post(records)).json()["accepted"] == 5_000
    assert len(face.events) == 4
    assert all(len(event) <= MAX_DATA_BYTES and event.count(b"\n") < MAX_LOGS for event in face.events)
    assert sorted(int(row.timestamp) for row in face.rows) == [NOW + n for n in range(5_000)]


async def test_each_event_has_an_id_of_its_own(face: Face) -> None:
    await face.post([{"service": "s", "message": "x" * 200_000} for _ in range(20)])
    keys = [key for _, key, _, _ in face.publisher.records]
    assert len(set(keys)) == len(keys) > 1


# Not now


async def test_while_kafka_does_not_answer_clients_are_told_to_come_again(face: Face) -> None:
    face.publisher.failure = KafkaUnavailable("Kafka did not acknowledge")
    answer = await face.post(LINE)
    assert problem(answer, 503) == "Kafka did not acknowledge"
    assert answer.headers["retry-after"] == "2"
    face.publisher.failure = None
    assert (await face.post(LINE)).status_code == 200


async def test_a_failure_of_one_event_fails_for_the_whole_request(face: Face) -> None:
    publish, calls = face.publisher.publish, list[str]()

    async def second_fails(topic: str, key: str, value: bytes, headers: Headers) -> None:
        calls.append(key)
        if len(calls) == 2:
            raise KafkaUnavailable("no")
        await publish(topic, key, value, headers)

    face.publisher.publish = second_fails  # type: ignore[method-assign]
    problem(await face.post([{"service": "s", "message": "x" * 200_000} for _ in range(20)]), 503)
    assert len(calls) > 2


async def test_when_too_much_is_in_progress_clients_are_told_to_come_again(small: Face) -> None:
    small.publisher.gate.clear()
    body = b'{"service":"s","message":"' + b"x" * 700 + b'"}'
    posting = [asyncio.create_task(small.post(body)) for _ in range(2)]
    await turns()
    answer = await small.post(body)
    problem(answer, 503)
    assert answer.headers["retry-after"] == "1"
    small.publisher.gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*posting)} == {200}
    assert (await small.post(body)).status_code == 200


async def test_a_request_of_unknown_length_counts_as_the_largest(small: Face) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield LINE
        await gate.wait()

    gate = asyncio.Event()
    posting = [asyncio.create_task(small.client.post(PATH, content=slowly())) for _ in range(2)]
    await turns()
    problem(await small.post(LINE), 503)
    gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*posting)} == {200}
    assert (await small.post(LINE)).status_code == 200


async def test_a_request_that_grows_beyond_what_may_wait_is_stored_whole() -> None:
    async for face in started(Config(max_request_bytes=700_000, max_waiting_bytes=1_500_000)):
        body = b'{"service":"a"}\n' * 20_000  # as rows it is ten times as large
        assert (await face.post(body, **LINES)).json()["accepted"] == 20_000
        assert len(face.rows) == 20_000


async def test_a_request_that_finds_no_room_leaves_no_trace() -> None:
    async for face in started(Config(max_request_bytes=700_000, max_waiting_bytes=1_500_000)):
        face.publisher.gate.clear()
        posting = asyncio.create_task(face.post(LINE))
        await turns()
        problem(await face.post(b'{"service":"a"}\n' * 20_000, **LINES), 503)
        face.publisher.gate.set()
        await posting
        await face.function.stop()
        assert [row.service for row in face.rows] == ["pay"]


async def test_a_request_with_too_many_records_leaves_no_trace(face: Face) -> None:
    body = b'{"service":"a"}\n' * 20_000 + b"\n" * identity.MAX_RECORDS
    assert "1048575" in problem(await face.post(body, **LINES), 413)
    assert face.events == []


def test_room_for_less_than_a_request_packed_and_unpacked_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="MAX_WAITING_BYTES"):
        load(Config, {"MAX_WAITING_BYTES": "1999", "MAX_REQUEST_BYTES": "1000"})


async def test_stopping_waits_for_events_under_way(face: Face) -> None:
    face.publisher.gate.clear()
    posting = asyncio.create_task(face.post(LINE))
    await turns()
    stopping = asyncio.create_task(face.function.stop())
    await turns()
    assert not stopping.done()
    face.publisher.gate.set()
    await stopping
    assert (await posting).status_code == 200


async def test_a_client_that_goes_away_does_not_take_the_others_along(face: Face) -> None:
    face.publisher.gate.clear()
    gone, stays = (asyncio.create_task(face.post(LINE)) for _ in range(2))
    await turns()
    gone.cancel()
    await turns()
    face.publisher.gate.set()
    assert (await stays).status_code == 200
    assert len(face.rows) == 2


# Faults, paths, metrics


async def test_an_unexpected_fault_is_told_without_its_text(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(topic: str, key: str, value: bytes, headers: Headers) -> None:
        raise RuntimeError("password=hunter2")

    face.publisher.publish = broken  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        answer = await face.post(LINE)
    problem(answer, 500)
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text


async def test_readiness_follows_kafka(face: Face) -> None:
    assert (await face.client.get("/readyz")).status_code == 200
    face.publisher.failure = KafkaUnavailable("no connection to Kafka")
    assert (await face.client.get("/readyz")).status_code == 503


async def test_the_root_says_what_this_is(face: Face) -> None:
    assert (await face.client.get("/")).json()["send"] == f"POST {PATH}"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", PATH, "POST"), ("PUT", PATH, "POST"), ("OPTIONS", PATH, "POST"), ("DELETE", "/", "GET, POST")],
)
async def test_another_method_is_answered_with_those_that_are_allowed(
    face: Face, method: str, path: str, allow: str
) -> None:
    answer = await face.client.request(method, path)
    assert problem(answer, 405) == f"send logs with POST {path}"
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/api/v1/ingest/", "/api/v2/ingest", "/nothing", "/api/v1/ingest%2f"])
async def test_another_path_says_where_to_send_logs(face: Face, path: str) -> None:
    assert PATH in problem(await face.post(LINE, path=path), 404)


async def test_logs_requests_and_events_are_counted(face: Face) -> None:
    def counts() -> list[float]:
        names: list[tuple[str, dict[str, str]]] = [
            ("torpor_ingest_logs_total", {"outcome": "accepted"}),
            ("torpor_ingest_logs_total", {"outcome": "rejected"}),
            ("torpor_ingest_requests_total", {"protocol": "http", "status": "200"}),
            ("torpor_ingest_events_total", {}),
            ("torpor_ingest_bytes_total", {}),
        ]
        return [REGISTRY.get_sample_value(name, labels) or 0 for name, labels in names]

    before = counts()
    await face.post(LINE + b"\nbroken\n" + LINE, **LINES)
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [2, 1, 1, 1, len(face.events[0])]


async def test_requests_are_counted_by_protocol_and_those_without_one_as_none(face: Face) -> None:
    def counts() -> dict[tuple[str, str], float]:
        (family,) = (family for family in REGISTRY.collect() if family.name == "torpor_ingest_requests")
        samples = [sample for sample in family.samples if sample.name.endswith("_total")]
        return {(sample.labels["protocol"], sample.labels["status"]): sample.value for sample in samples}

    before = counts()
    await face.post(LINE)
    await face.post(LINE, path="/")
    await face.post(b"broken")
    await face.post(LINE, path="/nothing")
    await face.client.request("DELETE", PATH)
    grown = {labels: value - before.get(labels, 0) for labels, value in counts().items()}
    assert {labels: value for labels, value in grown.items() if value} == {
        ("http", "200"): 2,
        ("http", "400"): 1,
        ("none", "404"): 1,
        ("none", "405"): 1,
    }


async def test_rejected_logs_are_counted_by_the_field_at_fault_and_events_by_their_logs(face: Face) -> None:
    def counts() -> list[float]:
        reasons = [
            ("torpor_ingest_rejected_total", {"reason": reason}) for reason in ("service", "timestamp", "record")
        ]
        names: list[tuple[str, dict[str, str]]] = [*reasons, ("torpor_ingest_event_logs_sum", {})]
        return [REGISTRY.get_sample_value(name, labels) or 0 for name, labels in names]

    before = counts()
    bad = b'{"message":"m"}\n{"service":"s","timestamp":"then"}\n{"service":"s","timestamp":"no"}\nbroken\n'
    await face.post(bad + LINE + b"\n" + LINE, **LINES)
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 2, 1, 2]


async def test_the_moment_when_the_process_began_to_serve_is_told() -> None:
    app, sent = Host(Ingest(Config(), MemoryPublisher())), []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    stages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> MutableMapping[str, Any]:
        return {"type": next(stages)}

    before = time.time()
    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    ready = REGISTRY.get_sample_value("torpor_ready_timestamp_seconds")
    assert ready is not None and before <= ready <= time.time()
