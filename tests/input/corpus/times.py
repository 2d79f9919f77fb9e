"""Times: what they mean, and which are refused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from tests.input import model
from tests.input.case import LINES, OK, REFUSED, Case, Log
from tests.input.corpus import clock

REFUSED_TIMES = (
    '""', '" "', '"x"', '"now"', '"today"', '"-1h"', "0", "-1", "-0", '"0"', '"-1"', "1", "0.5", "1e-300", "1e30",
    "1e400", "-1e30", "1e19", "18446744073709551615", "18446744073709551616", "9223372036854775807",
    '"9223372036854775807"', "9" * 400, '"' + "9" * 400 + '"', "true", "false", "[]", "{}", "[1]",
    '["2026-01-01T00:00:00Z"]', '{"$date":1}', '"0000-01-01T00:00:00Z"', '"0001-01-01T00:00:00Z"',
    '"1600-01-01T00:00:00Z"', '"1969-12-31T23:59:59Z"', '"1970-01-01T00:00:00Z"', '"2262-04-11T23:47:17Z"',
    '"2299-12-31T23:59:59Z"', '"9999-12-31T23:59:59Z"', '"10000-01-01T00:00:00Z"', '"+10000-01-01T00:00:00Z"',
    '"-0001-01-01T00:00:00Z"', '"{Y}-02-30T00:00:00Z"', '"{Y}-02-29T25:00:00Z"', '"{Y}-13-01T00:00:00Z"',
    '"{Y}-00-10T00:00:00Z"', '"{D}T24:00:00Z"', '"{D}T24:00:01Z"', '"{D}T12:60:00Z"', '"{D}T12:00:61Z"',
    '"{D}T12:00:00+99:99"', '"{D}T12:00:00+24:00"', '"{D}T12:00:00+12:60"', '"{D}T12:00:00+"', '"{D}T12:00:00+1"',
    '"{D}T12:00:00ZZ"', '"{D}T12:00:00 Europe/Paris"', '"{D}T12:00:00 PST"', '"{D}T12:00:00."', '"{D}T12:00:00.Z"',
    '"{D}T12:00:00.1.2Z"', '"{D}T12:00:00Z; DROP"', '"{D}T12:00:00Z\\u0000"', '"{D}T"', '"{D}T12"', '"{D}T12:"',
    '"{D}12:00:00"', '"{D}-12:00:00"', '"12:00:00"', '"{Y}"', '"{Y}-W10-1"', '"{Y}-100"', '"1/2/{Y}"', '"Jan 1 {Y}"',
    '"Thu, 01 Jan {Y} 00:00:00 GMT"', '"{D}T١٢:00:00Z"', '"１２３"', '"²"', '"NaN"', '"Infinity"', '"1e9"',
    '"0x65000000"',
    '" {D} "x', '"{D}T12:00:00−05:00"', '"\\u202e{D}T12:00:00Z"', '"1_700_000_000"', '"1,700,000,000"',
)  # fmt: skip


def _taken() -> Iterator[tuple[str, int]]:
    """Times as they are sent, and their nanoseconds."""
    second = int(time.time()) - 2 * clock.HOUR
    nanoseconds = second * 1_000_000_000
    text = clock.text(second)
    day = text[:10]
    for unit in (1, 10**3, 10**6, 10**9):
        yield str(second * unit), nanoseconds
        yield f'"{second * unit}"', nanoseconds
        yield f"{second * unit}e0" if unit == 1 else f"{second * unit}", nanoseconds
    yield f"{second}.5", nanoseconds + 500_000_000
    yield f"{second}.123456", nanoseconds + 123_456_000
    yield str(nanoseconds + 1), nanoseconds + 1
    yield str(nanoseconds + 999_999_999), nanoseconds + 999_999_999
    for form in ("{}Z", "{}z", "{}+00:00", "{}-00:00", "{}", "{}+0000", "{} UTC", " {}Z "):
        yield f'"{form.format(text[:-1])}"', nanoseconds
    yield f'"{text[:-1].replace("T", " ")}Z"', nanoseconds
    yield f'"{text[:-1].lower()}z"', nanoseconds
    for fraction, value in ((".1", 100_000_000), (",5", 500_000_000), (".000000001", 1), (".999999999", 999_999_999)):
        yield f'"{text[:-1]}{fraction}Z"', nanoseconds + value
    yield f'"{text[:-1]}.{"1" * 40}Z"', nanoseconds + 111_111_111
    for zone, offset in (("+02:00", 7200), ("-05:30", -19800), ("+23:59", 86340), ("-23:59", -86340), ("+0530", 19800)):
        yield f'"{clock.text(second + offset)[:-1]}{zone}"', nanoseconds
    minute = second // 60 * 60
    yield f'"{clock.text(minute)[:16]}Z"', minute * 1_000_000_000
    yield f'"{clock.text(minute)[:17]}60Z"', (minute + 60) * 1_000_000_000
    yield f'"{clock.text(minute)[:17]}60.25Z"', (minute + 60) * 1_000_000_000 + 250_000_000
    midnight = clock.nanoseconds(f"{day}T00:00:00.000000000Z")
    yield f'"{day}"', midnight


def all_times() -> list[Case]:
    """Each time alone with its meaning, each refused one between good lines, the edges of what is kept."""
    cases = []
    for number, (value, moment) in enumerate(_taken()):
        line = b'{"service":"times","message":"%d","timestamp":%b}' % (number, value.encode())
        log = model.expected(line, time=moment)
        cases.append(Case(value, line, LINES, expect=OK, logs=[log] if log else []))
    today = clock.ago(0)[0]
    for value in REFUSED_TIMES:
        filled = value.replace("{D}", today[:10]).replace("{Y}", today[:4])
        line = b'{"service":"times","timestamp":%b}' % filled.encode()
        good = b'{"service":"times","message":"a neighbour"}'
        log = model.expected(good)
        logs = [log] if log else []
        cases.append(Case(f"refused {value[:40]}", good + b"\n" + line, LINES, expect=OK, logs=logs))
        cases.append(Case(f"refused alone {value[:40]}", line, LINES, expect=REFUSED))
    return [*cases, *_edges(), *_needed()]


def _edges() -> Iterator[Case]:
    for name, seconds, kept in (
        ("almost too old", 30 * clock.DAY - 600, True),
        ("too old", 30 * clock.DAY + 600, False),
        ("almost too new", -clock.DAY + 600, True),
        ("too new", -clock.DAY - 600, False),
    ):
        text, moment = clock.ago(seconds)
        line = json.dumps({"service": "times", "message": name, "timestamp": text}).encode()
        log = model.expected(line, time=moment)
        yield Case(name, line, LINES, expect=OK if kept else REFUSED, logs=[log] if log and kept else [])
    lines, logs = [], []
    for number in range(30):
        text, moment = clock.ago(number * clock.DAY + 60)
        lines.append(json.dumps({"service": "times", "message": f"day {number}", "timestamp": text}).encode())
        log = model.expected(lines[-1], number + 1, moment)
        logs += [log] if log else []
    yield Case("thirty days", b"\n".join(lines), LINES, expect=OK, logs=logs)


def _needed() -> Iterator[Case]:
    line = b'{"service":"times","message":"no time"}'
    yield Case("a key without a time", line, LINES | {"idempotency-key": "times-1"}, expect=REFUSED)
    yield Case("an id without a time", b'{"service":"times","id":"1"}', LINES, expect=REFUSED)
    yield Case("an id with null for a time", b'{"service":"times","id":"1","timestamp":null}', LINES, expect=REFUSED)
    text, moment = clock.recent()
    record = json.dumps({"service": "times", "timestamp": text, "id": "same"}).encode()
    log = model.expected(record, time=moment)
    yield Case("the same id twice", record + b"\n" + record, LINES, expect=OK, logs=[log, _again(log)] if log else [])


def _again(log: Log) -> Log:
    return Log(**{**vars(log), "line": 2})
