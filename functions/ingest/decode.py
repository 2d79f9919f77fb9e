"""What a body is and how it is packed: media types and content encodings. Pure."""

from __future__ import annotations

import io
import zlib

from functions.common.errors import BadRequest, TooLarge, UnsupportedMediaType

_MAX_FRAMES = 10_000
"""zstd frames of a body: each costs a new decompressor, however small it is."""


def media_type(content_type: str) -> str:
    """The media type without its parameters. Raises UnsupportedMediaType if the text is said not to be UTF-8."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMediaType(f"charset {value[:32]} is not read here; send UTF-8")
    return kind


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding: gzip, deflate, zstd, or snappy in its block format, as Prometheus and Loki send it.

    Stops at `limit` bytes and raises TooLarge; raises BadRequest if the data is broken.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            return _gunzip(body, limit)
        case "deflate":
            return _deflate(body, limit)
        case "zstd":
            return _unzstd(body, limit)
        case "snappy":
            return _unsnappy(body, limit)
        case other:
            raise UnsupportedMediaType(
                f"content encoding {other[:64]!r} is not read here; use gzip, zstd, deflate or snappy"
            )


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


def _unsnappy(body: bytes, limit: int) -> bytes:
    import cramjam

    try:
        # The block format begins with the length, so nothing is unpacked that is over the limit.
        _check_size(cramjam.snappy.decompress_raw_len(body), limit)
        return bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as error:
        raise BadRequest(f"the body is not snappy in the block format: {error}") from None


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"the body has more than {limit} bytes when it is unpacked")
