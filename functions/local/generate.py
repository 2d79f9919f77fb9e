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

T = TypeVar("T")

ZIPF = 1.1
"""The service of rank n has a share of the logs in proportion to n ** -ZIPF."""
LEVEL_WEIGHTS = {"INFO": 70.0, "DEBUG": 15.0, "WARN": 9.0, "ERROR": 4.8, "TRACE": 1.0, "FATAL": 0.2}
"""Shares of the levels, in percent."""

# By rank, the busiest first, each with the kinds of messages that it writes.
_KINDS_OF_SERVICES = """
api-gateway edge web; checkout web db shop; auth web cache auth; payments web db pay queue;
inventory web db cache shop; catalog web cache search; cart web cache shop; orders web db shop queue;
search web search cache; pricing web cache; user-profile web db cache; session-store cache auth;
recommendations web cache queue; notifications queue mail; shipping web db shop; web-frontend edge web;
mobile-bff edge web cache; fraud-detection pay queue; billing db pay job; image-resizer web files;
media-upload web files; email-sender queue mail; event-collector web queue; analytics-ingest queue db;
ledger db pay; warehouse-sync queue shop job; reviews web db; promotions web cache; tax-calculator web pay;
address-lookup web search; feature-flags web cache; identity-provider web auth; audit-trail queue db;
report-builder job files; scheduler job; data-export job files; search-indexer queue search;
customer-support web db mail; config-server web files; backup job files
"""
_KINDS = dict(entry.split(maxsplit=1) for entry in _KINDS_OF_SERVICES.split(";"))
SERVICES = tuple(_KINDS)
"""The services by rank."""

_OPEN_TRACES = 12
_POOL = 2048
_BLOCK = 1024

# Pools, where # stands for a number.
_CHOICES = {
    "method": "GET|GET|GET|GET|GET|GET|GET|POST|POST|PUT|PATCH|DELETE",
    "path": "/#|/#|/#|/#/items|/#/status|?page=#|?user=#&limit=50|/SKU-#|/batch",
    "ok": "200|200|200|200|200|200|200|200|200|202|204|206",
    "refused": "400|401|403|404|404|404|404|409|422|429",
    "broken": "500|500|500|502|503|503|504",
    "agent": "Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0|curl/8.14.1|okhttp/4.12.0"
    "|Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148|python-httpx/0.28.1"
    "|Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/137.0.0.0 Safari/537.36|Go-http-client/2.0",
    "table": "orders|order_items|payments|refunds|users|addresses|stock|shipments|audit_log|reviews",
    "sql": "SELECT id, total FROM orders WHERE user_id = # ORDER BY created_at DESC LIMIT 50"
    "|UPDATE stock SET reserved = reserved + 1 WHERE sku = 'SKU-#' AND warehouse = 4"
    "|SELECT count(*) FROM payments WHERE status = 'pending' AND merchant_id = #"
    "|INSERT INTO audit_log (actor, action, target) VALUES (#, 'update', 'price')",
    "database": "postgresql",
    "key": "user:#:profile|cart:#|price:SKU-#|session:#|stock:SKU-#|flags:#|quote:#",
    "currency": "EUR|EUR|USD|USD|USD|GBP|JPY|CHF|SEK|BRL",
    "bank": "northbank|cardlink|paydirect|eurosettle",
    "decline": "insufficient funds|card expired|limit exceeded|3-D Secure failed|suspected fraud",
    "factor": "password|passkey|one-time code|single sign-on",
    "reason": "wrong password|account locked|unknown device|code expired",
    "topic": "orders.placed|payments.settled|stock.changed|mail.outbox|clicks|audit",
    "partition": "0|1|2|3|4|5|6|7|8|9|10|11",
    "job": "nightly-report-#|invoice-run-#|reindex-#|cleanup-sessions-#|export-#",
    "attempt": "2|3|4|5",
    "sku": "SKU-#",
    "city": "Zürich|São Paulo|Kraków|Rotterdam|Osaka 大阪|Leipzig|Austin|Lyon",
    "words": "running shoes|blue jacket #|usb-c cable|café table|lamp|headphones #|kids bike",
    "file": "/var/lib/app/uploads/#.jpg|/data/exports/report-#.csv|/tmp/chunk-#.part|/backup/#.tar.zst",
    "flag": "new-checkout|fast-search|dark-mode|one-click|quote-v2",
    "function": "reserve_stock|authorise|render_cart|apply_promotion|load_profile|resize|settle",
    "fault": "connection reset by peer|deadline exceeded|503 Service Unavailable|no route to host|TLS handshake failed",
    "exception": 'java.lang.NullPointerException: Cannot invoke "Cart.items()" because "cart" is null'
    "|java.lang.IllegalStateException: order # is already closed|java.net.SocketTimeoutException: Read timed out"
    "|com.fasterxml.jackson.core.JsonParseException: Unexpected character at line 1, column #",
    "raised": "KeyError: 'sku'|ValueError: amount # is negative|TimeoutError: pool exhausted after 30 s"
    "|AttributeError: 'NoneType' object has no attribute 'total'",
    "frame": "com.acme.cart.CartService.total(CartService.java:118)|com.acme.order.Orders.close(Orders.java:87)",
}
# Numbers with a long tail: the median and how far they spread.
_NUMBERS = {
    "ms": (18, 1.0),
    "slow": (2600, 0.7),
    "size": (5200, 1.3),
    "rows": (12, 1.4),
    "count": (340, 1.2),
    "few": (4, 0.7),
    "lag": (48_000, 1.0),
    "ttl": (600, 0.9),
    "heap": (900, 0.4),
}


