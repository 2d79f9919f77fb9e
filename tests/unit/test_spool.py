"""The spool: what is in it after whatever happened."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.edge.spool import Batch, Full, Spool, SpoolError
from tests.support.disk import fill, small_disk

ROOT = Path(__file__).parents[2]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "folder" / "spool.db", 1000)
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as path:
        yield path


def reopened(spool: Spool) -> Spool:
    """The same spool, closed and opened again."""
    spool.close()
    spool.__init__(spool.path, spool.max_bytes)  # type: ignore[misc]  # so that its fixture closes it
    return spool


def totals(spool: Spool) -> tuple[int, int, int]:
    return spool.batches, spool.count, spool.size


def test_batches_come_out_in_the_order_they_went_in_and_stay_until_dropped(spool: Spool) -> None:
    keys = [spool.put(b"body %d" % number, number) for number in range(1, 4)]
    assert len(set(keys)) == 3
    for number, key in enumerate(keys, 1):
        assert spool.head() == spool.head() == Batch(key, b"body %d" % number, number)
        spool.drop(key)
    assert spool.head() is None


def test_all_of_it_is_there_when_it_is_opened_again(spool: Spool) -> None:
    key = spool.put(b"first", 2, {"file": "7", "other": "x"})
    spool.put(b"second!", 3, {"file": "8"})
    before = totals(spool)
    assert before == (2, 5, 12)
    spool = reopened(spool)
    assert totals(spool) == before
    assert spool.head() == Batch(key, b"first", 2)
    assert spool.positions() == {"file": "8", "other": "x"}


def test_to_drop_a_key_that_is_not_there_changes_nothing(spool: Spool) -> None:
    key = spool.put(b"body", 1)
    spool.drop("another")
    assert totals(spool) == (1, 1, 4)
    spool.drop(key)
    spool.drop(key)
    assert totals(spool) == (0, 0, 0)


def test_an_empty_body_stores_the_positions_and_no_batch(spool: Spool) -> None:
    spool.put(b"", 0, {"file": "7"})
    assert spool.head() is None
    assert totals(spool) == (0, 0, 0)
    assert reopened(spool).positions() == {"file": "7"}


def test_an_empty_position_is_forgotten(spool: Spool) -> None:
    spool.put(b"body", 1, {"file": "7", "other": "8"})
    spool.put(b"", 0, {"file": "", "never": ""})
    assert spool.positions() == {"other": "8"}


def test_a_full_spool_takes_neither_batch_nor_positions_until_one_is_dropped(spool: Spool) -> None:
    key = spool.put(b"x" * 600, 1, {"file": "1"})
    with pytest.raises(Full, match=r"spool\.db holds 600 bytes; the limit is 1000"):
        spool.put(b"y" * 401, 1, {"file": "2"})
    assert totals(spool) == (1, 1, 600)
    assert spool.positions() == {"file": "1"}
    spool.put(b"y" * 400, 1)
    spool.drop(key)
    spool.put(b"z" * 600, 1)


def test_an_empty_spool_takes_a_batch_of_any_size(spool: Spool) -> None:
    spool.put(b"x" * 1001, 1)
    with pytest.raises(Full):
        spool.put(b"y", 1)


def test_a_disk_without_room_is_a_full_spool_that_keeps_what_it_has(spool: Spool) -> None:
    key = spool.put(b"kept", 1, {"file": "1"})
    spool.max_bytes = 10_000_000
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(Full, match=r"the disk of .*spool\.db is full: free some space"):
        spool.put(b"x" * 1_000_000, 1, {"file": "2"})
    assert totals(spool) == (1, 1, 4)
    assert spool.positions() == {"file": "1"}
    assert spool.head() == Batch(key, b"kept", 1)


def test_a_spool_that_is_open_is_nobody_elses(spool: Spool) -> None:
    with pytest.raises(SpoolError, match=r"spool\.db is in use by another process"):
        Spool(spool.path, 1000)
    code = f"from pathlib import Path; from functions.edge.spool import Spool; Spool(Path({str(spool.path)!r}), 1000)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "in use by another process" in run.stderr
    spool.put(b"still ours", 1)
    reopened(spool).close()


@pytest.mark.parametrize("kind", ["a folder", "under a file", "no database", "an unwritable folder"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "spool.db"
    if kind == "a folder":
        path.mkdir()
    elif kind == "under a file":
        path.write_text("")
        path = path / "spool.db"
    elif kind == "no database":
        path.write_text("this is no database, but some text" * 100)
    else:
        path = Path("/proc/none/spool.db")
    with pytest.raises(SpoolError, match=f"{path} cannot be"):
        Spool(path, 1000)


def test_after_it_is_closed_every_call_is_an_error_of_the_spool(spool: Spool) -> None:
    spool.close()
    for call in (lambda: spool.put(b"x", 1), spool.head, lambda: spool.drop("key"), spool.positions):
        with pytest.raises(SpoolError):
            call()


def test_an_empty_spool_gives_back_the_space_of_a_long_wait(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", 10**9)
    keys = [spool.put(os.urandom(1_000_000), 1, {"file": "1"}) for _ in range(80)]
    assert spool.path.stat().st_size > 64 * 1024 * 1024
    for key in keys:
        spool.drop(key)
    assert spool.path.stat().st_size < 1_000_000
    assert spool.positions() == {"file": "1"}
    key = spool.put(b"body", 1)
    assert reopened(spool).head() == Batch(key, b"body", 1)
    spool.close()


def filled(path: Path, size: int) -> tuple[Spool, list[str]]:
    """A spool that was put batches into until the disk was full, and their keys."""
    spool, keys = Spool(path, 10**9), list[str]()

    def put() -> str:
        return spool.put(os.urandom(size), 1, {"put": str(len(keys) + 1)})

    with pytest.raises(Full, match=rf"^the disk of {path} is full: free some space$"):
        keys.extend(iter(put, ""))
    assert spool.positions() == {"put": str(len(keys))}
    return spool, keys


FILLER = """
import os, sys
from pathlib import Path
from tests.unit.test_spool import filled

