"""The whole, on the embedded broker, or with TEST_KAFKA=apache on Apache Kafka."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import kafka
from tests.support.local import LocalTorpor

APACHE = os.environ.get("TEST_KAFKA") == "apache"


@contextlib.contextmanager
def kafka_settings(directory: Path) -> Iterator[Mapping[str, str]]:
    """What points the one-command mode at a broker of its own; nothing for the embedded one."""
    if not APACHE:
        yield {}
        return
    if reason := kafka.why_not():
        pytest.skip(reason)
    broker = kafka.ApacheKafka(directory)
    broker.start()
    try:
        yield {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def torpor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTorpor]:
    """A running Torpor that tests share: each uses services of its own."""
    with kafka_settings(tmp_path_factory.mktemp("kafka")) as settings:
        local = LocalTorpor(tmp_path_factory.mktemp("torpor"), settings)
        local.start()
        yield local
        assert local.stop() == 0, "".join(local.output)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[LocalTorpor]:
    """A Torpor that the test starts and stops itself, with nothing stored."""
    with kafka_settings(tmp_path / "kafka") as settings:
        local = LocalTorpor(tmp_path / "data", settings)
        yield local
        if local.process:
            local.stop()
