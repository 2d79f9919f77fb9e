"""Bodies to JSON records: content encodings and the shapes of JSON. Pure."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator

import msgspec

from functions.common.errors import BadRequest, TooLarge, UnsupportedMediaType
from functions.common.identity import MAX_RECORDS

LINES = {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
JSON = {"application/json", "text/json"}

Numbered = Iterable[tuple[int, bytes]]
"""JSON records as they were sent, each with its line, or its place in the array, counted from 1."""

_MAX_FRAMES = 10_000
"""zstd frames of a body: each costs a new decompressor, however small it is."""

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
    array, one object (over several lines, too) or JSON lines. Raises UnsupportedMediaType for any other type,
    BadRequest if an array is broken, and TooLarge, once they are read, if they are more than a request may hold.
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
    _check_count(body.count(b"\n"))  # before each line becomes an object: they may be millions
    for number, line in enumerate(body.split(b"\n"), 1):
        if line and not line.isspace():
            yield number, line


def _json(body: bytes) -> Numbered:
    start = body.lstrip()[:1]
    try:
        if start == b"[":
            return _items(_array.decode(body))
        if start == b"{":
            return [(1, bytes(_value.decode(body)))]
    except (msgspec.DecodeError, RecursionError) as error:
        if start == b"[":
            raise BadRequest(f"the array is not JSON: {error}") from None
    # Not one value: JSON lines under the name of JSON, as many clients send them.
    return _lines(body)


def _items(array: list[msgspec.Raw]) -> Iterator[tuple[int, bytes]]:
    _check_count(len(array))
    for number, raw in enumerate(array, 1):
        yield number, bytes(raw)


def _check_count(count: int) -> None:
    if count >= MAX_RECORDS:
        raise TooLarge(f"the request has more than {MAX_RECORDS - 1} records")


def _gunzip(body: bytes, limit: int) -> bytes:
    from isal import igzip, isal_zlib

    try:
        # A gzip file may have several members, and very many: the reader goes through them without copying the rest.
        with igzip.IGzipFile(fileobj=io.BytesIO(body)) as file:  # type: ignore[no-untyped-call]
            data: bytes = file.read(limit + 1)
    except EOFError:
        raise BadRequest("the gzip data ends too early") from None
    except (OSError, isal_zlib.error) as error:  # type: ignore[misc]  # the stubs know it as a type only
        raise BadRequest(f"the body is not gzip: {error}") from None
    _check_size(len(data), limit)
    return data


def _deflate(body: bytes, limit: int) -> bytes:
    # HTTP means zlib's format (RFC 9110, 8.4.1.2), whose first byte ends in 8; some clients send the bare stream.
    stream = zlib.decompressobj(zlib.MAX_WBITS if body and body[0] & 15 == 8 else -zlib.MAX_WBITS)
    try:
        data = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not deflate: {error}") from None
    _check_size(len(data), limit)
    if not stream.eof:
        raise BadRequest("the deflate data ends too early")
    if stream.unused_data:
        raise BadRequest("the body goes on after the deflate data")
    return data


def _unzstd(body: bytes, limit: int) -> bytes:
    from backports import zstd

    parts: list[bytes] = []
    size = 0
    rest = memoryview(body)
    while rest:  # frames may follow one another
        if len(parts) == _MAX_FRAMES:
            raise BadRequest(f"the body has more than {_MAX_FRAMES} zstd frames")
        try:
            end = zstd.get_frame_size(rest)
        except zstd.ZstdError:
            raise BadRequest("the body is not zstd, or ends too early") from None
        stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
        try:
            parts.append(stream.decompress(rest[:end], limit + 1 - size))
        except zstd.ZstdError as error:
            raise BadRequest(f"the zstd data is broken: {error}") from None
        size += len(parts[-1])
        _check_size(size, limit)
        rest = rest[end:]
    return b"".join(parts)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"the body has more than {limit} bytes when it is unpacked")
