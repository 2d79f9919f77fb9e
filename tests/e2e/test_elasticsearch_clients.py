"""Elasticsearch's and OpenSearch's own Python clients against ingest on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import elasticsearch.helpers
import opensearchpy.helpers
import pytest

from functions.common import timestamps
from functions.common.errors import Overloaded
from functions.common.host import listen, server
from functions.common.kafka import Headers
from functions.common.record import Record, decode
from functions.ingest.dialects.elasticsearch import PIECE
from functions.ingest.function import Ingest
from functions.ingest.intake import Config
from tests.support.memory import MemoryPublisher

COUNT = 2000


class BusyPublisher(MemoryPublisher):
    """Is overloaded as often as it is told to be."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = 0

    async def publish(self, topic: str, key: str, value: bytes, headers: Headers) -> None:
        """Keep the record, or refuse it."""
        if self.refusals:
            self.refusals -= 1
            raise Overloaded("too many bytes in progress; retry later")
        await super().publish(topic, key, value, headers)


@dataclasses.dataclass
class Target:
    """A served ingest: its address, and what it published."""

    url: str
    publisher: BusyPublisher

    @property
    def rows(self) -> list[Record]:
        return [decode(line) for _, _, value, _ in self.publisher.records for line in value.split(b"\n")]


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    publisher = BusyPublisher()
    http = server(Ingest(Config(), publisher))
    with listen(0, "127.0.0.1") as sock:
        serving = asyncio.create_task(http.serve(sockets=[sock]))
        yield Target(f"http://127.0.0.1:{sock.getsockname()[1]}", publisher)
        http.should_exit = True
        await serving


@contextlib.contextmanager
def official(url: str, packed: bool = False) -> Iterator[tuple[Any, Any]]:
    with elasticsearch.Elasticsearch(url, max_retries=0, http_compress=packed) as client:
        yield client, elasticsearch.helpers


@contextlib.contextmanager
def opensearch(url: str, packed: bool = False) -> Iterator[tuple[Any, Any]]:
    client = opensearchpy.OpenSearch(url, max_retries=0, http_compress=packed)
    yield client, opensearchpy.helpers
    client.close()


Connect = Callable[..., contextlib.AbstractContextManager[tuple[Any, Any]]]
clients = pytest.mark.parametrize("connect", [official, opensearch])


def actions(count: int) -> Iterator[dict[str, Any]]:
    start = timestamps.now() - count * 1_000_000
    for number in range(count):
        document = {"@timestamp": timestamps.iso(start + number * 1_000_000), "message": f"ünïcode {number}"}
        action: dict[str, Any] = {"_index": "logs-app-default", "_op_type": "create", "_source": document}
        if number % 2:
            action |= {"_op_type": "index", "_id": f"id-{number}"}
        yield action


@clients
async def test_a_client_finds_the_server_it_knows(target: Target, connect: Connect) -> None:
    def look() -> tuple[bool, Any]:
        with connect(target.url) as (client, _):
            return client.ping(), client.info()

    alive, info = await asyncio.to_thread(look)
    assert alive
    assert info["tagline"] == "You Know, for Search"


@clients
@pytest.mark.parametrize("packed", [False, True])
async def test_all_documents_sent_in_chunks_are_published(target: Target, connect: Connect, packed: bool) -> None:
    def send() -> Any:
        with connect(target.url, packed) as (client, helpers):
            return helpers.bulk(client, actions(COUNT), chunk_size=300)

    assert await asyncio.to_thread(send) == (COUNT, [])
    assert {row.message for row in target.rows} == {f"ünïcode {number}" for number in range(COUNT)}
    assert len(target.rows) == len({row.dedupe for row in target.rows}) == COUNT
    assert {row.service for row in target.rows} == {"logs-app-default"}


@clients
async def test_an_answer_in_pieces_is_read(target: Target, connect: Connect) -> None:
    def send() -> Any:
        with connect(target.url) as (client, helpers):
            return helpers.bulk(client, actions(PIECE + 1), chunk_size=PIECE + 1)

    assert await asyncio.to_thread(send) == (PIECE + 1, [])


@clients
async def test_bad_documents_are_raised_and_the_others_published(target: Target, connect: Connect) -> None:
    sent = [*actions(10), {"_op_type": "delete", "_index": "i", "_id": "1"}]
    sent[4]["_source"]["@timestamp"] = "soon"
    del sent[7]["_source"]["@timestamp"]

    def send() -> list[dict[str, Any]]:
        with connect(target.url) as (client, helpers), pytest.raises(helpers.BulkIndexError) as caught:
            helpers.bulk(client, sent)
        errors: list[dict[str, Any]] = caught.value.errors
        return errors

    errors = await asyncio.to_thread(send)
    told = [(action, error["status"], error["error"]["type"]) for item in errors for action, error in item.items()]
    assert told == [(action, 400, "document_parsing_exception") for action in ("create", "index", "delete")]
    assert errors[1]["index"]["_id"] == "id-7"
    assert sorted(row.message for row in target.rows) == [
        f"ünïcode {number}" for number in range(10) if number not in (4, 7)
    ]


@clients
async def test_what_is_refused_while_overloaded_is_sent_again(target: Target, connect: Connect) -> None:
    target.publisher.refusals = 2

    def send() -> Any:
        with connect(target.url) as (client, helpers):
            return helpers.bulk(client, actions(100), max_retries=2, initial_backoff=0.01)

    assert await asyncio.to_thread(send) == (100, [])
    assert target.publisher.refusals == 0
    assert len(target.rows) == 100
