"""Elasticsearch's bulk API: documents become records, and clients are answered item by item."""

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from functions.common import identity, timestamps
from functions.common.errors import (
    BadRequest,
    KafkaUnavailable,
    MethodNotAllowed,
    Overloaded,
    TooLarge,
    TorporError,
    UnsupportedMediaType,
)
from functions.common.host import Host
from functions.common.identity import MAX_RECORDS
from functions.common.record import LEVEL_ALIASES, UNKNOWN_SERVICE, Incoming, Record, decode
from functions.ingest.dialects.elasticsearch import PIECE, Elasticsearch, handshake, new
from functions.ingest.dialects.elasticsearch_documents import MAX_DOCUMENT_BYTES, MAX_NAME
from functions.ingest.function import Ingest
from functions.ingest.intake import Config
from functions.ingest.normalise import MAX_METADATA, Normaliser, Outcome
from functions.ingest.records import Rejected
from tests.support.memory import MemoryPublisher

NOW = timestamps.now()
TIME = timestamps.iso(NOW)
LINES = "application/x-ndjson"
thorough = settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Item = dict[str, Any]


def request(path: str = "/_bulk", content_type: str = LINES, accept: str = "") -> Elasticsearch:
    headers = [(b"content-type", content_type.encode()), (b"accept", accept.encode())]
    return new(Request({"type": "http", "method": "POST", "path": path, "headers": headers}))