print(*filled(Path(sys.argv[1]), int(sys.argv[2]))[1], flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("size", [1_000, 100_000, 1_400_000])
@pytest.mark.parametrize("end", ["none", "closed", "killed"])
def test_from_a_spool_that_fills_its_disk_every_batch_comes_out_and_new_ones_go_in(
    disk: Path, size: int, end: str
) -> None:
    path, other = disk / "spool.db", disk / "other"
    if end == "killed":
        command = [sys.executable, "-c", FILLER, str(path), str(size)]
        keys = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
        fill(other)
        spool = Spool(path, 10**9)
    else:
        spool, keys = filled(path, size)
        if end == "closed":
            spool.close()
            fill(other)
            spool = Spool(path, 10**9)
    assert keys
    for key in keys:
        fill(other)
        batch = spool.head()
        assert batch and (batch.key, len(batch.body)) == (key, size)
        spool.drop(key)
    assert totals(spool) == (0, 0, 0)
    other.unlink()
    again = [spool.put(os.urandom(size), 1) for _ in keys]
    assert reopened(spool).batches == len(again)
    spool.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_can_be_dropped_whatever_takes_the_room_of_the_disk(disk: Path, seed: int) -> None:
    chance = random.Random(seed)
    spool, other = Spool(disk / "spool.db", 10**9), disk / "other"
    batches: list[Batch] = []
    refused = 0
    for number in range(400):
        match chance.randrange(12):
            case 0:
                fill(other)
            case 1:
                other.unlink(missing_ok=True)
            case 2:
                spool = reopened(spool)
            case 3 | 4 | 5 | 6 if batches:
                spool.drop(batches.pop(0).key)
            case _:
                body = chance.randbytes(chance.choice((10, 10_000, 300_000)))
                try:
                    batches.append(Batch(spool.put(body, 1, {"put": str(number)}), body, 1))
                except Full:
                    refused += 1
        assert spool.head() == (batches[0] if batches else None)
    assert refused
    for batch in batches:
        assert spool.head() == batch
        spool.drop(batch.key)
    assert spool._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    spool.close()


WRITER = """
import sys
from pathlib import Path
from functions.edge.spool import Spool

spool = Spool(Path(sys.argv[1]), 10**9)
number = int(spool.positions().get("written", 0))
print("open", flush=True)
while True:
    # What a reader does: lines number to number + 99, and that they are read. Now and then one is sent and dropped.
    lines = b"\\n".join(b"%d %s" % (line, b"x" * (line % 997)) for line in range(number, number + 100))
    number += 100
    spool.put(lines, 100, {"written": str(number)})
    if number % 300 == 0 and (head := spool.head()):
        sys.stdout.buffer.write(head.body + b"\\n")
        sys.stdout.buffer.flush()
        spool.drop(head.key)
"""


def test_positions_and_batches_agree_after_the_process_was_killed_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    chance = random.Random(41)
    sent: list[int] = []
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, bufsize=10**6
        )
        assert process.stdout and process.stdout.readline() == b"open\n"
        time.sleep(chance.uniform(0.005, 0.1))
        process.send_signal(signal.SIGKILL)
        sent += [int(line.split()[0]) for line in process.stdout if line.strip()]
        process.wait()
        process.stdout.close()
    spool = Spool(path, 10**9)
    written = int(spool.positions()["written"])
    counted, size, waiting = spool.count, spool.size, list[int]()
    while batch := spool.head():
        waiting += [int(line.split()[0]) for line in batch.body.split(b"\n")]
        size -= len(batch.body)
        spool.drop(batch.key)
    spool.close()
    assert written > 1000
    assert (counted, size) == (len(waiting), 0)
    assert len(waiting) == len(set(waiting))
    # A batch that was sent and not dropped yet when the process was killed is in both: it has its key.
    assert set(sent) | set(waiting) == set(range(written))


