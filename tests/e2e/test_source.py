"""The KafkaSource stand-in between a broker, the embedded one or with TEST_KAFKA=apache Apache Kafka, and a server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import gc
import itertools
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError

from functions.common import host
from functions.common.event import CONTENT_TYPE, Event
from functions.common.kafka import KafkaConfig, KafkaPublisher
from functions.local import member
from functions.local.manifests import DeliverySpec, Destination, Source
from functions.local.source import KafkaSource
from tests.support.kafka import ApacheKafka, Broker, free_port, why_not
from tests.support.memory import MemoryPublisher
from tests.support.tansu import Tansu

ROOT = Path(__file__).parents[2]
APACHE = os.environ.get("TEST_KAFKA") == "apache"
HTTP_HEADERS = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length"}
"""What any HTTP client sends."""
FAST = DeliverySpec(retry=10, delay=0.01, dead_letter=Destination("KafkaSink", "dead"))


@dataclasses.dataclass
class Post:
    """A request that the sink got."""

    headers: dict[str, str]
    body: bytes
    started: float = 0.0
    ended: float = 0.0


Answer = Callable[[Post, int], int]


class Sink:
    """An HTTP server that answers the post number n, from 0, with `answer(post, n)`, as soon as `gate` is open."""

    def __init__(self, port: int = 0) -> None:
        self.posts: list[Post] = []
        self.answer: Answer = lambda post, number: 204
        self.gate = asyncio.Event()
        self.gate.set()
        self.now = self.most = 0
        self._port = port

    async def __aenter__(self) -> Sink:
        sock = host.listen(self._port, "127.0.0.1")
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
        config = uvicorn.Config(self._app, interface="asgi3", lifespan="off", log_config=None, access_log=False)
        config.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]  # pytest hears them
        self._task = asyncio.create_task(self._server.serve(sockets=[sock]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        self._server.should_exit = True
        await self._task

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        post = Post({name.decode(): value.decode() for name, value in scope["headers"]}, body, time.monotonic())
        number = len(self.posts)
        self.posts.append(post)
        self.now += 1
        self.most = max(self.most, self.now)
        await self.gate.wait()
        self.now -= 1
        status = self.answer(post, number)
        post.ended = time.monotonic()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"why" if status >= 300 else b""})

    def ids(self) -> list[str]:
        return [post.headers["ce-id"] for post in self.posts]


class Setting:
    """A topic of its own on a broker, with what a source of it needs."""

    def __init__(self, broker: Broker, partitions: int = 4, create: bool = True) -> None:
        name = f"t-{uuid.uuid4().hex[:12]}"
        self.topic, self.dead_topic, self.group = name, f"{name}-dead", f"{name}-group"
        self.config = KafkaConfig(
            kafka_bootstrap_servers=broker.bootstrap, kafka_topic=name, kafka_dead_letter_topic=self.dead_topic
        )
        self.partitions = partitions
        if create:
            self.create()

    def create(self) -> None:
        admin = KafkaAdminClient(**self.config.connection())
        with contextlib.closing(admin), contextlib.suppress(TopicAlreadyExistsError):
            admin.create_topics([NewTopic(self.topic, self.partitions, 1), NewTopic(self.dead_topic, 1, 1)])

    def manifest(self, delivery: DeliverySpec = FAST, **more: Any) -> Source:
        made = Source("logs", "default", (self.topic,), self.group, Destination("Service", "index"))
        return dataclasses.replace(
            made, **{"initial_offset": "earliest", "ordered": False, "delivery": delivery, **more}
        )

    def source(self, url: str, manifest: Source | None = None, publisher: Any = None, **more: Any) -> KafkaSource:
        sinks, topics = {"index": url}, {"dead": self.dead_topic}
        return KafkaSource(
            self.config, manifest or self.manifest(), sinks, publisher or MemoryPublisher(), topics, **more
        )

    def produce(
        self, ids: list[str], partition: int | None = None, value: bytes = b"data"
    ) -> dict[tuple[str, int], int]:
        """Write an event for each id; returns the end of every partition that was written to."""
        ends: dict[tuple[str, int], int] = {}
        producer = KafkaProducer(**self.config.connection(), enable_idempotence=False, max_request_size=3_000_000)
        with contextlib.closing(producer):
            sent = [producer.send(self.topic, value, name.encode(), event_headers(name), partition) for name in ids]
            for future in sent:
                record = future.get(timeout=20)
                ends[self.topic, record.partition] = record.offset + 1
        return ends

    def dead_letters(self, count: int) -> list[Any]:
        found: list[Any] = []
        with contextlib.closing(KafkaConsumer(**self.config.connection(), auto_offset_reset="earliest")) as consumer:
            consumer.assign([TopicPartition(self.dead_topic, 0)])
            deadline = time.monotonic() + 10
            while len(found) < count and time.monotonic() < deadline:
                found += [record for records in consumer.poll(200).values() for record in records]
        return found


def event_headers(name: str) -> list[tuple[str, bytes]]:
    attributes = {"ce_specversion": "1.0", "ce_id": name, "ce_source": "/test", "ce_type": "test.v1"}
    return [(key, value.encode()) for key, value in attributes.items()]


def names(count: int) -> list[str]:
    return [f"e{number}" for number in range(count)]


async def until(true: Callable[[], bool], timeout: float = 15.0) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "this did not come to pass in time"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(source: KafkaSource) -> AsyncIterator[KafkaSource]:
    await source.start()
    try:
        yield source
    finally:
        await source.stop()


@contextlib.contextmanager
def new_broker(directory: Path) -> Iterator[Broker]:
    if not APACHE:
        with Tansu() as tansu:
            yield tansu
        return
    if reason := why_not():
        pytest.skip(reason)
    apache = ApacheKafka(directory)
    apache.start()
    try:
        yield apache
    finally:
        apache.stop()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with new_broker(tmp_path_factory.mktemp("broker")) as made:
        yield made


@pytest.fixture(autouse=True)
def quick_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member waits half a session before the embedded broker gives it partitions."""
    if not APACHE:
        monkeypatch.setitem(member.OPTIONS, "session_timeout_ms", 1500)
        monkeypatch.setitem(member.OPTIONS, "heartbeat_interval_ms", 300)


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, to do harm to."""
    with new_broker(tmp_path) as made:
        yield made
    # The client leaves sockets unclosed that it could not connect: let them be found here, where it is known.
    gc.collect()


KNOWN_LEAK = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


async def test_events_from_before_the_source_arrive_as_they_are(broker: Broker) -> None:
    setting = Setting(broker)
    event = Event.fresh("acme", b'{"message":"caf\xc3\xa9"}\n\x00')
    headers = event.kafka_headers()
    with contextlib.closing(KafkaProducer(**setting.config.connection(), enable_idempotence=False)) as producer:
        producer.send(setting.topic, event.data, b"key", [*headers, ("trace", b"x")], 2).get(timeout=10)
        producer.send(setting.topic, b"plain", b"key", [("trace", b"x")], 1).get(timeout=10)
    async with Sink() as sink, running(setting.source(sink.url)) as source:
        assert await source.drained({(setting.topic, 2): 1, (setting.topic, 1): 1}, timeout=15)
        posts = {post.headers["ce-type"]: post for post in sink.posts}
        ours, plain = posts["io.torpor.logs.batch.v1"], posts["dev.knative.kafka.event"]
        assert ours.body == event.data
        assert {name: value for name, value in ours.headers.items() if name not in HTTP_HEADERS} == {
            **{name.replace("ce_", "ce-"): value.decode() for name, value in headers},
            "ce-knativekafkapartition": "2",
            "ce-knativekafkaoffset": "0",
            "content-type": CONTENT_TYPE,
            "prefer": "reply",
            "kn-namespace": "default",
        }
        assert plain.body == b"plain"
        assert (plain.headers["ce-id"], plain.headers["ce-kafkaheadertrace"]) == ("partition:1/offset:0", "x")
        assert (source.delivered, source.dead_lettered, source.failed) == (2, 0, 0)


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_large_event_and_an_empty_one_arrive(broker: Broker, ordered: bool) -> None:
    setting = Setting(broker)
    large = os.urandom(1_900_000)
    ends = {**setting.produce(["large"], 0, large), **setting.produce(["empty"], 1, b"")}
    async with Sink() as sink, running(setting.source(sink.url, setting.manifest(ordered=ordered))) as source:
        assert await source.drained(ends, timeout=15)
        assert {post.headers["ce-id"]: post.body for post in sink.posts} == {"large": large, "empty": b""}


async def test_a_refused_event_is_posted_again_until_it_is_taken(broker: Broker) -> None:
    setting = Setting(broker)
    ends = setting.produce(["one"])
    async with Sink() as sink, running(setting.source(sink.url)) as source:
        sink.answer = lambda post, number: [503, 429, 204][number]
        assert await source.drained(ends, timeout=15)
        assert sink.ids() == ["one"] * 3
        assert (source.delivered, source.failed) == (1, 0)


async def test_a_hopeless_event_goes_straight_to_the_dead_letters(broker: Broker) -> None:
    setting = Setting(broker)
    ends = setting.produce(["good", "bad"], 0)
    publisher = KafkaPublisher(setting.config)
    await publisher.start()
    async with Sink() as sink, running(setting.source(sink.url, publisher=publisher)) as source:
        sink.answer = lambda post, number: 422 if post.headers["ce-id"] == "bad" else 204
        assert await source.drained(ends, timeout=15)
        assert sorted(sink.ids()) == ["bad", "good"]
        assert (source.delivered, source.dead_lettered, source.failed) == (1, 1, 0)
    await publisher.stop()
    (letter,) = await asyncio.to_thread(setting.dead_letters, 1)
    assert letter.value == b"data"
    assert dict(letter.headers) == {
        **dict(event_headers("bad")),
        "ce_knativekafkapartition": b"0",
        "ce_knativekafkaoffset": b"1",
        "ce_knativeerrordest": sink.url.encode(),
        "ce_knativeerrorcode": b"422",
        "ce_knativeerrordata": base64.b64encode(b"why"),
    }


async def test_no_more_than_fifty_are_in_flight_and_all_arrive(broker: Broker) -> None:
    setting = Setting(broker)
    ends = setting.produce(names(230))
    async with Sink() as sink, running(setting.source(sink.url)) as source:
        sink.gate.clear()
        await until(lambda: sink.now == 50)
        assert not await source.drained(ends, timeout=1)
        assert sink.now == 50
        sink.gate.set()
        assert await source.drained(ends, timeout=15)
        assert sorted(sink.ids()) == sorted(names(230))
        assert sink.most == 50


async def test_in_order_each_partition_waits_for_itself_only(broker: Broker) -> None:
    setting = Setting(broker, partitions=3)
    ends: dict[tuple[str, int], int] = {}
    for partition in range(3):
        ends |= setting.produce([f"{partition}-{number:03}" for number in range(40)], partition)
    async with Sink() as sink:
        stuck = asyncio.Event()
        sink.answer = lambda post, number: 204 if stuck.is_set() or post.headers["ce-id"] != "1-005" else 503
        spec = DeliverySpec(retry=1000, delay=0.02, policy="linear")
        async with running(setting.source(sink.url, setting.manifest(spec, ordered=True))) as source:
            await until(lambda: source.delivered == 85)
            stuck.set()
            assert await source.drained(ends, timeout=15)
    for partition in range(3):
        mine = [post for post in sink.posts if post.headers["ce-id"].startswith(f"{partition}-")]
        assert sorted({post.headers["ce-id"] for post in mine}) == [f"{partition}-{number:03}" for number in range(40)]
        assert [post.headers["ce-id"] for post in mine] == sorted(post.headers["ce-id"] for post in mine)
        assert all(first.ended <= second.started for first, second in itertools.pairwise(mine))


async def test_what_is_committed_is_not_delivered_again_and_the_rest_is(broker: Broker) -> None:
    setting = Setting(broker, partitions=1)
    setting.produce(["done", "stuck", "after"])
    async with Sink() as sink:
        sink.answer = lambda post, number: 503 if post.headers["ce-id"] == "stuck" else 204
        async with running(setting.source(sink.url, setting.manifest(DeliverySpec(retry=9, delay=60)))) as source:
            await until(lambda: source.delivered == 2)
        sink.posts.clear()
        sink.answer = lambda post, number: 204
        ends = setting.produce(["new"])
        async with running(setting.source(sink.url)) as source:
            assert await source.drained(ends, timeout=15)
        assert sorted(sink.ids()) == ["after", "new", "stuck"]


async def test_a_source_that_dies_before_a_commit_delivers_again(broker: Broker) -> None:
    """As a process of its own, with the group's real times."""
    setting = Setting(broker)
    (ROOT / "build").mkdir(exist_ok=True)
    async with Sink() as sink:
        async with process(setting, sink.url) as died:
            ends = await asyncio.to_thread(setting.produce, names(20))
            await until(lambda: len(sink.posts) >= 20)
            died.kill()
        assert sorted(sink.ids()) == sorted(names(20))
        sink.posts.clear()
        async with process(setting, sink.url) as ended:
            await until(lambda: len(sink.posts) >= 20, timeout=25)
            ended.terminate()
            assert await asyncio.to_thread(ended.wait, 10) == 0
        assert sorted(sink.ids()) == sorted(names(20))
        sink.posts.clear()
        async with running(setting.source(sink.url)) as source:
            assert await source.drained(ends, timeout=15)
        assert sink.posts == []


