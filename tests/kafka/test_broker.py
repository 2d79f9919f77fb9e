"""Proves that the runner gives the other tests a real Apache Kafka with the limits and the durability they rely on."""

import contextlib
import json
import random
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import MessageSizeTooLargeError

from tests.support.kafka import ApacheKafka, why_not
from tests.support.kafka_security import MECHANISMS, SecuredKafka

pytestmark = pytest.mark.kafka

HEADERS = [("kind", b"proof")]


def new_topic(broker: ApacheKafka, **configs: str) -> str:
    name = f"proof-{uuid.uuid4().hex}"
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.create_topics([NewTopic(name, 1, 1, topic_configs=configs)])
        admin.wait_for_topics([name])
    return name


def producer_to(settings: dict[str, Any], **more: Any) -> Any:
    return KafkaProducer(
        enable_idempotence=False,
        acks="all",
        max_in_flight_requests_per_connection=1,
        bootstrap_timeout_ms=10_000,
        **settings,
        **more,
    )


def produce(settings: dict[str, Any], topic: str, values: list[bytes], **more: Any) -> None:
    """Return when every value is acknowledged, raise the error of the first that is not."""
    with contextlib.closing(producer_to(settings, **more)) as producer:
        sent = [producer.send(topic, value=value, key=b"k", headers=HEADERS, partition=0) for value in values]
        for future in sent:
            future.get(timeout=20)


def refusal(settings: dict[str, Any]) -> str:
    """Return what a client with these settings says in the two seconds it has to get in.

    A process of its own, since a client whose constructor fails leaves threads and open sockets behind.
    """
    code = "import json, logging, sys; from kafka import KafkaProducer\n"
    code += "logging.basicConfig(); KafkaProducer(**json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", code, json.dumps(settings | {"bootstrap_timeout_ms": 2_000})]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode != 0
    return result.stderr


def consume(settings: dict[str, Any], topic: str) -> list[tuple[bytes, list[tuple[str, bytes]], bytes]]:
    """Return key, headers and value of all that the topic holds now."""
    partition = TopicPartition(topic, 0)
    found: list[tuple[bytes, list[tuple[str, bytes]], bytes]] = []
    with contextlib.closing(KafkaConsumer(bootstrap_timeout_ms=10_000, **settings)) as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        deadline = time.monotonic() + 20
        while consumer.position(partition) < end and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=500).values():
                found += [(record.key, list(record.headers), record.value) for record in records]
    return found


def test_what_is_acknowledged_is_consumed_back_with_key_and_headers(apache_kafka: ApacheKafka) -> None:
    settings = {"bootstrap_servers": apache_kafka.bootstrap}
    topic = new_topic(apache_kafka)
    values = [f"record {number}".encode() for number in range(100)]
    produce(settings, topic, values)
    assert consume(settings, topic) == [(b"k", HEADERS, value) for value in values]


def test_a_group_resumes_after_the_offset_it_committed(apache_kafka: ApacheKafka) -> None:
    settings = {"bootstrap_servers": apache_kafka.bootstrap}
    topic = new_topic(apache_kafka)
    produce(settings, topic, [b"one", b"two", b"three"])
    seen = []
    for _ in range(3):
        group: Any = KafkaConsumer(
            topic,
            group_id=topic,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_poll_records=1,
            **settings,
        )
        with contextlib.closing(group):
            batches: dict[Any, list[Any]] = {}
            deadline = time.monotonic() + 20
            while not batches and time.monotonic() < deadline:
                batches = group.poll(timeout_ms=500)
            seen += [record.value for records in batches.values() for record in records]
            group.commit()
    assert seen == [b"one", b"two", b"three"]


def test_a_killed_broker_comes_back_at_its_address_with_every_acknowledged_record(apache_kafka: ApacheKafka) -> None:
    settings = {"bootstrap_servers": apache_kafka.bootstrap}
    topic = new_topic(apache_kafka)
    values = [f"record {number}".encode() for number in range(100)]
    produce(settings, topic, values)
    apache_kafka.kill()
    assert not apache_kafka.running
    apache_kafka.start()
    assert apache_kafka.bootstrap == settings["bootstrap_servers"]
    assert [value for _, _, value in consume(settings, topic)] == values


