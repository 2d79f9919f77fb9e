"""Bodies are unpacked within their limit, and media types are told apart."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common.errors import BadRequest, TooLarge, UnsupportedMediaType
from functions.ingest.decode import inflate, media_type

LIMIT = 20 * 1024 * 1024
BODY = b'{"service":"a","message":"one"}\n{"service":"b"}\n'
Pack = Callable[[bytes], bytes]
quick = settings(deadline=None, max_examples=30)


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def small_window(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=9)
    return stream.compress(data) + stream.flush()


def streamed_zstd(data: bytes) -> bytes:
    stream = zstd.ZstdCompressor()  # does not write the size of the content
    return stream.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK) + stream.flush()


PACKED = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("x-gzip", gzip.compress, id="x-gzip"),
    pytest.param("deflate", zlib.compress, id="zlib"),
    pytest.param("deflate", small_window, id="zlib with a small window"),
    pytest.param("deflate", raw_deflate, id="bare deflate"),
    pytest.param("zstd", zstd.compress, id="zstd"),
    pytest.param("zstd", streamed_zstd, id="streamed zstd"),
]


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
def test_a_packed_body_is_unpacked(encoding: str, pack: Pack) -> None:
    assert inflate(pack(BODY), encoding, LIMIT) == BODY
    assert inflate(pack(BODY), f" {encoding.upper()} ", LIMIT) == BODY


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
def test_a_body_that_is_not_packed_is_left_alone(encoding: str) -> None:
    assert inflate(BODY, encoding, LIMIT) is BODY


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
def test_an_unpacked_body_may_have_the_limit_and_no_byte_more(encoding: str, pack: Pack) -> None:
    assert inflate(pack(BODY), encoding, len(BODY)) == BODY
    with pytest.raises(TooLarge, match=str(len(BODY) - 1)):
        inflate(pack(BODY), encoding, len(BODY) - 1)


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
def test_a_body_cut_at_any_byte_is_refused(encoding: str, pack: Pack) -> None:
    packed = pack(BODY)
    for end in range(1, len(packed)):
        with pytest.raises(BadRequest):
            inflate(packed[:end], encoding, LIMIT)


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
def test_bytes_after_the_end_are_refused(encoding: str, pack: Pack) -> None:
    with pytest.raises(BadRequest):
        inflate(pack(BODY) + b"garbage that is no member", encoding, LIMIT)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "deflate"])
def test_a_body_that_is_not_packed_as_it_says_is_refused(encoding: str) -> None:
    with pytest.raises(BadRequest, match=encoding):
        inflate(BODY, encoding, LIMIT)


def test_a_wrong_checksum_is_refused() -> None:
    packed = bytearray(gzip.compress(BODY))
    packed[-8] ^= 1
    with pytest.raises(BadRequest, match="not gzip"):
        inflate(bytes(packed), "gzip", LIMIT)


def test_wrong_bytes_in_a_sound_frame_are_refused() -> None:
    packed = bytearray(zstd.compress(BODY, options={zstd.CompressionParameter.checksum_flag: 1}))
    packed[-1] ^= 1
    with pytest.raises(BadRequest, match="zstd data is broken"):
        inflate(bytes(packed), "zstd", LIMIT)


@quick
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=8), st.sampled_from([gzip.compress, zstd.compress]))
def test_members_that_follow_one_another_are_one_body(parts: list[bytes], pack: Pack) -> None:
    encoding = "gzip" if pack is gzip.compress else "zstd"
    packed, body = b"".join(map(pack, parts)), b"".join(parts)
    assert inflate(packed, encoding, max(len(body), 1)) == body
    if body:
        with pytest.raises(TooLarge):
            inflate(packed, encoding, len(body) - 1)


@quick
@given(st.binary(max_size=300), st.sampled_from(["gzip", "zstd", "deflate"]))
def test_noise_is_refused_or_unpacked_and_never_an_unknown_error(noise: bytes, encoding: str) -> None:
    heads = {"gzip": b"\x1f\x8b\x08\x00", "zstd": b"\x28\xb5\x2f\xfd", "deflate": b"\x78\x9c"}
    for body in (noise, heads[encoding] + noise):
        try:
            assert len(inflate(body, encoding, 1000)) <= 1000
        except (BadRequest, TooLarge):
            continue


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
def test_a_bomb_stops_at_the_limit(encoding: str, pack: Pack, bombs: dict[Pack, bytes]) -> None:
    with pytest.raises(TooLarge):
        inflate(bombs[pack], encoding, 1024 * 1024)


@pytest.fixture(scope="module")
def bombs() -> dict[Pack, bytes]:
    """100 MiB of zeros, packed in each way."""
    zeros = bytes(100 * 1024 * 1024)
    stream = zlib.compressobj(1, wbits=31)
    made = stream.compress(zeros) + stream.flush()
    # The other formats hold the same stream in other covers.
    bare = made[10:-8]
    with_zlib = b"\x78\x01" + bare + zlib.adler32(zeros).to_bytes(4)
    packed = zstd.compress(zeros, 1)
    return {
        gzip.compress: made,
        zlib.compress: with_zlib,
        small_window: with_zlib,
        raw_deflate: bare,
        zstd.compress: packed,
        streamed_zstd: packed,
    }


def test_very_many_empty_members_cost_no_more_than_their_bytes() -> None:
    # Copying the rest for each of them would take hours.
    assert inflate(gzip.compress(b"") * 200_000, "gzip", LIMIT) == b""


def test_very_many_empty_frames_are_refused() -> None:
    with pytest.raises(BadRequest, match="zstd frames"):
        inflate(zstd.compress(b"") * 10_001, "zstd", LIMIT)


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, gzip", "gzip,zstd", "gzip;q=1", "x" * 1000])
def test_an_encoding_that_is_unknown_or_nested_is_not_supported(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip, zstd, deflate or snappy") as caught:
        inflate(BODY, encoding, LIMIT)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("", ""),
        ("application/json", "application/json"),
        ("Application/JSON ; charset=UTF-8", "application/json"),
        ('application/x-ndjson;charset="utf-8"', "application/x-ndjson"),
        ("text/plain; charset=us-ascii; format=flowed", "text/plain"),
    ],
)
def test_a_media_type_has_no_parameters(content_type: str, kind: str) -> None:
    assert media_type(content_type) == kind


@pytest.mark.parametrize("charset", ["utf-7", "utf-16", "latin-1", "'utf-8'", "x" * 1000])
def test_another_charset_is_not_supported(charset: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="send UTF-8") as caught:
        media_type(f"application/json; charset={charset}")
    assert len(str(caught.value)) < 100
