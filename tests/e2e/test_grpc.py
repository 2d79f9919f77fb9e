"""The gRPC server and real clients: in this process on a publisher that remembers, and as a process on a broker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, cast

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from prometheus_client import REGISTRY

from functions.common import identity, timestamps
from functions.common.config import ConfigError
from functions.common.errors import KafkaUnavailable
from functions.common.kafka import Headers
from functions.common.record import Record, decode
from functions.ingest.function import Ingest
from functions.ingest.intake import Config, Intake
from functions.ingest.rpc.server import Rpc
from functions.ingest.rpc.services import Export, LogIngestion
from functions.ingest.rpc.stream import GROUP_MESSAGES
from tests.e2e.conftest import kafka_settings
from tests.support.local import ROOT
from tests.support.memory import MemoryPublisher
from tests.support.processes import FunctionProcess
from tests.support.tansu import Tansu
from tests.unit.test_otlp import Group, Log, as_json, as_protobuf

# As clients import it: from the folder.
sys.path.append(str(ROOT / "functions/ingest/proto"))

from log_pb2 import IngestResponse, LogBatch, LogEntry
from log_pb2_grpc import LogIngestionServiceStub

NOW = timestamps.now()
PREFIX = f"/{LogIngestion.name}/"
METHODS = ("IngestLog", "IngestLogBatch", "IngestLogStream", "StreamLogBatches")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
DIRECT = [("grpc.enable_http_proxy", 0)]
WAIT = 10.0


@dataclasses.dataclass
class Face:
    """The server as a client sees it, and what it published."""

    rpc: Rpc
    intake: Intake
    publisher: MemoryPublisher
    channel: grpc.aio.Channel
    port: int

    @property
    def stub(self) -> Any:
        return LogIngestionServiceStub(self.channel)

    @property
    def health(self) -> Any:
        return health_pb2_grpc.HealthStub(self.channel)

    @property
    def rows(self) -> list[Record]:
        return [decode(line) for _, _, value, _ in self.publisher.records for line in value.split(b"\n")]

    async def settled(self) -> None:
        """Return when no call holds anything."""
        await until(lambda: not self.intake._held and not self.intake._commit.waiting)


@contextlib.asynccontextmanager
async def started(config: Config) -> AsyncIterator[Face]:
    publisher = MemoryPublisher()
    intake = Intake(config, publisher)
    rpc = Rpc(intake)
    await intake.start()
    port = await rpc.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", DIRECT) as channel:
            yield Face(rpc, intake, publisher, channel, port)
    finally:
        publisher.gate.set()
        await rpc.stop(0)
        await intake.stop()


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(str(context)))
    async with started(Config()) as face:
        yield face
    await asyncio.sleep(0)
    gc.collect()
    assert heard == []


async def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not reached():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def logs(count: int, service: str = "s") -> list[LogEntry]:
    return [LogEntry(service=service, message=f"{n}", timestamp=str(NOW + n)) for n in range(count)]


def key(text: str) -> tuple[tuple[str, str], ...]:
    return (("idempotency-key", text),)


async def failure(call: Any) -> Any:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, WAIT)
    return caught.value


def details(error: Any) -> Status:
    """The google.rpc.Status that a failed call brings; it says what the call itself says."""
    (packed,) = [value for name, value in error.trailing_metadata() if name == "grpc-status-details-bin"]
    status = Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return status


def retry_seconds(error: Any) -> int:
    info = error_details_pb2.RetryInfo()
    (detail,) = details(error).details
    assert detail.Unpack(info)
    return int(info.retry_delay.seconds)


def violations(error: Any) -> dict[str, str]:
    bad = error_details_pb2.BadRequest()
    (detail,) = details(error).details
    assert detail.Unpack(bad)
    return {violation.field: violation.description for violation in bad.field_violations}


async def sent(face: Face, method: str, entries: Sequence[LogEntry], **options: Any) -> list[IngestResponse]:
    """Send entries by a method; batches of three, where there are several."""
    batches = [LogBatch(logs=entries[at : at + 3]) for at in range(0, len(entries), 3)]
    match method:
        case "IngestLog":
            return [await face.stub.IngestLog(entry, **options) for entry in entries]
        case "IngestLogBatch":
            return [await face.stub.IngestLogBatch(LogBatch(logs=entries), **options)]
        case "IngestLogStream":
            return [await face.stub.IngestLogStream(iter(entries), **options)]
        case _:
            return [answer async for answer in face.stub.StreamLogBatches(iter(batches), **options)]


async def sent_raw(face: Face, method: str, messages: Sequence[bytes], **options: Any) -> list[bytes]:
    """Send messages of any bytes by a method."""
    path, channel = PREFIX + method, cast(Any, face.channel)
    match method:
        case "IngestLog" | "IngestLogBatch":
            return [await channel.unary_unary(path)(message, **options) for message in messages]
        case "IngestLogStream":
            return [await channel.stream_unary(path)(iter(messages), **options)]
        case _:
            return [answer async for answer in channel.stream_stream(path)(iter(messages), **options)]


# The methods


@pytest.mark.parametrize("method", METHODS)
async def test_logs_are_taken_and_counted(face: Face, method: str) -> None:
    answers = await sent(face, method, logs(10))
    assert sum(answer.count for answer in answers) == 10
    assert all(answer.success and not answer.rejected and not answer.errors for answer in answers)
    assert len(answers) == {"IngestLog": 10, "StreamLogBatches": 4}.get(method, 1)
    assert all(answer.batch for answer in answers)
    assert [(row.message, row.timestamp) for row in face.rows] == [(f"{n}", str(NOW + n)) for n in range(10)]
    assert len({row.dedupe for row in face.rows}) == 10


async def test_every_field_of_an_entry_arrives(face: Face) -> None:
    entry = LogEntry(
        timestamp=timestamps.iso(NOW),
        service="pay",
        level="warning",
        message="out of paper",
        metadata='{"tray":2}',
        id="u-1",
        trace_id="ab",
        span_id="cd",
    )
    await face.stub.IngestLog(entry)
    dedupe = identity.of_id("default", "u-1")
    metadata = {"id": "u-1", "tray": "2"}
    assert face.rows == [Record("default", str(NOW), "pay", "WARN", "out of paper", metadata, "ab", "cd", dedupe)]


@pytest.mark.parametrize("method", METHODS[1:])
async def test_a_call_without_logs_is_well(face: Face, method: str) -> None:
    assert all(answer.success and answer.count == 0 for answer in await sent(face, method, []))
    assert face.rows == []


async def test_a_long_stream_arrives_whole_and_in_order(face: Face) -> None:
    publish = face.publisher.publish

    async def slowly(topic: str, key: str, value: bytes, headers: Headers) -> None:
        await asyncio.sleep(0.05)
        await publish(topic, key, value, headers)

    face.publisher.publish = slowly  # type: ignore[method-assign]
    (answer,) = await sent(face, "IngestLogStream", logs(5 * GROUP_MESSAGES))
    assert answer.count == 5 * GROUP_MESSAGES
    assert [row.message for row in face.rows] == [f"{n}" for n in range(5 * GROUP_MESSAGES)]
    assert len(face.publisher.records) < 100, "what waits together is published together"


async def test_logs_of_a_stream_are_taken_while_it_is_open(face: Face) -> None:
    call = face.stub.IngestLogStream()
    for number, entry in enumerate(logs(3), 1):
        await call.write(entry)
        await until(lambda: len(face.rows) == number)  # noqa: B023  it is awaited within the turn of the loop
    await call.done_writing()
    assert (await call).count == 3


async def test_each_batch_of_a_stream_is_answered_while_it_is_open(face: Face) -> None:
    call = face.stub.StreamLogBatches()
    for number in range(1, 4):
        await call.write(LogBatch(logs=logs(number)))
        assert (await asyncio.wait_for(call.read(), WAIT)).count == number
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF


async def test_no_call_is_answered_before_kafka_acknowledged(face: Face) -> None:
    face.publisher.gate.clear()
    calls = [asyncio.ensure_future(sent(face, method, logs(3))) for method in METHODS]
    _, pending = await asyncio.wait(calls, timeout=0.3)
    assert len(pending) == len(calls)
    face.publisher.gate.set()
    await asyncio.gather(*calls)


async def test_packed_messages_are_unpacked(face: Face) -> None:
    for method in METHODS:
        await sent(face, method, logs(3), compression=grpc.Compression.Gzip)
    assert len(face.rows) == 12


# Identity


@pytest.mark.parametrize("method", METHODS)
async def test_under_a_key_the_same_call_is_the_same_logs(face: Face, method: str) -> None:
    entries = logs(1 if method == "IngestLog" else 10)
    for _ in range(2):
        answers = await sent(face, method, entries, metadata=key("k-1"))
        assert {answer.batch for answer in answers} == {"k-1"}
    first, again = face.rows[: len(entries)], face.rows[len(entries) :]
    assert first == again
    base = identity.of_batch("default", "k-1")
    assert [row.dedupe - base for row in first] == list(range(1, len(entries) + 1))


async def test_under_a_key_a_stream_is_the_same_logs_however_it_trickles(face: Face) -> None:
    call = face.stub.IngestLogStream(metadata=key("k"))
    for entry in logs(6):
        await call.write(entry)
        await asyncio.sleep(0.01)
    await call.done_writing()
    assert (await call).count == 6
    await sent(face, "IngestLogStream", logs(6), metadata=key("k"))
    await sent(face, "IngestLogBatch", logs(6), metadata=key("k"))
    await sent(face, "StreamLogBatches", logs(6), metadata=key("k"))
    assert face.rows[:6] == face.rows[6:12] == face.rows[12:18] == face.rows[18:]


async def test_without_a_key_each_call_makes_new_logs(face: Face) -> None:
    for method in METHODS * 2:
        await sent(face, method, logs(4))
    assert len({row.dedupe for row in face.rows}) == 4 * 2 * len(METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("text", ["", "a b", "x" * 256])
async def test_a_key_that_is_none_is_refused(face: Face, method: str, text: str) -> None:
    error = await failure(sent(face, method, logs(1), metadata=key(text)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Idempotency-Key" in details(error).message
    assert face.rows == []


async def test_under_a_key_nothing_is_numbered_after_a_batch_that_was_not_taken(face: Face) -> None:
    """Numbers would be those of other logs when the client sends the stream again."""
    first, last = (LogBatch(logs=part) for part in (logs(2), logs(5)[2:]))
    messages = [first.SerializeToString(), b"\xff", last.SerializeToString()]
    error = await failure(sent_raw(face, "StreamLogBatches", messages, metadata=key("k")))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    await face.settled()
    await asyncio.sleep(0.1)
    base = identity.of_batch("default", "k")
    assert [(row.message, row.dedupe - base) for row in face.rows] in ([], [("0", 1), ("1", 2)])


async def test_one_log_is_one_log_by_every_protocol(face: Face) -> None:
    log = Log(NOW, body="once", attributes={"log.record.uid": "order-7"})
    ingest = Ingest(Config(), face.publisher)
    await ingest.start()
    transport = httpx.ASGITransport(app=ingest.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
        own = {"service": "pay", "message": "once", "timestamp": NOW, "id": "order-7"}
        for path, body, content_type in (
            ("/api/v1/ingest", json.dumps(own).encode(), "application/json"),
            ("/v1/logs", as_protobuf(Group([log])), "application/x-protobuf"),
            ("/v1/logs", as_json(Group([log])), "application/json"),
        ):
            answer = await client.post(path, content=body, headers={"content-type": content_type})
            assert answer.status_code == 200
    await ingest.stop()
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(as_protobuf(Group([log])))
    await logs_service_pb2_grpc.LogsServiceStub(face.channel).Export(request)  # type: ignore[no-untyped-call]  # generated
    entry = LogEntry(service="pay", message="once", timestamp=timestamps.iso(NOW), id="order-7")
    for method in METHODS:
        await sent(face, method, [entry])
    assert len(face.rows) == 8
    assert len({(row.timestamp, row.dedupe) for row in face.rows}) == 1
    assert face.rows == [face.rows[0]] * 8


# Bad records


def with_bad(count: int, *bad: int) -> list[LogEntry]:
    """Entries of which these, counted from 1, have a time that is none."""
    return [LogEntry(service="s", timestamp="soon" if n in bad else str(NOW + n)) for n in range(1, count + 1)]


@pytest.mark.parametrize("method", ["IngestLogBatch", "IngestLogStream"])
@pytest.mark.parametrize("metadata", [(), key("k")])
async def test_bad_logs_are_named_and_the_others_taken(face: Face, method: str, metadata: Any) -> None:
    (answer,) = await sent(face, method, with_bad(10, 3, 7), metadata=metadata)
    assert (answer.success, answer.count, answer.rejected) == (False, 8, 2)
    assert [(error.record, error.field) for error in answer.errors] == [(3, "timestamp"), (7, "timestamp")]
    assert answer.message.startswith("2 of 10 rejected; record 3, timestamp: 'soon' is not a time")
    assert len(face.rows) == 8


@pytest.mark.parametrize("metadata", [(), key("k")])
async def test_bad_logs_of_a_stream_are_numbered_through_all_of_it(face: Face, metadata: Any) -> None:
    call = face.stub.IngestLogStream(metadata=metadata)
    for entry in with_bad(6, 2, 5):
        await call.write(entry)
        await asyncio.sleep(0.02)
    await call.done_writing()
    assert [error.record for error in (await call).errors] == [2, 5]
    answers = await sent(face, "StreamLogBatches", with_bad(9, 2, 4, 5, 6, 9), metadata=metadata)
    assert [[error.record for error in answer.errors] for answer in answers] == [[2], [4, 5, 6], [9]]
    assert [(answer.success, answer.count) for answer in answers] == [(False, 2), (False, 0), (False, 2)]


@pytest.mark.parametrize("method", ["IngestLogBatch", "IngestLogStream"])
async def test_a_call_of_bad_logs_alone_is_an_invalid_argument_that_names_them(face: Face, method: str) -> None:
    entries = [LogEntry(), LogEntry(service="s", metadata="[]"), LogEntry(service="s", timestamp="soon")]
    error = await failure(sent(face, method, entries))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert list(violations(error)) == ["logs[1].service", "logs[2].metadata", "logs[3].timestamp"]
    assert "not a time" in violations(error)["logs[3].timestamp"]
    assert face.rows == []


async def test_a_bad_log_is_an_invalid_argument(face: Face) -> None:
    error = await failure(face.stub.IngestLog(LogEntry(service="s", id="1")))
    assert list(violations(error)) == ["logs[1].timestamp"]


@pytest.mark.parametrize("method", ["IngestLogBatch", "IngestLogStream"])
async def test_of_very_many_bad_logs_as_many_are_named_as_a_trailer_holds(face: Face, method: str) -> None:
    entries = [LogEntry(service="s", id=f"{n}", timestamp="𝄞" * 64) for n in range(5000)]
    error = await failure(sent(face, method, entries))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("no record was accepted; 5000 of 5000 rejected")
    assert 5 <= len(violations(error)) <= 100


@pytest.mark.parametrize("method", METHODS)
async def test_a_message_that_is_none_is_an_invalid_argument(face: Face, method: str) -> None:
    for data in (b"\xff", b"\n\x05abc", b"{}"):
        error = await failure(sent_raw(face, method, [data]))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "the message is not a Log" in details(error).message
    assert (await sent(face, method, logs(1)))[0].count == 1


async def test_a_message_of_a_stream_that_is_none_is_a_bad_record_among_the_others(face: Face) -> None:
    good = LogEntry(service="s").SerializeToString()
    (data,) = await sent_raw(face, "IngestLogStream", [good, b"\xff", good])
    answer = IngestResponse.FromString(data)
    assert (answer.count, answer.rejected) == (2, 1)
    assert [(error.record, error.field, error.error) for error in answer.errors] == [
        (2, "", "the message is not a LogEntry")
    ]


# OpenTelemetry


async def exported(face: Face, *groups: Group, **options: Any) -> logs_service_pb2.ExportLogsServiceResponse:
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(as_protobuf(*groups))
    stub = logs_service_pb2_grpc.LogsServiceStub(face.channel)  # type: ignore[no-untyped-call]  # generated
    answer: logs_service_pb2.ExportLogsServiceResponse = await stub.Export(request, **options)
    return answer


async def test_opentelemetrys_logs_are_taken(face: Face) -> None:
    group = Group([Log(body="one"), Log(NOW + 1, body="other")])
    for _ in range(2):
        answer = await exported(face, group, metadata=key("k"), compression=grpc.Compression.Gzip)
        assert not answer.HasField("partial_success")
    assert [(row.service, row.message) for row in face.rows[:2]] == [("pay", "one"), ("pay", "other")]
    assert face.rows[:2] == face.rows[2:]


async def test_opentelemetrys_bad_logs_are_counted_and_named(face: Face) -> None:
    answer = await exported(face, Group([Log(), Log(1)]))
    assert answer.partial_success.rejected_log_records == 1
    assert "record 2, timestamp" in answer.partial_success.error_message
    error = await failure(exported(face, Group([Log(1), Log(1)])))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert list(violations(error)) == ["log_records[1].timestamp", "log_records[2].timestamp"]


async def test_what_is_no_export_is_an_invalid_argument(face: Face) -> None:
    call: Any = face.channel.unary_unary(f"/{Export.name}/Export")
    error = await failure(call(b"\xff"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "ExportLogsServiceRequest" in details(error).message


async def test_while_kafka_is_away_an_exporter_is_told_when_to_come_again(face: Face) -> None:
    face.publisher.failure = KafkaUnavailable("Kafka did not acknowledge")
    error = await failure(exported(face, Group([Log()])))
    assert (error.code(), retry_seconds(error)) == (grpc.StatusCode.UNAVAILABLE, 2)


# Not now


@pytest.mark.parametrize("method", METHODS)
async def test_while_kafka_is_away_clients_are_told_when_to_come_again(face: Face, method: str) -> None:
    face.publisher.failure = KafkaUnavailable("Kafka did not acknowledge")
    error = await failure(sent(face, method, logs(10)))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "Kafka did not acknowledge")
    assert retry_seconds(error) == 2
    face.publisher.failure = None
    await sent(face, method, logs(10))
    assert len(face.rows) == 10


@pytest.mark.parametrize("method", METHODS)
async def test_when_too_much_is_in_progress_clients_are_told_to_come_again(method: str) -> None:
    async with started(Config(max_request_bytes=1000, max_waiting_bytes=2000)) as small:
        small.publisher.gate.clear()
        entry = LogEntry(service="s", message="x" * 700, timestamp=str(NOW))
        holding = [asyncio.ensure_future(sent(small, "IngestLog", [entry])) for _ in range(2)]
        await until(lambda: small.intake._held > 1400)
        error = await failure(sent(small, method, [entry]))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_seconds(error) == 1
        small.publisher.gate.set()
        await asyncio.gather(*holding)
        assert (await sent(small, method, [entry]))[0].count == 1


async def test_a_message_over_the_limit_is_refused() -> None:
    async with started(Config(max_grpc_bytes=1000)) as small:
        entry = LogEntry(service="s", message="x" * 1000)
        for method in METHODS:
            error = await failure(sent(small, method, [entry]))
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            packed = await failure(sent(small, method, [entry], compression=grpc.Compression.Gzip))
            assert packed.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert small.rows == []
        assert (await sent(small, "IngestLogStream", [LogEntry(service="s", message="x" * 700)] * 20))[0].count == 20


@pytest.mark.parametrize("method", METHODS)
async def test_an_unexpected_fault_is_told_without_its_text(
    face: Face, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(topic: str, key: str, value: bytes, headers: Headers) -> None:
        raise RuntimeError("password=hunter2")

    face.publisher.publish = broken  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        error = await failure(sent(face, method, logs(1)))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "hunter2" not in str(details(error))
    assert "hunter2" in caplog.text


# Clients that go away


@pytest.mark.parametrize("method", METHODS)
async def test_a_deadline_that_passes_midway_leaves_the_server_well(face: Face, method: str) -> None:
    face.publisher.gate.clear()
    error = await failure(sent(face, method, logs(30), timeout=0.2))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    face.publisher.gate.set()
    await face.settled()
    assert (await sent(face, method, logs(1, "after")))[0].count == 1
    assert face.rows[-1].service == "after"


def ours() -> set[str]:
    """Tasks of streams."""
    names = {str(getattr(task.get_coro(), "__qualname__", "")) for task in asyncio.all_tasks()}
    return {name for name in names if name.startswith(("together", "in_turn", "_Call"))}


@pytest.mark.parametrize("open_ended", [False, True])
@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_its_client_cancels_leaves_the_server_well(face: Face, method: str, open_ended: bool) -> None:
    face.publisher.gate.clear()
    if method in METHODS[:2]:
        call = getattr(face.stub, method)(logs(1)[0] if method == "IngestLog" else LogBatch(logs=logs(3)))
    else:
        call = getattr(face.stub, method)()
        for entry in logs(30):
            await call.write(entry if method == "IngestLogStream" else LogBatch(logs=[entry]))
            await asyncio.sleep(0)
        if not open_ended:
            await call.done_writing()
    await asyncio.sleep(0.1)
    assert call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call.code()
    face.publisher.gate.set()
    await face.settled()
    await until(lambda: not ours())
    assert (await sent(face, method, logs(1, "after")))[0].count == 1


async def test_a_client_that_does_not_read_its_answers_is_not_read_from_without_end(face: Face) -> None:
    call = face.stub.StreamLogBatches()
    batch = LogBatch(logs=[LogEntry(service="s", timestamp="𝄞" * 64)] * 100)  # its answer has about 30 KB
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            await call.write(batch)
            written += 1

    writing = asyncio.ensure_future(write())
    before = -1
    while before < written < 5000:
        before = written
        await asyncio.sleep(1)
    call.cancel()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert 0 < written == before, "the client is held back"


# Health and reflection


async def check(face: Face, service: str = "") -> int:
    answer = await face.health.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


@pytest.mark.parametrize("service", ["", LogIngestion.name, Export.name])
async def test_health_follows_kafka(face: Face, service: str) -> None:
    assert await check(face, service) == SERVING
    face.publisher.failure = KafkaUnavailable("no connection to Kafka")
    assert await check(face, service) == NOT_SERVING
    face.publisher.failure = None
    assert await check(face, service) == SERVING


async def test_the_health_of_what_is_not_here_is_not_found(face: Face) -> None:
    error = await failure(face.health.Check(health_pb2.HealthCheckRequest(service="nobody")))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    call = face.health.Watch(health_pb2.HealthCheckRequest(service="nobody"))
    assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    call.cancel()


async def test_who_watches_the_health_is_told_of_each_change(face: Face) -> None:
    call = face.health.Watch(health_pb2.HealthCheckRequest(service=LogIngestion.name))

    async def told() -> int:
        answer = await asyncio.wait_for(call.read(), WAIT)
        return int(answer.status)

    assert await told() == SERVING
    face.publisher.failure = KafkaUnavailable("no connection to Kafka")
    assert await told() == NOT_SERVING
    face.publisher.failure = None
    assert await told() == SERVING
    call.cancel()


class Generic:
    """A client that knows nothing: what it sends it learns from the server's reflection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]  # for both channels
        self._pool = descriptor_pool.DescriptorPool()
        self._known: set[str] = set()

    async def ask(self, **question: str) -> Any:
        request = reflection_pb2.ServerReflectionRequest(**question)  # type: ignore[arg-type]  # by name
        call = self._stub.ServerReflectionInfo(iter([request]))
        return await anext(aiter(call))

    async def services(self) -> list[str]:
        answer = await self.ask(list_services="")
        return [service.name for service in answer.list_services_response.service]

    async def learn(self, **question: str) -> None:
        answer = await self.ask(**question)
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            if file.name not in self._known:
                self._known.add(file.name)
                for dependency in file.dependency:
                    await self.learn(file_by_filename=dependency)
                self._pool.Add(file)

    async def call(self, service: str, method: str, fill: Callable[[Any], None]) -> Any:
        await self.learn(file_containing_symbol=service)
        found = self._pool.FindServiceByName(service).methods_by_name[method]
        request = message_factory.GetMessageClass(found.input_type)()
        fill(request)
        answer = message_factory.GetMessageClass(found.output_type)
        call: Any = self._channel.unary_unary(
            f"/{service}/{method}", request_serializer=lambda _: request.SerializeToString()
        )
        return answer.FromString(await call(request))