def lines(*values: object) -> bytes:
    """Bytes as they are, anything else as JSON: a line each."""
    return b"".join((value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n" for value in values)


def read(body: bytes, path: str = "/_bulk") -> list[tuple[int, Incoming | Rejected]]:
    return list(request(path).records(body))


def one(document: object, action: object = None, path: str = "/_bulk") -> Incoming:
    """The record of one document."""
    ((number, record),) = read(lines(action or {"create": {"_index": "i"}}, document), path)
    assert number == 1
    assert isinstance(record, Incoming), record
    return record


def refusal(document: object) -> tuple[str | None, str]:
    """Field and reason of a document that is not taken."""
    ((_, record),) = read(lines({"index": {}}, document))
    assert isinstance(record, Rejected)
    return record.field, str(record)


def store(dialect: Elasticsearch, body: bytes) -> tuple[Outcome, list[Record]]:
    outcome = Outcome("batch", max_errors=dialect.max_errors)
    normaliser = Normaliser("t", "batch", False, timestamps.now(), 30 * timestamps.DAY, 256 * 1024)
    chunks = list(normaliser.chunks(dialect.records(body), outcome))
    return outcome, [decode(line) for chunk in chunks for line in chunk.data.split(b"\n") if line]


async def content(answer: Response) -> bytes:
    if not isinstance(answer, StreamingResponse):
        return bytes(answer.body)
    return b"".join(
        [bytes(piece) if not isinstance(piece, str) else piece.encode() async for piece in answer.body_iterator]
    )


def told(dialect: Elasticsearch, outcome: Outcome) -> Item:
    answer: Item = json.loads(asyncio.run(content(dialect.answer(outcome))))
    return answer


# Documents


def test_a_full_document_becomes_a_record() -> None:
    document = {
        "@timestamp": TIME,
        "message": "ünïcode ☃",
        "log.level": "warn",
        "service": {"name": "pay", "version": "1.2"},
        "trace": {"id": "4bf9"},
        "span.id": "00f0",
        "host": {"name": "web-1", "cpu": {"count": 4}},
        "tags": ["a", 1],
    }
    assert one(document, {"index": {"_index": "logs-pay-default", "_id": "7"}}) == Incoming(
        "pay",
        "ünïcode ☃",
        TIME,
        "warn",
        {
            "service.version": "1.2",
            "host.name": "web-1",
            "host.cpu.count": "4",
            "tags": '["a",1]',
            "index": "logs-pay-default",
        },
        "4bf9",
        "00f0",
        "logs-pay-default/7",
    )


@pytest.mark.parametrize(
    ("document", "service"),
    [
        ({"service.name": "a", "service": "b"}, "a"),
        ({"service": {"name": "a"}}, "a"),
        ({"service": "b"}, "b"),
        ({"service": ""}, "i"),
        ({"service": 7}, "i"),
        ({"service": {"version": "1"}}, "i"),
        ({}, "i"),
    ],
)
def test_the_service_is_a_field_or_else_the_index(document: Item, service: str) -> None:
    record = one(document)
    assert record.service == service
    assert ("index" in record.metadata) == (service != "i")


def test_the_index_is_that_of_the_action_or_else_of_the_path() -> None:
    assert one({}, {"create": {"_index": "mine"}}, "/other/_bulk").service == "mine"
    assert one({}, {"create": {}}, "/logs-nginx-default/_bulk").service == "logs-nginx-default"
    assert one({}, {"create": {"_index": None}}, "/<logs-{now/d}>/_bulk").service == "<logs-{now/d}>"
    assert one({}, {"create": {}}).service == UNKNOWN_SERVICE


@pytest.mark.parametrize(
    ("document", "time"),
    [
        ({"@timestamp": "2026-01-31", "timestamp": 5, "time": 6}, "2026-01-31"),
        ({"@timestamp": None, "timestamp": 1769860800.5, "time": 6}, 1769860800.5),
        ({"time": 1769860800123}, 1769860800123),
        ({"time": {"taken": 5}}, None),
        ({}, None),
    ],
)
def test_the_timestamp_is_the_first_of_three_fields(document: Item, time: object) -> None:
    assert one(document).timestamp == time


def test_fields_that_are_not_the_timestamp_are_kept() -> None:
    assert one({"@timestamp": TIME, "time": "12 ms"}).metadata == {"time": "12 ms"}


@pytest.mark.parametrize("value", [True, [TIME], [], {}, b'{"@timestamp":1e999}'])
def test_a_timestamp_that_is_neither_text_nor_a_number_is_rejected(value: object) -> None:
    document = value if isinstance(value, bytes) else {"@timestamp": value}
    assert refusal(document) == ("timestamp", "neither text nor a number")


@pytest.mark.parametrize("name", ["log.level", "level", "severity", "loglevel"])
@pytest.mark.parametrize("level", ["error", "Warning", "CRIT"])
def test_a_level_is_found_under_its_usual_names(name: str, level: str) -> None:
    record = one({name: level})
    assert (record.level, record.metadata) == (level, {})


def test_a_level_that_is_unknown_stays_where_it_is() -> None:
    record = one({"log": {"level": "loud"}, "level": 30, "severity": "high", "loglevel": "debug"})
    assert (record.level, record.metadata) == ("debug", {"log.level": "loud", "severity": "high", "level": "30"})
    assert one({"level": "loud"}).level == "INFO"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"message": "a", "msg": "b", "log": "c"}, "a"),
        ({"msg": "b", "log": "c"}, "b"),
        ({"log": "c", "message": None}, "c"),
        ({"message": ""}, ""),
        (b' {"message" : ["x"],  "n":1.0}\r', '{"message" : ["x"],  "n":1.0}'),
        (b"{}", "{}"),
    ],
)
def test_a_message_is_found_under_its_usual_names_or_is_the_whole_document(document: object, message: str) -> None:
    assert one(document).message == message


def test_traces_have_two_spellings_and_must_be_text() -> None:
    record = one({"trace_id": "t", "span_id": "s", "trace": {"id": 5}})
    assert (record.trace_id, record.span_id, record.metadata) == ("t", "s", {"trace.id": "5"})


def test_values_that_are_not_text_become_their_json_text() -> None:
    document = (
        b'{"message":"","a":1.10,"b":1e2,"c":-7,"d":12345678901234567890123,"e":true,"f":[1,  {"g": 2.50}],"h":{},'
        b'"i":{ },"j":{"k":0.10,"l":"\\u00e9"},"m":["\\u00e9", null, 1E400]}'
    )
    assert one(document).metadata == {
        "a": "1.10",
        "b": "1e2",
        "c": "-7",
        "d": "12345678901234567890123",
        "e": "true",
        "f": '[1,{"g":2.50}]',
        "h": "{}",
        "i": "{}",
        "j.k": "0.10",
        "j.l": "é",
        "m": '["é",null,1E400]',
    }


