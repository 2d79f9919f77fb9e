"""Index over HTTP: what KafkaSource posts, what it is told, and what goes into ClickHouse."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import REGISTRY

from functions.common import timestamps
from functions.common.config import ConfigError
from functions.common.errors import BadRows, ClickHouseUnavailable, KafkaUnavailable
from functions.common.event import MAX_RECORD_BYTES, Event
from functions.common.host import Host
from functions.common.kafka import KafkaConfig
from functions.common.record import Record, encode
from functions.index.function import Config, Index, new
from tests.support.memory import MemoryClickHouse, MemoryPublisher


class Picky(MemoryClickHouse):
    """Refuses rows whose message is `poison`."""

    def refuse(self, rows: bytes) -> None:
        if b'"message":"poison"' in rows:
            raise BadRows("Cannot parse", 27)


@dataclasses.dataclass
class Face:
    """Index as KafkaSource sees it, and both of its ends."""

    function: Index
    clickhouse: Picky
    publisher: MemoryPublisher
    client: httpx.AsyncClient

    async def post(self, event: Event, path: str = "/", **headers: str) -> httpx.Response:
        given = {name.replace("ce_", "ce-"): value.decode() for name, value in event.kafka_headers()}
        if event.origin:
            partition, offset = event.origin.split("/")
            given |= {"ce-knativekafkapartition": partition, "ce-knativekafkaoffset": offset}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=event.data, headers=given)


async def started(config: Config) -> AsyncIterator[Face]:
    clickhouse, publisher = Picky(), MemoryPublisher()
    function = Index(config, clickhouse, publisher)
    await function.start()
    transport = httpx.ASGITransport(app=Host(function), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://index") as client:
        yield Face(function, clickhouse, publisher, client)
    clickhouse.gate.set()
    await function.stop()


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    async for face in started(Config()):
        yield face


def row(message: str = "fine", number: int = 0) -> bytes:
    return encode(Record("t", "1790000000000000000", "s", "INFO", message, {}, "", "", number))


def event(name: str = "e", *messages: str) -> Event:
    return Event(name, "t", b"\n".join(map(row, messages or ("fine",))), "3/42")


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    detail: str = answer.json()["detail"]
    return detail


async def turns(count: int = 60) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_event_is_stored_byte_by_byte_under_its_token(face: Face) -> None:
    answer = await face.post(event("e-1", "a", "b"))
    assert (answer.status_code, answer.content) == (204, b"")
    assert face.clickhouse.inserts == [("logs", event("e-1", "a", "b").data, "e-1")]
    assert face.publisher.records == []


async def test_the_answer_comes_only_when_the_event_is_stored(face: Face) -> None:
    face.clickhouse.gate.clear()
    posting = asyncio.create_task(face.post(event()))
    await turns()
    assert not posting.done()
    face.clickhouse.gate.set()
    assert (await posting).status_code == 204


async def test_events_that_wait_together_are_one_insert_without_a_token(face: Face) -> None:
    face.clickhouse.gate.clear()
    posting = [asyncio.create_task(face.post(event("first")))]
    await turns()
    posting += [asyncio.create_task(face.post(event(f"e{number}", f"m{number}"))) for number in range(5)]
    await turns()
    face.clickhouse.gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*posting)} == {204}
    together = b"\n".join(row(f"m{number}") for number in range(5))
    assert face.clickhouse.inserts == [("logs", row(), "first"), ("logs", together, "")]


async def test_an_insert_stays_within_its_bound() -> None:
    size = len(row()) + 1
    async for face in started(Config(max_insert_bytes=2 * size)):
        face.clickhouse.gate.clear()
        posting = [asyncio.create_task(face.post(event(f"e{number}"))) for number in range(6)]
        await turns()
        face.clickhouse.gate.set()
        await asyncio.gather(*posting)
        assert all(len(rows) <= 2 * size for _, rows, _ in face.clickhouse.inserts)
        assert sum(rows.count(b"\n") + 1 for _, rows, _ in face.clickhouse.inserts) == 6


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({}, "specversion"),
        ({"ce-specversion": "1.0", "ce-type": "com.example.other"}, "com.example.other"),
        ({"content-type": "application/cloudevents+json"}, "specversion"),
    ],
)
async def test_what_is_none_of_ours_is_refused_so_that_it_is_not_retried(
    face: Face, headers: dict[str, str], named: str
) -> None:
    assert named in problem(await face.client.post("/", content=b"{}", headers=headers), 422)
    assert face.clickhouse.inserts == []


@pytest.mark.parametrize("name", ["ce-id", "ce-source", "ce-tenant", "ce-type", "ce-specversion"])
async def test_an_event_that_lacks_an_attribute_is_refused(face: Face, name: str) -> None:
    assert name.removeprefix("ce-") in problem(await face.post(event(), **{name: ""}), 422)


async def test_good_lines_of_a_refused_event_are_stored_and_bad_ones_become_dead_letters(face: Face) -> None:
    answer = await face.post(event("e-1", "a", "poison", "b"))
    assert answer.status_code == 204
    assert [rows for _, rows, _ in face.clickhouse.inserts] == [row("a"), row("b")]
    ((topic, key, value, headers),) = face.publisher.records
    assert (topic, key, value) == ("logs-dead-letter", "e-1", row("poison"))
    told = dict(headers)
    assert (told["ce_reason"], told["ce_code"]) == (b"Cannot parse", b"27")
    assert (told["ce_originid"], told["ce_origin"]) == (b"e-1", b"3/42")


async def test_a_bad_event_does_not_spoil_those_that_it_waited_with(face: Face) -> None:
    face.clickhouse.gate.clear()
    posting = [asyncio.create_task(face.post(event("first")))]
    await turns()
    names = ["good", "bad", "fine"]
    posting += [asyncio.create_task(face.post(event(name, "poison" if name == "bad" else name))) for name in names]
    await turns()
    face.clickhouse.gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*posting)} == {204}
    assert sorted(rows for _, rows, _ in face.clickhouse.inserts) == sorted([row(), row("good"), row("fine")])
    assert [value for _, _, value, _ in face.publisher.records] == [row("poison")]


async def test_the_dead_letter_topic_is_a_setting() -> None:
    async for face in started(Config(kafka=KafkaConfig(kafka_dead_letter_topic="mine"))):
        await face.post(event("e", "poison"))
        assert face.publisher.records[0][0] == "mine"


async def test_a_dead_letter_that_kafka_does_not_take_is_tried_again(face: Face) -> None:
    face.publisher.failure = KafkaUnavailable("no")
    answer = await face.post(event("e", "a", "poison"))
    problem(answer, 503)
    assert answer.headers["retry-after"] == "2"
    face.publisher.failure = None
    assert (await face.post(event("e", "a", "poison"))).status_code == 204
    assert len(face.publisher.records) == 1


async def test_while_clickhouse_does_not_answer_the_event_comes_again(face: Face) -> None:
    face.clickhouse.failure = ClickHouseUnavailable("ClickHouse does not answer")
    answer = await face.post(event())
    assert problem(answer, 503) == "ClickHouse does not answer"
    assert answer.headers["retry-after"] == "2"
    face.clickhouse.failure = None
    assert (await face.post(event())).status_code == 204
    assert face.publisher.records == []


async def test_when_too_much_waits_the_event_comes_again() -> None:
    async for face in started(Config(max_waiting_bytes=2 * len(row()))):
        face.clickhouse.gate.clear()
        posting = asyncio.create_task(face.post(event("first")))
        await turns()
        answer = await face.post(event("second"))
        problem(answer, 503)
        assert answer.headers["retry-after"] == "1"
        face.clickhouse.gate.set()
        assert (await posting).status_code == 204


async def test_an_event_larger_than_any_of_ours_is_refused(face: Face) -> None:
    problem(await face.post(Event("e", "t", b" " * (MAX_RECORD_BYTES + 1))), 413)
    assert face.clickhouse.inserts == []


async def test_an_unexpected_fault_is_told_without_its_text(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(table: str, rows: bytes, token: str = "") -> None:
        raise RuntimeError("password=hunter2")

    face.clickhouse.insert = broken  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        answer = await face.post(event())
    problem(answer, 500)
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text


async def test_events_are_taken_on_any_path(face: Face) -> None:
    assert (await face.post(event(), path="/any/where")).status_code == 204


async def test_the_root_says_what_this_is(face: Face) -> None:
    assert (await face.client.get("/")).json()["function"] == "index"


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("PUT", "/", "GET, POST"), ("GET", "/any", "POST"), ("DELETE", "/any", "POST")]
)
async def test_another_method_is_answered_with_those_that_are_allowed(
    face: Face, method: str, path: str, allow: str
) -> None:
    answer = await face.client.request(method, path)
    problem(answer, 405)
    assert answer.headers["allow"] == allow


async def test_readiness_follows_clickhouse(face: Face) -> None:
    assert (await face.client.get("/readyz")).status_code == 200
    face.clickhouse.failure = ClickHouseUnavailable("ClickHouse does not answer")
    assert (await face.client.get("/readyz")).status_code == 503


async def test_stopping_waits_for_inserts_under_way(face: Face) -> None:
    face.clickhouse.gate.clear()
    posting = asyncio.create_task(face.post(event()))
    await turns()
    stopping = asyncio.create_task(face.function.stop())
    await turns()
    assert not stopping.done()
    face.clickhouse.gate.set()
    await stopping
    assert (await posting).status_code == 204


async def test_events_and_inserts_are_counted(face: Face) -> None:
    def counts() -> list[float]:
        names: list[tuple[str, dict[str, str]]] = [
            ("torpor_index_requests_total", {"status": "204"}),
            ("torpor_index_inserts_total", {}),
            ("torpor_index_bytes_total", {}),
            ("torpor_index_dead_letters_total", {}),
        ]
        return [REGISTRY.get_sample_value(name, labels) or 0 for name, labels in names]

    before = counts()
    await face.post(event("e", "a"))
    await face.post(event("e", "poison"))
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [2, 1, len(row("a")), 1]


async def test_a_function_is_made_from_the_environment() -> None:
    function = new({"CLICKHOUSE_HOST": "db", "KAFKA_DEAD_LETTER_TOPIC": "mine"})
    assert function.config.clickhouse.clickhouse_host == "db"
    assert function.config.kafka.kafka_dead_letter_topic == "mine"
    await function.clickhouse.close()
    with pytest.raises(ConfigError, match="MAX_INSERT_BYTES"):
        new({"MAX_INSERT_BYTES": "many"})


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


async def test_the_time_from_ingest_to_a_search_is_measured_event_by_event(face: Face) -> None:
    count, total = sample("torpor_index_searchable_seconds_count"), sample("torpor_index_searchable_seconds_sum")
    made = timestamps.iso(timestamps.now() - 20 * timestamps.NANOSECONDS)
    assert (await face.post(event("a"), ce_time=made)).status_code == 204
    assert (await face.post(event("b"), ce_time="some day")).status_code == 204
    assert sample("torpor_index_searchable_seconds_count") == count + 1
    assert 20 <= sample("torpor_index_searchable_seconds_sum") - total < 25


async def test_inserts_that_fail_are_counted_and_not_as_inserts(face: Face) -> None:
    before = sample("torpor_index_failed_inserts_total"), sample("torpor_index_inserts_total")
    face.clickhouse.failure = ClickHouseUnavailable("away")
    assert (await face.post(event())).status_code == 503
    after = sample("torpor_index_failed_inserts_total"), sample("torpor_index_inserts_total")
    assert after == (before[0] + 1, before[1])


async def test_the_events_of_an_insert_are_measured(face: Face) -> None:
    before = sample("torpor_index_insert_events_sum"), sample("torpor_index_insert_events_count")
    face.clickhouse.gate.clear()
    posts = [asyncio.ensure_future(face.post(event(f"g{number}"))) for number in range(5)]
    await turns()
    face.clickhouse.gate.set()
    await asyncio.gather(*posts)
    total, count = sample("torpor_index_insert_events_sum"), sample("torpor_index_insert_events_count")
    assert total - before[0] == 5 and count - before[1] <= 5
