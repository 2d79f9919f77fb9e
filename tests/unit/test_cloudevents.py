"""CloudEvents are logs, in all three modes: made by hand, and by the published SDK."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common import identity, timestamps
from functions.common.errors import BadRequest
from functions.common.host import Host
from functions.common.record import Record, decode
from functions.ingest.dialects.cloudevents import BATCHED, STRUCTURED, is_cloudevent, records
from functions.ingest.function import PATH, Ingest
from functions.ingest.intake import Config
from functions.ingest.normalise import Normaliser, Outcome
from tests.support.memory import MemoryPublisher

NOW = timestamps.now() // timestamps.NANOSECONDS * timestamps.NANOSECONDS
TIME = timestamps.iso(NOW)
EVENT = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "com.example.sold", "time": TIME}
OWN = {"cloudevents.event_id": "e-1", "cloudevents.event_source": "/shop", "cloudevents.event_type": "com.example.sold"}
HEADERS = {f"ce-{name}": value for name, value in EVENT.items()}
quick = settings(deadline=None, max_examples=40)


def rows(headers: dict[str, str], kind: str, body: bytes) -> tuple[list[Record], Outcome]:
    outcome = Outcome()
    normaliser = Normaliser("t", "b", False, NOW, 30 * timestamps.DAY, 256 * 1024)
    chunks = list(normaliser.chunks(records(headers, kind, body), outcome))
    return [decode(line) for chunk in chunks for line in chunk.data.split(b"\n")], outcome


def structured(event: dict[str, Any] | bytes) -> Record:
    body = event if isinstance(event, bytes) else json.dumps({**EVENT, **event}).encode()
    (row,), outcome = rows({}, STRUCTURED, body)
    assert outcome.errors == []
    return row


def binary(body: bytes, kind: str = "application/json", **attributes: str) -> Record:
    headers = {**HEADERS, **{f"ce-{name}": value for name, value in attributes.items()}}
    (row,), outcome = rows(headers, kind, body)
    assert outcome.errors == []
    return row


def malformed(event: dict[str, Any] | bytes) -> str:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    with pytest.raises(BadRequest) as caught:
        rows({}, STRUCTURED, body)
    return str(caught.value)


@pytest.mark.parametrize(
    ("headers", "kind", "expected"),
    [
        ({}, STRUCTURED, True),
        ({}, BATCHED, True),
        ({"ce-specversion": "1.0"}, "application/json", True),
        ({"ce-specversion": "1.0"}, "", True),
        ({}, "application/json", False),
        ({"ce-id": "1"}, "application/x-ndjson", False),
    ],
)
def test_an_event_is_known_by_its_type_or_its_header(headers: dict[str, str], kind: str, expected: bool) -> None:
    assert is_cloudevent(headers, kind) is expected


def test_an_event_is_a_log() -> None:
    row = structured({"data": "sold out", "subject": "shoe", "region": "eu"})
    assert row == Record(
        "t",
        str(NOW),
        "/shop",
        "INFO",
        "sold out",
        {"id": "/shop#e-1", **OWN, "cloudevents.event_subject": "shoe", "cloudevents.region": "eu"},
        "",
        "",
        identity.of_id("t", "/shop#e-1"),
    )


def test_data_with_a_message_is_a_record() -> None:
    data = {"service": "pay", "message": "x", "level": "warn", "metadata": {"k": "v"}, "host": "h", "trace_id": "t1"}
    row = structured({"data": data})
    assert (row.service, row.message, row.level, row.trace_id) == ("pay", "x", "WARN", "t1")
    assert row.metadata == {"id": "/shop#e-1", "k": "v", "host": "h", **OWN}


def test_data_cannot_say_another_time_or_id() -> None:
    row = structured({"data": {"message": "x", "timestamp": "2001-01-01", "id": "mine"}})
    assert (row.timestamp, row.dedupe) == (str(NOW), identity.of_id("t", "/shop#e-1"))


@pytest.mark.parametrize(
    ("data", "message"),
    [(b'"x"', "x"), (b'{"a": 1.10}', '{"a": 1.10}'), (b"[1, 2]", "[1, 2]"), (b"5", "5"), (b"null", ""), (b'""', "")],
)
def test_any_other_data_is_the_message(data: bytes, message: str) -> None:
    body = json.dumps(EVENT).encode()[:-1] + b',"data":' + data + b"}"
    assert structured(body).message == message
    assert binary(data).message == message


def test_an_event_without_data_has_an_empty_message() -> None:
    assert structured({}).message == ""
    assert binary(b"").message == ""
    assert binary(b"", "text/plain").message == ""


def test_values_are_kept_digit_by_digit() -> None:
    data = b'{"message":"m","a":1.10,"b":1e2,"c":' + b"9" * 30 + b"}"
    body = json.dumps(EVENT).encode()[:-1] + b',"data":' + data + b',"n":1.0}'
    for row in (structured(body), binary(data)):
        assert (row.metadata["a"], row.metadata["b"], row.metadata["c"]) == ("1.10", "1e2", "9" * 30)
    assert structured(body).metadata["cloudevents.n"] == "1.0"


def test_nulls_count_as_absent() -> None:
    event = {"subject": None, "region": None, "data_base64": None, "dataschema": None}
    assert structured({**event, "data": {"message": "x", "service": None, "level": None}}) == structured(
        {"data": {"message": "x"}}
    )


def test_text_in_base64_is_the_message() -> None:
    assert structured({"data_base64": base64.b64encode("naïve".encode()).decode()}).message == "naïve"
    assert structured({"data_base64": ""}).message == ""


@pytest.mark.parametrize("packed", ["x", "é", "_w==", "/w==", 5, {}, [1], True])
def test_data_that_is_not_text_in_base64_is_refused(packed: object) -> None:
    assert malformed({**EVENT, "data_base64": packed}) == "event 1: data_base64 is not text in base64"


def test_data_is_given_once() -> None:
    assert "both data and data_base64" in malformed({**EVENT, "data": "x", "data_base64": "eA=="})


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
@pytest.mark.parametrize("value", [..., "", None, 5, {}])
def test_an_event_without_a_required_attribute_is_refused_with_its_name(name: str, value: object) -> None:
    event: dict[str, object] = {key: old for key, old in EVENT.items() if key != name}
    if value is not ...:
        event[name] = value
    assert malformed(event).startswith("event 1: ")
    assert name in malformed(event)
    if value is ... or value == "":
        headers = {key: old for key, old in HEADERS.items() if key != f"ce-{name}" or name == "specversion"}
        with pytest.raises(BadRequest, match=name):
            rows({**headers, f"ce-{name}": ""}, "", b"")


@pytest.mark.parametrize("version", ["0.3", "2.0", "1", "1.0.0", 1.0])
def test_another_version_is_refused(version: object) -> None:
    assert malformed({**EVENT, "specversion": version}) == "event 1: specversion is not 1.0"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"5",
        b"null",
        b"[]",
        b'"x"',
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"id":"\\ud800"}',
    ],
    ids=lambda body: repr(body[:12]),
)
@pytest.mark.parametrize("kind", [STRUCTURED, BATCHED])
def test_what_is_no_event_is_refused(body: bytes, kind: str) -> None:
    if (body, kind) == (b"[]", BATCHED):
        assert list(records({}, kind, body)) == []
        return
    with pytest.raises(BadRequest) as caught:
        records({}, kind, body)
    assert str(caught.value).startswith(("not a CloudEvent: ", "event 1: "))


def test_metadata_of_the_data_must_be_an_object() -> None:
    assert malformed({**EVENT, "data": {"message": "x", "metadata": "y"}}) == "event 1: metadata is not an object"


def test_an_event_without_a_time_is_rejected_since_it_would_be_another_log_each_time() -> None:
    event = {name: value for name, value in EVENT.items() if name != "time"}
    _, outcome = rows({}, STRUCTURED, json.dumps(event).encode())
    assert [(error.line, error.field) for error in outcome.errors] == [(1, "timestamp")]


def test_a_batch_is_one_log_an_event() -> None:
    events = [{**EVENT, "id": str(number), "data": f"m{number}"} for number in range(3)]
    logs, outcome = rows({}, BATCHED, json.dumps(events).encode())
    assert [log.message for log in logs] == ["m0", "m1", "m2"]
    assert len({log.dedupe for log in logs}) == outcome.accepted == 3


def test_a_malformed_event_of_a_batch_is_named_by_its_place() -> None:
    with pytest.raises(BadRequest, match=r"^event 2: the attribute id is missing"):
        records({}, BATCHED, json.dumps([EVENT, {"specversion": "1.0"}]).encode())


def test_an_event_sent_again_is_the_same_log() -> None:
    assert structured({"data": "x"}) == structured({"data": "x"})
    assert structured({"data": "x"}).dedupe != structured({"data": "x", "source": "/other"}).dedupe
    assert binary(b'"x"') == structured({"data": "x"})


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-ndjson", "text/csv"])
def test_data_of_another_type_is_text(kind: str) -> None:
    assert binary(b'{"a":1}\n{"b":2}', kind).message == '{"a":1}\n{"b":2}'


@pytest.mark.parametrize("kind", ["", "application/json", "text/json", "application/vnd.shop+json"])
def test_data_of_a_json_type_is_json(kind: str) -> None:
    row = binary(b'{"message":"x","n":1}', kind)
    assert (row.message, row.metadata["n"]) == ("x", "1")


@pytest.mark.parametrize(("kind", "body"), [("application/json", b"{"), ("text/plain", b"\xff"), ("", b"plain")])
def test_data_that_is_not_what_it_says_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises(BadRequest, match="not a CloudEvent"):
        records(HEADERS, kind, body)


@quick
@given(st.text(min_size=1, max_size=30))
def test_attributes_in_headers_are_percent_decoded(text: str) -> None:
    row = binary(b"", subject=quote(text, safe=""))
    assert row.metadata["cloudevents.event_subject"] == text


def test_an_unencoded_percent_sign_is_left_alone() -> None:
    assert binary(b"", subject="100% %zz").metadata["cloudevents.event_subject"] == "100% %zz"


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_a_traceparent_gives_trace_and_span(mode: str) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    row = binary(b"", traceparent=parent) if mode == "binary" else structured({"traceparent": parent})
    assert (row.trace_id, row.span_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert row.metadata == {"id": "/shop#e-1", **OWN}


@pytest.mark.parametrize("parent", ["", "00-xyz-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736", 5, None])
def test_a_broken_traceparent_is_ignored(parent: object) -> None:
    row = structured({"traceparent": parent})
    assert (row.trace_id, row.span_id) == ("", "")


def test_the_trace_of_the_data_counts_more() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert structured({"traceparent": parent, "data": {"message": "x", "trace_id": "own"}}).trace_id == "own"


def test_a_large_attribute_is_kept() -> None:
    assert len(structured({"big": "x" * 100_000}).metadata["cloudevents.big"]) == 100_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@quick
@given(st.dictionaries(st.sampled_from([*EVENT, "data", "data_base64", "traceparent", "x"]), json_values, max_size=9))
def test_an_event_of_any_shape_is_taken_or_refused_and_never_an_unknown_error(event: dict[str, Any]) -> None:
    for given_event in (event, {**EVENT, **event}):
        try:
            logs, outcome = rows({}, STRUCTURED, json.dumps(given_event).encode())
            assert len(logs) + outcome.rejected == 1
        except BadRequest:
            continue


# With the published SDK


@pytest.fixture
async def publisher() -> MemoryPublisher:
    return MemoryPublisher()


@pytest.fixture
async def client(publisher: MemoryPublisher) -> AsyncIterator[httpx.AsyncClient]:
    function = Ingest(Config(), publisher)
    await function.start()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=Host(function)), base_url="http://ingest") as client:
        yield client
    await function.stop()


def sdk_event(data: Any, **more: str) -> CloudEvent:
    attributes = {"id": "e-1", "source": "/shop", "type": "com.example.sold", "time": TIME, "region": "eu"}
    return CloudEvent({**attributes, **more}, data)


def published(publisher: MemoryPublisher) -> list[Record]:
    return [decode(line) for _, _, value, _ in publisher.records for line in value.split(b"\n")]


@pytest.mark.parametrize("convert", [to_binary, to_structured], ids=["binary", "structured"])
@pytest.mark.parametrize(
    ("data", "more"),
    [
        ({"message": "sold out", "level": "warn", "n": 1}, {"datacontenttype": "application/json"}),
        ({"message": "sold out", "level": "warn", "n": 1}, {}),
        ("sold out", {"datacontenttype": "text/plain"}),
    ],
    ids=["json", "json by default", "text"],
)
async def test_events_of_the_sdk_are_stored(
    client: httpx.AsyncClient, publisher: MemoryPublisher, convert: Any, data: Any, more: dict[str, str]
) -> None:
    as_it_is = None if isinstance(data, dict) else str  # the SDK would put quotes around plain text
    headers, body = convert(sdk_event(data, **more), data_marshaller=as_it_is)
    answer = await client.post(PATH, content=body, headers=headers)
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1), answer.text
    (row,) = published(publisher)
    assert (row.service, row.timestamp, row.dedupe) == ("/shop", str(NOW), identity.of_id("default", "/shop#e-1"))
    assert row.message == "sold out"
    assert row.metadata["cloudevents.region"] == "eu"
    if isinstance(data, dict):
        assert (row.level, row.metadata["n"]) == ("WARN", "1")


async def test_a_batch_of_the_sdk_is_stored(client: httpx.AsyncClient, publisher: MemoryPublisher) -> None:
    bodies = [to_structured(sdk_event({"message": f"m{number}"}, id=str(number)))[1] for number in range(3)]
    body = b"[" + b",".join(bodies) + b"]"
    answer = await client.post(PATH, content=body, headers={"content-type": f"{BATCHED}; charset=UTF-8"})
    assert answer.json()["accepted"] == 3
    assert [row.message for row in published(publisher)] == ["m0", "m1", "m2"]


async def test_an_sdk_event_sent_again_makes_byte_equal_rows(
    client: httpx.AsyncClient, publisher: MemoryPublisher
) -> None:
    headers, body = to_binary(sdk_event({"message": "x"}))
    for _ in range(2):
        assert (await client.post(PATH, content=body, headers=headers)).status_code == 200
    (_, _, first, _), (_, _, second, _) = publisher.records
    assert first == second


async def test_a_malformed_event_of_a_batch_leaves_no_trace(
    client: httpx.AsyncClient, publisher: MemoryPublisher
) -> None:
    answer = await client.post(PATH, json=[EVENT, {}], headers={"content-type": BATCHED})
    assert (answer.status_code, answer.json()["detail"]) == (400, "event 2: specversion is not 1.0")
    assert publisher.records == []
