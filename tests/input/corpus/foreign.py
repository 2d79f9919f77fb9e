"""What can be done to a request of any protocol: texts, neighbours, cuts, flips, wrong types, encodings and methods."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import zlib
from collections.abc import Callable, Iterator

from backports import zstd

from tests.input.case import REFUSED, Answer, Case, Check
from tests.input.corpus.protocols import PROTOCOLS, TAKEN, Protocol, Sent, sent
from tests.input.corpus.strings import NO_TEXT, TEXTS

_OLD = 10**18
"""A time that is refused; with a key, so is none at all: whatever is changed, nothing may be stored."""
_PACKERS: dict[str, Callable[[bytes], bytes]]
_PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}
_TOGETHER = 10
_MARK = "@@@@"
_HTTP = [protocol for protocol in PROTOCOLS if protocol.function == "ingest"]
WRONG = frozenset({400, 413, 415, 422})


def texts() -> list[Case]:
    """Every text as message and as metadata."""
    cases = []
    for protocol in PROTOCOLS:
        some = [text for text in TEXTS if protocol.can(text)]
        for start in range(0, len(some), _TOGETHER):
            logs = [log for text in some[start : start + _TOGETHER] for log in (*sent(text), *sent("value", text))]
            cases.append(protocol.case(f"{start:03d}", logs, logs, expect=TAKEN))
    return cases


def no_text() -> list[Case]:
    """Bytes that are no UTF-8 in the second of three logs. Where none can be told from another, none is stored."""
    cases = []
    for protocol in PROTOCOLS:
        if protocol.lines or protocol.name == "loki protobuf":
            continue  # syslog keeps such bytes, and snappy hides the mark
        for number, text in enumerate(NO_TEXT):
            first, last = sent("before")[0], sent("after")[0]
            body = protocol.encode([first, *sent(_MARK), last]).replace(_MARK.encode(), text.ljust(4, b"a")[:4])
            logs = [dataclasses.replace(protocol.expected(log), optional=True) for log in (first, last)]
            case = protocol.case(f"{number:03d}", [], body=body, expect=WRONG | TAKEN, stored=_ALWAYS)
            cases.append(dataclasses.replace(case, logs=logs))
    return cases


_ALWAYS = frozenset(range(200, 500))


def neighbours() -> list[Case]:
    """A log that is too old between two good ones: the good are stored, and the answer names the place of the other."""
    cases = []
    for protocol in PROTOCOLS:
        good, bad = sent("neighbour", count=2), Sent("too old", _OLD)
        logs = [good[0], bad, good[1]]
        expect = TAKEN | REFUSED
        cases.append(protocol.case("neighbours", logs, good, expect=expect, check=_names(protocol.place)))
        alone = protocol.case("too old", [bad], expect=WRONG | TAKEN, check=_names(b"older than the 30 days"))
        cases.append(alone)
        for moment in (
            ()
            if protocol.lines
            else (  # syslog takes such a time for that of a clock that was never set
                1,
                999,
                2**63 - 1 if "json" in protocol.name else 9 * 10**18,
            )
        ):
            cases.append(protocol.case(f"at {moment}", [Sent("odd time", moment)], expect=WRONG | TAKEN))
    return cases


def _names(place: bytes) -> Check:
    def check(answer: Answer) -> str | None:
        return None if place in answer.body else f"the answer does not name {place!r}: {answer.body[:300]!r}"

    return check


def broken() -> list[Case]:
    """A request cut at every other byte, and with the others changed: nothing of it may be stored."""
    cases: list[Case] = []
    for protocol in PROTOCOLS:
        key = {**protocol.headers, "idempotency-key": "broken"}
        whole = protocol.encode([Sent("broken", _OLD)])
        for length in range(0, len(whole), 2):
            cases.append(protocol.case(f"cut at {length}", [], body=whole[:length], headers=key))
        for place in range(1, len(whole), 2):
            body = bytearray(whole)
            body[place] ^= 1 << place % 8
            cases.append(protocol.case(f"changed at {place}", [], body=bytes(body), headers=key))
    return cases


def wrapped() -> list[Case]:
    """Content types and encodings, right and wrong, and methods that are not there."""
    return [case for protocol in _HTTP for case in (*_encodings(protocol), *_types(protocol), *_methods(protocol))]


def _encodings(protocol: Protocol) -> Iterator[Case]:
    if protocol.name == "loki protobuf":
        return
    for name, pack in _PACKERS.items():
        logs = sent(f"in {name}")
        whole = pack(protocol.encode(logs))
        headers = {**protocol.headers, "content-encoding": name}
        yield protocol.case(name, [], logs, body=whole, headers=headers, expect=TAKEN)
        yield protocol.case(f"{name} cut", [], body=whole[:-9], headers=headers, expect=REFUSED)
        yield protocol.case(f"{name} bomb", [], body=_bomb(name), headers=headers, expect=WRONG)
        yield protocol.case(f"not {name}", [], body=protocol.encode(logs), headers=headers, expect=REFUSED)
    for name in ("br", "gzip, gzip", "a" * 1000, "gzip;q=1"):
        headers = {**protocol.headers, "content-encoding": name}
        yield protocol.case(name[:20], sent("x"), headers=headers, expect=WRONG)


@functools.cache
def _bomb(name: str) -> bytes:
    return _PACKERS[name](bytes(100 << 20))


def _types(protocol: Protocol) -> Iterator[Case]:
    if protocol.name in ("splunk", "syslog"):
        return  # its type does not matter
    for kind in ("text/html", "application/xml", "multipart/form-data", "a" * 5000, "application/json; charset=utf-16"):
        yield protocol.case(kind[:30], sent("x"), headers={"content-type": kind}, expect=frozenset({415, 400}))


def _methods(protocol: Protocol) -> Iterator[Case]:
    wrong = frozenset({404, 405})
    for method in ("GET", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        yield protocol.case(method, sent("x"), method=method, expect=wrong)
    for path in (f"{protocol.path}/", f"/{protocol.path}", f"{protocol.path}/x", f"{protocol.path}%00", "/v2/logs"):
        case = protocol.case(f"at {path}", sent("x"), expect=wrong)
        yield dataclasses.replace(case, path=path)