def test_nulls_count_as_absent() -> None:
    assert one({"message": "m", "a": None, "b": {"c": None}, "a.b": 1, "service.name": None}) == Incoming(
        "i", "m", metadata={"a.b": "1"}
    )


def test_a_field_given_nested_and_dotted_is_a_list_of_its_values() -> None:
    document = {"message": "m", "a": {"b": 1, "c": "x", "d": "same"}, "a.b": "two", "a.c": "y", "a.d": "same"}
    assert one(document).metadata == {"a.b": '["two",1]', "a.c": '["y","x"]', "a.d": "same"}
    assert one({"service": {"name": "s"}, "service.name": "s"}).service == "s"
    assert one({"a": {"b": None}, "a.b": "x"}).metadata == {"a.b": "x"}
    assert one({"a.b": "x", "a": {"b": None}}).metadata == {"a.b": "x"}
    thrice = one(b'{"message":"m","a.b.c":1,"a":{"b.c":true},"a.b":{"c":1}}')
    assert thrice.metadata == {"a.b.c": "[1,true,1]"}


def test_objects_with_too_long_names_stay_json_text() -> None:
    deep: Item = {"x": 1}
    for _ in range(MAX_NAME // 2 + 2):
        deep = {"a": deep}
    assert one(deep).metadata == {".".join("a" * (MAX_NAME // 2 + 1)): '{"a":{"x":1}}'}
    long = "n" * MAX_NAME
    assert one({long: {"a": 1}, long[1:]: {"a": 1}}).metadata == {long: '{"a":1}', f"{long[1:]}.a": "1"}


def test_a_document_made_to_swell_is_rejected() -> None:
    swelling = {"n" * (MAX_NAME - 1): {str(number): number for number in range(100_000)}}
    assert refusal(swelling) == ("metadata", f"more than {MAX_METADATA} entries")
    wide = {str(number): {str(inner): "" for inner in range(300)} for number in range(300)}
    assert refusal(wide) == ("metadata", f"more than {MAX_METADATA} entries")


def test_a_document_larger_than_any_row_is_rejected_before_it_is_taken_apart() -> None:
    document = b'{"a":"' + b"x" * MAX_DOCUMENT_BYTES + b'"}'
    assert refusal(document) == (None, f"{len(document) + 1} bytes; the limit is {MAX_DOCUMENT_BYTES}")


def test_the_most_metadata_that_is_taken_is_that_of_any_record() -> None:
    full = {"message": "m", "time": NOW, "a": {str(number): number for number in range(MAX_METADATA)}}
    dialect = request("/s/_bulk")
    outcome, rows = store(dialect, lines({"create": {}}, full, {"create": {}}, {**full, "b": "c"}))
    assert (outcome.accepted, [error.field for error in outcome.errors]) == (1, ["metadata"])
    assert len(rows[0].metadata) == MAX_METADATA


def test_what_ingest_adds_to_metadata_does_not_replace_what_is_there() -> None:
    document = {"message": "m", "service": "s", "id": "mine", "index": 5, "_index": "x"}
    record = one(document, {"index": {"_index": "i", "_id": "7"}})
    assert record.metadata == {"id": "mine", "index": "5", "_index": "x", "__index": "i", "_id": "7"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"", "not JSON: Input data was truncated"),
        (
            b'{"a":1}{"b":2}',
            "not JSON: JSON is malformed: trailing characters (byte 8); "
            "are there two records on one line? curl needs --data-binary",
        ),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "not JSON: nested too deeply"),
        (b'{"a":' + b"[" * 100 + b"}", "not JSON: JSON is malformed: invalid character (byte 105)"),
        (b'{"a":"\\ud83d"}', "not JSON: Input data was truncated"),
    ],
)
def test_a_line_that_is_no_document_is_rejected_by_itself(document: bytes, reason: str) -> None:
    body = lines({"index": {}}, {"message": "before"}, {"index": {}}, document, {"index": {}}, {"message": "after"})
    before, bad, after = (record for _, record in read(body))
    assert isinstance(before, Incoming) and before.message == "before"
    assert isinstance(bad, Rejected) and (bad.field, str(bad)) == (None, reason)
    assert isinstance(after, Incoming) and after.message == "after"


# Actions


def test_updates_and_deletes_are_refused_one_by_one() -> None:
    body = lines(
        {"delete": {"_id": "1"}},
        {"update": {"_id": "2"}},
        {"doc": {}},
        {"create": {}},
        {"message": "m"},
        {"update": {}},
    )
    (_, deleted), (_, updated), (number, record), (_, last) = read(body)
    assert str(deleted) == "logs are not changed: delete is not taken here"
    assert str(updated) == str(last) == "logs are not changed: update is not taken here"
    assert (number, record) == (3, Incoming(UNKNOWN_SERVICE, "m"))


def test_an_id_may_be_a_number_and_other_parameters_are_passed_over() -> None:
    action = {"index": {"_id": 17, "routing": "r", "pipeline": "p", "dynamic_templates": {"a": "b"}, "_version": 3}}
    assert one({"@timestamp": TIME}, action).id == "17"
    assert one({}, {"index": {"_id": None}}).id == one({}, {"index": {"_id": ""}}).id == ""


def test_blank_lines_between_items_and_a_missing_final_newline_do_no_harm() -> None:
    body = b'\xef\xbb\xbf\n{"create":{}}\r\n{"message":"a"}\r\n\r\n  \n{"create":{}}\n{"message":"b"}'
    assert [(number, record.message) for number, record in read(body) if isinstance(record, Incoming)] == [
        (1, "a"),
        (2, "b"),
    ]


def test_the_last_action_without_its_document_is_rejected() -> None:
    (_, record), (number, missing) = read(lines({"create": {}}, {"message": "a"}, {"create": {}}))
    assert isinstance(record, Incoming)
    assert number == 2 and isinstance(missing, Rejected) and str(missing) == "the document is missing"


@pytest.mark.parametrize(
    "action",
    [
        b"{",
        b"[]",
        b"{}",
        b'"index"',
        b'{"index":null}',
        b'{"index":[]}',
        b'{"upsert":{}}',
        b'{"Index":{}}',
        b'{"index":{},"create":{}}',
        b'{"index":{"_id":[1]}}',
        b'{"index":{"_index":{}}}',
        b'{"index":{"_id":"\xff"}}',
        b'{"index":{}}{"a":1}',
        b'{"index":' + b'{"a":' * 5000,
        b'{"message":"a document in the place of an action"}',
    ],
)
def test_a_malformed_action_refuses_the_whole_request_and_names_the_line(action: bytes) -> None:
    body = lines({"create": {}}, {"message": "m"}, b"", action, {"message": "n"})
    with pytest.raises(BadRequest, match=r"^Malformed action/metadata line \[4\], "):
        read(body)


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\n", b"\xef\xbb\xbf"])
def test_a_body_without_items_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="no requests added"):
        read(body)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "application/json; charset=UTF-8",
        "application/x-ndjson",
        "application/vnd.elasticsearch+json; compatible-with=8",
        "application/vnd.elasticsearch+x-ndjson; compatible-with=9",
        "Application/Vnd.Elasticsearch+X-NDJSON;compatible-with=9",
    ],
)
def test_content_types_of_clients_are_read(content_type: str) -> None:
    assert len(list(request(content_type=content_type).records(b'{"create":{}}\n{}'))) == 1


