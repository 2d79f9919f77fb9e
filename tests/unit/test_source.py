"""The rules of the KafkaSource stand-in, without Kafka and without a network."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.common.config import ConfigError
from functions.common.envelope import Unusable, envelope
from functions.common.errors import KafkaUnavailable
from functions.common.event import Event
from functions.common.kafka import KafkaConfig
from functions.local import delivery
from functions.local.delivery import Delivery, retried
from functions.local.manifests import DeliverySpec, Destination, ManifestError, Source, read_manifests, seconds
from functions.local.offsets import Offsets
from functions.local.source import KafkaSource
from tests.support.memory import MemoryPublisher

SINK = "http://sink.test/"
DEAD_LETTERS = Destination("KafkaSink", "dead")
NO_WAIT = DeliverySpec(retry=2, delay=0.0)
SOURCE = Source("logs", "default", ("logs",), "group", Destination("Service", "index"), delivery=NO_WAIT)
PARTITION = ("logs", 3)


@dataclasses.dataclass(frozen=True)
class Record:
    """A Kafka record, which is a valid event unless told otherwise."""

    headers: Sequence[tuple[str, bytes | None]] = (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"one"),
        ("ce_source", b"/test"),
        ("ce_type", b"test.v1"),
    )
    value: bytes | None = b"data"
    key: bytes | None = None
    topic: str = "logs"
    partition: int = 3
    offset: int = 17
    timestamp: int = 1_769_860_800_123

    def having(self, name: str, value: bytes | None) -> Record:
        """The same record with one header more, or another."""
        return dataclasses.replace(self, headers=[*(pair for pair in self.headers if pair[0] != name), (name, value)])


def manifest(directory: Path, text: str) -> Path:
    """A folder with a KafkaSource whose spec ends with `text`."""
    head = "kind: KafkaSource\nmetadata: {name: logs}\nspec:\n  topics: [logs]\n"
    sink = "" if "sink:" in text.split() else "  sink: {ref: {kind: Service, name: index}}\n"
    (directory / "logs.yaml").write_text(head + sink + text)
    return directory


# The manifest


def test_the_projects_own_manifests_are_read() -> None:
    manifests = read_manifests(Path(__file__).parents[2] / "kafka-sources")
    source = manifests.source
    assert (source.topics, source.group, source.sink) == (("logs",), "torpor-index", Destination("Service", "index"))
    assert (source.initial_offset, source.ordered) == ("earliest", False)
    assert source.delivery.retry > 0
    assert source.delivery.dead_letter
    assert source.delivery.dead_letter.name in manifests.sink_topics


def test_a_source_that_says_nothing_has_the_real_defaults(tmp_path: Path) -> None:
    source = read_manifests(manifest(tmp_path, "")).source
    assert (source.initial_offset, source.ordered, source.consumers) == ("latest", True, 1)
    assert source.delivery == DeliverySpec(10, "exponential", 0.3, 600.0, None)


@pytest.mark.parametrize("text", ["  delivery: {}\n", "  delivery: {timeout: PT0S}\n"])
def test_a_delivery_that_says_nothing_has_no_retries(tmp_path: Path, text: str) -> None:
    assert read_manifests(manifest(tmp_path, text)).source.delivery == DeliverySpec(0, "exponential", 0.2, 600.0, None)


def test_a_delivery_is_read(tmp_path: Path) -> None:
    text = "  delivery: {retry: 3, backoffPolicy: linear, backoffDelay: PT1M, timeout: PT2S,"
    text += " deadLetterSink: {uri: http://dead.test}}\n  ceOverrides: {extensions: {pipeline: logs}}\n"
    source = read_manifests(manifest(tmp_path, text)).source
    assert source.delivery == DeliverySpec(3, "linear", 60.0, 2.0, Destination(uri="http://dead.test"))
    assert source.extensions == {"pipeline": "logs"}


def test_other_kinds_are_passed_over_and_sinks_are_found_in_any_document(tmp_path: Path) -> None:
    sinks = "\n---\n".join(f"kind: KafkaSink\nmetadata: {{name: {name}}}\nspec: {{topic: t-{name}}}" for name in "ab")
    (tmp_path / "a.yaml").write_text(f"kind: KafkaTopic\nmetadata: {{name: x}}\n---\n{sinks}\n---\n")
    assert read_manifests(manifest(tmp_path, "")).sink_topics == {"a": "t-a", "b": "t-b"}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("  delivery: {retry: many}\n", "spec.delivery.retry"),
        ("  delivery: {retry: true}\n", "spec.delivery.retry"),
        ("  delivery: {retry: -1}\n", "spec.delivery.retry"),
        ("  delivery: {backoffDelay: 500ms}\n", "spec.delivery.backoffDelay"),
        ("  delivery: {backoffPolicy: quadratic}\n", "spec.delivery.backoffPolicy"),
        ("  delivery: {deadLetterSink: {ref: {kind: KafkaSink}}}\n", "spec.delivery.deadLetterSink.ref.name"),
        ("  delivery: often\n", "spec.delivery"),
        ("  ordering: mostly\n", "spec.ordering"),
        ("  initialOffset: 12\n", "spec.initialOffset"),
        ("  consumers: 1.5\n", "spec.consumers"),
        ("  topics: []\n", "spec.topics"),
        ("  sink: {}\n", "spec.sink"),
        ("  ceOverrides: {extensions: [a]}\n", "spec.ceOverrides.extensions"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_field(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(ManifestError) as told:
        read_manifests(manifest(tmp_path, text))
    assert str(tmp_path / "logs.yaml") in str(told.value)
    assert field in str(told.value)


def test_there_must_be_one_source(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="0 manifests"):
        read_manifests(tmp_path)
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ManifestError, match=r"broken\.yaml"):
        read_manifests(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("PT0.3S", 0.3),
        ("PT0,3S", 0.3),
        ("PT600S", 600),
        ("PT1M", 60),
        ("PT1H30M", 5400),
        ("P1DT1S", 86401),
        ("P2D", 172800),
    ],
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P1DT", "1S", "PT1", "PTS", "P1M", "-PT1S", "PT1M1H", "PT1.5M", "pt1s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)


def test_back_off_grows_as_in_the_real_one() -> None:
    default = DeliverySpec()
    assert sum(default.backoff(number) for number in range(1, 11)) == pytest.approx(613.8)
    assert [DeliverySpec(delay=0.5, policy="linear").backoff(number) for number in (1, 2, 3)] == [0.5, 1.0, 1.5]


# The event of a record


def test_an_event_keeps_its_attributes_and_its_bytes() -> None:
    logs = Event.fresh("acme", b'{"message":"\xff"}\n')
    headers = logs.kafka_headers()
    record = Record(headers=[*headers, ("other", b"dropped")], value=logs.data, key=b"key")
    event = envelope(record, SOURCE)
    assert event.data == logs.data
    read = Event.from_http(event.http_headers(), event.data)
    assert (read.id, read.tenant, read.data, read.origin) == (logs.id, "acme", logs.data, "3/17")
    assert event.http_headers()["content-type"] == "application/x-ndjson"
    assert not any("other" in name for name in event.http_headers())
    assert set(headers) < set(event.kafka_headers())


def test_overrides_win() -> None:
    source = dataclasses.replace(SOURCE, extensions={"pipeline": "logs", "knativekafkaoffset": "x"})
    headers = envelope(Record(), source).http_headers()
    assert (headers["ce-pipeline"], headers["ce-knativekafkaoffset"]) == ("logs", "x")


def test_an_event_of_headers_only_is_valid() -> None:
    event = envelope(Record(value=None), SOURCE)
    assert (event.attributes["type"], event.data) == ("test.v1", b"")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_time", b"2026-01-31T12:00:00Z"),
        ("ce_time", b"2026-01-31T12:00:00.123456789+02:00"),
        ("ce_specversion", b"0.3"),
        ("ce_source", b"urn:x:%20y"),
        ("ce_tenant", "Zürich".encode()),
    ],
)
def test_what_is_a_valid_attribute(name: str, value: bytes) -> None:
    assert envelope(Record().having(name, value), SOURCE).attributes["type"] == "test.v1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_time", b"yesterday"),
        ("ce_time", b"2026-02-30T12:00:00Z"),
        ("ce_time", b"2026-01-31 12:00:00"),
        ("ce_specversion", b"2.0"),
        ("ce_id", b""),
        ("ce_source", b"not a uri"),
        ("ce_dataschema", b"<>"),
        ("ce_Tenant", b"x"),
        ("ce_my-name", b"x"),
    ],
)
def test_one_bad_attribute_changes_the_type(name: str, value: bytes) -> None:
    assert envelope(Record().having(name, value), SOURCE).attributes["type"] == "dev.knative.kafka.event"


def test_a_plain_record_is_wrapped() -> None:
    headers = [("X-Trace-Id", b"abc"), ("Content-Type", b"Text/PLAIN; charset=UTF-8"), ("ce_id", b"no event")]
    event = envelope(Record(headers=headers, value=b"\x00raw", key=b"a key"), SOURCE)
    assert event.data == b"\x00raw"
    assert event.http_headers() == {
        "ce-specversion": "1.0",
        "ce-id": "partition:3/offset:17",
        "ce-source": "/apis/v1/namespaces/default/kafkasources/logs#logs",
        "ce-type": "dev.knative.kafka.event",
        "ce-subject": "partition:3#17",
        "ce-time": "2026-01-31T12:00:00.123Z",
        "ce-partitionkey": "a key",
        "ce-key": "a key",
        "ce-kafkaheaderxtraceid": "abc",
        "ce-kafkaheaderceid": "no event",
        "content-type": "text/plain; charset=utf-8",
        "ce-knativekafkapartition": "3",
        "ce-knativekafkaoffset": "17",
    }


def test_a_plain_record_without_a_key_has_none() -> None:
    event = envelope(Record(headers=[], timestamp=1_769_860_800_000), SOURCE)
    assert not {"key", "partitionkey", "datacontenttype"} & set(event.attributes)
    assert event.attributes["time"] == "2026-01-31T12:00:00Z"


@pytest.mark.parametrize("record", [Record(headers=[], value=None), Record(headers=[("a", None)])])
def test_what_cannot_be_wrapped_is_unusable(record: Record) -> None:
    with pytest.raises(Unusable):
        envelope(record, SOURCE)


@pytest.mark.parametrize(
    ("rest", "data"),
    [
        ('"data": {"a": 1}', b'{"a":1}'),
        ('"data": "text"', b'"text"'),
        ('"data": "text", "datacontenttype": "text/plain"', b"text"),
        ('"data_base64": "AP8=", "datacontenttype": "image/png"', b"\x00\xff"),
        ('"n": 1, "flag": true, "none": null', b""),
    ],
)
def test_an_event_in_structured_mode_is_posted_in_binary_mode(rest: str, data: bytes) -> None:
    text = f'{{"specversion": "1.0", "id": "one", "source": "/test", "type": "test.v1", {rest}}}'
    headers = [("content-type", b"application/cloudevents+json; charset=utf-8")]
    event = envelope(Record(headers=headers, value=text.encode()), SOURCE)
    assert (event.attributes["type"], event.data) == ("test.v1", data)
    assert "application/cloudevents" not in event.http_headers().get("content-type", "")
    assert event.attributes.get("flag", "true") == "true"
    assert "none" not in event.attributes


@pytest.mark.parametrize("value", [b"", b"[]", b"{", b'{"specversion": "1.0"}', b'{"id": {"a": 1}}'])
def test_what_is_no_event_in_structured_mode_is_wrapped(value: bytes) -> None:
    headers = [("content-type", b"application/cloudevents+json")]
    assert envelope(Record(headers=headers, value=value), SOURCE).attributes["type"] == "dev.knative.kafka.event"


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ('a b"c%', 'a b"c%'),
        ("Zürich", "Z%C3%BCrich"),
        ("a\r\nx-evil: 1", "a%0D%0Ax-evil:%201"),
        ("é %", "%C3%A9%20%25"),
    ],
)
def test_a_header_holds_any_value(value: str, header: str) -> None:
    assert envelope(Record().having("ce_tenant", value.encode()), SOURCE).http_headers()["ce-tenant"] == header


# What becomes of a record


def delivering(
    answer: Callable[[httpx.Request], httpx.Response], publisher: MemoryPublisher, **spec: Any
) -> tuple[Delivery, list[httpx.Request]]:
    """A delivery to a sink that answers so, and the requests that the sink gets."""
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return answer(request)

    source = dataclasses.replace(SOURCE, delivery=dataclasses.replace(NO_WAIT, **spec))
    client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return Delivery(source, {"index": SINK}, publisher, {"dead": "dead-letters"}, [client]), requests


def counts(made: Delivery) -> tuple[int, int, int]:
    return made.delivered, made.dead_lettered, made.failed


async def test_every_status_has_its_rule() -> None:
    for status in range(200, 600):
        publisher = MemoryPublisher()
        made, requests = delivering(lambda _: httpx.Response(status), publisher, dead_letter=DEAD_LETTERS)  # noqa: B023
        await made.deliver(Record())
        again = status >= 500 or status in (404, 408, 409, 429)
        assert retried(status) == again
        assert len(requests) == (3 if again else 1), status
        assert counts(made) == ((1, 0, 0) if status < 300 else (0, 1, 0)), status
        assert len(publisher.records) == (0 if status < 300 else 1), status


async def test_a_post_is_what_the_function_expects() -> None:
    made, requests = delivering(lambda _: httpx.Response(204), MemoryPublisher())
    await made.deliver(Record())
    (request,) = requests
    assert (request.method, str(request.url), request.content) == ("POST", SINK, b"data")
    assert (request.headers["prefer"], request.headers["kn-namespace"]) == ("reply", "default")


async def test_retries_wait_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(delay: float) -> None:
        waited.append(delay)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    made, requests = delivering(lambda _: httpx.Response(503), MemoryPublisher(), retry=10, delay=0.3)
    await made.deliver(Record())
    assert len(requests) == 11
    assert sum(waited) == pytest.approx(613.8)


async def test_a_sink_that_recovers_gets_the_record() -> None:
    answers = iter([503, 429, 204])
    made, requests = delivering(lambda _: httpx.Response(next(answers)), MemoryPublisher())
    await made.deliver(Record())
    assert (len(requests), counts(made)) == (3, (1, 0, 0))


async def test_a_dead_letter_tells_why() -> None:
    publisher = MemoryPublisher()
    body = bytes(range(256)) * 8
    answer = httpx.Response(422, content=body, headers={"kne-Hint": "look", "kne-bad-name": "x", "other": "y"})
    made, _ = delivering(lambda _: answer, publisher, dead_letter=DEAD_LETTERS)
    await made.deliver(Record().having("content-type", b"text/plain").having("ce_partitionkey", b"p"))
    ((topic, key, value, headers),) = publisher.records
    assert (topic, key, value) == ("dead-letters", "p", b"data")
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"one",
        "ce_source": b"/test",
        "ce_type": b"test.v1",
        "ce_partitionkey": b"p",
        "content-type": b"text/plain",
        "ce_knativekafkapartition": b"3",
        "ce_knativekafkaoffset": b"17",
        "ce_knativeerrordest": SINK.encode(),
        "ce_knativeerrorcode": b"422",
        "ce_knativeerrordata": base64.b64encode(body[:1024]),
        "ce_hint": b"look",
    }


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError])
async def test_no_answer_is_tried_again_and_has_no_code(error: type[httpx.TransportError]) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise error("no")

    publisher = MemoryPublisher()
    made, requests = delivering(refuse, publisher, dead_letter=DEAD_LETTERS)
    await made.deliver(Record())
    assert (len(requests), counts(made)) == (3, (0, 1, 0))
    headers = dict(publisher.records[0][3])
    assert headers["ce_knativeerrordest"] == SINK.encode()
    assert not {"ce_knativeerrorcode", "ce_knativeerrordata"} & set(headers)


async def test_a_sink_that_hangs_is_given_up() -> None:
    async def hang(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return httpx.Response(204)

    spec = dataclasses.replace(SOURCE, delivery=DeliverySpec(retry=1, delay=0.0, timeout=0.01))
    client = httpx.AsyncClient(transport=httpx.MockTransport(hang))
    made = Delivery(spec, {"index": SINK}, MemoryPublisher(), {}, [client])
    await made.deliver(Record())
    assert counts(made) == (0, 0, 1)


async def test_a_dead_letter_sink_may_be_an_address() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400 if str(request.url) == SINK else 202)

    made, requests = delivering(answer, MemoryPublisher(), dead_letter=Destination(uri="http://dead.test/"))
    await made.deliver(Record())
    assert [str(request.url) for request in requests] == [SINK, "http://dead.test/"]
    assert requests[1].headers["ce-knativeerrorcode"] == "400"
    assert counts(made) == (0, 1, 0)


@pytest.mark.parametrize("sink", [None, DEAD_LETTERS, Destination(uri="http://dead.test/")])
async def test_a_record_that_nobody_takes_is_lost_with_a_line_of_error(
    sink: Destination | None, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = MemoryPublisher()
    publisher.failure = KafkaUnavailable("down")
    made, _ = delivering(lambda _: httpx.Response(400), publisher, dead_letter=sink)
    await made.deliver(Record())
    assert counts(made) == (0, 0, 1)
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (vars(line)["topic"], vars(line)["partition"], vars(line)["offset"]) == ("logs", 3, 17)


@pytest.mark.parametrize("record", [Record(headers=[], value=None), Record(topic="x", timestamp=10**20, headers=[])])
async def test_a_record_that_nothing_can_be_made_of_does_not_hold_up_the_others(
    record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    made, requests = delivering(lambda _: httpx.Response(204), MemoryPublisher())
    await made.deliver(record)
    assert (requests, counts(made)) == ([], (0, 0, 1))
    assert [line.levelname for line in caplog.records if line.name == delivery.__name__] == ["ERROR"]


async def test_an_outage_of_the_sink_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", delivery.__name__)
    answers = iter([503, 503, 503, 503, 204, 204])
    made, _ = delivering(lambda _: httpx.Response(next(answers)), MemoryPublisher(), retry=4)
    await made.deliver(Record())
    await made.deliver(Record())
    assert [line.levelname for line in caplog.records if line.name == delivery.__name__] == ["WARNING", "INFO"]


@pytest.mark.parametrize("sinks", [{}, {"index": SINK}])
def test_a_destination_that_nobody_knows_stops_the_start(sinks: dict[str, str]) -> None:
    spec = dataclasses.replace(SOURCE, delivery=DeliverySpec(dead_letter=DEAD_LETTERS))
    with pytest.raises(ConfigError, match="dead" if sinks else "index"):
        KafkaSource(KafkaConfig(), spec, sinks, MemoryPublisher(), {})


# What may be committed


@given(st.data())
def test_only_a_finished_prefix_is_committed(data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=60))
    offsets = [sum(gaps[: number + 1]) for number in range(len(gaps))]  # a compacted topic has gaps
    made = Offsets()
    made.assigned([PARTITION])
    made.reached(made.epoch, {PARTITION: (0, offsets[-1] + 1)})
    for offset in offsets:
        made.took(PARTITION, offset)
    finished: set[int] = set()
    for offset in data.draw(st.permutations(offsets)):
        assert not made.caught_up({})
        made.finished(PARTITION, offset)
        finished.add(offset)
        committed = made.done()[PARTITION]
        assert all(before in finished for before in offsets if before < committed)
        unfinished = [number for number in offsets if number not in finished]
        assert committed == min(unfinished, default=offsets[-1] + 1)
    assert made.caught_up({PARTITION: offsets[-1] + 1})
    assert not made.caught_up({PARTITION: offsets[-1] + 2})


def test_nothing_is_known_of_a_partition_before_it_was_fetched() -> None:
    made = Offsets()
    assert not made.caught_up({})
    made.assigned([PARTITION])
    assert made.done() == {}
    made.reached(made.epoch, {PARTITION: (5, None)})
    assert made.done() == {PARTITION: 5}
    assert not made.caught_up({})
    made.reached(made.epoch, {PARTITION: (5, 5)})
    assert made.caught_up({PARTITION: 5})
    assert not made.caught_up({("other", 0): 0})


def test_a_partition_that_stays_keeps_its_account() -> None:
    made = Offsets()
    made.assigned([PARTITION, ("other", 0)])
    made.took(PARTITION, 7)
    made.took(PARTITION, 8)
    made.finished(PARTITION, 7)
    assert made.done([PARTITION, ("unknown", 0)]) == {PARTITION: 8}
    made.assigned([PARTITION])
    assert made.unfinished(PARTITION, 8)
    made.finished(PARTITION, 8)
    assert made.done() == {PARTITION: 9}


@pytest.mark.parametrize("end", [lambda made: made.lost([PARTITION]), lambda made: made.assigned([("other", 0)])])
def test_a_partition_that_went_counts_no_more(end: Callable[[Offsets], None]) -> None:
    made = Offsets()
    made.assigned([PARTITION])
    made.took(PARTITION, 7)
    end(made)
    assert not made.unfinished(PARTITION, 7)
    made.finished(PARTITION, 7)
    made.took(PARTITION, 8)
    assert made.done() == {}


def test_a_position_of_before_a_rebalance_is_ignored() -> None:
    made = Offsets()
    made.assigned([PARTITION])
    before = made.epoch
    made.lost([PARTITION])
    made.assigned([PARTITION])
    made.reached(before, {PARTITION: (99, 99)})
    assert made.done() == {}
