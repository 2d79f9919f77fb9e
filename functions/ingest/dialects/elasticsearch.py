"""Elasticsearch's bulk API: pairs of an action line and a document line, answered item by item. Pure.

The format is that of Elasticsearch's reference, "Bulk index or delete documents", version 8. `index` and `create` are
taken; `update` and `delete` are refused item by item, since logs do not change. What an action says beside `_index`
and `_id` (routing, pipeline, version) has no meaning here and is passed over. A final newline is not asked for.
"""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterator
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from functions.common.errors import BadRequest, Overloaded, TorporError, Transient, UnsupportedMediaType
from functions.common.identity import MAX_RECORDS
from functions.common.record import Incoming
from functions.ingest.decode import media_type
from functions.ingest.dialects import elasticsearch_documents
from functions.ingest.dialects.json_records import FAULTS
from functions.ingest.normalise import LineError, Outcome
from functions.ingest.records import Numbered, Rejected

log = logging.getLogger(__name__)

_KIND = re.compile(r"(?:application/(?:vnd\.elasticsearch\+)?(?:x-nd)?json)?")
_COMPATIBLE = re.compile(r"application/vnd\.elasticsearch\+json\s*;\s*compatible-with=(\d{1,2})\b", re.ASCII)

PIECE = 5000
"""Items of a piece of an answer: more are sent piece by piece, so that memory and the other requests are spared."""

_CREATED = (
    ',"_version":1,"result":"created","_shards":{"total":1,"successful":1,"failed":0},'
    '"_seq_no":0,"_primary_term":1,"status":201}}'
)
_EXCEPTIONS = {
    400: "illegal_argument_exception",
    413: "content_too_large_exception",
    415: "media_type_header_exception",
    429: "es_rejected_execution_exception",
    503: "unavailable_shards_exception",
}

_Scalar = str | int | float | bool | None


class _Target(msgspec.Struct, rename="_{}".format, gc=False):
    """Where a document is to go."""

    index: _Scalar = None
    id: _Scalar = None


_action = msgspec.json.Decoder(dict[Literal["create", "delete", "index", "update"], _Target]).decode


class Elasticsearch:
    """A bulk request."""

    name = "elasticsearch"
    encoding = ""
    max_errors = MAX_RECORDS

    def __init__(self, request: Request) -> None:
        self._started = time.perf_counter()
        self._content_type = request.headers.get("content-type", "")
        self._headers = _headers(request.headers.get("accept", ""))
        self._index = request.scope["path"].removesuffix("/_bulk").strip("/")
        # How an item's entry in the answer begins, and its id: one tuple, or one text, for all that have it in common.
        self._sent: list[tuple[str, str]] = []

    def records(self, body: bytes) -> Numbered:
        """The records of the items. Raises BadRequest, while they are read, at an action line that is none."""
        kind = media_type(self._content_type)
        if not _KIND.fullmatch(kind):
            raise UnsupportedMediaType(f"Content-Type header [{kind[:64]}] is not supported; use application/x-ndjson")
        return self._items(io.BytesIO(body.removeprefix(b"\xef\xbb\xbf")))

    def _items(self, body: io.BytesIO) -> Iterator[tuple[int, Incoming | Rejected]]:
        lines = enumerate(body, 1)
        heads: dict[tuple[str, str], str] = {}
        last = b""
        for place, line in lines:
            if line.isspace():
                continue
            if line != last:  # without an id most are alike
                action, index, item_id = _target(place, line)
                index, last = index or self._index, line
                if (head := heads.get((action, index))) is None:
                    head = heads[action, index] = f'{{"{action}":{{"_index":{_quoted(index)},"_id":'
                sent = head, item_id
            self._sent.append(sent)
            source = next(lines, (0, None))[1] if action != "delete" else None
            yield len(self._sent), _read(action, index, item_id, source)
        if not self._sent:
            raise BadRequest("Validation Failed: 1: no requests added;")

    def answer(self, outcome: Outcome) -> Response:
        """200 with what became of each item, in order, even if none was taken."""
        pieces = self._pieces(outcome)
        if len(self._sent) <= PIECE:
            return Response(b"".join(pieces), 200, self._headers)
        return StreamingResponse(pieces, 200, self._headers)

    def _pieces(self, outcome: Outcome) -> Iterator[bytes]:
        took = round((time.perf_counter() - self._started) * 1000)
        yield b'{"took":%d,"errors":%s,"items":[' % (took, b"true" if outcome.rejected else b"false")
        rejected = {error.line: error for error in outcome.errors}
        batch = _quoted(outcome.batch)[:-1]
        for start in range(0, len(self._sent), PIECE):
            parts = [
                head + (_quoted(item_id) if item_id else f'{batch}-{number}"') + _result(rejected.get(number))
                for number, (head, item_id) in enumerate(self._sent[start : start + PIECE], start + 1)
            ]
            yield (("," if start else "") + ",".join(parts)).encode()
        yield b"]}"

    def problem(self, error: Exception) -> Response:
        """An exception as Elasticsearch tells it; 429 if ingest is overloaded, since clients send such a bulk again."""
        if not isinstance(error, TorporError):
            log.error("unhandled error", exc_info=error)
            error = TorporError("this is a fault of the server; its log says more")
        status = 429 if isinstance(error, Overloaded) else error.status
        cause = {"type": _EXCEPTIONS.get(status, "exception"), "reason": str(error)}
        retry = {"retry-after": str(error.retry_after)} if isinstance(error, Transient) else {}
        body = {"error": {"root_cause": [cause], **cause}, "status": status}
        return Response(msgspec.json.encode(body), status, {**self._headers, **retry})


