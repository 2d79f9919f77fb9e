"""Bodies in content encodings: bombs, cut, corrupt, followed by rubbish, packed twice."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator

from backports import zstd

from tests.input import model
from tests.input.case import ANY, LINES, OK, REFUSED, Case, Log
from tests.input.corpus import clock

ZEROS = 100 * 1024 * 1024
TOO_LARGE, UNKNOWN = frozenset({413}), frozenset({415})


def _deflate(data: bytes) -> bytes:
    return zlib.compress(data, 9)


def _bare(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", _gzip),
    "zstd": ("zstd", lambda data: zstd.compress(data, 9)),
    "deflate": ("deflate", _deflate),
    "bare deflate": ("deflate", _bare),
}


def _headers(encoding: str) -> dict[str, str]:
    return LINES | {"content-encoding": encoding}


def _log(name: str) -> tuple[bytes, list[Log]]:
    line = b'{"service":"packed","message":"%b"}' % name.encode()
    log = model.expected(line)
    return line, [log] if log else []


def _optional(logs: list[Log]) -> list[Log]:
    return [Log(**{**vars(log), "optional": True}) for log in logs]


def bombs() -> list[Case]:
    """100 MiB of zeros, lines that unpack to more than a request may hold, and frames without end."""
    cases: list[Case] = []
    line = b'{"service":"bomb","message":"again and again"}\n'
    for name, (encoding, pack) in PACKERS.items():
        zeros = pack(bytes(ZEROS))
        cases.append(Case(f"{name} zeros", zeros, _headers(encoding), expect=TOO_LARGE))
        cases.append(Case(f"{name} lines", pack(line * 500_000), _headers(encoding), expect=TOO_LARGE))
        cases.append(Case(f"{name} twice", pack(pack(bytes(ZEROS))), _headers(encoding), expect=REFUSED))
        cases.append(Case(f"{name} nested", pack(zeros), _headers(f"{encoding}, {encoding}"), expect=UNKNOWN))
        spaces = pack(b" " * 20 * 1024 * 1024)
        cases.append(Case(f"{name} spaces", spaces, _headers(encoding), expect=REFUSED))
        newlines = pack(b"\n" * 20 * 1024 * 1024)
        cases.append(Case(f"{name} newlines", newlines, _headers(encoding), expect=TOO_LARGE | REFUSED))
        cases.append(Case(f"{name} brackets", pack(b"[" * 20 * 1024 * 1024), _headers(encoding), expect=REFUSED))
    cases.append(Case("gzip members", _gzip(b"") * 200_000, _headers("gzip"), expect=REFUSED))
    cases.append(Case("zstd frames", zstd.compress(b"") * 200_000, _headers("zstd"), expect=REFUSED))
    window = {
        zstd.CompressionParameter.window_log: 31,
        zstd.CompressionParameter.content_size_flag: 0,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    wide = zstd.ZstdCompressor(options={int(name): value for name, value in window.items()})
    packed = wide.compress(bytes(ZEROS)) + wide.flush()
    cases.append(Case("zstd window", packed, _headers("zstd"), expect=REFUSED | TOO_LARGE))
    skippable = b"\x50\x2a\x4d\x18" + (100_000).to_bytes(4, "little") + bytes(100_000)
    cases.append(Case("zstd skippable", skippable * 10, _headers("zstd"), expect=REFUSED))
    return cases


def broken() -> list[Case]:
    """A small body cut at each byte, with each byte changed, and followed by something else."""
    cases: list[Case] = []
    for name, (encoding, pack) in PACKERS.items():
        line, logs = _log(f"{name} whole")
        cases.append(Case(f"{name} whole", pack(line), _headers(encoding), expect=OK, logs=logs))
        packed, rubbish = _log(f"{name} broken")
        packed = pack(packed)
        cases += _cut(name, encoding, packed)
        for tail in (b"\x00", b"\xff", b"rubbish", b'\n{"service":"packed"}', packed[:5], bytes(1000)):
            label = f"{name} and {tail[:10]!r}"
            # More gzip and zstd may follow, and padding may; what follows must not become a log.
            cases.append(Case(label, packed + tail, _headers(encoding), expect=ANY, logs=_optional(rubbish)))
    for name in ("gzip", "zstd"):
        encoding, pack = PACKERS[name]
        line, logs = _log(f"{name} members")
        members = b"".join(pack(line[start : start + 9]) for start in range(0, len(line), 9))
        cases.append(Case(f"{name} members", members, _headers(encoding), expect=OK, logs=logs))
    return cases


def _cut(name: str, encoding: str, packed: bytes) -> Iterator[Case]:
    for length in range(1, len(packed)):
        yield Case(f"{name} cut at {length}", packed[:length], _headers(encoding), expect=REFUSED)
    if encoding == "deflate" and name != "deflate":
        return  # nothing in it shows that a byte was changed
    for place in range(len(packed)):
        changed = packed[:place] + bytes([packed[place] ^ 0x55]) + packed[place + 1 :]
        logs = _optional(_log(f"{name} broken")[1])  # a byte that means nothing, such as gzip's system, may change
        if name == "zstd":  # without a checksum the text itself may change
            continue
        yield Case(f"{name} changed at {place}", changed, _headers(encoding), expect=ANY, logs=logs)


def encodings() -> list[Case]:
    """Encodings that are not read, lies about the encoding, and packed nothing."""
    cases: list[Case] = []
    line, logs = _log("encodings")
    others: dict[str, bytes] = {"br": b"\x0b\x02\x80" + line, "bzip2": bz2.compress(line), "xz": lzma.compress(line)}
    others |= dict.fromkeys(("compress", "x-gzip2", "gzip;q=1", "gzip,", ",", "*", "utf-8", "a" * 1000, "gz"), line)
    others |= {name: _gzip(line) for name in ("gzip, identity", "gzip,gzip", "zstd, gzip", "deflate gzip", "chunked")}
    cases += [Case(name[:40], data, _headers(name), expect=UNKNOWN) for name, data in others.items()]
    for name, (encoding, pack) in PACKERS.items():
        cases.append(Case(f"{name} not packed", line, _headers(encoding), expect=REFUSED))
        cases.append(Case(f"{name} without a header", pack(line), LINES, expect=REFUSED))
        cases.append(Case(f"{name} of nothing", pack(b""), _headers(encoding), expect=REFUSED))
        cases.append(Case(f"{name} empty", b"", _headers(encoding), expect=REFUSED))
        wrong = "zstd" if encoding == "gzip" else "gzip"
        cases.append(Case(f"{name} called {wrong}", pack(line), _headers(wrong), expect=REFUSED))
    for name in ("GZIP", "gZip", "x-gzip"):
        cases.append(Case(name, _gzip(line), _headers(name), expect=OK, logs=logs))
    cases.append(Case("identity", line, _headers("identity"), expect=OK, logs=logs))
    time, moment = clock.recent()
    record = b'{"service":"packed","timestamp":"%b","message":"legal and packed 300 times"}' % time.encode()
    log = model.expected(record, time=moment)
    same = [Log(**{**vars(log), "line": number + 1}) for number in range(2000)] if log else []
    cases.append(Case("legal", _gzip(b"\n".join([record] * 2000)), _headers("gzip"), expect=OK, logs=same))
    return cases
