"""More than ingest can pass on: it says so, its memory stays bounded, and it recovers by itself."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import pytest

from functions.common import timestamps
from functions.local.generate import Generator
from tests.support.processes import function
from tests.support.tansu import Tansu

CLIENTS = 24
LOGS = 3000
MOST_GROWTH_MB = 300
RECOVERY_SECONDS = 30
LIMITS = {
    "MAX_WAITING_BYTES": str(16 * 1024 * 1024),
    "MAX_REQUEST_BYTES": str(4 * 1024 * 1024),
    "KAFKA_DELIVERY_TIMEOUT": "2",
}


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_while_kafka_stands_still_ingest_refuses_at_bounded_memory_and_recovers_by_itself() -> None:
    body = Generator(seed=5).lines(timestamps.now() - number for number in range(LOGS))
    answers: list[tuple[float, int, str]] = []
    stop = threading.Event()

    with Tansu() as broker, function("ingest", {**LIMITS, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}) as ingest:

        def work() -> None:
            with httpx.Client(trust_env=False, timeout=60) as http:
                while not stop.is_set():
                    answer = http.post(
                        f"{ingest.url}/api/v1/ingest",
                        content=body,
                        headers={"content-type": "application/x-ndjson"},
                    )
                    answers.append((time.monotonic(), answer.status_code, answer.headers.get("retry-after", "")))
                    if answer.status_code != 200:
                        time.sleep(0.2)  # Retry-After says 1 or 2; these clients are worse than most

        threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        assert any(status == 200 for _, status, _ in answers)
        before = peak = resident_mb(ingest.pid)
        broker.pause()
        paused = time.monotonic()
        while time.monotonic() < paused + 10:
            peak = max(peak, resident_mb(ingest.pid))
            time.sleep(0.05)
        broker.resume()
        resumed = time.monotonic()
        while not any(status == 200 for at, status, _ in answers if at > resumed):
            assert time.monotonic() < resumed + RECOVERY_SECONDS, "it does not recover"
            time.sleep(0.01)
        recovered = time.monotonic() - resumed
        time.sleep(3)
        stop.set()
        for thread in threads:
            thread.join()
    while_paused = [(status, retry) for at, status, retry in answers if paused + 3 < at < resumed]
    beforehand = [status for at, status, _ in answers if at < paused]
    afterwards = [status for at, status, _ in answers if at > resumed + recovered + 1]
    # The clients ask for more than there is room for even while Kafka answers: some are refused all the time.
    taken_before, taken_after = (some.count(200) / len(some) for some in (beforehand, afterwards))
    print(
        f"\nwhile kafka stood still: {len(while_paused)} answers, all 503; memory {before:.0f} MB + "
        f"{peak - before:.0f} MB; recovered after {recovered:.1f} s; "
        f"taken: {taken_before:.0%} of the requests before, {taken_after:.0%} afterwards"
    )
    assert len(while_paused) > 20
    assert {status for status, _ in while_paused} == {503}
    assert all(int(retry) >= 1 for _, retry in while_paused)
    assert peak - before < MOST_GROWTH_MB
    assert taken_after > taken_before / 2
