"""Small JSON documents, right (y), wrong (n) and left to the implementation (i), and where they are put."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from tests.input import model
from tests.input.case import ANY, JSON, OK, REFUSED, Case, Log
from tests.input.corpus import clock

RIGHT: tuple[bytes, ...] = (
    b"[]", b"{}", b"[ ]", b"{ }", b"[[]]", b"[[[[[]]]]]", b"[{}]", b'{"":{}}', b"null", b"true", b"false", b"0", b"-0",
    b"1", b"-1", b"10", b"0.0", b"-0.0", b"1.5", b"-1.5", b"1e5", b"1E5", b"1e+5", b"1E-5", b"1.5e10", b"0e1", b"0e+1",
    b"123456789012345678901234567890", b"-9223372036854775809", b"3.141592653589793238462643383279", b"20e1",
    b"0.1e-400", b'""', b'" "', b'"a"', b'"\\""', b'"\\\\"', b'"\\/"', b'"\\b\\f\\n\\r\\t"', b'"\\u0000"', b'"\\u0041"',
    b'"\\u00e9"', b'"\\uD83D\\uDE00"', b'"\\ud834\\udd1e"', b'"\\u2028\\u2029"', b'"\\uFFFF"', b'"\\uFFFE"',
    b'"\\u007f"', b'"\x7f"', '"é"'.encode(), '"€"'.encode(), '"😀"'.encode(), '"\u2028"'.encode(), '"\ufeff"'.encode(),
    '"\U0010ffff"'.encode(), b'"\\\\u0000"', b'"\\\\n"', b'"/*not a comment*/"', b'"//"', b'"a\\u0000b"', b'[1,2,3]',
    b'[1, 2 , 3]', b'[ 1 ]', b'["a","b"]', b'[null]', b'[true,false,null]', b'[[],{}]', b'[1,[2,[3]]]', b'{"a":1}',
    b'{"a" : 1}', b'{ "a":1 }', b'{"a":{"b":{"c":[]}}}', b'{"a":1,"b":2}', b'{"":0}', b'{"\\u0000":0}',
    b'{"a\\u0062":0}', b'{"a":null}', b'{"a":[]}', '{"é":"ü"}'.encode(), b'{"a":1,"a":2}', b'{"a":{"x":1},"a":{"y":2}}',
    b' 1', b'1 ', b'\t1\t', b' [ ] ', b' "a" ', b' {"a":1} ', b'\r[]\r', b'"\\uDBFF\\uDFFF"', b'[1e2,1E2,-0]',
)  # fmt: skip
WRONG: tuple[bytes, ...] = (
    b"", b" ", b"[", b"]", b"{", b"}", b"[[", b"]]", b"{{", b"[1", b"[1,", b"[,", b"[,1]", b"[1,]", b"[1,,2]", b"[1 2]",
    b"[1;2]", b"[a]", b"[a", b"[']", b"['a']", b'["a]', b'["a', b'["a"', b'["a",', b'["a"]]', b'["a"],', b"[1]]",
    b"[1]x", b"[1}", b'{"a":1]', b"{1:1}", b"{a:1}", b"{'a':1}", b'{"a"}', b'{"a":}', b'{"a" 1}', b'{"a",1}',
    b'{"a"::1}', b'{"a":1,}', b'{"a":1,,"b":2}', b'{,"a":1}', b'{"a":1 "b":2}', b'{"a":1}}', b'{"a":1}x', b'{"a":1',
    b'{"a":', b'{"a', b'{"a":"b', b'{"a":"b"', b"{null:1}", b"{[]:1}", b'{"a":{}', b"nul", b"nulll", b"Null", b"NULL",
    b"tru", b"truth", b"True", b"fals", b"False", b"NaN", b"-NaN", b"nan", b"Infinity", b"-Infinity", b"+Infinity",
    b"inf", b"[NaN]", b"[-Infinity]", b"+1", b"++1", b"--1", b"-", b"-a", b"- 1", b".5", b"-.5", b"1.", b"-1.", b"1.e5",
    b"1e", b"1e+", b"1e-", b"1E", b"1e1.5", b"1.5.5", b"1e1e1", b"01", b"-01", b"00", b"0x10", b"0b1", b"0o7", b"1_000",
    b"1,5", b"1 000", b"1a", b"0.e1", b"[01]", b"[1.]", b"[.5]", b"[1e]", b"[-]", b"[+1]", b"[0x1]", b"[1 .5]",
    "１".encode(), "−1".encode(), b"'a'", b"`a`", b'"', b'"""', b'"a', b'"a""b"', b'"\\"', b'"\\', b'"\\x41"', b'"\\a"',
    b'"\\v"', b'"\\0"', b'"\\\'"', b'"\\u"', b'"\\u00"', b'"\\u00G0"', b'"\\u 041"', b'"\\U0041"', b'"\\u{41}"',
    b'"\x00"', b'"\x01"', b'"\x1f"', b'"\t"', b'"\r"', b'"a\x08b"', b'["\x01"]', b'["\t"]', b'["\\x"]', b'["\\u12"]',
    b'{"\t":1}', b'{"\\x":1}', b'["\\', b'["\\u', b"\x00", b"1\x00", b"[\x00]", b"[1\x0c]", b"\x0b1",
    "\u00a01".encode(), "[\u2060]".encode(), "\ufeff1".encode(), "[\ufeff1]".encode(), b"// c", b"1 // c", b"/* c */ 1",
    b"[1 /* c */]", b"# c", b"<a/>", b"a: 1", b"(1)", b"undefined", b"function(){}", b"=1", b"@", b"*", b"\\", b"\\n",
    b"$", b"1 2", b"{} {}", b"[] []", b'"a" "b"', b"null null", b'{"a":"b"}#', b'{"a":"b"}/**/', b"[" * 1100,
    b'{"a":' * 1100, b'"\xff"', b'"\xc3"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'["\xff"]',
    b'{"\xff":1}', b"\xff", b"[\xff]", b"[\xe9]", b'"\xe0\xff"', b'"\xf0\x9f\x98"', b'{"a":"\xc3"}',
    b'{"a":["\xc0\x80"]}', b'"\x80"', b'"\xfe"',
)  # fmt: skip
OPEN: tuple[bytes, ...] = (
    b"1e400", b"-1e400", b"[1e9999]", b"1" * 4301, b"-" + b"9" * 4400, b"0." + b"1" * 5000, b"1e-9999", b'"\\uD800"',
    b'"\\uDC00"', b'"\\uD800a"', b'"\\uD800\\uD800"', b'"\\uDC00\\uD800"', b'["\\uDEAD"]', b'{"\\uD800":1}',
    b'{"a":"\\uDFFF"}', b"[" * 500 + b"]" * 500, b'{"a":' * 500 + b"1" + b"}" * 500, b"[" * 2000 + b"]" * 2000,
)  # fmt: skip

