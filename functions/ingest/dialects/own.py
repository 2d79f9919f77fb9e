"""Torpor's own protocol: JSON lines, a JSON array or object, and CloudEvents. Errors are problem details."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from functions.common.http import Json, problem
from functions.ingest.decode import media_type
from functions.ingest.dialects import cloudevents, json_records
from functions.ingest.normalise import MAX_ERRORS, LineError, Outcome
from functions.ingest.records import Numbered


class Answer(msgspec.Struct):
    """The answer to a request: how many records were taken, and which were not and why."""

    accepted: int
    rejected: int
    errors: list[LineError]
    batch: str


class Own:
    """A request of this protocol."""

    name = "http"
    encoding = ""
    max_errors = MAX_ERRORS

    def __init__(self, request: Request) -> None:
        self._headers = request.headers

    def records(self, body: bytes) -> Numbered:
        """The records of a body of any shape that is read here."""
        kind = media_type(self._headers.get("content-type", ""))
        if cloudevents.is_cloudevent(self._headers, kind):
            return cloudevents.records(self._headers, kind, body)
        return json_records.records(body, kind)

    def answer(self, outcome: Outcome) -> Response:
        """200, or 400 if no record could be taken."""
        answer = Answer(outcome.accepted, outcome.rejected, outcome.errors, outcome.batch)
        return Json(answer) if outcome.accepted else _none_accepted(answer)

    def problem(self, error: Exception) -> Response:
        """Problem details."""
        return problem(error)


def _none_accepted(answer: Answer) -> Response:
    first = answer.errors[0] if answer.errors else None
    detail = "there are no logs in the body"
    if first:
        field = f" {first.field}:" if first.field else ""
        detail = f"no record was accepted; line {first.line}:{field} {first.error}"
    body = {"type": "about:blank", "title": "bad request", "status": 400, "detail": detail}
    body |= msgspec.to_builtins(answer)
    return Response(msgspec.json.encode(body), 400, media_type="application/problem+json")


new = Own
