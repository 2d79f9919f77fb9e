"""Logs whose content follows from the seed, and the hash by which the judge knows them again."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

LEVELS = {"info": "INFO", "DEBUG": "DEBUG", "warning": "WARN", "err": "ERROR", "crit": "FATAL", "trace": "TRACE"}
MAX_MESSAGE = 262_144
SECOND = 1_000_000_000
DAY = 86_400 * SECOND
_TEXT = (
    "payment declined checkout größe naïve Ωmega 東京 москва עברית 🦥 e\u0301 \u202eabc "
    "it's \"quoted\" back\\slash {json} %s a=b <tag> ${x} \u2028 \x00 \x1b[2J \r\n \t 'x' OR 1=1 -- = +cmd end"
)
_WORDS = _TEXT.split(" ")


class Log(NamedTuple):
    """One log as a line to send; `good` says whether it must be taken."""

    uid: str
    line: bytes
    hash: str
    good: bool


def make(rng: random.Random, uid: str, service: str, timestamp: int, *, own_id: bool) -> Log:
    """A good log. Its uid is its trace id, and its own id too if it shall have one."""
    level = rng.choice(list(LEVELS))
    shown = {
        "timestamp": iso(timestamp),
        "service": service,
        "level": LEVELS[level],
        "message": _message(rng),
        "metadata": {rng.choice(_WORDS) + "k": rng.choice(_WORDS) for _ in range(rng.randrange(4))},
        "trace_id": uid,
        "span_id": f"{rng.getrandbits(64):016x}",
    }
    sent = shown | {"timestamp": timestamp, "level": level} | ({"id": uid} if own_id else {})
    line = json.dumps(sent, ensure_ascii=rng.random() < 0.3).encode()
    return Log(uid, line, content_hash(shown), True)


def make_bad(rng: random.Random, uid: str, service: str, timestamp: int) -> Log:
    """A log that must be refused."""
    good: dict[str, Any] = {"service": service, "timestamp": timestamp, "message": "bad", "trace_id": uid, "id": uid}
    bad: dict[str, Any] = {
        "no service": {name: value for name, value in good.items() if name != "service"},
        "service is no text": good | {"service": 5},
        "no timestamp": {name: value for name, value in good.items() if name != "timestamp"},
        "too old": good | {"timestamp": timestamp - 60 * DAY},
        "too new": good | {"timestamp": timestamp + 30 * DAY},
        "too long": good | {"message": "x" * (MAX_MESSAGE + 1)},
        "long trace": good | {"trace_id": uid + "x" * 128},
    }
    lines = {name: json.dumps(value).encode() for name, value in bad.items()}
    lines["cut"] = json.dumps(good).encode()[:-1]
    lines["not UTF-8"] = json.dumps(good).encode().replace(b'"bad"', b'"\xff\xfe"')
    lines["not an object"] = b"[1, 2]"
    return Log(uid, rng.choice(list(lines.values())), "refused", False)


def content_hash(shown: Mapping[str, Any]) -> str:
    """The hash of a log as query and export show it."""
    metadata = {name: value for name, value in shown["metadata"].items() if name != "id"}
    names = ("timestamp", "service", "level", "message", "trace_id", "span_id")
    content = [*(shown[name] for name in names), sorted(metadata.items())]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=12).hexdigest()


def iso(timestamp: int) -> str:
    """Nanoseconds since 1970 as the API shows them."""
    seconds, rest = divmod(timestamp, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _message(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.001:
        # As large as is taken, in characters of two bytes.
        return "é" * (rng.randrange(10_000, MAX_MESSAGE) // 2)
    size = int(20 * 100 ** rng.random() ** 2)
    words: list[str] = []
    while size > 0:
        words.append(rng.choice(_WORDS))
        size -= len(words[-1]) + 1
    return " ".join(words)