async def test_a_client_that_knows_nothing_learns_how_to_send_logs(face: Face) -> None:
    generic = Generic(face.channel)
    services = await generic.services()
    assert {LogIngestion.name, Export.name, "grpc.health.v1.Health"} <= set(services)

    def entry(request: Any) -> None:
        assert {field.name for field in request.DESCRIPTOR.fields} >= {"service", "message", "timestamp"}
        request.service, request.message, request.timestamp = "pay", "learned", str(NOW)

    def export(request: Any) -> None:
        record = request.resource_logs.add().scope_logs.add().log_records.add()
        record.body.string_value, record.time_unix_nano = "learned too", NOW

    assert (await generic.call(LogIngestion.name, "IngestLog", entry)).count == 1
    await generic.call(Export.name, "Export", export)
    assert [(row.service, row.message) for row in face.rows] == [("pay", "learned"), ("unknown_service", "learned too")]


# Metrics, start and stop


async def test_calls_are_counted_by_their_status(face: Face) -> None:
    def counts() -> list[float]:
        samples = [{"protocol": "grpc", "status": status} for status in ("OK", "INVALID_ARGUMENT", "UNAVAILABLE")]
        return [REGISTRY.get_sample_value("torpor_ingest_requests_total", labels) or 0 for labels in samples]

    before = counts()
    await sent(face, "IngestLog", logs(2))
    await failure(sent(face, "IngestLog", [LogEntry()]))
    face.publisher.failure = KafkaUnavailable("away")
    await failure(sent(face, "IngestLog", logs(1)))
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [2, 1, 1]


