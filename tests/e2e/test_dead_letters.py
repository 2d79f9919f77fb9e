"""Dead letters and replays: separate processes, a real broker, ClickHouse over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka import KafkaProducer

from functions.common.config import load
from functions.common.errors import KafkaUnavailable
from functions.common.event import Event
from functions.common.kafka import Headers, KafkaConfig, create_topics
from functions.common.record import Record, encode
from functions.index import topic
from functions.index.topic import Reader
from tests.e2e.conftest import APACHE
from tests.support import clickhouse_front, kafka
from tests.support.kafka import ApacheKafka, Broker, free_port
from tests.support.local import ROOT
from tests.support.processes import FunctionProcess, function
from tests.support.sink import Sink
from tests.support.tansu import Tansu

PARTITIONS = 3
IMPATIENT = {"retry: 10": "retry: 1", "PT0.5S": "PT0.05S", "torpor-index": "impatient"}
NOWHERE = "http://127.0.0.1:9"
Settings = Mapping[str, str]


@contextlib.contextmanager
def a_broker(directory: Path) -> Iterator[Broker]:
    """The embedded broker, or with TEST_KAFKA=apache Apache Kafka."""
    if APACHE:
        if reason := kafka.why_not():
            pytest.skip(reason)
        broker = ApacheKafka(directory)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()
    else:
        with Tansu() as embedded:
            yield embedded


@contextlib.contextmanager
def a_source(settings: Settings, url: str, manifests: Path | None = None) -> Iterator[None]:
    """The KafkaSource stand-in as a process, posting to `url`."""
    command = [sys.executable, "-m", "functions.local.source", "--sink", f"index={url}"]
    command += ["--manifests", str(manifests)] if manifests else []
    process = subprocess.Popen(command, cwd=ROOT, env=dict(settings))
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def manifests(directory: Path, changes: Mapping[str, str]) -> Path:
    """The manifests with some texts replaced by others."""
    directory.mkdir()
    for path in (ROOT / "kafka-sources").glob("*.yaml"):
        text = path.read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        (directory / path.name).write_text(text)
    return directory


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A broker with topics, a migrated ClickHouse over HTTP, and the settings that name them."""
    directory = tmp_path_factory.mktemp("dead-letters")
    with a_broker(directory / "kafka") as broker, clickhouse_front.running(directory / "clickhouse") as (host, port):
        named = {
            "CLICKHOUSE_HOST": host,
            "CLICKHOUSE_PORT": str(port),
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
            "KAFKA_PARTITIONS": str(PARTITIONS),
            "KAFKA_DELIVERY_TIMEOUT": "3",
        }
        subprocess.run([sys.executable, "-m", "functions.common.migrate"], cwd=ROOT, env=named, check=True)
        create_topics(load(KafkaConfig, named))
        yield named


@dataclasses.dataclass
class Functions:
    """The functions that run, and what a test asks of them."""

    settings: Settings
    index: FunctionProcess
    query: FunctionProcess
    export: FunctionProcess

    def total(self, **parameters: str) -> int:
        search = {"total": "exact", "limit": "1", **parameters}
        answer = httpx.get(f"{self.query.url}/api/v1/logs", params=search, trust_env=False).raise_for_status()
        count: int = answer.json()["total"]
        return count

    def aggregate(self, **parameters: str) -> int:
        url = f"{self.query.url}/api/v1/logs/aggregate"
        answer = httpx.get(url, params=parameters, trust_env=False).raise_for_status()
        return sum(bucket["count"] for bucket in answer.json())

    def exported(self, **parameters: str) -> int:
        url = f"{self.export.url}/api/v1/logs/export"
        answer = httpx.get(url, params={"format": "ndjson", **parameters}, trust_env=False).raise_for_status()
        return len(answer.text.splitlines())

    def counts(self, **parameters: str) -> tuple[int, int, int]:
        return self.total(**parameters), self.aggregate(**parameters), self.exported(**parameters)


@pytest.fixture(scope="module")
def functions(settings: Settings) -> Iterator[Functions]:
    """Index, query, export, and the source that feeds index."""
    with (
        function("index", settings) as index,
        function("query", settings) as query,
        function("export", settings) as export,
        a_source(settings, index.url),
    ):
        yield Functions(settings, index, query, export)


def eventually(holds: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def row(service: str, number: int) -> bytes:
    return encode(Record("default", str(time.time_ns()), service, "INFO", f"number {number}", {}, "", "", number))


def rows(service: str, count: int) -> bytes:
    return b"\n".join(row(service, number) for number in range(count))


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def publish(settings: Settings, to: str, *records: tuple[bytes, Headers], partition: int = 0) -> list[int]:
    """Publish records to one partition, together, and return their offsets."""
    servers = settings["KAFKA_BOOTSTRAP_SERVERS"]
    with contextlib.closing(
        KafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=False, linger_ms=50)
    ) as producer:
        sent = [producer.send(to, value, headers=headers, partition=partition) for value, headers in records]
        return [one.get(timeout=20).offset for one in sent]


