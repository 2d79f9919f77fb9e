"""The generator: the same logs from a seed, spread as promised, and all of them fit for ingest."""

import collections
import json
import math
import re
import time
from typing import Any

import pytest

from functions.common import timestamps
from functions.common.record import LEVELS
from functions.ingest.dialects.json_records import records
from functions.ingest.normalise import Normaliser, Outcome
from functions.local.generate import Generator
from functions.local.vocabulary import LEVEL_WEIGHTS, SERVICES, ZIPF

START = 1_790_000_000 * timestamps.NANOSECONDS
COUNT = 50_000
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
VALUES = re.compile(rf"{UUID.pattern}|ord-\d+|u-\d+|\d[\d.]*|[0-9a-f]{{16}}")


@pytest.fixture(scope="module")
def body() -> bytes:
    return Generator(1).lines(range(START, START + COUNT * 1_000_000, 1_000_000))


@pytest.fixture(scope="module")
def logs(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.splitlines()]


def within(count: int, share: float) -> bool:
    """Whether `count` of COUNT is within five standard deviations of what the share promises."""
    return abs(count - COUNT * share) <= 5 * math.sqrt(COUNT * share * (1 - share))


def test_the_same_seed_makes_the_same_logs() -> None:
    times = range(START, START + 5000)
    assert Generator(7).lines(times) == Generator(7).lines(times)


def test_another_seed_makes_other_logs() -> None:
    times = range(START, START + 10)
    assert Generator(7).lines(times) != Generator(8).lines(times)


def test_lines_and_single_logs_are_the_same_logs() -> None:
    times = range(START, START + 500)
    single = Generator(7)
    assert [json.loads(line) for line in Generator(7).lines(times).splitlines()] == [single.log(time) for time in times]


def test_the_forty_services_follow_zipfs_law(logs: list[dict[str, Any]]) -> None:
    counts = collections.Counter(log["service"] for log in logs)
    whole = sum(rank**-ZIPF for rank in range(1, len(SERVICES) + 1))
    assert len(SERVICES) == 40
    assert set(counts) == set(SERVICES)
    for rank, service in enumerate(SERVICES, 1):
        assert within(counts[service], rank**-ZIPF / whole), service


def test_levels_have_their_weights(logs: list[dict[str, Any]]) -> None:
    counts = collections.Counter(log["level"] for log in logs)
    assert set(counts) == set(LEVEL_WEIGHTS) == set(LEVELS)
    for level, percent in LEVEL_WEIGHTS.items():
        assert within(counts[level], percent / 100), level


def test_ingest_takes_every_log_the_short_way(body: bytes, logs: list[dict[str, Any]]) -> None:
    normaliser = Normaliser(
        tenant="default",
        batch="load-1",
        repeatable=True,
        now=START + timestamps.DAY,
        retention=30 * timestamps.DAY,
        max_message=256 * 1024,
    )
    outcome = Outcome()
    chunks = list(normaliser.chunks(records(body, "application/x-ndjson"), outcome))
    assert (outcome.accepted, outcome.rejected, outcome.errors) == (COUNT, 0, [])
    rows = [json.loads(row) for chunk in chunks for row in chunk.data.splitlines()]
    # Nothing was renamed, moved to the metadata or rounded.
    assert [row["timestamp"] for row in rows] == [f"{START + n * 1_000_000}" for n in range(COUNT)]
    for field in ("service", "level", "message", "metadata", "trace_id", "span_id"):
        assert [row[field] for row in rows] == [log[field] for log in logs]


def test_a_log_has_about_350_bytes_on_average(body: bytes) -> None:
    assert 250 <= len(body) / COUNT <= 450


def test_times_keep_their_nanoseconds_across_seconds() -> None:
    generator = Generator(1)
    for moment in (START - 1, START, START + 999_999_999, START + timestamps.NANOSECONDS, START - 5):
        assert generator.log(moment)["timestamp"] == timestamps.iso(moment)


def test_messages_vary(logs: list[dict[str, Any]]) -> None:
    messages = {log["message"] for log in logs}
    assert len(messages) > COUNT * 0.8
    assert len({VALUES.sub("#", message).split(" ")[0] for message in messages}) >= 30
    assert any("大" in message for message in messages)
    assert any("\n\tat " in message for message in messages)
    assert UUID.search(" ".join(messages))
    assert not any("{" in message or "}" in message for message in messages)


def test_the_metadata_of_an_access_line_agrees_with_its_message(logs: list[dict[str, Any]]) -> None:
    statuses = collections.defaultdict(set)
    for log in logs:
        metadata = log["metadata"]
        if status := metadata.get("http.status_code"):
            assert f"{metadata['http.method']} /v1/" in log["message"]
            assert f" {status} " in log["message"]
            statuses[log["level"]].add(status[0])
    assert statuses == {"INFO": {"2"}, "WARN": {"4"}, "ERROR": {"5"}}


def test_a_trace_is_shared_by_neighbouring_logs_of_several_services(logs: list[dict[str, Any]]) -> None:
    places = collections.defaultdict(list)
    for place, log in enumerate(logs):
        places[log["trace_id"]].append(place)
    places.pop("")
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in places)
    several = [trace for trace in places.values() if len({logs[place]["service"] for place in trace}) > 1]
    assert len(several) > len(places) / 2
    assert max(len(trace) for trace in places.values()) <= 16
    assert all(trace[-1] - trace[0] < 1000 for trace in places.values())
    spans = [log["span_id"] for log in logs if log["span_id"]]
    assert len(set(spans)) == len(spans)


def test_given_metadata_is_in_every_log() -> None:
    generator = Generator(1, {"load_id": "abc"})
    assert all(generator.log(START)["metadata"]["load_id"] == "abc" for _ in range(200))


def test_ten_thousand_logs_are_made_in_a_second() -> None:
    # A tenth of the speed it has: only a blunder falls below.
    generator = Generator(1)
    began = time.process_time()
    generator.lines(range(START, START + 10_000))
    assert time.process_time() - began < 1.0