async def test_calls_under_way_end_well_when_the_server_stops(face: Face) -> None:
    face.publisher.gate.clear()
    calls = [asyncio.ensure_future(sent(face, method, logs(1))) for method in METHODS]
    watch = face.health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    await asyncio.sleep(0.2)
    began = time.monotonic()
    stopping = asyncio.ensure_future(face.rpc.stop(WAIT))
    await asyncio.sleep(0.2)
    assert not stopping.done()
    assert (await watch.read()).status == NOT_SERVING
    face.publisher.gate.set()
    assert all(answer.success for answers in await asyncio.gather(*calls) for answer in answers)
    await stopping
    assert time.monotonic() - began < WAIT / 2
    assert await watch.read() == grpc.aio.EOF


async def test_a_port_in_use_is_told(face: Face) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{face.port} for gRPC: is the port in use"):
        await Rpc(face.intake).start(f"127.0.0.1:{face.port}")


# As a process


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with kafka_settings(tmp_path_factory.mktemp("kafka")) as apache:
        if apache:
            yield dict(apache)
        else:
            with Tansu() as broker:
                yield {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}


@contextlib.contextmanager
def process(settings: dict[str, str]) -> Iterator[tuple[FunctionProcess, grpc.Channel]]:
    """The server as a process, listening, and a channel to it."""
    served = FunctionProcess("ingest.rpc", settings)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{served.port}", DIRECT) as channel:
            grpc.channel_ready_future(channel).result(30)
            yield served, channel
    finally:
        served.kill()