def event(data: bytes) -> tuple[bytes, Headers]:
    return data, Event.fresh("default", data).kafka_headers()


def command(name: str, settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", f"functions.index.{name}", *arguments]
    return subprocess.run(run, cwd=ROOT, env=dict(settings), capture_output=True, text=True, check=False, timeout=100)


def letters(settings: Settings, text: str) -> list[dict[str, Any]]:
    """The dead letters whose first bytes hold `text`."""
    done = command("dead_letters", settings, "list", "--json", "--limit", "1000")
    assert done.returncode == 0, done.stderr
    return [letter for letter in map(json.loads, done.stdout.splitlines()) if text in letter["head"]]


def test_bad_lines_are_listed_and_shown_with_reason_and_origin_and_the_good_ones_are_found(
    settings: Settings, functions: Functions
) -> None:
    service = unique("bad")
    # No row at all, with bytes that would drive a terminal; a row with a time that ClickHouse cannot read.
    broken = b'{"service":"' + service.encode() + b'",\x1b[2J\xc2\x9b'
    no_time = row(service, 9).replace(b'"timestamp":"1', b'"timestamp":"x')
    data, headers = event(b"\n".join([row(service, 1), broken, row(service, 2), no_time, row(service, 3)]))
    (offset,) = publish(settings, "logs", (data, headers), partition=2)
    eventually(lambda: functions.total(service=service) == 3 and len(letters(settings, service)) == 2)
    first, second = letters(settings, service)
    event_id = dict(headers)["ce_id"].decode()
    for letter in (first, second):
        assert (letter["tenant"], letter["origin"], letter["origin_id"]) == ("default", f"2/{offset}", event_id)
    assert first["reason"].startswith("not a row")
    assert int(second["code"]) > 0 and second["reason"]

    listed = command("dead_letters", settings).stdout
    assert first["number"] in listed and second["reason"][:40] in listed and "\x1b" not in listed
    shown = command("dead_letters", settings, "show", first["number"]).stdout
    assert broken.decode().replace("\x1b", "\\x1b").replace("\x9b", "\\x9b") in shown
    assert event_id in shown and f"2/{offset}" in shown
    missing = command("dead_letters", settings, "show", "0/999999")
    assert missing.returncode == 1 and "999999" in missing.stderr

    # The broken line would be refused again and is left; the other one is refused again and lies there twice.
    replayed = command("dead_letters", settings, "replay", first["number"], second["number"])
    assert replayed.returncode == 1 and "replayed 1, left 1" in replayed.stdout, replayed
    eventually(lambda: len(letters(settings, service)) == 3)
    assert functions.total(service=service) == 3


def test_what_was_left_while_index_was_away_is_found_once_however_often_it_is_replayed(
    settings: Settings, functions: Functions, tmp_path: Path
) -> None:
    service = unique("away")
    config = {**settings, "KAFKA_TOPIC": service}
    create_topics(load(KafkaConfig, config))
    with a_source(settings, NOWHERE, manifests(tmp_path / "m", {**IMPATIENT, "- logs": f"- {service}"})):
        publish(settings, service, event(rows(service, 200)), event(rows(f"{service}-too", 1)))
        eventually(lambda: len(letters(settings, service)) == 2)
    left = letters(settings, service)
    assert {letter["reason"] for letter in left} == {f"no answer from {NOWHERE}"}
    assert functions.total(service=service) == 0

    numbers = [letter["number"] for letter in left]
    dry = command("dead_letters", settings, "replay", "--dry-run", *numbers)
    assert dry.returncode == 0 and "would replay 2, left 0" in dry.stdout, dry
    for _ in range(2):
        done = command("dead_letters", settings, "replay", *numbers)
        assert done.returncode == 0 and "replayed 2, left 0" in done.stdout, done
    eventually(lambda: functions.counts(service=service) == (200, 200, 200))
    eventually(lambda: functions.total(service=f"{service}-too") == 1)
    time.sleep(1)
    assert functions.counts(service=service) == (200, 200, 200)
    assert len(letters(settings, service)) == 2


def test_a_line_that_is_mended_by_a_change_of_the_table_is_replayed_twice_and_found_once(
    settings: Settings, functions: Functions
) -> None:
    service = unique("mended")
    line = row(service, 1)
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", unique("letter").encode()),
        ("ce_source", b"/torpor/index"),
        ("ce_type", b"io.torpor.logs.deadletter.v1"),
        ("ce_tenant", b"default"),
        ("ce_reason", b"a column was missing"),
    ]
    publish(settings, "logs-dead-letter", (line, headers), (line, headers))
    (first, second) = letters(settings, service)
    for number in (first["number"], second["number"], first["number"]):
        assert command("dead_letters", settings, "replay", number).returncode == 0
    eventually(lambda: functions.counts(service=service) == (1, 1, 1))
    everything = command("dead_letters", settings, "replay", "--all")
    assert everything.returncode == 0 and "lie there twice" in everything.stdout, everything
    time.sleep(1)
    assert functions.counts(service=service) == (1, 1, 1)


