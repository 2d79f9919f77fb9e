"""The shipper as people run it: a process that is piped into, follows files, is killed, and finds ingest away.

CAMPAIGN=long kills it for a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.common import timestamps
from functions.edge.spool import Spool
from tests.support.disk import fill, small_disk
from tests.support.kafka import free_port
from tests.support.local import ROOT, LocalTorpor

SECONDS = 60 if os.environ.get("CAMPAIGN") == "long" else 12
KILLS, ROTATIONS = 10, 3
SEED = 4


class Shipping:
    """Runs of the shipper for one service, with the state they share."""

    def __init__(self, state: Path, url: str) -> None:
        self.service = f"ship-{uuid.uuid4().hex[:8]}"
        self.spool = state / "torpor/ship" / self.service
        self._environment = {**os.environ, "XDG_STATE_HOME": str(state), "INGEST_URL": url}

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [sys.executable, "-m", "functions.edge.ship", "--service", self.service, *map(str, arguments)],
            cwd=ROOT,
            env=self._environment,
            text=True,
            **options,
        )

    def run(self, *arguments: str | Path, text: str | None = None) -> tuple[int, str]:
        """The exit status and what was said."""
        process = self.start(*arguments, stdin=subprocess.PIPE)
        _, said = process.communicate(text, timeout=60)
        return process.returncode, said


@pytest.fixture
def shipping(torpor: LocalTorpor, tmp_path: Path) -> Shipping:
    return Shipping(tmp_path / "state", torpor.url("ingest", ""))


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """The process ends with the block, by itself or not."""
    try:
        yield
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def messages(torpor: LocalTorpor, service: str) -> Counter[str]:
    parameters = {"service": service, "format": "ndjson", "compression": "none"}
    answer = torpor.http.get(torpor.url("export", "/api/v1/logs/export"), params=parameters)
    answer.raise_for_status()
    return Counter(json.loads(line)["message"] for line in answer.content.splitlines())


def test_all_lines_of_a_pipe_are_found_when_the_shipper_has_ended(torpor: LocalTorpor, shipping: Shipping) -> None:
    lines = [f"line {number}" for number in range(25_000)]
    lines[7] = json.dumps({"msg": "as json", "severity": "error", "user": 7})
    status, said = shipping.run("--level", "debug", text="\n".join(lines))
    assert (status, said.strip()) == (0, "ship: 25,000 lines read, 25,000 delivered")
    assert torpor.wait_for_total(25_000, service=shipping.service) == 25_000
    assert torpor.total(service=shipping.service, level="DEBUG") == 24_999
    (log,) = torpor.search(service=shipping.service, level="ERROR")["logs"]
    assert (log["message"], log["metadata"]["user"]) == ("as json", "7")
    (last, before) = torpor.search(service=shipping.service, limit="2")["logs"]
    assert (last["message"], before["message"]) == ("line 24999", "line 24998")


def test_lines_that_come_slowly_are_found_while_the_pipe_is_open(torpor: LocalTorpor, shipping: Shipping) -> None:
    process = shipping.start(stdin=subprocess.PIPE)
    with ended(process):
        assert process.stdin
        for number in range(1, 4):
            process.stdin.write(f"line {number}\n")
            process.stdin.flush()
            assert torpor.wait_for_total(number, service=shipping.service) == number
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        # The program before it in the pipeline has last words.
        process.stdin.write("the last")
        process.stdin.close()
        assert process.wait(30) == 0
    assert torpor.wait_for_total(4, service=shipping.service) == 4


def test_on_a_terminal_one_line_says_how_far_it_is(shipping: Shipping) -> None:
    ours, theirs = pty.openpty()
    process = shipping.start(stdin=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    termios.tcsetwinsize(ours, (24, 100))
    with ended(process):
        process.communicate("line\n" * 1000, timeout=30)
        shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "1,000 lines read, 1,000 delivered" in shown
    assert "lines/s" in shown


def test_a_file_is_followed_through_its_rotation(torpor: LocalTorpor, shipping: Shipping, tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    expected = Counter[str]()

    def write(count: int) -> None:
        lines = [f"line {len(expected) + number}" for number in range(count)]
        expected.update(lines)
        append(log, "\n".join([*lines, ""]))

    write(1000)
    process = shipping.start(tmp_path / "*.log")
    with ended(process):
        for number in range(3):
            for _ in range(5):
                write(50)
                time.sleep(0.05)
            assert torpor.wait_for_total(len(expected), service=shipping.service) == len(expected)
            write(50)
            log.rename(tmp_path / f"app.log.{number}")
            write(50)
        assert torpor.wait_for_total(len(expected), service=shipping.service) == len(expected)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert messages(torpor, shipping.service) == expected
    assert torpor.total(service=shipping.service, **{"metadata.file": str(log)}) == len(expected)


def test_while_ingest_is_away_lines_wait_on_disk_for_the_next_run(
    torpor: LocalTorpor, shipping: Shipping, tmp_path: Path
) -> None:
    process = shipping.start("--url", f"http://127.0.0.1:{free_port()}", stdin=subprocess.PIPE)
    with ended(process):
        assert process.stdin and process.stderr
        process.stdin.write("line\n" * 1234)
        process.stdin.close()
        process.stdin = None
        assert process.stderr.readline().startswith("ship: ingest does not answer, 1,234 lines wait on disk (Connect")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        said = process.stderr.read()
    assert f"1,234 lines are left in {shipping.spool}/spool.db; the next run with this spool delivers them" in said
    status, said = shipping.run(text="")
    assert (status, said.splitlines()) == (
        0,
        ["ship: 1,234 lines of an earlier run are delivered first", "ship: 0 lines read, 1,234 delivered"],
    )
    assert torpor.wait_for_total(1234, service=shipping.service) == 1234


def test_a_full_spool_stops_the_reading_and_loses_nothing(
    torpor: LocalTorpor, shipping: Shipping, tmp_path: Path
) -> None:
    log = tmp_path / "app.log"
    append(log, "".join(f"line {number}\n" for number in range(50_000)))
    away = ("--url", f"http://127.0.0.1:{free_port()}", "--spool-bytes", "1000000", log)
    process = shipping.start(*away)
    with ended(process):
        assert process.stderr
        assert "lines wait on disk" in process.stderr.readline()
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with contextlib.closing(Spool(shipping.spool / "spool.db", 1)) as spool:
        assert 0 < spool.count < 50_000
    status, _ = shipping.run("--once", "--quiet", log)
    assert status == 0
    assert torpor.wait_for_total(50_000, service=shipping.service) == 50_000


@pytest.mark.parametrize(("size", "arguments"), [("2m", []), ("4m", ["--once", "app.log"])], ids=["pipe", "file"])
def test_a_full_disk_stops_the_reading_and_delivery_makes_room_again(
    fresh: LocalTorpor, tmp_path: Path, size: str, arguments: list[str]
) -> None:
    log = tmp_path / "app.log"
    append(log, "".join(f"line {number}\n" for number in range(40_000)))
    shipping = Shipping(tmp_path / "state", fresh.url("ingest", ""))
    with small_disk(tmp_path / "disk", size) as disk, log.open() as lines:
        arguments = [str(tmp_path / word) if word.endswith(".log") else word for word in arguments]
        process = shipping.start("--spool", disk, *arguments, stdin=lines)
        with ended(process):
            assert process.stderr
            assert "lines wait on disk" in process.stderr.readline()
            time.sleep(1)
            fresh.start()
            assert process.wait(60) == 0
            assert "40,000 lines read, 40,000 delivered" in process.stderr.read()
    assert fresh.wait_for_total(40_000, service=shipping.service) == 40_000
    assert messages(fresh, shipping.service) == Counter(f"line {number}" for number in range(40_000))


def test_a_disk_without_room_for_anything_is_told_until_there_is_some(
    torpor: LocalTorpor, shipping: Shipping, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        Spool(disk / "spool.db", 1).close()
        fill(disk / "other")
        process = shipping.start("--spool", disk, stdin=subprocess.PIPE)
        with ended(process):
            assert process.stdin and process.stderr
            process.stdin.write("line\n" * 1000)
            process.stdin.close()
            said = process.stderr.readline()
            assert said == f"ship: reading waits (the disk of {disk}/spool.db is full: free some space)\n"
            (disk / "other").unlink()
            assert process.wait(30) == 0
    assert torpor.wait_for_total(1000, service=shipping.service) == 1000


def test_the_address_may_be_the_one_that_takes_logs_and_a_wrong_one_is_told(
    torpor: LocalTorpor, shipping: Shipping
) -> None:
    process = shipping.start("--url", torpor.url("query", ""), stdin=subprocess.PIPE)
    with ended(process):
        assert process.stdin and process.stderr
        process.stdin.write("line\n")
        process.stdin.close()
        process.stdin = None
        said = process.stderr.readline()
        assert "1 lines wait on disk (this is not ingest: check INGEST_URL / --url; it answers 404" in said
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert shipping.run("--url", torpor.url("ingest", "/api/v1/ingest"), text="")[0] == 0
    assert torpor.wait_for_total(1, service=shipping.service) == 1


def test_two_shippers_of_one_service_are_told_to_use_spools_of_their_own(shipping: Shipping) -> None:
    process = shipping.start(stdin=subprocess.PIPE)
    with ended(process):
        assert process.stdin
        deadline = time.monotonic() + 20
        while not (shipping.spool / "spool.db").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        status, said = shipping.run(text="line\n")
        assert status == 2
        assert "is in use by another process; --spool names another folder" in said
        process.stdin.close()
        process.wait(30)


def test_what_ingest_refuses_is_kept_and_named(fresh: LocalTorpor, tmp_path: Path) -> None:
    fresh.environment["RETENTION_DAYS"] = "2"
    fresh.start()
    shipping = Shipping(tmp_path / "state", fresh.url("ingest", ""))
    old = timestamps.iso(timestamps.now() - 5 * timestamps.DAY)
    status, said = shipping.run(text=f'new\n{{"time": "{old}", "msg": "old"}}\n')
    assert status == 1
    assert f"ingest refused 1 lines; they are kept in {shipping.spool}/refused.jsonl, each with the reason" in said
    (refused,) = (shipping.spool / "refused.jsonl").read_text().splitlines()
    assert json.loads(refused)["record"]["message"] == "old"
    assert fresh.wait_for_total(1, service=shipping.service) == 1


class Writer:
    """Writes to `app.log` and `web.log`, in halves of lines too; `web.log` it rotates itself, and often."""

    def __init__(self, directory: Path) -> None:
        self.app, self.web = directory / "app.log", directory / "web.log"
        self.written: list[str] = []
        self.rotations = 0
        self.lock = threading.Lock()
        self._random = random.Random(SEED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def rotate(self, log: Path) -> None:
        self.rotations += 1
        log.rename(log.with_name(f"{log.name}.{self.rotations}"))
        log.touch()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for log in (self.app, self.web):
                with self.lock:
                    self._write(log)
            if self._random.random() < 0.03:
                with self.lock:
                    self.rotate(self.web)
            time.sleep(0.01)

    def _write(self, log: Path) -> None:
        text = ""
        for _ in range(self._random.randint(1, 10)):
            message = f"{log.stem}number{len(self.written)}x {'y' * self._random.randint(0, 200)}"
            self.written.append(message)
            text += (json.dumps({"msg": message}) if self._random.random() < 0.2 else message) + "\n"
        half = self._random.randint(0, len(text))
        append(log, text[:half])
        time.sleep(0.002)
        append(log, text[half:])


def changed(spool: Path) -> int:
    """When something was stored last."""
    try:
        return (spool / "spool.db-wal").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def key(path: Path) -> str:
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"


@pytest.mark.timeout(240)
def test_killed_at_any_moment_while_files_rotate_and_torpor_is_away_it_delivers_each_line_once(
    fresh: LocalTorpor, tmp_path: Path
) -> None:
    fresh.start()
    shipping = Shipping(tmp_path / "state", fresh.url("ingest", ""))
    logs = tmp_path / "logs"
    logs.mkdir()
    writer = Writer(logs)
    files = (logs / "app.log", logs / "web.log*")
    dice = random.Random(SEED)
    begun = time.monotonic()
    kills = rotated = 0
    outage = SECONDS * 0.3
    returning = threading.Thread(target=fresh.start)
    try:
        while time.monotonic() - begun < SECONDS or kills < KILLS or rotated < ROTATIONS or returning.ident is None:
            written = changed(shipping.spool)
            process = shipping.start(*files, "--quiet", stderr=subprocess.DEVNULL)
            # Most kills hit it at work, some while it starts.
            while kills % 4 < 3 and changed(shipping.spool) == written and process.poll() is None:
                time.sleep(0.005)
            time.sleep(dice.uniform(0, 0.7))
            process.kill()
            process.wait()
            kills += 1
            if fresh.process and returning.ident is None and time.monotonic() - begun > outage:
                fresh.kill()
            elif not fresh.process and time.monotonic() - begun > 2 * outage:
                returning.start()
            with contextlib.closing(Spool(shipping.spool / "spool.db", 1)) as spool:
                known = spool.positions()
            # Nobody could find a file that came and went under this name unseen.
            if key(logs / "app.log") in known and dice.random() < 0.8:
                with writer.lock:
                    writer.rotate(logs / "app.log")
                rotated += 1
            time.sleep(dice.uniform(0, 0.3))
    finally:
        writer.stop()
        if returning.ident is not None:
            returning.join()
    status, said = shipping.run("--once", *files)
    print(f"{len(writer.written)} lines, {kills} kills, {rotated} and {writer.rotations - rotated} rotations; {said}")
    assert status == 0, said
    assert fresh.wait_for_total(len(writer.written), service=shipping.service) == len(writer.written)
    assert messages(fresh, shipping.service) == Counter(writer.written)
    for message in dice.sample(writer.written, 30):
        assert fresh.total(service=shipping.service, search=message.split()[0]) == 1
