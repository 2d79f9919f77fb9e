"""What clients ask of each function through queue-proxy, and what must be there afterwards."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import httpx

from functions.common import identity, timestamps
from functions.common.event import CONTENT_TYPE, SOURCE, TYPE
from functions.common.record import Record, encode
from tests.knative.backends import FEW, MANY, statement, topic
from tests.knative.pod import Pod
from tests.support.local import ROOT

# As clients import it: from the folder.
sys.path.append(str(ROOT / "functions/ingest/proto"))

from log_pb2 import LogBatch, LogEntry
from log_pb2_grpc import LogIngestionServiceStub

LOGS = 20
"""In each request."""
T = TypeVar("T")


class Load(Protocol):
    """Requests to one function."""

    def request(self) -> None:
        """One as usual; raises if it fails or its answer is wrong."""

    def late(self, seconds: float) -> None:
        """One that takes that long; raises if it fails or its answer is wrong."""

    def verify(self) -> str:
        """Check that everything acknowledged is there, once, and say how much that is."""


class Acknowledged:
    """The messages that a function has said it took, all of one service."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self.service = f"load-{uuid.uuid4()}"
        self.messages: set[str] = set()

    def fresh(self, count: int = LOGS) -> list[str]:
        """Messages that no other request has."""
        return [f"number {next(self._numbers)}" for _ in range(count)]

    def add(self, messages: list[str]) -> None:
        """Note that they were taken."""
        with self._lock:
            self.messages.update(messages)

    def compare(self, found: list[str]) -> str:
        """Check that `found` is what was acknowledged, each once."""
        assert len(found) == len(set(found)), "something is there twice, though no request was repeated"
        assert self.messages - set(found) == set(), "something acknowledged is lost"
        assert set(found) - self.messages == set(), "something is there that was not acknowledged"
        return f"{len(found)} logs acknowledged, {len(found)} there"


class IngestLoad:
    """JSON lines by HTTP; what is in the topic must be what was acknowledged."""

    def __init__(self, pod: Pod, settings: Mapping[str, str]) -> None:
        self._http, self._settings, self._sent = pod.client(), settings, Acknowledged()

    def request(self) -> None:
        """Twenty logs."""
        self._send(None)

    def late(self, seconds: float) -> None:
        """Twenty logs, of which the last comes late. Not later than the answer must have begun."""
        self._send(min(seconds, 25))

    def _send(self, seconds: float | None) -> None:
        messages = self._sent.fresh()
        lines = [
            json.dumps({"service": self._sent.service, "message": message}).encode() + b"\n" for message in messages
        ]
        body = b"".join(lines) if seconds is None else slowly(lines, seconds)
        headers = {"content-type": "application/x-ndjson", "content-length": str(sum(map(len, lines)))}
        answer = self._http.post("/api/v1/ingest", content=body, headers=headers)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        assert answer.json()["accepted"] == LOGS, answer.text
        self._sent.add(messages)

    def verify(self) -> str:
        """Compare with the topic."""
        return self._sent.compare(topic(self._settings, self._sent.service))


class GrpcLoad:
    """Batches over gRPC, each call a stream of its own on one connection."""

    def __init__(self, pod: Pod, settings: Mapping[str, str]) -> None:
        self._settings, self._sent = settings, Acknowledged()
        self.stub: Any = LogIngestionServiceStub(pod.channel())

    def request(self) -> None:
        """A batch of twenty logs."""
        messages = self._sent.fresh()
        answer = self.stub.IngestLogBatch(batch(messages, self._sent.service), timeout=60)
        assert answer.count == LOGS, answer
        self._sent.add(messages)

    def late(self, seconds: float) -> None:
        """A stream of batches that is open that long."""
        sent = [self._sent.fresh() for _ in range(int(seconds))]
        batches = [batch(messages, self._sent.service) for messages in sent]
        answers = self.stub.StreamLogBatches(slowly(batches, seconds), timeout=120)
        for messages, answer in zip(sent, answers, strict=True):
            assert answer.count == LOGS, answer
            self._sent.add(messages)

    def verify(self) -> str:
        """Compare with the topic."""
        return self._sent.compare(topic(self._settings, self._sent.service))