def test_a_poison_event_reaches_the_dead_letters_by_the_source_and_a_replay_leaves_it(
    settings: Settings, functions: Functions
) -> None:
    name = unique("poison")
    foreign = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/other"), ("ce_type", b"other.v1")]
    publish(settings, "logs", (f"{name} bytes".encode(), []), (f"{name} event".encode(), foreign))
    eventually(lambda: len(letters(settings, name)) == 2)
    found = {letter["type"]: letter for letter in letters(settings, name)}
    assert set(found) == {"dev.knative.kafka.event", "other.v1"}
    assert {letter["code"] for letter in found.values()} == {"422"}
    assert "other.v1" in found["other.v1"]["reason"]
    numbers = [letter["number"] for letter in found.values()]
    done = command("dead_letters", settings, "replay", *numbers)
    assert done.returncode == 1 and "replayed 0, left 2" in done.stdout
    assert all(f"left {number} " in done.stdout for number in numbers)


def test_a_dead_letter_that_cannot_be_written_holds_the_event_and_nothing_is_lost(
    settings: Settings, functions: Functions, tmp_path: Path
) -> None:
    service = unique("held")
    create_topics(load(KafkaConfig, {**settings, "KAFKA_TOPIC": service}))
    # Dead letters of this index go to a broker of their own, so that the topic of the logs can be read meanwhile.
    with Tansu() as broker:
        elsewhere = {**settings, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}
        create_topics(load(KafkaConfig, elsewhere))
        with function("index", elsewhere) as index:
            broker.pause()
            data, headers = event(b"\n".join([row(service, 1), service.encode() + b" is no row", row(service, 2)]))
            changes = {"torpor-index": service, "- logs": f"- {service}"}
            with a_source(settings, index.url, manifests(tmp_path / "m", changes)):
                publish(settings, service, (data, headers))
                http = {name.replace("_", "-"): value.decode() for name, value in headers}
                answer = httpx.post(index.url, content=data, headers=http, trust_env=False, timeout=30)
                assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
                refused = 'torpor_index_requests_total{status="503"}'
                eventually(lambda: counter(index, refused) >= 2)
                broker.resume()
                eventually(lambda: counter(index, 'torpor_index_requests_total{status="204"}') >= 1)
            eventually(lambda: len(letters(elsewhere, service)) >= 1)
            assert functions.counts(service=service) == (2, 2, 2)
            assert {letter["head"] for letter in letters(elsewhere, service)} == {f"{service} is no row"}
            assert letters(settings, service) == []


def counter(process: FunctionProcess, name: str) -> float:
    text = httpx.get(f"{process.url}/metrics", trust_env=False).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_a_replay_of_the_whole_topic_changes_no_count(settings: Settings, functions: Functions) -> None:
    service = unique("whole")
    named = {**settings, "KAFKA_TOPIC": service, "INDEX_URL": functions.index.url}
    create_topics(load(KafkaConfig, named))
    for partition in range(PARTITIONS):
        publish(settings, service, *(event(rows(f"{service}-{n % 4}", 100)) for n in range(40)), partition=partition)
    first = command("replay", named, "--all")
    assert first.returncode == 0 and "stored  120 events" in first.stdout, first
    before = [functions.counts(service=f"{service}-{number}") for number in range(4)]
    assert sum(counts[0] for counts in before) == 12_000
    everything = functions.counts()
    for _ in range(2):
        again = command("replay", named, "--all")
        assert again.returncode == 0 and "posted  120 events, 12,000 logs" in again.stdout, again
    assert [functions.counts(service=f"{service}-{number}") for number in range(4)] == before
    assert functions.counts() == everything
    # The topic that the source reads, too.
    whole = command("replay", {**settings, "INDEX_URL": functions.index.url}, "--all")
    assert "partition 2: " in whole.stdout and "  204: " in whole.stdout
    assert functions.counts() == everything


