"""An export of a million logs: exact, and at flat memory."""

from __future__ import annotations

import csv
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet
import pytest
from backports import zstd

from functions.common import timestamps
from functions.local.generate import Generator
from tests.e2e.conftest import APACHE
from tests.support.local import LocalTorpor

LOGS = 1_000_000
BATCH = 10_000
MOST_GROWTH_MB = 400

pytestmark = [pytest.mark.large, pytest.mark.timeout(900)]


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Watch:
    """The most memory that a process has while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self.before = self.peak = resident_mb(pid)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, resident_mb(self._pid))


def count_lines(chunks: Iterator[bytes], path: Path) -> int:
    return sum(chunk.count(b"\n") for chunk in chunks)


def count_zstd_lines(chunks: Iterator[bytes], path: Path) -> int:
    stream = zstd.ZstdDecompressor()
    return sum(stream.decompress(chunk).count(b"\n") for chunk in chunks)


def count_gzip_lines(chunks: Iterator[bytes], path: Path) -> int:
    stream = zlib.decompressobj(31)
    lines = sum(stream.decompress(chunk).count(b"\n") for chunk in chunks)
    assert stream.eof
    return lines


def count_json(chunks: Iterator[bytes], path: Path) -> int:
    return count_gzip_lines(chunks, path) - 2  # the brackets' lines


def count_csv(chunks: Iterator[bytes], path: Path) -> int:
    stream = zlib.decompressobj(31)
    with path.open("wb") as file:
        file.writelines(stream.decompress(chunk) for chunk in chunks)
    with path.open(newline="") as text:
        return sum(1 for _ in csv.reader(text)) - 1


def count_parquet(chunks: Iterator[bytes], path: Path) -> int:
    with path.open("wb") as file:
        file.writelines(chunks)
    rows: int = pyarrow.parquet.ParquetFile(path).metadata.num_rows
    return rows


FILES: dict[str, Callable[[Iterator[bytes], Path], int]] = {
    "format=ndjson": count_lines,
    "format=ndjson&compression=zstd": count_zstd_lines,
    "format=json": count_json,
    "format=csv": count_csv,
    "format=parquet": count_parquet,
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.skipif(APACHE, reason="the same on any broker")
def test_a_million_logs_are_exported_exactly_at_flat_memory(fresh: LocalTorpor, tmp_path: Path) -> None:
    fresh.start()
    assert fresh.process is not None
    now = timestamps.now()
    step = timestamps.DAY * 23 // 24 // LOGS
    generator = Generator(seed=3)
    bodies = (
        generator.lines(now - step * (LOGS - first - number) for number in range(BATCH))
        for first in range(0, LOGS, BATCH)
    )
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        accepted = sum(answer["accepted"] for answer in pool.map(fresh.send, bodies))
    assert accepted == LOGS
    assert fresh.wait_for_total(LOGS, seconds=120) == LOGS
    print(f"\nstored {LOGS:,} logs in {time.monotonic() - started:.1f} s through the whole pipeline")
    for file, count in FILES.items():
        started = time.monotonic()
        size = 0

        def chunks(url: str) -> Iterator[bytes]:
            nonlocal size
            with fresh.http.stream("GET", url) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_raw():
                    size += len(chunk)
                    yield chunk

        with Watch(fresh.process.pid) as watch:
            rows = count(chunks(fresh.url("export", f"/api/v1/logs/export?{file}")), tmp_path / "file")
        seconds = time.monotonic() - started
        growth = watch.peak - watch.before
        print(
            f"{file:32} {rows:>9,} logs {size / 1e6:7.1f} MB in {seconds:5.1f} s, {size / 1e6 / seconds:6.1f} MB/s; "
            f"memory {watch.before:6.0f} MB + {growth:4.0f} MB"
        )
        assert rows == LOGS
        assert growth < MOST_GROWTH_MB