@pytest.mark.parametrize("content_type", ["text/plain", "application/cbor", "application/json; charset=utf-16"])
def test_other_content_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        request(content_type=content_type).records(b'{"create":{}}\n{}')


# Answers


def test_each_item_is_answered_in_its_place() -> None:
    dialect = request("/logs/_bulk")
    body = lines(
        {"create": {}},
        {"@timestamp": TIME},
        {"index": {"_index": 'a"b', "_id": 'é"1'}},
        {"@timestamp": TIME},
        {"index": {"_id": "2"}},
        {"message": "no time"},
        {"delete": {"_id": "3"}},
        {"create": {}},
        [],
    )
    outcome, rows = store(dialect, body)
    answer = told(dialect, outcome)
    assert list(answer) == ["took", "errors", "items"]
    assert answer["errors"] is True and isinstance(answer["took"], int)
    created = {
        "_version": 1,
        "result": "created",
        "_shards": {"total": 1, "successful": 1, "failed": 0},
        "_seq_no": 0,
        "_primary_term": 1,
        "status": 201,
    }
    first, second, third, fourth, fifth = answer["items"]
    assert first == {"create": {"_index": "logs", "_id": "batch-1", **created}}
    assert second == {"index": {"_index": 'a"b', "_id": 'é"1', **created}}
    error = third["index"].pop("error")
    assert third == {"index": {"_index": "logs", "_id": "2", "status": 400}}
    assert error["type"] == "document_parsing_exception" and error["reason"].startswith("timestamp: missing: ")
    assert fourth["delete"]["error"]["reason"] == "logs are not changed: delete is not taken here"
    assert fifth["create"]["_id"] == "batch-5" and fifth["create"]["error"]["reason"] == "not a JSON object"
    assert [row.dedupe for row in rows] == [identity.of_batch("t", "batch") + 1, identity.of_id("t", 'a"b/é"1')]


