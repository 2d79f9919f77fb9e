"""The words that generated logs are made of: services, levels, values and templates of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ZIPF = 1.1
"""The service of rank n has a share of the logs in proportion to n ** -ZIPF."""
LEVEL_WEIGHTS = {"INFO": 70.0, "DEBUG": 15.0, "WARN": 9.0, "ERROR": 4.8, "TRACE": 1.0, "FATAL": 0.2}
"""Shares of the levels, in percent."""

# By rank, the busiest first, each with the kinds of messages that it writes.
_LISTED = """
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
KINDS = dict(entry.split(maxsplit=1) for entry in _LISTED.split(";"))
SERVICES = tuple(KINDS)
"""The services by rank."""

# Pools, where # stands for a number.
CHOICES = {
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
NUMBERS = {
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


class Template(NamedTuple):
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

TEMPLATES = (
    Template("INFO", "web", "{method} /v1/{owner}{path} {ok} {ms}ms", _http("ok"), 6),
    Template("INFO", "web", '{ip} "{method} /v1/{owner}{path} HTTP/1.1" {ok} {size} {ms}ms "{agent}"', _http("ok")),
    Template("INFO", "db", "transaction {id} committed in {ms}ms, {rows} rows written to {table}", _SQL),
    Template("INFO", "cache", "cache warmed: {count} keys in {slow}ms", traced=False),
    Template("INFO", "pay", "payment {uuid} authorised: {amount} {currency}, card ending {last4}", _PAYMENT, 3),
    Template("INFO", "pay", "refund of {amount} {currency} for order {order} settled by {bank}", _PAYMENT),
    Template("INFO", "auth", "{user} signed in from {ip} with {factor}", _SIGN_IN, 2),
    Template("INFO", "auth", "token {hex} issued to {user}, valid for {ttl}s", _USER),
    Template("INFO", "queue", "consumed {count} events of {topic}[{partition}] to offset {id} in {ms}ms", _TOPIC, 2),
    Template("INFO", "job", "job {job} finished in {slow}ms: {count} items, {few} skipped", {"job": "job"}, 2, False),
    Template("INFO", "shop", "order {order} placed by {user}: {few} items, {amount} {currency}", _USER, 2),
    Template("INFO", "shop", "reserved {few} of {sku} in {city} for order {order}", {"sku": "sku"}),
    Template("INFO", "mail", "mail {uuid} to {user} handed over in {ms}ms", _USER, 2),
    Template("INFO", "files", "wrote {size} bytes to {file} in {ms}ms", {"file": "file"}, 2),
    Template("INFO", "search", 'query "{words}" matched {count} documents in {ms}ms', _USER, 2),
    Template("INFO", "any", "called {method} http://{peer}/v1{path}: {ok} in {ms}ms", _PEER, 2),
    Template("INFO", "any", "configuration read from /etc/app/{service}.yaml, {few} values changed", traced=False),
    Template(
        "DEBUG", "web", "routing {method} /v1/{owner}{path} to {peer}, request {uuid}", {"http.method": "method"}, 2
    ),
    Template("DEBUG", "cache", "cache miss for {key}, loading it from {peer}", {"cache.key": "key"}, 3),
    Template("DEBUG", "cache", "cache hit for {key}, {ttl}s left", {"cache.key": "key"}),
    Template("DEBUG", "db", "{sql} -- {rows} rows in {ms}ms", {"db.system": "database"}, 2),
    Template("DEBUG", "queue", "polled {topic}[{partition}]: {few} events, lag {count}", _TOPIC, traced=False),
    Template("DEBUG", "auth", "token {hex} of {user} checked: scope orders:write allowed", _USER),
    Template("DEBUG", "pay", "request {uuid} to {bank} signed with key {hex}", _PAYMENT),
    Template("DEBUG", "any", "feature flag {flag} is on for {user}", _USER),
    Template("DEBUG", "any", "connection {few} of 64 to {peer} taken from the pool after {ms}ms", _PEER),
    Template("TRACE", "any", "enter {function}(order={order}, user={user}) in thread pool-1-thread-{few}", _USER),
    Template("TRACE", "web", 'headers of request {uuid}: accept=*/*, host={service}, user-agent="{agent}"'),
    Template("TRACE", "db", "bound [{id}, {user}, {amount}] to: {sql}", {"db.system": "database"}),
    Template("WARN", "web", "{method} /v1/{owner}{path} {refused} {ms}ms", _http("refused"), 4),
    Template("WARN", "web", "rate limit reached by {ip}: {count} requests in 60 s", {"client.ip": "ip"}),
    Template("WARN", "db", "slow query ({slow}ms, {rows} rows): {sql}", {"db.system": "database"}, 3),
    Template("WARN", "cache", "evicted {count} keys: {heap} MB of 4096 MB used", traced=False),
    Template("WARN", "queue", "consumer lag on {topic}[{partition}] is {lag} events", _TOPIC, 2, False),
    Template("WARN", "auth", "sign-in of {user} from {ip} refused: {reason}", _SIGN_IN, 3),
    Template("WARN", "pay", "payment {uuid} declined: {decline} ({amount} {currency})", _PAYMENT, 3),
    Template("WARN", "shop", "low stock: {few} of {sku} left in {city}", {"sku": "sku"}),
    Template("WARN", "any", "retry {attempt} of 5 of {method} /v1/{peer}{path} in {ms}ms: {fault}", _PEER, 2),
    Template("WARN", "any", "GC pause of {slow}ms, heap at {heap} MB of 4096 MB", traced=False),
    Template("ERROR", "web", "{method} /v1/{owner}{path} {broken} {slow}ms", _http("broken"), 4),
    Template("ERROR", "db", "deadlock on {table}: transaction {id} rolled back after {slow}ms", _SQL),
    Template("ERROR", "pay", "payment {uuid} of {amount} {currency} not captured by {bank}: {fault}", _PAYMENT, 2),
    Template("ERROR", "queue", "event {uuid} of {topic}[{partition}] at {id} not processed: {exception}", _TOPIC),
    Template("ERROR", "job", "job {job} failed in try {attempt}: {raised}", {"job": "job"}, 2, False),
    Template("ERROR", "mail", "mail {uuid} bounced: 550 5.1.1 user unknown", _USER),
    Template("ERROR", "any", "timeout after {slow}ms calling {method} http://{peer}/v1{path}", _PEER, 2),
    Template("ERROR", "any", "{exception}\n\tat {frame}", _USER),
    Template("ERROR", "any", 'Traceback: File "/srv/{service}/app.py", line {few}1, in {function}: {raised}', _USER),
    Template("ERROR", "any", "connection to {peer} ({ip}:8080) lost: {fault}", _PEER),
    Template("FATAL", "any", "out of memory: {size} bytes asked for, heap at 4096 MB of 4096 MB", traced=False),
    Template("FATAL", "any", "cannot listen on 0.0.0.0:8080: address already in use", traced=False),
    Template("FATAL", "db", "no database after {attempt} tries, giving up: {fault}", {"db.system": "database"}),
)
