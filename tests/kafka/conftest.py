"""The Apache Kafka brokers that the tests in this directory share."""

from collections.abc import Iterator

import pytest

from tests.support import kafka, kafka_security


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka.ApacheKafka]:
    """One running broker for the whole session: a test that ends or pauses it has to bring it back."""
    if reason := kafka.why_not():
        pytest.skip(reason)
    broker = kafka.ApacheKafka(tmp_path_factory.mktemp("apache-kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka_security.SecuredKafka]:
    """One running broker with passwords and TLS for the whole session."""
    if reason := kafka_security.why_not():
        pytest.skip(reason)
    broker = kafka_security.SecuredKafka(tmp_path_factory.mktemp("secured-kafka"))
    broker.start()
    yield broker
    broker.stop()