def test_an_answer_without_errors_says_so() -> None:
    dialect = request()
    outcome, _ = store(dialect, lines({"create": {}}, {}))
    assert told(dialect, outcome)["errors"] is False


def test_a_key_of_any_characters_makes_ids() -> None:
    dialect = request()
    outcome, _ = store(dialect, lines({"create": {}}, {}))
    answer = told(dialect, dataclasses.replace(outcome, batch='a"\\b'))
    assert answer["items"][0]["create"]["_id"] == 'a"\\b-1'


@pytest.mark.parametrize("count", [PIECE, PIECE + 1, 3 * PIECE, 100_000])
def test_an_answer_of_many_items_names_each_and_comes_in_pieces(count: int) -> None:
    dialect = request()
    bad = {2, PIECE, PIECE + 1, count}
    outcome, rows = store(
        dialect, b"".join(b'{"index":{}}\n' + (b"x\n" if n in bad else b"{}\n") for n in range(1, count + 1))
    )
    assert isinstance(dialect.answer(outcome), StreamingResponse) == (count > PIECE)
    items = told(dialect, outcome)["items"]
    assert {number for number, item in enumerate(items, 1) if item["index"]["status"] == 400} == bad & set(
        range(count + 1)
    )
    assert len({item["index"]["_id"] for item in items}) == len(items) == count
    assert len(rows) == outcome.accepted == count - outcome.rejected


def test_every_rejected_item_can_be_named() -> None:
    assert Elasticsearch.max_errors == MAX_RECORDS


def test_more_items_than_have_numbers_are_refused_before_they_are_kept() -> None:
    body = b'{"delete":{}}\n' * (MAX_RECORDS + 1000)
    with pytest.raises(TooLarge):
        store(request(), body)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        (
            "application/vnd.elasticsearch+json; compatible-with=9",
            "application/vnd.elasticsearch+json;compatible-with=9",
        ),
        (
            "text/plain, application/vnd.elasticsearch+json;compatible-with=8",
            "application/vnd.elasticsearch+json;compatible-with=8",
        ),
        ("application/vnd.elasticsearch+json;compatible-with=888", "application/json"),
    ],
)
def test_the_answer_is_of_the_type_the_client_asks_for_and_bears_the_product(accept: str, content_type: str) -> None:
    dialect = request(accept=accept)
    outcome, _ = store(dialect, lines({"create": {}}, {}))
    for response in (dialect.answer(outcome), dialect.problem(BadRequest("x")), handshake({}, accept)):
        assert response.headers["content-type"] == content_type
        assert response.headers["x-elastic-product"] == "Elasticsearch"


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (BadRequest("why"), 400, "illegal_argument_exception", None),
        (MethodNotAllowed("why"), 405, "exception", None),
        (TooLarge("why"), 413, "content_too_large_exception", None),
        (UnsupportedMediaType("why"), 415, "media_type_header_exception", None),
        (Overloaded("why"), 429, "es_rejected_execution_exception", "1"),
        (KafkaUnavailable("why"), 503, "unavailable_shards_exception", "2"),
    ],
)
def test_a_problem_is_told_as_an_exception(error: TorporError, status: int, kind: str, retry: str | None) -> None:
    response = request().problem(error)
    assert (response.status_code, response.headers.get("retry-after")) == (status, retry)
    cause = {"type": kind, "reason": "why"}
    assert json.loads(bytes(response.body)) == {"error": {"root_cause": [cause], **cause}, "status": status}


