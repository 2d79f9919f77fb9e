"""Lines become records, and nothing of a line is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.common import timestamps
from functions.common.config import load
from functions.common.event import MAX_DATA_BYTES
from functions.common.record import Incoming
from functions.edge.forward import Forwarder
from functions.edge.lines import MAX_LINE_BYTES, Line, split
from functions.edge.pipe import Pipe
from functions.edge.progress import Progress
from functions.edge.records import MAX_BATCH_BYTES, MAX_BATCH_LINES, TIMES, Batch, Records
from functions.edge.ship import Config, default_spool, parse
from functions.edge.spool import Spool
from functions.ingest.normalise import Normaliser, Outcome

NOW = timestamps.parse("2026-11-22T12:00:00Z")
ORIGIN = {"host": "web-1"}


def records(*given_lines: Line | bytes, level: str = "INFO") -> list[Incoming]:
    batch = Batch()
    maker = Records("api", level, "web-1", lambda: NOW)
    for line in given_lines:
        maker.add(batch, Line(line, len(line) + 1) if isinstance(line, bytes) else line)
    return [msgspec.json.decode(record, type=Incoming) for record in batch.records]


def record(line: bytes | dict[str, Any], level: str = "INFO") -> Incoming:
    (made,) = records(line if isinstance(line, bytes) else json.dumps(line).encode(), level=level)
    return made


def whole(data: bytes, step: int, ended: bool = True) -> list[Line]:
    """The lines of data that comes in steps, as a reader of a pipe takes them."""
    rest, piece, found = b"", 0, []
    for start in range(0, len(data) + step, step):
        rest += data[start : start + step]
        for line in split(rest, piece, ended and start + step >= len(data) + step):
            found.append(line)
            piece = line.carry
            rest = rest[line.size :]
    return found


def test_a_line_is_the_message_with_the_time_it_was_read_and_the_level_that_was_given() -> None:
    assert record(b"connection refused", level="ERROR") == Incoming(
        "api", "connection refused", NOW, "ERROR", {"host": "web-1"}
    )


def test_lines_read_at_the_same_moment_keep_their_order() -> None:
    times = [made.timestamp for made in records(b"one", b"two", b"three")]
    assert times == [NOW, NOW + 1, NOW + 2]


def test_a_carriage_return_is_part_of_the_end_of_a_line_and_white_space_alone_is_no_line() -> None:
    assert [made.message for made in records(b"one\r", b"\r", b"", b"  ", b" two ")] == ["one", " two "]


def test_bytes_that_are_not_utf8_stay_readable() -> None:
    assert record(b"caf\xe9 \xc3\xa9").message == "caf\\xe9 é"


def test_a_json_object_is_a_record_with_its_own_fields() -> None:
    line = {
        "timestamp": "2026-11-22T11:59:59.5Z",
        "service": "billing",
        "level": "warning",
        "message": "slow",
        "trace_id": "abc",
        "span_id": "def",
        "metadata": {"region": "eu", "tries": 3},
        "user": {"id": 7},
        "ok": True,
        "nothing": None,
    }
    metadata = {"host": "web-1", "user": '{"id": 7}', "ok": "true", "region": "eu", "tries": "3"}
    moment = NOW - 500_000_000
    assert record(line) == Incoming("billing", "slow", moment, "warning", metadata, "abc", "def")


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", ["2026-11-22T11:59:00Z", 1795348740, 1795348740000, "1795348740", 1795348740.0])
def test_the_time_is_read_under_the_usual_names_and_in_the_usual_forms(name: str, value: object) -> None:
    made = record({name: value, "message": "x"})
    assert made.timestamp == NOW - 60 * timestamps.NANOSECONDS
    assert made.metadata == ORIGIN


@pytest.mark.parametrize("value", ["yesterday", "2026-10-22T11:59:00Z", "2026-11-23T12:00:01Z", 0, 12.5, True, [1]])
def test_a_time_that_ingest_would_not_take_stays_a_field(value: object) -> None:
    made = record({"time": value, "message": "x"})
    assert made.timestamp == NOW
    assert made.metadata["time"] == (value if isinstance(value, str) else json.dumps(value))


def test_the_first_name_that_can_be_read_is_taken_and_the_others_stay() -> None:
    made = record({"timestamp": "never", "ts": 1795348740, "msg": "m", "log": "l", "level": 30, "severity": "Error"})
    assert (made.timestamp, made.message, made.level) == (1795348740 * timestamps.NANOSECONDS, "m", "Error")
    assert made.metadata == {**ORIGIN, "timestamp": "never", "log": "l", "level": "30"}


def test_a_message_that_is_no_text_is_its_json() -> None:
    assert record({"msg": {"a": [1, 2]}}).message == '{"a": [1, 2]}'


@pytest.mark.parametrize("service", ["", 5, "s" * 256])
def test_a_service_that_cannot_be_one_stays_a_field(service: object) -> None:
    made = record({"service": service})
    assert made.service == "api"
    assert made.metadata["service"] == str(service)


def test_an_id_is_a_field_as_two_lines_may_share_it() -> None:
    made = record({"id": "42", "message": "x"})
    assert made.id == ""
    assert made.metadata["id"] == "42"


def test_metadata_that_has_the_name_of_another_field_stays_as_it_is() -> None:
    made = record({"a": "1", "metadata": {"a": "2"}})
    assert made.metadata == {**ORIGIN, "a": "1", "metadata": '{"a": "2"}'}


def test_a_host_that_the_line_names_is_kept() -> None:
    assert record({"host": "db-1"}).metadata == {"host": "db-1"}


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": 1',
        b"{}}",
        b'["a"]',
        b'"text"',
        b'{"message": "\\ud800"}',
        b'{"a": ' * 5000 + b"1" + b"}" * 5000,
        json.dumps({str(number): "" for number in range(1000)}).encode(),
    ],
)
def test_what_is_no_json_object_that_ingest_takes_is_the_message(line: bytes) -> None:
    assert record(line).message == line.decode()


def test_json_with_bytes_that_are_not_utf8_is_the_message() -> None:
    assert record(b'{"a": "\xff"}').message == '{"a": "\\xff"}'


def test_a_line_waits_for_its_newline_unless_nothing_follows() -> None:
    assert [*split(b"one\ntwo", 0, False)] == [Line(b"one", 4)]
    assert [*split(b"one\ntwo", 0, True)] == [Line(b"one", 4), Line(b"two", 3)]


def test_a_long_line_is_cut_into_pieces_that_say_so() -> None:
    data = b"x" * (2 * MAX_LINE_BYTES + 5) + b"\nshort\n"
    made = records(*split(data, 0, False))
    assert "".join(record.message for record in made) == data.decode().replace("\n", "")
    assert [record.metadata for record in made] == [
        {**ORIGIN, "piece": "1"},
        {**ORIGIN, "piece": "2"},
        {**ORIGIN, "piece": "3", "pieces": "3"},
        ORIGIN,
    ]


def test_a_long_line_is_not_cut_within_a_character() -> None:
    data = b"x" + "é".encode() * MAX_LINE_BYTES
    messages = [made.message for made in records(*whole(data, 64 * 1024))]
    assert "".join(messages) == data.decode()
    assert len(messages) == 3


@pytest.mark.parametrize("byte", [b"\x00", b"\xff", b'"', b"\\", b"x", b"\xc3\xa9"])
@pytest.mark.parametrize("size", [39_999, 40_001, MAX_LINE_BYTES - 1, MAX_LINE_BYTES, 3 * MAX_LINE_BYTES])
def test_ingest_takes_every_piece_of_every_line(byte: bytes, size: int) -> None:
    data = byte * (size // len(byte))
    found = [*split(data + b"\n", 0, False)]
    assert b"".join(line.data for line in found) == data
    normaliser = Normaliser("t", "b", True, NOW, 30 * timestamps.DAY, 256 * 1024)
    outcome = Outcome()
    chunks = [*normaliser.chunks(enumerate(records(*found), 1), outcome)]
    assert (outcome.accepted, outcome.rejected) == (len(found), 0)
    assert all(len(chunk.data) <= MAX_DATA_BYTES for chunk in chunks)


@given(st.lists(st.sampled_from([b"", b"a", b"bc\r", b"\xff", b"x" * 50_000, b"y" * 450_000])), st.booleans())
def test_however_the_bytes_come_each_is_in_one_line(parts: list[bytes], ended: bool) -> None:
    data = b"\n".join(parts)
    found = whole(data, 70_000, ended)
    size = sum(line.size for line in found)
    joined = b"".join(line.data + b"\n" * (line.size - len(line.data)) for line in found)
    assert joined == data[:size]
    assert size == len(data) or (not ended and b"\n" not in data[size:])
    assert all(line.last for line in found[-1:]) or not ended


async def piped(*parts: bytes) -> list[list[str]]:
    """The messages of the batches that a pipe makes of parts that come one after another."""
    reading, writing = os.pipe()
    pipe = Pipe(Records("api", "INFO", "web-1"), reading)
    batches = []
    for part in parts:
        os.write(writing, part)
        await pipe.wait()
        batches.append(pipe.read())
    os.close(writing)
    while not pipe.ended:
        await pipe.wait()
        batches.append(pipe.read())
    os.close(reading)
    return [[msgspec.json.decode(record)["message"] for record in batch.records] for batch in batches]


async def test_a_pipe_gives_its_lines_as_they_come_and_the_last_one_at_its_end() -> None:
    assert await piped(b"one\ntw", b"o\nthree", b"\n\nfour") == [["one"], ["two"], ["three"], ["four"]]


async def test_a_pipe_that_is_closed_in_a_long_line_gives_its_last_piece() -> None:
    parts = [b"x" * 50_000] * 5
    assert [len(message) for batch in await piped(*parts) for message in batch] == [MAX_LINE_BYTES, 50_000]


async def test_a_regular_file_is_read_as_a_pipe_in_full_batches(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("".join(f"{number}\n" for number in range(25_000)))
    with path.open("rb") as file:
        pipe = Pipe(Records("api", "INFO", "web-1"), file.fileno())
        found = []
        while not pipe.ended:
            found.append(batch := pipe.read())
            if not batch.full and not pipe.ended:
                await pipe.wait()
    messages = [msgspec.json.decode(record)["message"] for batch in found for record in batch.records]
    assert messages == [str(number) for number in range(25_000)]
    assert max(len(batch.records) for batch in found) == MAX_BATCH_LINES


def test_a_pipe_that_is_read_no_more_gives_all_that_is_in_it() -> None:
    reading, writing = os.pipe()
    pipe = Pipe(Records("api", "INFO", "web-1"), reading)
    os.write(writing, b"one\ntwo")
    pipe.stop()
    assert len(pipe.read().records) == 2
    assert pipe.ended
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("service", "folder"),
    [("api", "api"), ("team/api", "team%2Fapi"), ("..", "%2E."), ("a.b", "a.b"), ("é", "%C3%A9")],
)
def test_each_service_has_a_spool_of_its_own_below_the_state_folder(service: str, folder: str) -> None:
    assert default_spool(service, "/state") == Path("/state/torpor/ship") / folder


def test_long_services_have_folders_of_their_own_too() -> None:
    one, other = (default_spool("é" * 100 + end, "/state") for end in "ab")
    assert one != other
    assert len(one.name) < 100


def test_a_state_folder_that_is_not_absolute_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    expected = Path("/home/me/.local/state/torpor/ship/api")
    assert default_spool("api", "") == default_spool("api", "state") == expected


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--service", ""], "1 to 255 bytes"),
        (["--service", "s" * 256], "1 to 255 bytes"),
        (["--service", "s", "--level", "loud"], "'loud' is not known"),
        (["--service", "s", "--url", "localhost:8081"], "error: --url is 'localhost:8081': expected http://host:port"),
        (["--service", "s", "a.log.1.gz"], "is packed"),
        (["--service", "s", "--spool-bytes", "0"], "above 0"),
        ([], "--service"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments, Config())
    assert why in capsys.readouterr().err


def test_a_directory_is_none_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--service", "s", f"{tmp_path}/"], Config())
    said = f"{tmp_path}/ is a directory: name files, or a glob such as '{tmp_path}/*.log'"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1000000", 1_000_000),
        ("7B", 7),
        ("1k", 1024),
        ("5K", 5120),
        ("20M", 20 * 1024**2),
        ("20mb", 20 * 1024**2),
        ("2GiB", 2 * 1024**3),
        ("2G", 2 * 1024**3),
    ],
)
def test_the_size_of_the_spool_may_have_a_unit(text: str, size: int) -> None:
    assert parse(["--service", "s", "--spool-bytes", text], Config()).spool_bytes == size


@pytest.mark.parametrize("text", ["", "0", "0k", "-1", "1.5M", "much", "1T", "k", "1 iBk", "1ib2", "\u0661"])
def test_a_size_that_is_none_is_told_what_one_looks_like(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--service", "s", f"--spool-bytes={text}"], Config())
    assert f"{text!r} is no size: expected bytes, above 0, as 5000000, 500k, 20M or 2GiB" in capsys.readouterr().err


@pytest.fixture
def state(tmp_path: Path) -> Iterator[tuple[Progress, Spool, Forwarder]]:
    with contextlib.closing(Spool(tmp_path / "spool.db", 1000)) as spool:
        forwarder = Forwarder(spool, "http://ingest")
        yield Progress(spool, forwarder, quiet=True), spool, forwarder


async def test_the_person_is_told_that_the_disk_is_full_when_nothing_goes_on(
    state: tuple[Progress, Spool, Forwarder], capsys: pytest.CaptureFixture[str]
) -> None:
    progress, spool, forwarder = state
    key = spool.put(b"line", 1)
    for progress.full, forwarder.failing, empty in (
        ("the disk of S is full", "", False),  # as the batch that waits goes, there is room again
        ("the disk of S is full", "", True),
        ("", "", True),
        ("the disk of S is full", "404 no", True),
    ):
        if empty:
            spool.drop(key)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(progress.run(), 0.01)
    assert capsys.readouterr().err.splitlines() == [
        "ship: reading waits (the disk of S is full)",
        "ship: lines are delivered again",
        "ship: ingest answers 404, 0 lines wait on disk; reading waits: the disk of S is full (404 no)",
    ]


def test_without_arguments_the_environment_says_where_ingest_listens() -> None:
    config = load(Config, {"INGEST_URL": "http://ingest:80", "XDG_STATE_HOME": "/state"})
    options = parse(["--service", "s"], config)
    assert (options.url, options.spool, options.from_end) == ("http://ingest:80", Path("/state/torpor/ship/s"), False)


def test_a_batch_is_full_at_so_many_lines_or_bytes() -> None:
    batch = Batch()
    for _ in range(MAX_BATCH_LINES - 1):
        batch.add(b"x")
    assert not batch.full
    batch.add(b"x")
    assert batch.full
    assert batch.body.count(b"\n") == MAX_BATCH_LINES - 1
    assert Batch([b""], MAX_BATCH_BYTES).full
