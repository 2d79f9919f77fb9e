"""What the functions' HTTP faces share: problem details (RFC 9457), bodies with a limit."""

from __future__ import annotations

import logging

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from functions.common.errors import BadRequest, MethodNotAllowed, TooLarge, TorporError, Transient

log = logging.getLogger(__name__)


class Json(Response):
    """A JSON response, encoded fast."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Encode the content."""
        return msgspec.json.encode(content)


def problem(error: Exception) -> Response:
    """The response that tells a caller of `error`. What is not ours is logged and told as 500 without its text."""
    if not isinstance(error, TorporError):
        log.error("unhandled error", exc_info=error)
        error = TorporError("this is a fault of the server; its log says more")
    body: dict[str, object] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
    }
    if isinstance(error, BadRequest) and error.fields:
        body["errors"] = [{"field": field, "error": text} for field, text in error.fields.items()]
    headers = {"retry-after": str(error.retry_after)} if isinstance(error, Transient) else {}
    if isinstance(error, MethodNotAllowed) and error.allow:
        headers["allow"] = error.allow
    return Response(msgspec.json.encode(body), error.status, headers, media_type="application/problem+json")


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body as it was sent. Raises TooLarge as soon as it is known to be over `limit` bytes."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge(f"the body has {declared} bytes; the limit is {limit}")
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            parts.append(part)
    except ClientDisconnect:
        raise BadRequest("the client went away before the body was complete") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)