SERVICE = "json"


def documents() -> Iterator[tuple[str, str, bytes]]:
    """Name, kind and bytes of each document."""
    for kind, group in (("y", RIGHT), ("n", WRONG), ("i", OPEN)):
        for number, document in enumerate(group):
            yield f"{kind}_{number:03d}", kind, document


def bodies() -> list[Case]:
    """Each document as the whole body: none of them is a log."""
    return [Case(name, document, JSON, expect=REFUSED) for name, _, document in documents()]


def arrays() -> list[Case]:
    """Each document as a message in an array: a broken array is refused as a whole."""
    cases = []
    for name, kind, document in documents():
        first = b'{"service":"json","message":"%b before"}' % name.encode()
        record = b'{"service":"json","metadata":{"case":"%b"},"message":%b}' % (name.encode(), document)
        logs = [model.expected(first, 1), model.expected(record, 2)]
        text = model.is_json(document.decode("latin-1").encode())  # only its UTF-8 is wrong: that is one record's fault
        right = [log for log in logs if log] if kind != "n" or text else []
        expect = {"y": OK, "n": OK if text else REFUSED, "i": ANY}[kind]
        cases.append(Case(name, b"[%b,%b]" % (first, record), JSON, expect=expect, logs=_may(right, kind == "i")))
    return cases


def lines() -> list[Case]:
    """Each document alone on a line, as a message and as metadata, among lines that are right."""
    cases = []
    for name, kind, document in documents():
        label = name.encode()
        good = b'{"service":"json","message":"line %b"}' % label
        message = b'{"service":"json","span_id":"%b","message":%b}' % (label, document)
        entry = b'{"service":"json","span_id":"%b","metadata":{"k":%b}}' % (label, document)
        other = b'{"service":"json","span_id":"%b","other":%b}' % (label, document)
        cases.append(model.of_lines(name, [good, document, message, entry, other, good], unsure=kind == "i"))
    return cases


def event_data() -> list[Case]:
    """Each document as the data of a CloudEvent, in the three modes."""
    return [case for name, kind, document in documents() for case in _events(name, kind, document)]


def _events(name: str, kind: str, document: bytes) -> Iterator[Case]:
    time, moment = clock.recent()
    attributes = {"specversion": "1.0", "id": name, "source": "/json", "type": "t", "time": time}
    expect = {"y": OK, "n": REFUSED, "i": ANY}[kind]
    for mode in ("structured", "batch", "binary"):
        own = attributes | {"id": f"{name}-{mode}", "subject": mode}
        log = model.event(own, document.decode() if kind == "y" else None, moment)
        logs = _may([log] if log and kind == "y" else [], False)
        body = json.dumps(own).encode()[:-1] + b',"data":%b}' % document
        headers = {"content-type": "application/cloudevents+json"}
        if mode == "batch":
            body, headers = b"[%b]" % body, {"content-type": "application/cloudevents-batch+json"}
        if mode == "binary":
            body, headers = document, JSON | {f"ce-{key}": value for key, value in own.items()}
            if not document:  # an event without data is an event
                log = model.event(own, None, moment)
                yield Case(f"{name} {mode}", body, headers, expect=OK, logs=[log] if log else [])
                continue
        if kind == "i":
            logs = _open(own, document, moment)
        yield Case(f"{name} {mode}", body, headers, expect=expect, logs=logs)


def _open(attributes: dict[str, str], document: bytes, moment: int) -> list[Log]:
    log = model.event(attributes, document.decode(), moment)
    return _may([log] if log else [], True)


def _may(logs: Sequence[Log], optional: bool) -> list[Log]:
    return [Log(**{**vars(log), "optional": optional}) for log in logs]