def handshake(extra: dict[str, object], accept: str = "") -> Response:
    """What GET / answers, so that clients take this for the Elasticsearch they know, and beside it `extra`."""
    members = {
        "name": "torpor",
        "cluster_name": "torpor",
        "cluster_uuid": "torpor",
        "version": {
            "number": "8.19.0",
            "build_flavor": "default",
            "build_type": "docker",
            "build_hash": "0" * 40,
            "build_date": "2025-01-01T00:00:00.000000000Z",
            "build_snapshot": False,
            "lucene_version": "9.12.2",
            "minimum_wire_compatibility_version": "7.17.0",
            "minimum_index_compatibility_version": "7.0.0",
        },
        "tagline": "You Know, for Search",
    }
    return Response(msgspec.json.encode({**extra, **members}), 200, _headers(accept))


def _headers(accept: str) -> dict[str, str]:
    match = _COMPATIBLE.search(accept)
    kind = f"application/vnd.elasticsearch+json;compatible-with={match[1]}" if match else "application/json"
    # Official clients refuse to talk to a server that does not call itself this.
    return {"x-elastic-product": "Elasticsearch", "content-type": kind}


def _target(place: int, line: bytes) -> tuple[str, str, str]:
    """Action, index and id of an action line, empty where it has none. Raises BadRequest if it is no action line.

    Elasticsearch, too, refuses the whole request then: it cannot be told which of the lines that follow are documents.
    """
    try:
        ((action, target),) = _action(line).items()
    except (ValueError, *FAULTS):
        raise BadRequest(
            f"Malformed action/metadata line [{place}], expected an object with one of create, delete, index, update"
        ) from None
    return action, _text(target.index), _text(target.id)


def _text(value: _Scalar) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _read(action: str, index: str, item_id: str, source: bytes | None) -> Incoming | Rejected:
    if action in ("update", "delete"):
        return Rejected(None, f"logs are not changed: {action} is not taken here")
    if source is None:
        return Rejected(None, "the document is missing")
    return elasticsearch_documents.read(source, index, item_id)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _result(error: LineError | None) -> str:
    if error is None:
        return _CREATED
    reason = f"{error.field}: {error.error}" if error.field else error.error
    return f',"status":400,"error":{{"type":"document_parsing_exception","reason":{_quoted(reason)}}}}}}}'


new = Elasticsearch
