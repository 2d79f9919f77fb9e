"""Identity: when two logs are the same log.

Two rows are one log if tenant, timestamp and dedupe agree. `dedupe` is 64 bits: of a record that brings an id, the
hash of tenant and id; of any other, 44 bits of its batch's hash and 20 bits of its number in the batch, so that
neighbours share their upper bits and compress. A batch is the client's request: it is known by its Idempotency-Key,
or by a fresh UUID version 7.
"""

from __future__ import annotations

import os
import re
import time
import uuid

from functions.common.errors import BadRequest

NUMBER_BITS = 20
MAX_RECORDS = 1 << NUMBER_BITS
"""Records a request may hold: as many as have a number of their own."""

_ID = re.compile(r"(\d{1,19})-([0-9a-f]{16})", re.ASCII)


def batch_id() -> str:
    """A fresh UUID version 7 (RFC 9562): ids made later sort later."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | 7 << 76 | int.from_bytes(os.urandom(10)) & (1 << 76) - 1
    return str(uuid.UUID(int=value & ~(3 << 62) | 2 << 62))


def of_id(tenant: str, record_id: str) -> int:
    """The dedupe of a record that brings its own id."""
    return _hash(tenant, "id", record_id)


def of_batch(tenant: str, batch: str) -> int:
    """The dedupe of a batch's record number 0; the record with number n has this plus n."""
    return _hash(tenant, "batch", batch) >> NUMBER_BITS << NUMBER_BITS


def log_id(timestamp: int, dedupe: int) -> str:
    """The public id of a log."""
    return f"{timestamp}-{dedupe:016x}"


def parse_log_id(text: str) -> tuple[int, int]:
    """Timestamp in nanoseconds and dedupe of a public id; raises BadRequest if it is none."""
    match = _ID.fullmatch(text)
    if not match or int(match[1]) >= 1 << 63:
        raise BadRequest("this is not the id of a log", {"id": "expected digits, a hyphen and 16 hexadecimal digits"})
    return int(match[1]), int(match[2], 16)


def _hash(tenant: str, kind: str, text: str) -> int:
    # Only ingest makes identities: query and export need not install the hash.
    import xxhash

    # Lengths first: no tenant and id can be read as another tenant and id.
    return int(xxhash.xxh3_64_intdigest(f"{len(tenant)}:{tenant}:{kind}:{text}".encode()))
