"""The Splunk HTTP Event Collector, as its clients see it: events or raw lines, and its codes for what became of them.

Source: Splunk Enterprise, Getting Data In, "Troubleshoot HTTP Event Collector" (its codes); REST API Reference, "Input
endpoint descriptions" (services/collector).
"""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response

from functions.common.errors import TooLarge, TorporError, Transient
from functions.common.http import Json
from functions.ingest.dialects import splunk_events
from functions.ingest.dialects.splunk_fields import BLANK, INDEXED, REQUIRED, Query
from functions.ingest.normalise import Outcome
from functions.ingest.records import Numbered

log = logging.getLogger(__name__)

_CODES = {REQUIRED: 12, BLANK: 13, INDEXED: 15}
_INVALID = 6  # the code of everything else that is wrong with an event


class Splunk:
    """A request of this protocol: its path tells raw text from events, and its content type does not matter."""

    name = "splunk_hec"
    encoding = ""
    max_errors = 1

    def __init__(self, request: Request) -> None:
        self._raw = request.url.path.startswith("/services/collector/raw")
        self._query = Query(request.query_params)

    def records(self, body: bytes) -> Numbered:
        """The records of a body; blank lines are not numbered."""
        read = splunk_events.lines if self._raw else splunk_events.events
        return enumerate(read(body.removeprefix(b"\xef\xbb\xbf"), self._query), 1)

    def answer(self, outcome: Outcome) -> Response:
        """200 if all were taken; else 400, which names the first event that was not and counts those that were."""
        if outcome.rejected:
            first = outcome.errors[0]
            code = _CODES.get(first.error, _INVALID)
            field = f"{first.field}: " if first.field else ""
            text = first.error if code != _INVALID else f"Invalid data format: {field}{first.error}"
            text += f" (events taken: {outcome.accepted}, not taken: {outcome.rejected})"
            return Json({"text": text, "code": code, "invalid-event-number": first.line - 1}, 400)
        return Json({"text": "Success", "code": 0}) if outcome.accepted else Json({"text": "No data", "code": 5}, 400)

    def problem(self, error: Exception) -> Response:
        """503 if the same may work later, else 4xx with the reason. What is not ours is logged and told as 500."""
        if isinstance(error, Transient):
            return Json({"text": "Server is busy", "code": 9}, 503, {"retry-after": str(error.retry_after)})
        if not isinstance(error, TorporError):
            log.error("unhandled error", exc_info=error)
            return Json({"text": "Internal server error", "code": 8}, 500)
        return Json({"text": str(error), "code": _INVALID}, 413 if isinstance(error, TooLarge) else 400)


def health(ready: bool) -> Response:
    """The answer of services/collector/health."""
    if ready:
        return Json({"text": "HEC is healthy", "code": 17})
    return Json({"text": "HEC is unhealthy, queues are full", "code": 18}, 503)


new = Splunk
