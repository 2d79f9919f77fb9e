"""Bodies become JSON records: encodings are undone within their limit, and every shape of JSON is told apart."""

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common.errors import BadRequest, TooLarge, UnsupportedMediaType
from functions.common.identity import MAX_RECORDS
from functions.ingest import decode
from functions.ingest.decode import inflate, media_type, records

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


@pytest.mark.parametrize("encoding", ["br", "compress", "snappy", "gzip, gzip", "gzip,zstd", "gzip;q=1", "x" * 1000])
def test_an_encoding_that_is_unknown_or_nested_is_not_supported(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip, zstd or deflate") as caught:
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


@pytest.mark.parametrize("kind", sorted(decode.LINES))
def test_json_lines_are_numbered_as_they_stand(kind: str) -> None:
    body = b'{"a":1}\n\n  \t\n{"b":2}\r\n\r\n{"c":3}'
    assert list(records(body, kind)) == [(1, b'{"a":1}'), (4, b'{"b":2}\r'), (6, b'{"c":3}')]


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\r\n", b" \t\n \x0c", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("kind", ["", "application/json", "application/x-ndjson"])
def test_a_body_of_blanks_has_no_records(body: bytes, kind: str) -> None:
    assert list(records(body, kind)) == []


def test_json_lines_are_not_parsed() -> None:
    assert list(records(b"{broken\n[\xff", "application/x-ndjson")) == [(1, b"{broken"), (2, b"[\xff")]


@pytest.mark.parametrize("kind", ["", "application/json", "text/json"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'[{"a":1},{"b":2}]', [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (b' \r\n[ {"a":\n1} ,\n 2 ]\n', [(1, b'{"a":\n1}'), (2, b"2")]),
        (b"[]", []),
        (b'{"a":1}', [(1, b'{"a":1}')]),
        (b'{\n  "a": 1,\n  "b": [\n    2\n  ]\n}\n', [(1, b'{\n  "a": 1,\n  "b": [\n    2\n  ]\n}')]),
        (b'{"a":1}\n{"b":2}\n', [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (b'\n{"a":1}\n{"b":\n', [(2, b'{"a":1}'), (3, b'{"b":')]),
        (b'"text"\n5', [(1, b'"text"'), (2, b"5")]),
        (b'\xef\xbb\xbf{"a":1}', [(1, b'{"a":1}')]),
        (b'\xef\xbb\xbf[{"a":1}]', [(1, b'{"a":1}')]),
    ],
    ids=lambda value: value.decode("utf-8", "replace")[:20] if isinstance(value, bytes) else "",
)
def test_json_may_be_an_array_an_object_or_lines(kind: str, body: bytes, expected: list[tuple[int, bytes]]) -> None:
    assert list(records(body, kind)) == expected


def test_a_byte_order_mark_is_taken_off_the_first_line() -> None:
    assert list(records(b"\xef\xbb\xbf{}\n{}", "application/x-ndjson")) == [(1, b"{}"), (2, b"{}")]


@pytest.mark.parametrize("body", [b"[", b"[1,]", b"[1]]", b'[{"a":1}', b"[}", b"[" * 100_000, b"[\x00]", b"[NaN]"])
def test_a_broken_array_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(BadRequest, match="the array is not JSON"):
        list(records(body, "application/json"))


def test_an_object_nested_too_deeply_is_left_for_the_reader_of_the_record() -> None:
    body = b'{"a":' * 100_000
    assert list(records(body, "application/json")) == [(1, body)]


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "json"])
def test_another_type_is_not_supported_and_says_what_is(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=r"application/x-ndjson.*application/json"):
        records(b"{}", kind)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}\n" * MAX_RECORDS, "application/x-ndjson"),
        (b"{}\n" * MAX_RECORDS, "application/json"),
        (b"[" + b"1," * (MAX_RECORDS - 1) + b"1]", "application/json"),
    ],
    ids=["lines", "lines as JSON", "array"],
)
def test_more_records_than_have_a_number_are_refused_before_the_first_is_read(body: bytes, kind: str) -> None:
    with pytest.raises(TooLarge, match=str(MAX_RECORDS - 1)):
        next(iter(records(body, kind)))


def test_as_many_records_as_have_a_number_are_read() -> None:
    assert sum(1 for _ in records(b"1\n" * (MAX_RECORDS - 1), "application/x-ndjson")) == MAX_RECORDS - 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@quick
@given(st.lists(st.dictionaries(st.text(max_size=5), values, max_size=4), max_size=6), st.none() | st.integers(0, 3))
def test_an_array_and_lines_hold_the_same_records(objects: list[dict[str, object]], indent: int | None) -> None:
    array = json.dumps(objects, indent=indent).encode()
    lines = "\n".join(map(json.dumps, objects)).encode()
    read = [json.loads(raw) for _, raw in records(array, "application/json")]
    assert read == objects == [json.loads(raw) for _, raw in records(lines, "application/x-ndjson")]