class _Template(NamedTuple):
    """What a service of the kind writes at the level; `metadata` maps keys to names of values."""

    level: str
    kind: str
    message: str
    metadata: Mapping[str, str] = {}
    weight: int = 1
    traced: bool = True


def _http(status: str) -> dict[str, str]:
    return {"http.method": "method", "http.status_code": status, "user_id": "user"}


_USER = {"user_id": "user"}
_SIGN_IN = {"user_id": "user", "client.ip": "ip"}
_PEER = {"peer.service": "peer"}
_SQL = {"db.system": "database", "db.table": "table"}
_TOPIC = {"messaging.topic": "topic", "messaging.partition": "partition"}
_PAYMENT = {"user_id": "user", "payment.provider": "bank"}

_TEMPLATES = (
    _Template("INFO", "web", "{method} /v1/{owner}{path} {ok} {ms}ms", _http("ok"), 6),
    _Template("INFO", "web", '{ip} "{method} /v1/{owner}{path} HTTP/1.1" {ok} {size} {ms}ms "{agent}"', _http("ok")),
    _Template("INFO", "db", "transaction {id} committed in {ms}ms, {rows} rows written to {table}", _SQL),
    _Template("INFO", "cache", "cache warmed: {count} keys in {slow}ms", traced=False),
    _Template("INFO", "pay", "payment {uuid} authorised: {amount} {currency}, card ending {last4}", _PAYMENT, 3),
    _Template("INFO", "pay", "refund of {amount} {currency} for order {order} settled by {bank}", _PAYMENT),
    _Template("INFO", "auth", "{user} signed in from {ip} with {factor}", _SIGN_IN, 2),
    _Template("INFO", "auth", "token {hex} issued to {user}, valid for {ttl}s", _USER),
    _Template("INFO", "queue", "consumed {count} events of {topic}[{partition}] to offset {id} in {ms}ms", _TOPIC, 2),
    _Template("INFO", "job", "job {job} finished in {slow}ms: {count} items, {few} skipped", {"job": "job"}, 2, False),
    _Template("INFO", "shop", "order {order} placed by {user}: {few} items, {amount} {currency}", _USER, 2),
    _Template("INFO", "shop", "reserved {few} of {sku} in {city} for order {order}", {"sku": "sku"}),
    _Template("INFO", "mail", "mail {uuid} to {user} handed over in {ms}ms", _USER, 2),
    _Template("INFO", "files", "wrote {size} bytes to {file} in {ms}ms", {"file": "file"}, 2),
    _Template("INFO", "search", 'query "{words}" matched {count} documents in {ms}ms', _USER, 2),
    _Template("INFO", "any", "called {method} http://{peer}/v1{path}: {ok} in {ms}ms", _PEER, 2),
    _Template("INFO", "any", "configuration read from /etc/app/{service}.yaml, {few} values changed", traced=False),
    _Template(
        "DEBUG", "web", "routing {method} /v1/{owner}{path} to {peer}, request {uuid}", {"http.method": "method"}, 2
    ),
    _Template("DEBUG", "cache", "cache miss for {key}, loading it from {peer}", {"cache.key": "key"}, 3),
    _Template("DEBUG", "cache", "cache hit for {key}, {ttl}s left", {"cache.key": "key"}),
    _Template("DEBUG", "db", "{sql} -- {rows} rows in {ms}ms", {"db.system": "database"}, 2),
    _Template("DEBUG", "queue", "polled {topic}[{partition}]: {few} events, lag {count}", _TOPIC, traced=False),
    _Template("DEBUG", "auth", "token {hex} of {user} checked: scope orders:write allowed", _USER),
    _Template("DEBUG", "pay", "request {uuid} to {bank} signed with key {hex}", _PAYMENT),
    _Template("DEBUG", "any", "feature flag {flag} is on for {user}", _USER),
    _Template("DEBUG", "any", "connection {few} of 64 to {peer} taken from the pool after {ms}ms", _PEER),
    _Template("TRACE", "any", "enter {function}(order={order}, user={user}) in thread pool-1-thread-{few}", _USER),
    _Template("TRACE", "web", 'headers of request {uuid}: accept=*/*, host={service}, user-agent="{agent}"'),
    _Template("TRACE", "db", "bound [{id}, {user}, {amount}] to: {sql}", {"db.system": "database"}),
    _Template("WARN", "web", "{method} /v1/{owner}{path} {refused} {ms}ms", _http("refused"), 4),
    _Template("WARN", "web", "rate limit reached by {ip}: {count} requests in 60 s", {"client.ip": "ip"}),
    _Template("WARN", "db", "slow query ({slow}ms, {rows} rows): {sql}", {"db.system": "database"}, 3),
    _Template("WARN", "cache", "evicted {count} keys: {heap} MB of 4096 MB used", traced=False),
    _Template("WARN", "queue", "consumer lag on {topic}[{partition}] is {lag} events", _TOPIC, 2, False),
    _Template("WARN", "auth", "sign-in of {user} from {ip} refused: {reason}", _SIGN_IN, 3),
    _Template("WARN", "pay", "payment {uuid} declined: {decline} ({amount} {currency})", _PAYMENT, 3),
    _Template("WARN", "shop", "low stock: {few} of {sku} left in {city}", {"sku": "sku"}),
    _Template("WARN", "any", "retry {attempt} of 5 of {method} /v1/{peer}{path} in {ms}ms: {fault}", _PEER, 2),
    _Template("WARN", "any", "GC pause of {slow}ms, heap at {heap} MB of 4096 MB", traced=False),
    _Template("ERROR", "web", "{method} /v1/{owner}{path} {broken} {slow}ms", _http("broken"), 4),
    _Template("ERROR", "db", "deadlock on {table}: transaction {id} rolled back after {slow}ms", _SQL),
    _Template("ERROR", "pay", "payment {uuid} of {amount} {currency} not captured by {bank}: {fault}", _PAYMENT, 2),
    _Template("ERROR", "queue", "event {uuid} of {topic}[{partition}] at {id} not processed: {exception}", _TOPIC),
    _Template("ERROR", "job", "job {job} failed in try {attempt}: {raised}", {"job": "job"}, 2, False),
    _Template("ERROR", "mail", "mail {uuid} bounced: 550 5.1.1 user unknown", _USER),
    _Template("ERROR", "any", "timeout after {slow}ms calling {method} http://{peer}/v1{path}", _PEER, 2),
    _Template("ERROR", "any", "{exception}\n\tat {frame}", _USER),
    _Template("ERROR", "any", 'Traceback: File "/srv/{service}/app.py", line {few}1, in {function}: {raised}', _USER),
    _Template("ERROR", "any", "connection to {peer} ({ip}:8080) lost: {fault}", _PEER),
    _Template("FATAL", "any", "out of memory: {size} bytes asked for, heap at 4096 MB of 4096 MB", traced=False),
    _Template("FATAL", "any", "cannot listen on 0.0.0.0:8080: address already in use", traced=False),
    _Template("FATAL", "db", "no database after {attempt} tries, giving up: {fault}", {"db.system": "database"}),
)


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
    templates: dict[str, list[_Template]]


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
    owners = [service for service, kinds in _KINDS.items() if "web" in kinds and "edge" not in kinds]
    for rank, (service, kinds) in enumerate(_KINDS.items(), 1):
        templates: dict[str, list[_Template]] = {level: [] for level in LEVEL_WEIGHTS}
        for template in _TEMPLATES:
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
    for name, text in _CHOICES.items():
        choices = text.split("|")
        pools[name] = [rng.choice(choices).replace("#", str(rng.randrange(1, 10**6))) for _ in range(_POOL)]
    for name, (median, spread) in _NUMBERS.items():
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
