"""The publisher, as far as it can be seen without a broker: its settings, its patience, its second chances."""

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

import kafka
import kafka.admin
import kafka.record.util
import pytest
from kafka.errors import (
    IllegalStateError,
    KafkaConnectionError,
    KafkaTimeoutError,
    RebalanceInProgressError,
    TopicAlreadyExistsError,
)

from functions.common.errors import KafkaUnavailable
from functions.common.event import MAX_RECORD_BYTES
from functions.common.kafka import KafkaConfig, KafkaPublisher, Partition, create_topics
from functions.common.kafka_consumer import commit, consumer, keep_account, progress

CONFIG = KafkaConfig(kafka_create_topics=False)
OF_PRODUCERS = kafka.KafkaProducer.DEFAULT_CONFIG.keys()


@dataclasses.dataclass
class Metadata:
    """Where a record was written."""

    partition: int
    offset: int


class Sent:
    """A record under way: the outcome may come before or after somebody asks for it, and on another thread."""

    def __init__(self, outcome: Metadata | Exception | None, awaited: threading.Event) -> None:
        self._outcome = outcome
        self._awaited = awaited
        self._ask: dict[bool, Callable[[Any], object]] = {}

    def add_callback(self, call: Callable[[Any], object]) -> None:
        self._ask[False] = call

    def add_errback(self, call: Callable[[Any], object]) -> None:
        self._ask[True] = call
        if self._outcome:
            self.settle(self._outcome)
        self._awaited.set()

    def settle(self, outcome: Metadata | Exception) -> None:
        thread = threading.Thread(target=self._ask[isinstance(outcome, Exception)], args=(outcome,))
        thread.start()
        thread.join()


class Producer:
    """A producer that gives each record the next outcome of `Broker.outcomes`."""

    def __init__(self, broker: "Broker", settings: dict[str, Any]) -> None:
        self._broker = broker
        self.settings = settings
        self.closed = 0

    def send(self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> Sent:
        self._broker.sent.append((topic, key, value, headers))
        outcome = self._broker.outcomes.pop(0) if self._broker.outcomes else Metadata(0, 0)
        if isinstance(outcome, BaseException) and self._broker.raises:
            raise outcome
        self._broker.last = Sent(outcome, self._broker.on_its_way)
        return self._broker.last

    def flush(self, timeout: float) -> None:
        if self._broker.never_flushes:
            raise KafkaTimeoutError("flush")

    def close(self, timeout: float) -> None:
        self.closed += 1


class Broker:
    """What producers and admin clients of a test find."""

    def __init__(self) -> None:
        self.down: Exception | None = None
        self.outcomes: list[Metadata | Exception | None] = []
        self.raises = False
        self.never_flushes = False
        self.sent: list[tuple[str, bytes, bytes, list[tuple[str, bytes]]]] = []
        self.producers: list[Producer] = []
        self.last: Sent
        self.on_its_way = threading.Event()
        self.topics: dict[str, Any] = {}
        self.created_meanwhile: set[str] = set()
        self.admins_open = 0

    def producer(self, **settings: Any) -> Producer:
        if self.down:
            raise self.down
        self.producers.append(Producer(self, settings))
        return self.producers[-1]

    def admin(self, **settings: Any) -> "Broker":
        if self.down:
            raise self.down
        self.admins_open += 1
        return self

    def list_topics(self) -> list[str]:
        return list(self.topics)

    def create_topics(self, topics: list[Any]) -> None:
        for topic in topics:
            if topic.name in self.created_meanwhile:
                raise TopicAlreadyExistsError(topic.name)
            self.topics[topic.name] = topic

    def close(self) -> None:
        self.admins_open -= 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(kafka, "KafkaProducer", broker.producer)
    monkeypatch.setattr(kafka, "KafkaAdminClient", broker.admin)
    monkeypatch.setattr("functions.common.kafka.require_reachable", lambda config: None)
    return broker


@pytest.fixture
async def publisher(broker: Broker) -> AsyncIterator[KafkaPublisher]:
    publisher = KafkaPublisher(CONFIG)
    await publisher.start()
    yield publisher
    await publisher.stop()


async def publish(publisher: KafkaPublisher, value: bytes = b"v") -> None:
    await publisher.publish("logs", "kéy", value, [("h", b"1")])


def test_a_connection_without_security_names_brokers_only() -> None:
    assert KafkaConfig(kafka_bootstrap_servers="a:1,b:2").connection() == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "PLAINTEXT",
        "bootstrap_timeout_ms": 5000,
    }


