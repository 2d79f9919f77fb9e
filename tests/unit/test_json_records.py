"""JSON becomes records: every shape of a body is told apart, and a bad record is rejected with field and reason."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common.errors import BadRequest, TooLarge, UnsupportedMediaType
from functions.common.identity import MAX_RECORDS
from functions.common.record import Incoming
from functions.ingest.dialects.json_records import LINES, read, records
from functions.ingest.records import Numbered, Rejected

NO_OBJECT = (None, "not a JSON object")
quick = settings(deadline=None, max_examples=60)
Told = Incoming | tuple[str | None, str]


def told(record: Incoming | Rejected) -> Told:
    """The record, or the field at fault and the reason."""
    return (record.field, str(record)) if isinstance(record, Rejected) else record


def numbered(given: Numbered) -> list[tuple[int, Told]]:
    return [(number, told(record)) for number, record in given]


def of(**metadata: str) -> Incoming:
    return Incoming(metadata=metadata)


def taken(record: bytes | dict[str, Any]) -> Incoming:
    made = read(record if isinstance(record, bytes) else json.dumps({"service": "s", **record}).encode())
    assert isinstance(made, Incoming), made
    return made


def refused(record: bytes | dict[str, Any]) -> tuple[str | None, str]:
    made = read(record if isinstance(record, bytes) else json.dumps({"service": "s", **record}).encode())
    assert isinstance(made, Rejected), made
    return made.field, str(made)


# Bodies


@pytest.mark.parametrize("kind", sorted(LINES))
def test_json_lines_are_numbered_as_they_stand(kind: str) -> None:
    body = b'{"a":1}\n\n  \t\n{"b":2}\r\n\r\n{"c":3}'
    assert numbered(records(body, kind)) == [(1, of(a="1")), (4, of(b="2")), (6, of(c="3"))]


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\r\n", b" \t\n \x0c", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("kind", ["", "application/json", "application/x-ndjson"])
def test_a_body_of_blanks_has_no_records(body: bytes, kind: str) -> None:
    assert list(records(body, kind)) == []


def test_a_broken_line_is_rejected_alone() -> None:
    (one, broken), (two, good), (three, noise) = numbered(records(b'{broken\n{"a":1}\n[\xff', "application/x-ndjson"))
    assert (one, two, three) == (1, 2, 3)
    assert (good, noise) == (of(a="1"), NO_OBJECT)
    assert isinstance(broken, tuple) and broken[0] is None and broken[1].startswith("not JSON: ")


@pytest.mark.parametrize("kind", ["", "application/json", "text/json"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'[{"a":1},{"b":2}]', [(1, of(a="1")), (2, of(b="2"))]),
        (b' \r\n[ {"a":\n1} ,\n 2 ]\n', [(1, of(a="1")), (2, NO_OBJECT)]),
        (b"[]", []),
        (b'{"a":1}', [(1, of(a="1"))]),
        (b'{\n  "a": 1,\n  "b": [\n    2\n  ]\n}\n', [(1, of(a="1", b="[\n    2\n  ]"))]),
        (b'{"a":1}\n{"b":2}\n', [(1, of(a="1")), (2, of(b="2"))]),
        (b'\n{"a":1}\n{"b":\n', [(2, of(a="1")), (3, (None, "not JSON: Input data was truncated"))]),
        (b'"text"\n5', [(1, NO_OBJECT), (2, NO_OBJECT)]),
        (b'\xef\xbb\xbf{"a":1}', [(1, of(a="1"))]),
        (b'\xef\xbb\xbf[{"a":1}]', [(1, of(a="1"))]),
    ],
    ids=lambda value: value.decode("utf-8", "replace")[:20] if isinstance(value, bytes) else "",
)
def test_json_may_be_an_array_an_object_or_lines(kind: str, body: bytes, expected: list[tuple[int, Told]]) -> None:
    assert numbered(records(body, kind)) == expected


def test_a_byte_order_mark_is_taken_off_the_first_line() -> None:
    assert numbered(records(b"\xef\xbb\xbf{}\n{}", "application/x-ndjson")) == [(1, Incoming()), (2, Incoming())]


@pytest.mark.parametrize("body", [b"[", b"[1,]", b"[1]]", b'[{"a":1}', b"[}", b"[" * 100_000, b"[\x00]", b"[NaN]"])
def test_a_broken_array_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(BadRequest, match="the array is not JSON"):
        list(records(body, "application/json"))


def test_an_object_nested_too_deeply_is_one_bad_record() -> None:
    body = b'{"a":' * 100_000
    assert numbered(records(body, "application/json")) == [(1, (None, "not JSON: nested too deeply"))]


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


def test_an_array_may_have_as_many_records_as_have_a_number() -> None:
    body = b"[" + b"1," * (MAX_RECORDS - 2) + b"1]"
    assert sum(1 for _ in records(body, "application/json")) == MAX_RECORDS - 1


# Records


def test_a_record_has_every_field_as_it_was_sent() -> None:
    sent: dict[str, Any] = {
        "service": "pay",
        "message": "ünïcode ☃",
        "timestamp": "2026-01-31T12:00:00Z",
        "level": "error",
        "metadata": {"k": "v"},
        "trace_id": "4bf9",
        "span_id": "00f0",
        "id": "order-1",
    }
    # Once by the short way, once by the long one.
    assert taken(sent) == Incoming(**sent)
    assert taken({**sent, "host": None}) == Incoming(**sent)


def test_a_record_without_anything_has_the_defaults() -> None:
    assert taken(b"{}") == Incoming()
    assert taken(b'{"message":null}') == Incoming()


@pytest.mark.parametrize(("level", "kept"), [(17, 17), ("loud", "loud"), (True, "true"), (1.5, "1.5"), ([1], "[1]")])
def test_a_level_is_left_for_the_normaliser(level: object, kept: str | int) -> None:
    assert taken({"level": level}).level == kept


def test_nulls_count_as_absent() -> None:
    nulls = dict.fromkeys((*Incoming.__struct_fields__, "other"))
    assert taken(nulls) == Incoming()
    assert taken({"metadata": {"a": None, "b": "x"}}).metadata == {"b": "x"}


def test_unknown_fields_become_metadata() -> None:
    row = taken(b'{"service":"s","host":"h1","port":8080,"ratio":1.10,"up":true,"tags":["a", 1],"deep":{"a":{"b":1}}}')
    assert row.metadata == {
        "host": "h1",
        "port": "8080",
        "ratio": "1.10",
        "up": "true",
        "tags": '["a", 1]',
        "deep": '{"a":{"b":1}}',
    }


def test_metadata_that_is_not_text_becomes_its_json_text() -> None:
    row = taken(b'{"service":"s","metadata":{"n":1e2,"list":[1,  2],"deep":{"a":"\\u00e9"},"text":"\\u00e9"}}')
    assert row.metadata == {"n": "1e2", "list": "[1,  2]", "deep": '{"a":"\\u00e9"}', "text": "é"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b'{"a": 1}', '{"a": 1}'), (b"[1,2]", "[1,2]"), (b"5", "5"), (b"true", "true"), (b'""', "")],
)
def test_a_message_that_is_not_text_becomes_its_json_text(raw: bytes, message: str) -> None:
    assert taken(b'{"service":"s","message":' + raw + b"}").message == message


@pytest.mark.parametrize("field", ["service", "trace_id", "span_id"])
@pytest.mark.parametrize("value", [5, True, [], {}])
def test_a_name_that_is_not_text_is_refused(field: str, value: object) -> None:
    assert refused({field: value}) == (field, "not text")


@pytest.mark.parametrize("value", [[1], "x", 5, True])
def test_metadata_that_is_not_an_object_is_refused(value: object) -> None:
    assert refused({"metadata": value}) == ("metadata", "not a JSON object")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"service":"s","message":"\xff"}', "not UTF-8"),
        (b'{"service":"s","message":"\xc0\xaf"}', "not UTF-8"),
        (b'{"service":"s","message":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"service":"s","other":"\xff"}', "not UTF-8"),
        (b'{"service":"s","other":["\xff"]}', "not UTF-8"),
        (b'{"service":"s","\xff":1}', "not UTF-8"),
        ('{"service":"s"}'.encode("utf-16"), "not JSON"),
        (b'{"service":"s","message":"\\ud800"}', "not JSON"),
        (b'{"service":"s","other":"\\udc00"}', "not JSON"),
        (b'{"service":"s","message":"\x00"}', "not JSON"),
        (b'{"service":"s","message":"a\tb"}', "not JSON"),
    ],
)
def test_what_is_no_text_is_refused(raw: bytes, reason: str) -> None:
    field, error = refused(raw)
    assert field is None
    assert error.startswith(reason)


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"{}x",
        b"{'service':'s'}",
        b'{"service":"s",}',
        b'{service:"s"}',
        b'{"service":"s"}}',
        b'{"service":"s"} {"service":"s"}',
        b'{"service":"s","n":NaN}',
        b'{"service":"s","n":Infinity}',
        b'{"service":"s","n":-Infinity}',
        b'{"service":"s","message":NaN}',
        b'{"service":"s","n":0x10}',
        b'{"service":"s","n":01}',
        b'{"service":"s","n":1.}',
        b'{"service":"s","n":.5}',
        b'{"service":"s","n":+1}',
        b'{"service":"s","n":-}',
        b'{"service":"s","n":1e}',
        b'{"service":"s","n":tru}',
        b'{"service":"s","n":[1,]}',
        b'{"service":"s","n":[1}',
        b'{"service":"s","n":"\\x"}',
        b'{"service":"s","n":{"m":"\\x"}}',
        b'{"service":"s","n":\x0c1}',
        b'{"service":"s","n":/**/1}',
        b'{"service":"s"\x00}',
        b'\xef\xbb\xbf{"service":"s"}',
        b"\x1f\x8b\x08",
        b'{"n":' + b"[" * 100_000,
        b'{"n":' * 100_000,
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    field, error = refused(raw)
    assert field is None
    assert error.startswith("not JSON")
    assert len(error) < 200


@pytest.mark.parametrize("raw", [b"null", b"5", b'"x"', b"[]", b"true", b'[{"service":"s"}]', b"[" * 100_000])
def test_json_that_is_no_object_is_refused(raw: bytes) -> None:
    field, error = refused(raw)
    assert (field, error) == (None, "not a JSON object")


@pytest.mark.parametrize("number", ["0", "-0", "1e400", "9223372036854775808", "18446744073709551616", "9" * 5000])
def test_numbers_are_kept_digit_by_digit(number: str) -> None:
    assert taken(f'{{"service":"s","n":{number}}}'.encode()).metadata == {"n": number}


@quick
@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda noise: b'{"service":"s","x":' + noise + b"}"))
def test_noise_is_read_or_rejected_and_never_an_unknown_error(noise: bytes) -> None:
    made = read(noise)
    if isinstance(made, Rejected):
        assert len(str(made)) < 200


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
names = st.text(max_size=5).filter(lambda name: name not in Incoming.__struct_fields__)


def is_text_of(text: str, value: object) -> bool:
    """Whether metadata of this text is what became of the value: itself if it is text, or else its JSON text."""
    return text == value if isinstance(value, str) else json.loads(text) == value


@quick
@given(st.lists(st.dictionaries(names, values, max_size=4), max_size=6), st.none() | st.integers(0, 3))
def test_an_array_and_lines_hold_the_same_records(objects: list[dict[str, object]], indent: int | None) -> None:
    array = json.dumps(objects, indent=indent).encode()
    lines = "\n".join(map(json.dumps, objects)).encode()
    for body, kind in ((array, "application/json"), (lines, "application/x-ndjson")):
        made = list(records(body, kind))
        assert [number for number, _ in made] == list(range(1, len(objects) + 1))
        for (_, record), sent in zip(made, objects, strict=True):
            assert isinstance(record, Incoming)
            present = {name: value for name, value in sent.items() if value is not None}
            assert record == Incoming(metadata=record.metadata)
            assert record.metadata.keys() == present.keys()
            assert all(is_text_of(record.metadata[name], value) for name, value in present.items())


def test_two_records_on_one_line_are_told_with_what_most_likely_made_them_so() -> None:
    (_, rejected), *_ = records(b'{"service":"a"}{"service":"b"}', "application/x-ndjson")
    assert isinstance(rejected, Rejected)
    assert "two records on one line" in str(rejected) and "--data-binary" in str(rejected)
