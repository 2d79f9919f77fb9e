"""OpenTelemetry's protocol by HTTP (OTLP 1.x, "OTLP/HTTP"): protobuf and JSON, answered in the same encoding."""

from __future__ import annotations

import msgspec
from google.protobuf import json_format
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from starlette.requests import Request
from starlette.responses import Response

from functions.common.errors import TorporError, Transient, UnsupportedMediaType
from functions.ingest.decode import media_type
from functions.ingest.normalise import MAX_ERRORS, Outcome
from functions.ingest.records import Numbered
from functions.ingest.rpc import status as rpc_status

JSON = "application/json"
PROTOBUF = "application/x-protobuf"


class Otlp:
    """A request of this protocol."""

    name = "otlp"
    encoding = ""
    max_errors = MAX_ERRORS

    def __init__(self, request: Request) -> None:
        self._content_type = request.headers.get("content-type", "")
        self._is_json = self._content_type.lower().startswith(JSON)

    def records(self, body: bytes) -> Numbered:
        """The log records of an ExportLogsServiceRequest."""
        kind = media_type(self._content_type)
        if kind == JSON:
            from functions.ingest.dialects import otlp_json

            return otlp_json.records(body)
        if kind in (PROTOBUF, "application/protobuf"):
            from functions.ingest.dialects import otlp_protobuf

            return otlp_protobuf.records(body)
        raise UnsupportedMediaType(f"content type {kind[:64]!r} is not read here; send {PROTOBUF} or {JSON}")

    def answer(self, outcome: Outcome) -> Response:
        """200 with an ExportLogsServiceResponse, or 400 with a Status if no record could be taken."""
        if outcome.rejected and not outcome.accepted:
            return self._encoded(rpc_status.of_rejected(outcome, "log_records"), 400)
        return self._encoded(response(outcome), 200)

    def problem(self, error: Exception) -> Response:
        """A Status. What is not known to fail again is 503: after a 500 a client throws its logs away."""
        permanent = isinstance(error, TorporError) and not isinstance(error, Transient) and error.status < 500
        status = error.status if isinstance(error, TorporError) and permanent else 503
        answer = self._encoded(rpc_status.of_error(error), status)
        if status == 503:
            answer.headers["retry-after"] = str(error.retry_after if isinstance(error, Transient) else 1)
        return answer

    def _encoded(self, message: Message, status: int) -> Response:
        if self._is_json:
            return Response(msgspec.json.encode(json_format.MessageToDict(message)), status, media_type=JSON)
        return Response(message.SerializeToString(), status, media_type=PROTOBUF)


def response(outcome: Outcome) -> ExportLogsServiceResponse:
    """What a client is told whose logs were taken, all or some of them."""
    if not outcome.rejected:
        return ExportLogsServiceResponse()
    partial = ExportLogsPartialSuccess(rejected_log_records=outcome.rejected, error_message=rpc_status.summary(outcome))
    return ExportLogsServiceResponse(partial_success=partial)


new = Otlp