def test_a_fault_of_ours_is_logged_and_its_text_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = request().problem(KeyError("secret"))
    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)
    assert "secret" in caplog.text


def test_the_handshake_names_an_elasticsearch_and_what_else_is_given() -> None:
    response = handshake({"function": "ingest", "tagline": "ours"})
    body = json.loads(bytes(response.body))
    assert (response.status_code, response.headers["x-elastic-product"]) == (200, "Elasticsearch")
    assert (body["function"], body["tagline"]) == ("ingest", "You Know, for Search")
    assert body["version"]["number"].startswith("8.")
    assert body["version"]["build_flavor"] == "default"
    assert {"name", "cluster_name", "cluster_uuid"} <= body.keys()
    assert {"lucene_version", "minimum_wire_compatibility_version", "build_hash"} <= body["version"].keys()


# Over HTTP


@dataclasses.dataclass
class Face:
    """Ingest as a client sees it, and what it published."""

    publisher: MemoryPublisher
    client: httpx.AsyncClient

    async def bulk(self, body: bytes, path: str = "/_bulk", method: str = "POST") -> httpx.Response:
        return await self.client.request(method, path, content=body, headers={"content-type": LINES})

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


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(("path", "service"), [("/_bulk", UNKNOWN_SERVICE), ("/logs-caf%C3%A9/_bulk", "logs-café")])
async def test_documents_are_taken_under_both_paths_and_methods(
    face: Face, method: str, path: str, service: str
) -> None:
    answer = await face.bulk(lines({"create": {}}, {"message": "m"}), path, method)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-elastic-product"] == "Elasticsearch"
    assert [(row.service, row.message) for row in face.rows] == [(service, "m")]


async def test_a_malformed_action_leaves_no_trace(face: Face) -> None:
    answer = await face.bulk(lines(*[{"create": {}}, {"message": "m"}] * 20_000, "x"))
    assert answer.status_code == 400
    assert answer.json()["error"]["reason"].startswith("Malformed action/metadata line [40001]")
    assert face.rows == []


async def test_an_answer_in_pieces_arrives_whole(face: Face) -> None:
    answer = await face.bulk(b'{"create":{}}\n{}\n' * (2 * PIECE + 1))
    assert [item["create"]["status"] for item in answer.json()["items"]] == [201] * (2 * PIECE + 1)


async def test_while_kafka_is_away_the_client_is_told_to_come_again(face: Face) -> None:
    face.publisher.failure = KafkaUnavailable("no Kafka")
    answer = await face.bulk(lines({"create": {}}, {}))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["error"]["type"] == "unavailable_shards_exception"


async def test_a_document_with_an_id_is_the_same_log_in_any_request(face: Face) -> None:
    body = lines({"index": {"_index": "i", "_id": "7"}}, {"@timestamp": TIME, "message": "m"})
    for _ in range(2):
        assert (await face.bulk(body)).json()["errors"] is False
    first, second = face.rows
    assert first == second
    assert first.metadata == {"id": "i/7"}


async def test_an_id_is_unique_in_its_index_only(face: Face) -> None:
    document = {"@timestamp": TIME, "message": "m", "service": "s"}
    for index in ("a", "b"):
        await face.bulk(lines({"index": {"_index": index, "_id": "1"}}, document))
    first, second = face.rows
    assert first.dedupe != second.dedupe


# Properties

SEED = lines(
    {"create": {}},
    {"@timestamp": TIME, "message": "m", "log": {"level": "warn"}, "a": {"b": [1, 2.5, None]}, "a.b": True},
    {"index": {"_index": "i", "_id": "7"}},
    {"timestamp": NOW, "service": {"name": "s"}},
    {"update": {"_id": "8"}},
    {"doc": {}},
    {"delete": {"_id": "9"}},
)


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with some of it cut, doubled, overwritten or moved."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        piece = bytes(data[start:end])
        data[start:end] = draw(st.sampled_from([b"", piece * 2, draw(st.binary(max_size=8)), piece[::-1]]))
    return bytes(data)


