"""Every text in every place that holds text: of a record, of a header, of a CloudEvent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote

from tests.input import model
from tests.input.case import ANY, INGEST, LINES, OK, REFUSED, Case
from tests.input.corpus import clock
from tests.input.corpus.strings import ESCAPED_SURROGATES, NO_TEXT, TEXTS

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def _records(name: str, text: str) -> Iterator[dict[str, object]]:
    time, _ = clock.recent()
    yield {"service": "texts", "span_id": name, "message": text}
    yield {"service": "texts", "span_id": name, "metadata": {"value": text}}
    yield {"service": "texts", "span_id": name, "metadata": {text: "key", "case": name}}
    yield {"service": text, "span_id": name}
    yield {"service": "texts", "span_id": name, "trace_id": text}
    yield {"service": "texts", "trace_id": name, "span_id": text}
    yield {"service": "texts", "span_id": name, "level": text}
    yield {"service": "texts", "span_id": name, "message": {"nested": [text]}, text: text}
    yield {"service": "texts", "span_id": name, "id": text, "timestamp": time}


def everywhere() -> list[Case]:
    """Each text in every field, written as it is and escaped."""
    cases = []
    for number, text in enumerate(TEXTS):
        for ascii_only in (False, True):
            name = f"{number:03d}-{'escaped' if ascii_only else 'plain'}"
            records = [json.dumps(record, ensure_ascii=ascii_only).encode() for record in _records(name, text)]
            case = model.of_lines(name, records)
            logs = list(case.logs)
            if logs[-1].metadata and logs[-1].metadata[0][0] == "id":  # only the record with an id brings its time
                moment = json.loads(records[-1])["timestamp"]
                logs[-1] = type(logs[-1])(**{**vars(logs[-1]), "time": clock.nanoseconds(moment)})
            cases.append(Case(name, case.body, LINES, expect=OK, logs=logs))
    return cases


def no_text() -> list[Case]:
    """Bytes that are no UTF-8, and half pairs of surrogates, in every field: each line refused, the others stored."""
    cases = []
    for kind, group in (("bytes", NO_TEXT), ("half", ESCAPED_SURROGATES)):
        for number, text in enumerate(group):
            name = f"{kind}-{number:03d}"
            forms = [
                b'{"service":"texts","span_id":"%b","message":"good"}',
                b'{"service":"texts","span_id":"%b","message":"$"}',
                b'{"service":"$","span_id":"%b"}',
                b'{"service":"texts","span_id":"%b","trace_id":"$"}',
                b'{"service":"texts","span_id":"%b","metadata":{"k":"$"}}',
                b'{"service":"texts","span_id":"%b","metadata":{"$":"v"}}',
                b'{"service":"texts","span_id":"%b","level":"$"}',
                b'{"service":"texts","span_id":"%b","$":1}',
                b'{"service":"texts","span_id":"%b","other":["$"]}',
                b'{"service":"texts","span_id":"%b","message":{"$":1}}',
                b'{"service":"texts","span_id":"%b","message":"good again"}',
            ]
            lines = [(form % name.encode()).replace(b"$", text) for form in forms]
            cases.append(model.of_lines(name, lines))
    return cases


def encodings() -> list[Case]:
    """Bodies in other encodings than UTF-8, and with a byte order mark."""
    line = '{"service":"texts","message":"é encoding"}'
    cases = [Case(f"body {name}", line.encode(name), LINES, expect=REFUSED) for name in _ENCODINGS]
    good = model.expected(line.encode())
    logs = [good] if good else []
    cases.append(Case("one byte order mark", b"\xef\xbb\xbf" + line.encode(), LINES, expect=OK, logs=logs))
    cases.append(Case("two byte order marks", b"\xef\xbb\xbf" * 2 + line.encode(), LINES, expect=REFUSED))
    cases.append(Case("only a byte order mark", b"\xef\xbb\xbf", LINES, expect=REFUSED))
    cases.append(model.of_lines("a byte order mark inside", [line.encode(), b"\xef\xbb\xbf" + line.encode()]))
    return cases


_ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1", "cp037")


def event_attributes() -> list[Case]:
    """Each text as the attributes of a CloudEvent: percent-encoded in headers, as JSON in the body."""
    cases = []
    for number, text in enumerate(TEXTS):
        for mode in ("binary", "structured"):
            name = f"{number:03d}-{mode}"
            time, moment = clock.recent()
            event = {"specversion": "1.0", "id": f"{name} {text}", "source": f"s{text}", "type": f"t{text}"}
            event |= {"time": time, "subject": f"s{text}", "extension": f"x{text}"}
            log = model.event(event, json.dumps(text, ensure_ascii=False), moment)
            headers = {f"ce-{key}": quote(value, safe="") for key, value in event.items()}
            body = json.dumps(text).encode()
            headers["content-type"] = "application/json"
            if mode == "structured":
                headers = {"content-type": "application/cloudevents+json"}
                body = json.dumps(event | {"data": text}).encode()
            logs = [log] if log else []
            cases.append(Case(name, body, headers, path="/", expect=OK if log else REFUSED, logs=logs))
    return cases


def headers() -> list[Case]:
    """Each text raw in the headers that ingest reads. With a line break in it, it is another request altogether."""
    cases = []
    texts = [text.encode() for text in TEXTS] + list(NO_TEXT)
    for number, text in enumerate(texts):
        for header in (
            b"Idempotency-Key",
            b"Content-Type",
            b"Content-Encoding",
            b"ce-subject",
            b"ce-time",
            b"Host",
            b"ce-id",
        ):
            name = f"{number:03d}-{header.decode()}"
            time, moment = clock.recent()
            line = b'{"service":"texts","message":"header %b","timestamp":"%b"}' % (name.encode(), time.encode())
            cases.append(_with_header(name, header, text, line, moment))
    return cases


def _with_header(name: str, header: bytes, value: bytes, line: bytes, moment: int) -> Case:
    log = model.expected(line, time=moment)
    logs = [type(log)(**{**vars(log), "optional": True})] if log else []
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n" % (INGEST.encode(), len(line))
    if header == b"Host":
        head = head.replace(b"Host: h", b"Host: " + value)
    else:
        head += b"%b: %b\r\n" % (header, value)
    expect = ANY | {404, 405, 411, 413, 415}
    text = value.decode("latin-1")
    if header == b"Idempotency-Key" and not re.search(r"[\r\n\x00]", text):
        expect = OK if _KEY.fullmatch(text) else ANY
    return Case(name, expect=expect, logs=logs, raw=[head + b"\r\n" + line], answers=1)