def test_a_connection_carries_the_credentials_that_are_set() -> None:
    config = KafkaConfig(
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="u",
        kafka_sasl_password="p",
        kafka_ssl_cafile="ca.pem",
        kafka_ssl_certfile="cert.pem",
        kafka_ssl_keyfile="key.pem",
    )
    assert config.connection() == {
        "bootstrap_servers": ["localhost:9092"],
        "security_protocol": "SASL_SSL",
        "bootstrap_timeout_ms": 5000,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
        "ssl_cafile": "ca.pem",
        "ssl_certfile": "cert.pem",
        "ssl_keyfile": "key.pem",
    }


def test_every_setting_of_a_connection_is_one_that_the_client_knows() -> None:
    texts: dict[str, Any] = {field.name: "x" for field in dataclasses.fields(KafkaConfig) if field.type == "str"}
    full = KafkaConfig(**texts)
    assert full.connection().keys() <= OF_PRODUCERS & kafka.KafkaConsumer.DEFAULT_CONFIG.keys()


async def test_the_producer_keeps_to_what_is_safe(broker: Broker, publisher: KafkaPublisher) -> None:
    await publisher.ready()
    settings = broker.producers[0].settings
    assert settings.keys() <= OF_PRODUCERS
    safe = {"acks": "all", "enable_idempotence": False, "max_in_flight_requests_per_connection": 1}
    assert safe.items() <= settings.items()
    assert settings["delivery_timeout_ms"] == settings["max_block_ms"] == 10_000
    assert settings["request_timeout_ms"] < settings["delivery_timeout_ms"]
    assert settings["max_request_size"] == MAX_RECORD_BYTES


@pytest.mark.parametrize(("name", "codec"), [("lz4", "lz4"), ("none", None)])
async def test_compression_can_be_turned_off(broker: Broker, name: str, codec: str | None) -> None:
    publisher = KafkaPublisher(dataclasses.replace(CONFIG, kafka_compression=name))
    await publisher.ready()
    assert broker.producers[0].settings["compression_type"] == codec
    await publisher.stop()


async def test_publishing_returns_when_kafka_acknowledged(broker: Broker, publisher: KafkaPublisher) -> None:
    broker.outcomes = [None]
    publishing = asyncio.create_task(publish(publisher))
    await asyncio.to_thread(broker.on_its_way.wait, 5)
    assert not publishing.done()
    broker.last.settle(Metadata(3, 41))
    await publishing
    assert broker.sent == [("logs", "kéy".encode(), b"v", [("h", b"1")])]
    assert publisher.acknowledged == {("logs", 3): 42}


@pytest.mark.parametrize("raises", [False, True])
async def test_a_failure_is_told_without_the_clients_text(
    broker: Broker, publisher: KafkaPublisher, raises: bool
) -> None:
    broker.outcomes, broker.raises = [KafkaTimeoutError("secret host")], raises
    with pytest.raises(KafkaUnavailable, match="KafkaTimeoutError") as caught:
        await publish(publisher)
    assert "secret" not in str(caught.value)
    assert publisher.acknowledged == {}


async def test_a_client_that_never_answers_is_not_waited_for_for_ever(broker: Broker) -> None:
    # The client's own time is five seconds shorter: with this one it is over at once.
    publisher = KafkaPublisher(dataclasses.replace(CONFIG, kafka_delivery_timeout=-4.99))
    await publisher.ready()
    broker.outcomes = [None]
    with pytest.raises(KafkaUnavailable, match="TimeoutError"):
        await publish(publisher)
    broker.last.settle(Metadata(0, 0))  # too late: nobody waits
    await publisher.stop()


async def test_a_caller_that_goes_away_does_not_disturb_the_client(broker: Broker, publisher: KafkaPublisher) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    broker.outcomes = [None]
    publishing = asyncio.create_task(publish(publisher))
    await asyncio.to_thread(broker.on_its_way.wait, 5)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    broker.last.settle(Metadata(0, 0))
    await publish(publisher)
    assert len(broker.producers) == 1
    assert faults == []


