"""Bodies to JSON records: content encodings and the shapes of JSON. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import msgspec

from functions.common.errors import BadRequest, TooLarge, UnsupportedMediaType

LINES = {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
JSON = {"application/json", "text/json"}

Numbered = Iterable[tuple[int, bytes]]
"""JSON records as they were sent, each with its line, or its place in the array, counted from 1."""

_array = msgspec.json.Decoder(list[msgspec.Raw])
_value = msgspec.json.Decoder(msgspec.Raw)


def media_type(content_type: str) -> str:
    """The media type without its parameters. Raises UnsupportedMediaType if the text is said not to be UTF-8."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMediaType(f"charset {value[:32]} is not read here; send UTF-8")
    return kind


def records(body: bytes, kind: str) -> Numbered:
    """The records of a body of the media type `kind`.

    JSON lines are taken apart without being parsed; a bad line is found when it is read. `application/json` may be an
    array, one object (over several lines, too) or JSON lines. Raises UnsupportedMediaType for any other type, and
    BadRequest if an array is broken.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    if kind in LINES:
        return _lines(body)
    if kind in JSON or not kind:
        return _json(body)
    raise UnsupportedMediaType(
        f"content type {kind[:64]!r} is not read here; send JSON lines with 'Content-Type: application/x-ndjson', "
        "or a JSON array or object with 'Content-Type: application/json'"
    )


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding. Stops at `limit` bytes and raises TooLarge; raises BadRequest if the data is broken."""
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            return _gunzip(body, limit)
        case "deflate":
            return _deflate(body, limit)
        case "zstd":
            return _unzstd(body, limit)
        case other:
            raise UnsupportedMediaType(f"content encoding {other[:64]!r} is not read here; use gzip, zstd or deflate")


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(body.split(b"\n"), 1):
        if line and not line.isspace():
            yield number, line


def _json(body: bytes) -> Numbered:
    start = body.lstrip()[:1]
    try:
        if start == b"[":
            return [(number, bytes(raw)) for number, raw in enumerate(_array.decode(body), 1)]
        if start == b"{":
            return [(1, bytes(_value.decode(body)))]
    except (msgspec.DecodeError, RecursionError) as error:
        if start == b"[":
            raise BadRequest(f"the array is not JSON: {error}") from None
    # Not one value: JSON lines under the name of JSON, as many clients send them.
    return _lines(body)


def _gunzip(body: bytes, limit: int) -> bytes:
    from isal import isal_zlib

    parts: list[bytes] = []
    while body:  # a gzip file may have several members
        stream = isal_zlib.decompressobj(31)
        try:
            parts.append(stream.decompress(body, max(limit + 1 - sum(map(len, parts)), 1)))
        except isal_zlib.error as error:  # type: ignore[misc]  # the stubs know it as a type only
            raise BadRequest(f"the body is not gzip: {error}") from None
        _check(sum(map(len, parts)), limit, ended=stream.eof, name="gzip")
        body = stream.unused_data
    return b"".join(parts)


def _deflate(body: bytes, limit: int) -> bytes:
    # HTTP means zlib's format (RFC 9110, 8.4.1.2); some clients send the bare stream.
    stream = zlib.decompressobj(zlib.MAX_WBITS if body[:1] == b"\x78" else -zlib.MAX_WBITS)
    try:
        data = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not deflate: {error}") from None
    _check(len(data), limit, ended=stream.eof, name="deflate")
    return data


def _unzstd(body: bytes, limit: int) -> bytes:
    from backports import zstd

    parts: list[bytes] = []
    while body:  # frames may follow one another
        stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
        try:
            parts.append(stream.decompress(body, max(limit + 1 - sum(map(len, parts)), 1)))
        except zstd.ZstdError as error:
            raise BadRequest(f"the body is not zstd: {error}") from None
        _check(sum(map(len, parts)), limit, ended=stream.eof, name="zstd")
        body = stream.unused_data
    return b"".join(parts)


def _check(size: int, limit: int, *, ended: bool, name: str) -> None:
    if size > limit:
        raise TooLarge(f"the body has more than {limit} bytes when it is unpacked")
    if not ended:
        raise BadRequest(f"the {name} data ends too early")