def test_a_stopped_broker_comes_back_with_every_acknowledged_record(apache_kafka: ApacheKafka) -> None:
    settings = {"bootstrap_servers": apache_kafka.bootstrap}
    topic = new_topic(apache_kafka)
    produce(settings, topic, [b"kept"])
    apache_kafka.stop()
    assert not apache_kafka.running
    apache_kafka.start()
    assert [value for _, _, value in consume(settings, topic)] == [b"kept"]


def test_a_paused_broker_acknowledges_nothing_until_it_is_resumed(apache_kafka: ApacheKafka) -> None:
    topic = new_topic(apache_kafka)
    with contextlib.closing(producer_to({"bootstrap_servers": apache_kafka.bootstrap})) as producer:
        producer.send(topic, value=b"before", partition=0).get(timeout=20)
        apache_kafka.pause()
        try:
            late = producer.send(topic, value=b"during", partition=0)
            time.sleep(1)
            assert not late.is_done
        finally:
            apache_kafka.resume()
        late.get(timeout=20)


def test_a_record_over_the_topics_limit_is_refused(apache_kafka: ApacheKafka) -> None:
    settings = {"bootstrap_servers": apache_kafka.bootstrap}
    topic = new_topic(apache_kafka, **{"max.message.bytes": "1000"})
    with pytest.raises(MessageSizeTooLargeError):
        produce(settings, topic, [random.Random(1).randbytes(2000)])
    produce(settings, topic, [b"small"])
    assert [value for _, _, value in consume(settings, topic)] == [b"small"]


@pytest.mark.parametrize(("size", "taken"), [(2_000_000, True), (2_097_152, False)])
def test_the_broker_takes_records_up_to_two_mebibytes(apache_kafka: ApacheKafka, size: int, taken: bool) -> None:
    settings = {"bootstrap_servers": apache_kafka.bootstrap}
    topic = new_topic(apache_kafka)
    with contextlib.nullcontext() if taken else pytest.raises(MessageSizeTooLargeError):
        produce(settings, topic, [random.Random(1).randbytes(size)], max_request_size=4_000_000)


def test_a_topic_nobody_created_is_not_made_by_asking_for_it(apache_kafka: ApacheKafka) -> None:
    name = f"unmade-{uuid.uuid4().hex}"
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap)) as admin:
        admin.describe_topics([name])
        assert name not in admin.list_topics()


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    broker = ApacheKafka(tmp_path, properties={"num.partitions": "none"})
    with pytest.raises(RuntimeError, match=r"num\.partitions"):
        broker.start()
    assert not broker.running


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_client_that_logs_in_produces_and_consumes(secured_kafka: SecuredKafka, mechanism: str, tls: bool) -> None:
    topic = new_topic(secured_kafka)
    settings = secured_kafka.client_settings(mechanism, tls=tls)
    produce(settings, topic, [b"sealed"])
    assert [value for _, _, value in consume(settings, topic)] == [b"sealed"]


@pytest.mark.parametrize(
    ("mechanism", "tls"), [*((mechanism, False) for mechanism in MECHANISMS), ("SCRAM-SHA-512", True)]
)
def test_a_wrong_password_is_refused(secured_kafka: SecuredKafka, mechanism: str, tls: bool) -> None:
    said = refusal(secured_kafka.client_settings(mechanism, tls=tls, password="wrong"))
    assert "KafkaTimeoutError" in said
    # The broker was there and hung up. The client often loses the reason: it arrives together with the hang-up.
    assert "Connection lost" in said


def test_a_client_that_does_not_trust_the_authority_does_not_log_in(secured_kafka: SecuredKafka) -> None:
    settings = secured_kafka.client_settings("PLAIN", tls=True)
    del settings["ssl_cafile"]
    said = refusal(settings)
    assert "KafkaTimeoutError" in said
    assert "certificate verify failed" in said
