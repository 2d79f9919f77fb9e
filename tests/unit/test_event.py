"""An event is a CloudEvent in binary mode, and reads back as KafkaSource posts it."""

import uuid

import pytest
from starlette.datastructures import Headers

from functions.common import timestamps
from functions.common.errors import NotOurs
from functions.common.event import DEAD_LETTER_TYPE, MAX_DATA_BYTES, MAX_RECORD_BYTES, TYPE, DeadLetter, Event

EVENT = Event("0197-id", "acme", b'{"a":1}\n{"b":2}', "3/42")


def posted(event: Event, **more: str) -> dict[str, str]:
    """The headers that KafkaSource makes of an event's, and adds."""
    headers = {name.replace("ce_", "ce-"): value.decode() for name, value in event.kafka_headers()}
    return {**headers, **{f"ce-{name}": value for name, value in more.items()}}


def test_a_fresh_event_has_an_id_of_its_own() -> None:
    one, other = Event.fresh("t", b""), Event.fresh("t", b"")
    assert one.id != other.id
    assert uuid.UUID(one.id).version == 7


def test_the_headers_are_a_cloudevent_of_the_kafka_binding() -> None:
    headers = dict(EVENT.kafka_headers())
    time = headers.pop("ce_time").decode()
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": b"0197-id",
        "ce_source": b"/torpor/ingest",
        "ce_type": TYPE.encode(),
        "ce_partitionkey": b"0197-id",
        "ce_tenant": b"acme",
        "content-type": b"application/x-ndjson",
    }
    assert abs(timestamps.parse(time) - timestamps.now()) < 60 * timestamps.NANOSECONDS


def test_no_header_is_given_twice() -> None:
    names = [name for name, _ in EVENT.kafka_headers()]
    assert len(names) == len(set(names))


def test_what_kafka_source_posts_is_the_event_with_its_origin() -> None:
    headers = Headers(posted(EVENT, knativekafkapartition="3", knativekafkaoffset="42"))
    assert Event.from_http(headers, EVENT.data) == EVENT


def test_an_event_of_unknown_origin_has_none() -> None:
    assert Event.from_http(Headers(posted(EVENT)), EVENT.data).origin == ""


def test_attributes_are_percent_decoded() -> None:
    headers = Headers({**posted(EVENT), "ce-tenant": "caf%C3%A9%20%25"})
    assert Event.from_http(headers, b"").tenant == "café %"


@pytest.mark.parametrize("name", ["ce-specversion", "ce-type", "ce-id", "ce-source", "ce-tenant"])
@pytest.mark.parametrize("value", [None, ""])
def test_an_event_that_lacks_an_attribute_is_none_of_ours(name: str, value: str | None) -> None:
    headers = posted(EVENT)
    del headers[name]
    with pytest.raises(NotOurs, match=name.removeprefix("ce-")):
        Event.from_http(Headers(headers if value is None else {**headers, name: value}), b"")


@pytest.mark.parametrize(
    ("name", "value"), [("ce-specversion", "0.3"), ("ce-type", "com.example.other"), ("ce-type", DEAD_LETTER_TYPE)]
)
def test_another_event_is_none_of_ours(name: str, value: str) -> None:
    with pytest.raises(NotOurs, match=name.removeprefix("ce-")):
        Event.from_http(Headers({**posted(EVENT), name: value}), b"")


def test_a_dead_letter_names_its_event_and_its_reason() -> None:
    headers = dict(DeadLetter(EVENT, b"{", "not a row: ö", 27).kafka_headers())
    assert uuid.UUID(headers.pop("ce_id").decode()).version == 7
    assert timestamps.parse(headers.pop("ce_time").decode())
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_source": b"/torpor/index",
        "ce_type": DEAD_LETTER_TYPE.encode(),
        "ce_tenant": b"acme",
        "ce_reason": "not a row: ö".encode(),
        "ce_code": b"27",
        "ce_originid": b"0197-id",
        "ce_origin": b"3/42",
        "content-type": b"application/x-ndjson",
    }


def test_a_dead_letter_has_no_empty_attribute() -> None:
    headers = dict(DeadLetter(Event("id", "t", b""), b"", "x", 0).kafka_headers())
    assert "ce_origin" not in headers
    assert headers["ce_code"] == b"0"


def test_a_full_event_fits_into_kafkas_usual_limit_of_a_record() -> None:
    headers = Event("i" * 36, "t" * 255, b"").kafka_headers()
    assert MAX_DATA_BYTES + sum(len(name) + len(value) + 10 for name, value in headers) + 100 < 1024 * 1024
    assert MAX_RECORD_BYTES > 1024 * 1024
