"""A handler that people send to Splunk with sends to ingest, over HTTP."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest
from splunk_hec_handler import SplunkHecHandler  # type: ignore[import-untyped]  # it ships no types

from functions.common import timestamps
from functions.common.host import listen, server
from functions.common.record import Record, decode
from functions.ingest.function import Ingest
from functions.ingest.intake import Config
from tests.support.memory import MemoryPublisher

COUNT = 200


@pytest.fixture
def ingest() -> Iterator[tuple[int, MemoryPublisher]]:
    """The port where ingest listens, and what it published."""
    publisher = MemoryPublisher()
    with listen(0, "127.0.0.1") as sock:
        http = server(Ingest(Config(), publisher))
        thread = threading.Thread(target=http.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield sock.getsockname()[1], publisher
        finally:
            http.should_exit = True
            thread.join()


def rows(publisher: MemoryPublisher) -> list[Record]:
    return [decode(line) for _, _, value, _ in publisher.records for line in value.split(b"\n")]


def handler(port: int, **options: object) -> SplunkHecHandler:
    return SplunkHecHandler("127.0.0.1", "token", port=port, proto="http", hostname="web-1", source="shop", **options)


def test_every_log_of_the_handler_is_a_row(ingest: tuple[int, MemoryPublisher]) -> None:
    port, publisher = ingest
    sending = handler(port, sourcetype="_json", index="main")
    before = time.time_ns()
    sent = [
        logging.LogRecord("shop", logging.WARNING, __file__, 1, f"order {n} failed", (), None) for n in range(COUNT)
    ]
    for record in sent:
        sending.emit(record)
    sending.r.close()
    found = rows(publisher)
    assert [row.message for row in found] == [record.msg for record in sent]
    assert {(row.service, row.level) for row in found} == {("shop", "WARN")}
    assert {tuple(row.metadata.items()) for row in found} == {
        (("host", "web-1"), ("sourcetype", "_json"), ("index", "main"))
    }
    for row, record in zip(found, sent, strict=True):
        assert before - timestamps.DAY < int(row.timestamp)
        # The shortest decimal of the float is what the handler writes: it is kept to its last digit.
        whole, _, fraction = repr(record.created).partition(".")
        assert row.timestamp == whole + fraction.ljust(9, "0")


def test_objects_and_fields_of_the_handler_are_kept(ingest: tuple[int, MemoryPublisher]) -> None:
    port, publisher = ingest
    sending = handler(port)
    moment = int(time.time())
    told = {"time": moment, "message": "paid", "amount": 3, "fields": {"colour": "yellow", "service": "pay", "n": 1}}
    sending.emit(logging.LogRecord("shop", logging.ERROR, __file__, 1, told, (), None))
    sending.r.close()
    (row,) = rows(publisher)
    assert (row.service, row.level, row.message) == ("pay", "ERROR", "paid")
    assert row.timestamp == str(moment * timestamps.NANOSECONDS)
    assert row.metadata == {
        "host": "web-1",
        "source": "shop",
        "colour": "yellow",
        "n": "1",
        "amount": "3",
        "time": str(moment),
    }


def test_the_raw_endpoint_of_the_handler_takes_its_text(ingest: tuple[int, MemoryPublisher]) -> None:
    port, publisher = ingest
    sending = handler(port, endpoint="raw")
    sending.emit(logging.LogRecord("shop", logging.INFO, __file__, 1, "hello", (), None))
    sending.r.close()
    (row,) = rows(publisher)
    assert '"message": "hello"' in row.message
