"""Loki's push API: streams of entries under labels, as JSON or as protobuf packed with snappy. Pure.

Sources: Grafana Loki HTTP API, "Ingest logs"; Grafana Loki 3, pkg/distributor/distributor.go, for the answers.
"""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from functions.common.errors import Overloaded, TorporError, Transient, UnsupportedMediaType
from functions.ingest.decode import media_type
from functions.ingest.normalise import Outcome
from functions.ingest.records import Numbered

JSON, PROTOBUF = "application/json", "application/x-protobuf"

log = logging.getLogger(__name__)


class Loki:
    """A request of this protocol."""

    name = "loki"
    max_errors = 5  # they share a line, of which clients log about a kilobyte

    def __init__(self, request: Request) -> None:
        self._content_type = request.headers.get("content-type", "")

    @property
    def encoding(self) -> str:
        """Protobuf is always packed with snappy, and most clients do not say so."""
        return "snappy" if media_type(self._content_type) == PROTOBUF else ""

    def records(self, body: bytes) -> Numbered:
        """The entries of all streams, counted through the request."""
        kind = media_type(self._content_type)
        if kind == PROTOBUF:
            from functions.ingest.dialects import loki_protobuf

            return loki_protobuf.records(body)
        if kind in (JSON, ""):
            from functions.ingest.dialects import loki_json

            return loki_json.records(body)
        raise UnsupportedMediaType(f"content type {kind[:64]!r} is not read here; send {JSON} or {PROTOBUF}")

    def answer(self, outcome: Outcome) -> Response:
        """204, or 400 if an entry was rejected; the others are stored all the same, and clients do not send again."""
        if not outcome.rejected:
            return Response(status_code=204)
        told = [f"entry {e.line}: {f'{e.field}: ' if e.field else ''}{e.error}" for e in outcome.errors]
        if outcome.rejected > len(told):
            told.append("...")
        count = outcome.rejected + outcome.accepted
        return _text(f"{outcome.rejected} of {count} entries rejected: {'; '.join(told)}", 400)

    def problem(self, error: Exception) -> Response:
        """The error as text. Clients send again after 429 and 5xx only."""
        if not isinstance(error, TorporError):
            log.error("unhandled error", exc_info=error)
            error = TorporError("this is a fault of the server; its log says more")
        response = _text(str(error), 429 if isinstance(error, Overloaded) else error.status)
        if isinstance(error, Transient):
            response.headers["retry-after"] = str(error.retry_after)
        return response


new = Loki


def _text(text: str, status: int) -> Response:
    return PlainTextResponse(f"{text}\n", status)