async def test_after_three_failures_in_a_row_the_client_is_replaced(broker: Broker, publisher: KafkaPublisher) -> None:
    broker.outcomes = [KafkaTimeoutError(), KafkaTimeoutError(), Metadata(0, 0), *[KafkaTimeoutError()] * 3]
    for _ in range(6):
        try:
            await publish(publisher)
        except KafkaUnavailable:
            assert len(broker.producers) == 1
    await publish(publisher)
    assert len(broker.producers) == 2
    await publisher.stop()
    assert [producer.closed for producer in broker.producers] == [1, 1]


async def test_without_kafka_nothing_is_ready_and_the_next_attempt_connects(broker: Broker) -> None:
    broker.down = KafkaConnectionError("secret host")
    publisher = KafkaPublisher(CONFIG)
    await publisher.start()  # does not wait for it
    with pytest.raises(KafkaUnavailable, match=r"^no connection to Kafka$"):
        await publisher.ready()
    with pytest.raises(KafkaUnavailable):
        await publish(publisher)
    broker.down = None
    await publisher.ready()
    await publish(publisher)
    assert len(broker.producers) == 1
    await publisher.stop()


async def test_a_broker_that_refuses_the_socket_is_no_connection(broker: Broker) -> None:
    broker.down = ConnectionRefusedError("no")
    publisher = KafkaPublisher(CONFIG)
    with pytest.raises(KafkaUnavailable):
        await publisher.ready()
    await publisher.stop()


async def test_callers_share_one_attempt_to_connect(broker: Broker) -> None:
    publisher = KafkaPublisher(CONFIG)
    await publisher.start()
    await asyncio.gather(*(publish(publisher) for _ in range(10)))
    assert len(broker.producers) == 1
    assert len(broker.sent) == 10
    await publisher.stop()


async def test_stopping_disconnects_even_in_the_middle_of_connecting(broker: Broker) -> None:
    publisher = KafkaPublisher(CONFIG)
    await publisher.start()
    await publisher.stop()
    assert [producer.closed for producer in broker.producers] == [1]


async def test_stopping_survives_a_client_that_cannot_flush(broker: Broker, publisher: KafkaPublisher) -> None:
    broker.never_flushes = True
    await publisher.ready()
    await publisher.stop()


async def test_slow_checksums_are_refused_at_start(monkeypatch: pytest.MonkeyPatch, broker: Broker) -> None:
    monkeypatch.setattr(kafka.record.util, "crc32c_c", None)
    with pytest.raises(RuntimeError, match="crc32c"):
        await KafkaPublisher(CONFIG).start()


def test_missing_topics_are_created(broker: Broker) -> None:
    create_topics(KafkaConfig(kafka_partitions=5, kafka_replication_factor=3))
    logs, dead = broker.topics["logs"], broker.topics["logs-dead-letter"]
    assert (logs.num_partitions, dead.num_partitions) == (5, 1)
    assert {logs.replication_factor, dead.replication_factor} == {3}
    assert logs.topic_configs == {"max.message.bytes": str(MAX_RECORD_BYTES)}
    assert broker.admins_open == 0


def test_topics_that_exist_are_left_alone(broker: Broker) -> None:
    broker.topics = {"logs": "as it is"}
    broker.created_meanwhile = {"logs-dead-letter"}
    create_topics(KafkaConfig())
    assert broker.topics == {"logs": "as it is"}
    assert broker.admins_open == 0


async def test_topics_are_created_before_the_producer_connects(broker: Broker) -> None:
    publisher = KafkaPublisher(KafkaConfig())
    await publisher.ready()
    assert set(broker.topics) == {"logs", "logs-dead-letter"}
    await publisher.stop()


def test_a_consumer_commits_only_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[tuple[str, ...], dict[str, Any]]] = []
    monkeypatch.setattr(kafka, "KafkaConsumer", lambda *topics, **settings: made.append((topics, settings)))
    consumer(KafkaConfig(), ["logs"], "index", max_poll_records=5)
    assert made == [
        (
            ("logs",),
            {
                **KafkaConfig().connection(),
                "group_id": "index",
                "enable_auto_commit": False,
                "max_poll_records": 5,
            },
        )
    ]