def wait_for_health(channel: grpc.Channel, status: int) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    deadline = time.monotonic() + 30
    while stub.Check(health_pb2.HealthCheckRequest()).status != status:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_takes_logs_and_ends_well_on_sigterm(broker: dict[str, str]) -> None:
    with process(broker) as (served, channel):
        wait_for_health(channel, SERVING)
        stub: Any = LogIngestionServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert stub.IngestLogBatch(LogBatch(logs=logs(100)), timeout=30).count == 100
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING

        def trickle() -> Iterator[LogEntry]:
            yield from logs(10)
            served.terminate()
            assert next(watch).status == NOT_SERVING
            yield from logs(10)

        began = time.monotonic()
        assert stub.IngestLogStream(trickle(), timeout=30).count == 20
        assert list(watch) == []
        assert served.wait() == 0
        assert time.monotonic() - began < 10


def test_without_kafka_a_process_says_so_and_recovers_by_itself() -> None:
    away = Tansu()
    settings = {"KAFKA_BOOTSTRAP_SERVERS": away.bootstrap, "KAFKA_DELIVERY_TIMEOUT": "2"}
    with process(settings) as (served, channel):
        wait_for_health(channel, NOT_SERVING)
        stub: Any = LogIngestionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.IngestLog(logs(1)[0], timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert retry_seconds(caught.value) >= 1
        with away:
            wait_for_health(channel, SERVING)
            assert stub.IngestLog(logs(1)[0], timeout=30).count == 1
        served.terminate()
        assert served.wait() == 0


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::", socket.AF_INET6)])
def test_a_process_whose_port_is_in_use_says_so_and_ends(host: str, family: socket.AddressFamily) -> None:
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 here")
    with socket.create_server((host, 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as taken:
        port = str(taken.getsockname()[1])
        assert_ends({"PORT": port}, f"functions.ingest.rpc: cannot listen on [::]:{port} for gRPC: is the port in use?")


def test_a_process_with_a_bad_setting_names_it_and_ends() -> None:
    assert_ends({"RETENTION_DAYS": "a month"}, "functions.ingest.rpc: RETENTION_DAYS is 'a month': expected int")


def assert_ends(settings: dict[str, str], message: str) -> None:
    """A process does not start, and the last thing it says is why."""
    done = subprocess.run(
        [sys.executable, "-m", "functions.ingest.rpc"],
        cwd=ROOT,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == message