@contextlib.asynccontextmanager
async def process(setting: Setting, url: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    manifests = ROOT / "build" / setting.topic
    manifests.mkdir()
    (manifests / "source.yaml").write_text(
        f"kind: KafkaSource\nmetadata: {{name: logs}}\nspec:\n  topics: [{setting.topic}]\n  ordering: unordered\n"
        f"  consumerGroup: {setting.group}\n  initialOffset: earliest\n"
        "  sink: {ref: {kind: Service, name: index}}\n"
    )
    command = [sys.executable, "-m", "functions.local.source", "--sink", f"index={url}", "--manifests", str(manifests)]
    env = {"KAFKA_BOOTSTRAP_SERVERS": setting.config.kafka_bootstrap_servers, "KAFKA_CREATE_TOPICS": "false"}
    started = await asyncio.to_thread(subprocess.Popen, command, cwd=ROOT, env=env)
    try:
        yield started
    finally:
        started.kill()
        started.wait(10)
        (manifests / "source.yaml").unlink()
        manifests.rmdir()


async def test_latest_begins_where_the_topic_ends(broker: Broker) -> None:
    setting = Setting(broker, partitions=1)
    setting.produce(["before"])
    async with Sink() as sink, running(setting.source(sink.url, setting.manifest(initial_offset="latest"))) as source:
        assert await source.drained({}, timeout=15)
        assert await source.drained(setting.produce(["after"]), timeout=15)
        assert sink.ids() == ["after"]


async def test_drained_wants_what_the_caller_knows_of(broker: Broker) -> None:
    setting = Setting(broker, partitions=2)
    async with Sink() as sink, running(setting.source(sink.url)) as source:
        assert not await source.drained({}, timeout=0)
        assert await source.drained({}, timeout=15)
        assert not await source.drained({(setting.topic, 1): 1}, timeout=0.5)
        assert not await source.drained({("another", 0): 0}, timeout=0.1)
        waiting = asyncio.create_task(source.drained({(setting.topic, 1): 1}, timeout=15))
        await asyncio.to_thread(setting.produce, ["one"], 1)
        assert await waiting


async def test_a_second_source_takes_over_a_part_and_gives_it_back(broker: Broker) -> None:
    setting = Setting(broker)
    async with Sink() as sink, Sink() as other, running(setting.source(sink.url, commit_interval=0.2)) as source:
        ends = setting.produce(names(20))
        assert await source.drained(ends, timeout=15)
        async with running(setting.source(other.url)) as second:
            sent = names(20)
            while not second.delivered:
                more = [f"{len(sent)}-{name}" for name in names(8)]
                sent += more
                ends |= await asyncio.to_thread(setting.produce, more)
        assert await source.drained(ends, timeout=15)
        assert other.posts
        assert set(sink.ids()) | set(other.ids()) == set(sent)


@KNOWN_LEAK
async def test_an_outage_of_kafka_is_survived_and_told_once(outage: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", member.__name__)

    def said() -> list[str]:
        return [line.getMessage() for line in caplog.records if line.name == member.__name__]

    outage.stop()
    async with Sink() as sink:
        setting = Setting(outage, create=False)
        source = setting.source(sink.url, commit_interval=0.2)
        async with running(source):
            await asyncio.sleep(2.5)
            assert said() == ["kafka is away"]
            await asyncio.to_thread(outage.start)
            await asyncio.to_thread(setting.create)
            assert await source.drained(await asyncio.to_thread(setting.produce, ["one"]), timeout=20)
            await until(lambda: said() == ["kafka is away", "kafka is back"])
            await asyncio.to_thread(outage.kill)
            await until(lambda: said()[2:] == ["kafka is away"])
            await asyncio.sleep(2.5)
            # The embedded broker has forgotten everything, topics included; Apache Kafka goes on where it was.
            await asyncio.to_thread(outage.start)
            await asyncio.to_thread(setting.create)
            ends = await asyncio.to_thread(setting.produce, ["two", "three"])
            assert await source.drained(ends, timeout=30)
            await until(lambda: said()[2:] == ["kafka is away", "kafka is back"])
        assert sink.ids()[0] == "one"
        assert set(sink.ids()) == {"one", "two", "three"}


@KNOWN_LEAK
async def test_a_paused_broker_holds_nobody_up_for_long(outage: Broker) -> None:
    setting = Setting(outage)
    async with Sink() as sink:
        source = setting.source(sink.url, commit_interval=0.2)
        async with running(source):
            assert await source.drained(setting.produce(["one"]), timeout=15)
            outage.pause()
            await asyncio.sleep(1)
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 8
    outage.resume()


async def test_a_sink_that_is_down_is_waited_for_and_a_stop_does_not_wait(broker: Broker) -> None:
    setting = Setting(broker)
    ends = setting.produce(names(10))
    port = free_port()
    spec = DeliverySpec(retry=1000, delay=0.05, policy="linear")
    async with running(setting.source(f"http://127.0.0.1:{port}/", setting.manifest(spec))) as source:
        assert not await source.drained(ends, timeout=2)
        async with Sink(port) as sink:
            assert await source.drained(ends, timeout=15)
            assert sorted(sink.ids()) == sorted(names(10))
            sink.gate.clear()
            await asyncio.to_thread(setting.produce, ["hangs"])
            await until(lambda: sink.now == 1)
            started = time.monotonic()
            await source.stop()
            assert time.monotonic() - started < 5


def test_the_command_tells_what_is_wrong(tmp_path: Path) -> None:
    def run(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        command = [sys.executable, "-m", "functions.local.source", *arguments]
        ended = subprocess.run(
            command, cwd=ROOT, env=env or {}, capture_output=True, text=True, timeout=30, check=False
        )
        return ended.returncode, ended.stderr

    assert run("--sink", "index")[0] == 2
    assert run()[0] == 1
    status, said = run("--sink", "index=http://127.0.0.1:1", "--manifests", str(tmp_path))
    assert status == 1
    assert "KafkaSource" in said