@thorough
@given(st.binary(max_size=300) | mutated(SEED), st.text(max_size=20), st.sampled_from(["", LINES, "application/json"]))
def test_arbitrary_and_changed_bodies_are_answered_item_by_item_or_refused(body: bytes, path: str, kind: str) -> None:
    dialect = request(path, kind)
    try:
        outcome, rows = store(dialect, body)
    except TorporError:
        return
    statuses = [next(iter(item.values()))["status"] for item in told(dialect, outcome)["items"]]
    assert statuses.count(201) == len(rows) == outcome.accepted
    assert [number for number, status in enumerate(statuses, 1) if status == 400] == [
        error.line for error in outcome.errors
    ]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="."), min_size=1, max_size=12)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
VALUES = LEAVES | st.lists(LEAVES, max_size=3)
INNER = st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=5)
DOCUMENTS = st.dictionaries(NAMES.map("x".__add__), INNER, max_size=5)


def flat(document: Item, prefix: str = "") -> dict[str, str]:
    """The metadata that a document is to become."""
    found: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            found[prefix + name] = value if isinstance(value, str) else plain
    return found


@thorough
@given(DOCUMENTS, TEXTS, st.sampled_from(sorted(LEVEL_ALIASES)), st.integers(0, 10**15), NAMES, TEXTS)
def test_a_good_document_survives_unchanged(
    more: Item, message: str, level: str, ago: int, service: str, trace_id: str
) -> None:
    trace_id = trace_id[:30]
    document = {
        **more,
        "@timestamp": timestamps.iso(NOW - ago),
        "message": message,
        "log": {"level": level},
        "service": {"name": service},
        "trace.id": trace_id,
    }
    outcome, (row,) = store(request("/i/_bulk"), lines({"create": {}}, document))
    assert outcome.rejected == 0
    index = {"index": "i"} if service != "i" else {}
    base = identity.of_batch("t", "batch")
    assert row == Record(
        "t",
        str(NOW - ago),
        service,
        LEVEL_ALIASES[level],
        message,
        {**flat(more), **index},
        trace_id,
        "",
        base + 1,
    )


GOOD: st.SearchStrategy[tuple[object, ...]] = st.builds(
    lambda text: ({"create": {}}, {"@timestamp": TIME, "message": text}), TEXTS
)
BAD: list[tuple[object, ...]] = [
    ({"index": {"_id": "1"}}, {"message": "an id without a time"}),
    ({"create": {}}, {"@timestamp": "soon"}),
    ({"create": {}}, b"{broken"),
    ({"create": {}}, b"\xff"),
    ({"index": {}}, []),
    ({"index": {}}, b""),
    ({"index": {}}, {"service": "s" * 256}),
    ({"update": {"_id": "1"}}, {"doc": {}}),
    ({"delete": {"_id": "1"}},),
]


@thorough
@given(
    st.lists(st.tuples(st.just(True), GOOD) | st.tuples(st.just(False), st.sampled_from(BAD)), min_size=1, max_size=20)
)
def test_a_mixed_batch_reports_exactly_its_bad_items(items: list[tuple[bool, tuple[object, ...]]]) -> None:
    dialect = request()
    outcome, rows = store(dialect, lines(*(line for _, item in items for line in item)))
    answer = told(dialect, outcome)
    assert answer["errors"] == (not all(good for good, _ in items))
    actions = [next(iter(item[0])) for _, item in items if isinstance(item[0], dict)]
    assert [next(iter(item)) for item in answer["items"]] == actions
    assert [next(iter(item.values()))["status"] == 201 for item in answer["items"]] == [good for good, _ in items]
    base = identity.of_batch("t", "batch")
    assert [row.dedupe - base for row in rows] == [number for number, (good, _) in enumerate(items, 1) if good]
    assert [row.message for row in rows] == [
        item[1]["message"] for good, item in items if good and isinstance(item[1], dict)
    ]