calls = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"), st.binary(max_size=400), st.dictionaries(st.sampled_from("abc"), st.text(max_size=3))
        ),
        st.tuples(st.just("drop"), st.integers(0, 5), st.none()),
        st.tuples(st.just("reopen"), st.none(), st.none()),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(calls)
def test_it_behaves_as_a_list_and_a_mapping_would(tmp_path_factory: pytest.TempPathFactory, calls: list[tuple]) -> None:  # type: ignore[type-arg]  # what a call takes depends on its name
    spool = Spool(tmp_path_factory.mktemp("spool") / "spool.db", 1000)
    batches: list[Batch] = []
    positions: dict[str, str] = {}
    for name, argument, places in calls:
        if name == "put":
            try:
                key = spool.put(argument, len(argument), places)
            except Full:
                assert batches and sum(len(batch.body) for batch in batches) + len(argument) > 1000
                continue
            if argument:
                batches.append(Batch(key, argument, len(argument)))
            positions = {place: text for place, text in {**positions, **places}.items() if text}
        elif name == "drop" and argument < len(batches):
            spool.drop(batches.pop(argument).key)
        elif name == "reopen":
            spool = reopened(spool)
        size = sum(len(batch.body) for batch in batches)
        assert totals(spool) == (len(batches), size, size)
        assert spool.head() == (batches[0] if batches else None)
        assert spool.positions() == positions
    spool.close()


def test_a_batch_takes_a_few_milliseconds(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", 10**9)
    body = os.urandom(1_000_000)
    took = []
    for number in range(40):
        started = time.perf_counter()
        spool.put(body, 1000, {"file": str(number)})
        took.append(time.perf_counter() - started)
    spool.close()
    print(f"put: median {sorted(took)[20] * 1000:.1f} ms, most {max(took) * 1000:.1f} ms")
    assert sorted(took)[20] < 0.05


def test_the_file_is_one_that_sqlite_calls_sound_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"open\n"
    time.sleep(0.1)
    process.kill()
    process.wait()
    process.stdout.close()
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