def test_a_replay_posts_exactly_what_was_asked_for(settings: Settings, tmp_path: Path) -> None:
    name = unique("parts")
    named = {**settings, "KAFKA_TOPIC": name}
    create_topics(load(KafkaConfig, named))
    marks = []
    ids: dict[str, list[str]] = {}
    for part in ("a", "b", "c"):
        for partition in range(PARTITIONS):
            events = [event(row(part, number)) for number in range(10)]
            publish(settings, name, *events, partition=partition)
            ids.setdefault(part, []).extend(dict(headers)["ce_id"].decode() for _, headers in events)
        time.sleep(0.05)
        marks.append(f"{time.time_ns() // 10**6}")
        time.sleep(0.05)

    def posted(*arguments: str) -> list[tuple[str, str]]:
        with Sink(204).running() as sink:
            done = command("replay", {**named, "INDEX_URL": sink.url}, *arguments)
            assert done.returncode == 0, done
            assert f"posted  {len(sink.posts):,} events" in done.stdout or "would post" in done.stdout
            return sorted((post["ce-knativekafkapartition"], post["ce-knativekafkaoffset"]) for post, _ in sink.posts)

    def places(*partitions: int, offsets: range) -> list[tuple[str, str]]:
        return sorted((str(partition), str(offset)) for partition in partitions for offset in offsets)

    assert posted("--offsets", "0:3-11,2:25-") == sorted(
        [*places(0, offsets=range(3, 12)), *places(2, offsets=range(25, 30))]
    )
    assert posted("--offsets", "1:7") == [("1", "7")]
    assert posted("--offsets", "1:29-100") == [("1", "29")]
    assert posted("--from", marks[0], "--to", marks[1]) == places(0, 1, 2, offsets=range(10, 20))
    assert posted("--from", marks[1]) == places(0, 1, 2, offsets=range(20, 30))
    assert posted("--to", marks[0]) == places(0, 1, 2, offsets=range(10))
    assert posted("--from", "-15m") == places(0, 1, 2, offsets=range(30))
    assert posted("--from", marks[2]) == []
    assert posted("--all", "--dry-run") == []
    dry = command("replay", named, "--offsets", "0:0-4", "--dry-run")
    assert "partition 0: 5 events, 5 logs" in dry.stdout and "would post 5 events" in dry.stdout


def test_a_replay_that_index_refuses_or_cannot_reach_says_so_and_fails(settings: Settings) -> None:
    name = unique("refused")
    named = {**settings, "KAFKA_TOPIC": name}
    create_topics(load(KafkaConfig, named))
    publish(settings, name, event(row("refused", 1)), event(row("refused", 2)))
    with Sink(422).running() as sink:
        done = command("replay", {**named, "INDEX_URL": sink.url}, "--all")
        assert done.returncode == 1
        assert "refused 2 events" in done.stdout and "422: 2; the first: 0/" in done.stdout
    done = command("replay", {**named, "INDEX_URL": NOWHERE}, "--all")
    assert done.returncode == 1 and f"nothing answers at {NOWHERE}" in done.stderr
    for arguments, problem in ((["--offsets", "9:1"], "no partition 9"), (["--offsets", "0:5-"], "offset")):
        done = command("replay", named, "--dry-run", *arguments)
        assert done.returncode == 1 and problem in done.stderr, done
    done = command("replay", {**named, "KAFKA_TOPIC": "nothing-here"}, "--dry-run", "--all")
    assert done.returncode == 1 and "no topic nothing-here" in done.stderr
    done = command("replay", {**named, "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}, "--dry-run", "--all")
    assert done.returncode == 1 and "Kafka cannot be read" in done.stderr


def test_a_pass_over_a_topic_ends_at_its_end_while_others_write_on(settings: Settings) -> None:
    name = unique("growing")
    config = load(KafkaConfig, {**settings, "KAFKA_TOPIC": name})
    create_topics(config)
    publish(settings, name, *(event(row("growing", number)) for number in range(100)))
    reader = Reader(config, name)
    read = 0
    for _ in reader:
        read += 1
        if read % 10 == 1 and read <= 200:
            publish(settings, name, event(row("growing", read)))
    assert read == 100
    assert (reader.passed, reader.total) == (100, 100)
    assert len(list(Reader(config, name))) == 110


def test_a_pass_over_a_topic_does_not_wait_for_ever_for_a_broker_that_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topic, "SILENCE", 1.0)
    with Tansu() as broker:
        named = {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}
        config = load(KafkaConfig, named)
        create_topics(config)
        for _ in range(10):
            publish(named, "logs", (os.urandom(900_000), []))
        records = iter(Reader(config, "logs"))
        next(records)
        broker.pause()
        with pytest.raises(KafkaUnavailable, match="has sent nothing of logs"):
            list(records)


def test_an_empty_topic_has_no_dead_letters(settings: Settings) -> None:
    empty = {**settings, "KAFKA_DEAD_LETTER_TOPIC": unique("empty")}
    create_topics(load(KafkaConfig, empty))
    done = command("dead_letters", empty)
    assert (done.returncode, done.stdout) == (0, "0 dead letters\n")