class Reader:
    """A consumer at fixed positions that keeps what it is told to commit."""

    def __init__(self) -> None:
        self.positions: dict[kafka.TopicPartition, tuple[int | None, int | None]] = {}
        self.gone: set[kafka.TopicPartition] = set()
        self.committed: list[dict[tuple[str, int], int]] = []
        self.failure: Exception | None = None
        self.listener: Any = None

    def assignment(self) -> list[kafka.TopicPartition]:
        return list(self.positions)

    def position(self, partition: kafka.TopicPartition, timeout_ms: int) -> int | None:
        if partition in self.gone:
            raise IllegalStateError(partition)
        return self.positions[partition][0]

    def highwater(self, partition: kafka.TopicPartition) -> int | None:
        return self.positions[partition][1]

    def subscribe(self, topics: list[str], listener: Any) -> None:
        self.listener = listener

    def commit(self, offsets: dict[kafka.TopicPartition, kafka.OffsetAndMetadata], timeout_ms: int) -> None:
        if self.failure:
            raise self.failure
        self.committed.append({(place.topic, place.partition): data.offset for place, data in offsets.items()})

    async def commit_async(self, offsets: dict[kafka.TopicPartition, kafka.OffsetAndMetadata]) -> None:
        self.commit(offsets, timeout_ms=0)


class Notes:
    """An account that notes what it is told; everything up to offset 5 is done."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[tuple[str, int]]]] = []

    def assigned(self, partitions: Collection[Partition]) -> None:
        self.told.append(("assigned", sorted(partitions)))

    def done(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        self.told.append(("done", sorted(partitions)))
        return dict.fromkeys(partitions, 5)

    def lost(self, partitions: Collection[Partition]) -> None:
        self.told.append(("lost", sorted(partitions)))


def test_progress_leaves_out_partitions_that_are_gone_or_of_unknown_position() -> None:
    reader = Reader()
    here, new, gone, empty = (kafka.TopicPartition("logs", number) for number in range(4))
    reader.positions = {here: (3, 9), new: (None, None), gone: (1, 1), empty: (0, None)}
    reader.gone = {gone}
    assert progress(reader) == {("logs", 0): (3, 9), ("logs", 3): (0, None)}


def test_offsets_are_committed_as_the_next_to_read() -> None:
    reader = Reader()
    commit(reader, {("logs", 0): 4, ("logs", 1): 9}, timeout=1.0)
    assert reader.committed == [{("logs", 0): 4, ("logs", 1): 9}]


def test_a_commit_in_a_rebalance_is_left_to_the_next_one_and_any_other_failure_is_told() -> None:
    reader = Reader()
    reader.failure = RebalanceInProgressError()
    commit(reader, {("logs", 0): 4}, timeout=1.0)
    reader.failure = KafkaTimeoutError()
    with pytest.raises(KafkaTimeoutError):
        commit(reader, {("logs", 0): 4}, timeout=1.0)


async def test_what_is_done_is_committed_before_partitions_go() -> None:
    reader, notes = Reader(), Notes()
    keep_account(reader, ["logs"], notes)
    place = kafka.TopicPartition("logs", 1)
    await reader.listener.on_partitions_assigned({place})
    await reader.listener.on_partitions_revoked({place})
    assert reader.committed == [{("logs", 1): 5}]
    await reader.listener.on_partitions_revoked(set())
    await reader.listener.on_partitions_lost({place})
    assert len(reader.committed) == 1
    assert notes.told == [("assigned", [place]), ("done", [place]), ("done", []), ("lost", [place])]


@pytest.mark.parametrize(
    "failure", [KafkaTimeoutError(), RuntimeError("closing")], ids=lambda error: type(error).__name__
)
async def test_a_commit_that_fails_does_not_stop_a_rebalance(failure: Exception) -> None:
    reader = Reader()
    keep_account(reader, ["logs"], Notes())
    reader.failure = failure
    await reader.listener.on_partitions_revoked({kafka.TopicPartition("logs", 1)})
