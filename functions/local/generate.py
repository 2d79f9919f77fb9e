"""Realistic logs from a seed: forty services, fifty messages that fit service and level, traces that cross services.

A template names the values of its message and metadata. Values come from pools that are made once, or are drawn fresh
where every log has its own (ids, offsets); a log draws each value once, so that message and metadata agree.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from functions.common import timestamps
from functions.local.vocabulary import CHOICES, KINDS, LEVEL_WEIGHTS, NUMBERS, TEMPLATES, ZIPF, Template

T = TypeVar("T")

_OPEN_TRACES = 12
_POOL = 2048
_BLOCK = 1024


class _Values(dict[str, str]):
    """The values of one log, each drawn when it is first asked for."""

    def __init__(self, sources: Mapping[str, Callable[[], str]]) -> None:
        super().__init__()
        self._sources = sources

    def __missing__(self, name: str) -> str:
        value = self[name] = self._sources[name]()
        return value


class _Instance(NamedTuple):
    """One running copy of a service."""

    service: str
    metadata: dict[str, str]
    owner: str  # of the paths it serves: at the edge another service, else itself
    peer: str
    templates: dict[str, list[Template]]


class Generator:
    """Makes logs in the shape that ingest reads; the same seed makes the same logs.

    `metadata` is added to the metadata of every log.
    """

    def __init__(self, seed: int, metadata: dict[str, str] | None = None) -> None:
        rng = random.Random(seed)
        self._bits = rng.getrandbits
        self._random = rng.random
        self._levels = _stream(rng, list(LEVEL_WEIGHTS), list(LEVEL_WEIGHTS.values()))
        self._instances = _stream(rng, *_instances(rng, metadata or {}))
        self._traces = _traces(rng)
        self._values = _Values(_sources(rng))
        self._second = -1
        self._prefix = ""

    def log(self, timestamp_ns: int) -> dict[str, Any]:
        """The next log, as of `timestamp_ns` (nanoseconds since 1970)."""
        seconds, rest = divmod(timestamp_ns, timestamps.NANOSECONDS)
        if seconds != self._second:
            self._second, self._prefix = seconds, timestamps.iso(timestamp_ns)[:20]
        service, metadata, owner, peer, templates = next(self._instances)
        level = next(self._levels)
        options = templates[level]
        _, _, message, entries, _, traced = options[int(self._random() * len(options))]
        trace_id, user = next(self._traces)
        values = self._values
        values.clear()
        values["service"], values["owner"], values["peer"], values["user"] = service, owner, peer, user
        metadata = metadata.copy()
        for key, name in entries.items():
            metadata[key] = values[name]
        return {
            "timestamp": f"{self._prefix}{rest:09d}Z",
            "service": service,
            "level": level,
            "message": message.format_map(values),
            "metadata": metadata,
            "trace_id": trace_id if traced else "",
            "span_id": f"{self._bits(64):016x}" if traced else "",
        }

    def lines(self, timestamps: Iterable[int]) -> bytes:
        """The next logs as JSON lines, one for each timestamp in nanoseconds."""
        return _encoder.encode_lines([self.log(timestamp) for timestamp in timestamps])


_encoder = msgspec.json.Encoder()


def _stream(rng: random.Random, pool: Sequence[T], weights: Sequence[float] | None = None) -> Iterator[T]:
    # Drawn in blocks: one at a time costs several times as much.
    cumulative = list(itertools.accumulate(weights)) if weights else None
    while True:
        yield from rng.choices(pool, cum_weights=cumulative, k=_BLOCK)


def _instances(rng: random.Random, more: dict[str, str]) -> tuple[list[_Instance], list[float]]:
    """The instances of all services, and how often each of them logs."""
    instances, weights = [], []
    owners = [service for service, kinds in KINDS.items() if "web" in kinds and "edge" not in kinds]
    for rank, (service, kinds) in enumerate(KINDS.items(), 1):
        templates: dict[str, list[Template]] = {level: [] for level in LEVEL_WEIGHTS}
        for template in TEMPLATES:
            if template.kind in ("any", *kinds.split()):
                templates[template.level] += [template] * template.weight
        count = max(2, 12 // rank)
        version, release = f"{rng.randint(1, 9)}.{rng.randint(0, 40)}.{rng.randint(0, 9)}", f"{rng.getrandbits(36):09x}"
        for number in range(1, count + 1):
            region = rng.choice(("eu-west-1", "eu-west-1", "eu-central-1", "us-east-1"))
            # Every third service runs on machines of its own, the others on Kubernetes.
            if rank % 3 == 0:
                place = {"region": region, "host": f"{service}-{number:02d}.internal"}
            else:
                place = {"region": region, "k8s.pod": f"{service}-{release}-{rng.getrandbits(20):05x}"}
            if rank % 2 == 0:
                place["version"] = version
            peer = rng.choice([owner for owner in owners if owner != service])
            owner = peer if "edge" in kinds else service
            instances.append(_Instance(service, place | more, owner, peer, templates))
            weights.append(rank**-ZIPF / count)
    return instances, weights


def _traces(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Trace and user of each log: several traces are open at a time, each for 2 to 16 logs."""
    slots = [("", "")] * _OPEN_TRACES
    left = [0] * _OPEN_TRACES
    for slot in _stream(rng, range(_OPEN_TRACES)):
        if not left[slot]:
            slots[slot] = f"{rng.getrandbits(128):032x}", f"u-{100_000 + int(900_000 * rng.random() ** 4)}"
            left[slot] = rng.randint(2, 16)
        left[slot] -= 1
        yield slots[slot]


def _sources(rng: random.Random) -> dict[str, Callable[[], str]]:
    """What draws the next value of each name."""
    bits = rng.getrandbits
    pools: dict[str, list[str]] = {}
    for name, text in CHOICES.items():
        choices = text.split("|")
        pools[name] = [rng.choice(choices).replace("#", str(rng.randrange(1, 10**6))) for _ in range(_POOL)]
    for name, (median, spread) in NUMBERS.items():
        pools[name] = [str(1 + int(median * rng.lognormvariate(0, spread))) for _ in range(_POOL)]
    pools["amount"] = [f"{rng.lognormvariate(3.7, 1):.2f}" for _ in range(_POOL)]
    pools["last4"] = [f"{bits(32) % 10_000:04d}" for _ in range(_POOL)]
    pools["ip"] = [".".join(str(part) for part in (rng.randint(11, 223), *rng.randbytes(3))) for _ in range(_POOL)]
    sources: dict[str, Callable[[], str]] = {name: _stream(rng, pool).__next__ for name, pool in pools.items()}

    def uuid() -> str:
        # Version 4 (RFC 9562); uuid.UUID takes twice as long.
        text = f"{bits(128) & ~(0xF000 << 64 | 3 << 62) | 4 << 76 | 2 << 62:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    sources["uuid"] = uuid
    sources["hex"] = lambda: f"{bits(64):016x}"
    sources["order"] = lambda: f"ord-{bits(32):010d}"
    sources["id"] = lambda: str(bits(33))
    return sources