class IndexLoad:
    """Events as KafkaSource posts them; what is in ClickHouse must be what was acknowledged."""

    def __init__(self, pod: Pod, settings: Mapping[str, str]) -> None:
        self._http, self._settings, self._sent = pod.client(), settings, Acknowledged()

    def request(self) -> None:
        """An event of twenty logs."""
        self._post(None)

    def late(self, seconds: float) -> None:
        """An event whose last log comes late."""
        self._post(seconds)

    def _post(self, seconds: float | None) -> None:
        messages, now = self._sent.fresh(), timestamps.now()
        lines = [
            encode(Record("default", str(now), self._sent.service, "INFO", message, {}, "", "", number))
            for number, message in enumerate(messages)
        ]
        body = b"\n".join(lines) if seconds is None else slowly([line + b"\n" for line in lines], seconds)
        answer = self._http.post("/", content=body, headers=event_headers())
        assert answer.status_code == 204, f"{answer.status_code} {answer.text}"
        self._sent.add(messages)

    def verify(self) -> str:
        """Compare with the table."""
        sql = f"SELECT message FROM logs WHERE service = '{self._sent.service}' FORMAT TabSeparated"
        found = statement(self._settings, sql)
        return self._sent.compare(found.split("\n")[:-1])


class QueryLoad:
    """Searches whose answer is known."""

    def __init__(self, pod: Pod, settings: Mapping[str, str]) -> None:
        self._http, self._answers = pod.client(), itertools.count()

    def request(self) -> None:
        """A page, and the count of all."""
        answer = self._http.get("/api/v1/logs", params={"service": "few", "limit": "100", "total": "exact"})
        self._check(answer)

    def late(self, seconds: float) -> None:
        """A search whose last bytes come late."""
        parts = [b'{"service": "few"', *[b" "] * 20, b', "limit": 100, "total": "exact"}']
        headers = {"content-type": "application/json"}
        self._check(self._http.post("/api/v1/logs", content=slowly(parts, seconds), headers=headers))

    def _check(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        body = answer.json()
        assert (body["total"], len(body["logs"])) == (FEW, 100), body
        next(self._answers)

    def verify(self) -> str:
        """Every answer was compared when it came."""
        return f"{next(self._answers)} right answers"


class ExportLoad:
    """Files, complete to the last line."""

    def __init__(self, pod: Pod, settings: Mapping[str, str]) -> None:
        self._http, self._lines = pod.client(), itertools.count()

    def request(self) -> None:
        """A file of a thousand lines."""
        answer = self._http.get("/api/v1/logs/export", params={"format": "ndjson", "service": "few"})
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        assert answer.content.count(b"\n") == FEW, "the file is not whole"
        next(self._lines)

    def late(self, seconds: float) -> None:
        """A file of 75 MB for a client that stops in the middle."""
        with self._http.stream("GET", "/api/v1/logs/export", params={"format": "ndjson", "service": "many"}) as answer:
            assert answer.status_code == 200, answer.status_code
            chunks = answer.iter_bytes()
            found = next(chunks).count(b"\n")
            time.sleep(seconds)
            found += sum(chunk.count(b"\n") for chunk in chunks)
        assert found == MANY, f"the file has {found} lines"
        next(self._lines)

    def verify(self) -> str:
        """Every file was counted when it came."""
        return f"{next(self._lines)} whole files"


LOADS: Mapping[str, Callable[[Pod, Mapping[str, str]], Load]] = {
    "ingest": IngestLoad,
    "ingest-grpc": GrpcLoad,
    "index": IndexLoad,
    "query": QueryLoad,
    "export": ExportLoad,
}


def batch(messages: list[str], service: str) -> LogBatch:
    """Logs for a gRPC call."""
    return LogBatch(logs=[LogEntry(service=service, message=message) for message in messages])


def event_headers() -> dict[str, str]:
    """The headers of an event as KafkaSource posts it."""
    attributes = {"specversion": "1.0", "id": identity.batch_id(), "source": SOURCE, "type": TYPE, "tenant": "default"}
    return {**{f"ce-{name}": value for name, value in attributes.items()}, "content-type": CONTENT_TYPE}


def slowly(parts: list[T], seconds: float) -> Iterator[T]:
    """The parts over that time, the last one at its end."""
    for number, part in enumerate(parts):
        if number:
            time.sleep(seconds / (len(parts) - 1))
        yield part
