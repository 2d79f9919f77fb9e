"""The methods of the gRPC services: bytes in, bytes out, so that what is no message is told by INVALID_ARGUMENT."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence

import grpc
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from functions.common import metrics
from functions.common.errors import Transient
from functions.ingest.dialects import entries, otlp, otlp_protobuf
from functions.ingest.intake import Intake
from functions.ingest.normalise import MAX_ERRORS, Outcome
from functions.ingest.proto.log_pb2 import IngestResponse, LogEntry, RecordError
from functions.ingest.rpc import status as rpc_status
from functions.ingest.rpc.stream import in_turn, together

Context = grpc.aio.ServicerContext[bytes, bytes]

KEY = "idempotency-key"
TRACE = "traceparent"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Export:
    """OpenTelemetry's LogsService."""

    name = "opentelemetry.proto.collector.logs.v1.LogsService"

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def methods(self) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        """The methods by name."""
        return {"Export": grpc.unary_unary_rpc_method_handler(self.export)}

    async def export(self, data: bytes, context: Context) -> bytes:
        """Take an ExportLogsServiceRequest."""
        outcome = await _outcome(context, "log_records", self._store(data, context))
        return otlp.response(outcome).SerializeToString()

    async def _store(self, data: bytes, context: Context) -> Outcome:
        key, trace = _said(context, KEY), _said(context, TRACE) or ""
        with self._intake.hold(len(data)):
            return await self._intake.store(otlp_protobuf.records(data), key, traceparent=trace)


class LogIngestion:
    """Torpor's own LogIngestionService (schema/log.proto)."""

    name = "torpor.logs.v1.LogIngestionService"

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def methods(self) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        """The methods by name."""
        return {
            "IngestLog": grpc.unary_unary_rpc_method_handler(self.log),
            "IngestLogBatch": grpc.unary_unary_rpc_method_handler(self.batch),
            "IngestLogStream": grpc.stream_unary_rpc_method_handler(self.log_stream),
            "StreamLogBatches": grpc.stream_stream_rpc_method_handler(self.batch_stream),
        }

    async def log(self, data: bytes, context: Context) -> bytes:
        """Take a LogEntry."""
        call = _Call(self._intake, context)
        return _response(await _outcome(context, "logs", call.logs([data])))

    async def batch(self, data: bytes, context: Context) -> bytes:
        """Take a LogBatch."""
        call = _Call(self._intake, context)
        return _response(await _outcome(context, "logs", call.batch(data)))

    async def log_stream(self, messages: AsyncIterator[bytes], context: Context) -> bytes:
        """Take any number of LogEntry, and answer once."""
        call = _Call(self._intake, context)
        return _response(await _outcome(context, "logs", call.stream(messages)))

    async def batch_stream(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Take any number of LogBatch, and answer each."""
        call = _Call(self._intake, context)
        try:
            async with contextlib.aclosing(in_turn(messages, call.batch)) as outcomes:
                async for outcome in outcomes:
                    _count(code_pb2.OK)
                    yield _response(outcome)
        except Exception as error:  # noqa: BLE001  the one place where an error of a stream becomes a status
            await _abort(context, rpc_status.of_error(error))


class _Call:
    """One call: its records are numbered through, in however many messages they come."""

    def __init__(self, intake: Intake, context: Context) -> None:
        self._intake = intake
        self._key, self._trace = _said(context, KEY), _said(context, TRACE) or ""
        self._first = 1
        self._broken = False

    async def logs(self, messages: list[bytes]) -> Outcome:
        with self._intake.hold(sum(map(len, messages))):
            return await self._store(messages)

    async def batch(self, data: bytes) -> Outcome:
        if self._broken:  # the numbers of what comes after are not known, or were given already
            raise Transient("a batch before this one was not taken")
        try:
            with self._intake.hold(len(data)):
                return await self._store(entries.batch(data))
        except Exception:
            self._broken = True
            raise

    async def stream(self, messages: AsyncIterator[bytes]) -> Outcome:
        total = Outcome()

        async def work(group: list[bytes]) -> None:
            part = await self.logs(group)
            total.batch = total.batch or part.batch
            total.accepted += part.accepted
            total.rejected += part.rejected
            total.errors += part.errors[: MAX_ERRORS - len(total.errors)]

        await together(messages, work)
        return total

    async def _store(self, logs: Sequence[LogEntry | bytes]) -> Outcome:
        before = self._first - 1
        self._first += len(logs)
        # Without a key each message is a batch of its own, so that a stream may be as long as it likes.
        first = before + 1 if self._key is not None else 1
        outcome = await self._intake.store(entries.records(logs, first), self._key, traceparent=self._trace)
        for error in outcome.errors:
            error.line += before + 1 - first
        return outcome


async def _outcome(context: Context, path: str, work: Awaitable[Outcome]) -> Outcome:
    """What became of a call's records. Ends the call with a status if none was taken."""
    try:
        outcome = await work
        status = rpc_status.of_rejected(outcome, path) if outcome.rejected and not outcome.accepted else None
    except Exception as error:  # noqa: BLE001  the one place where an error of a call becomes a status
        status = rpc_status.of_error(error)
    if status:
        await _abort(context, status)
    _count(code_pb2.OK)
    return outcome


async def _abort(context: Context, status: Status) -> None:
    _count(status.code)
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(_CODES[status.code], status.message, details)


def _count(code: int) -> None:
    metrics.INGEST_REQUESTS.labels("grpc", _CODES[code].name).inc()


def _said(context: Context, wanted: str) -> str | None:
    """The value of the call's metadata under a name, or None."""
    for name, value in context.invocation_metadata() or ():
        if name == wanted:
            return value if isinstance(value, str) else ""
    return None


def _response(outcome: Outcome) -> bytes:
    errors = [RecordError(record=e.line, field=e.field or "", error=e.error) for e in outcome.errors]
    message = rpc_status.summary(outcome) or f"{outcome.accepted} logs taken"
    return IngestResponse(
        success=not outcome.rejected,
        message=message,
        count=outcome.accepted,
        rejected=outcome.rejected,
        errors=errors,
        batch=outcome.batch,
    ).SerializeToString()
