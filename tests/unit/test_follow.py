"""Each line of each file is read once, whatever happens to the file or to the reader."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.edge import file, follow
from functions.edge.follow import Files
from functions.edge.lines import MAX_LINE_BYTES
from functions.edge.records import MAX_BATCH_LINES, Records

MINUTE = 60


class Reader:
    """A reader, and what the spool would hold of it: positions and lines are stored together."""

    def __init__(self, *patterns: Path | str) -> None:
        self.patterns = [str(pattern) for pattern in patterns]
        self.positions: dict[str, str] = {}
        self.records: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.start()

    def start(self, **options: bool) -> None:
        maker = Records("s", "INFO", "h")
        self.files = Files(self.patterns, maker, self.positions, self.said.append, **options)

    def restart(self, **options: bool) -> None:
        """As after SIGKILL: what was read and not stored is forgotten."""
        self.files.stop()
        self.start(**options)

    def read(self, store: bool = True) -> list[str]:
        """The messages that are new."""
        found = []
        while True:
            batch = self.files.read()
            if store:
                self.positions |= batch.positions
                self.positions = {name: text for name, text in self.positions.items() if text}
                found += [json.loads(record) for record in batch.records]
            if not batch.full:
                break
        self.records += found
        return [record["message"] for record in found]


@pytest.fixture(autouse=True)
def _scan_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "SCAN_SECONDS", 0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def append(path: Path, text: str) -> None:
    with path.open("a") as opened:
        opened.write(text)


def age(path: Path, seconds: float = MINUTE) -> None:
    """Nothing was written for so long."""
    os.utime(path, (time.time() - seconds,) * 2)


def test_lines_are_read_as_they_are_written_and_name_their_file(log: Path) -> None:
    reader = Reader(log)
    append(log, "one\ntwo\n")
    assert reader.read() == ["one", "two"]
    assert reader.read() == []
    append(log, "three\n")
    assert reader.read() == ["three"]
    assert {record["metadata"]["file"] for record in reader.records} == {str(log)}
    assert {record["metadata"]["host"] for record in reader.records} == {"h"}


def test_a_line_waits_until_its_newline_is_written(log: Path) -> None:
    reader = Reader(log)
    append(log, "one\ntw")
    assert reader.read() == ["one"]
    age(log)
    assert reader.read() == []
    append(log, "o\n")
    assert reader.read() == ["two"]


def test_a_restart_goes_on_where_the_stored_position_is(log: Path) -> None:
    reader = Reader(log)
    append(log, "one\ntwo\nth")
    reader.read()
    append(log, "ree\n")
    reader.restart()
    assert reader.read() == ["three"]
    append(log, "four\n")
    reader.read(store=False)
    reader.restart()
    assert reader.read() == ["four"]


def test_a_renamed_file_is_read_to_its_end_beside_the_new_one(log: Path) -> None:
    reader = Reader(log)
    append(log, "one\n")
    reader.read()
    append(log, "two\n")
    old = log.rename(log.with_name("app.log.1"))
    append(log, "three\n")
    append(old, "late\n")
    assert sorted(reader.read()) == ["late", "three", "two"]
    append(old, "later\n")
    assert reader.read() == ["later"]
    assert {record["metadata"]["file"] for record in reader.records} == {str(log)}


def test_what_was_renamed_while_nobody_read_is_found_in_the_directory(log: Path) -> None:
    reader = Reader(log)
    append(log, "one\n")
    reader.read()
    append(log, "two\nthree")
    age(log.rename(log.with_name("app.log.1")))
    append(log, "four\n")
    reader.restart()
    assert sorted(reader.read()) == ["four", "three", "two"]
    reader.restart()
    assert reader.read() == []


def test_a_file_that_was_seen_and_not_read_yet_is_found_after_its_rotation(log: Path) -> None:
    log.touch()
    reader = Reader(log)
    assert reader.read() == []
    append(log, "one\n")
    log.rename(log.with_name("app.log.1"))
    reader.restart()
    assert reader.read() == ["one"]


def test_a_file_that_nobody_asks_for_any_more_is_not_sought(log: Path, tmp_path: Path) -> None:
    reader = Reader(log)
    append(log, "one\n")
    reader.read()
    append(log, "two\n")
    reader.patterns = [str(tmp_path / "other.log")]
    reader.restart()
    assert reader.read() == []


def test_the_unfinished_last_line_of_a_renamed_file_is_read_once_nothing_more_comes(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(log)
    append(log, "one\ntwo")
    reader.read()
    log.rename(log.with_name("app.log.1"))
    assert reader.read() == []
    monkeypatch.setattr(file, "QUIET_SECONDS", 0)
    assert reader.read() == ["two"]
    assert reader.read() == []


def test_a_renamed_file_that_a_glob_still_matches_is_the_same_file(log: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path / "app.log*")
    append(log, "one\n")
    reader.read()
    log.rename(log.with_name("app.log.1"))
    append(log, "two\n")
    assert reader.read() == ["two"]
    reader.restart()
    assert reader.read() == []


def test_a_deleted_file_is_read_to_its_end_and_forgotten(log: Path) -> None:
    reader = Reader(log)
    append(log, "one\n")
    reader.read()
    append(log, "two\nthree")
    age(log)
    log.unlink()
    assert reader.read() == ["two", "three"]
    reader.read()
    assert reader.positions == {}
    append(log, "four\n")
    assert reader.read() == ["four"]


def test_a_truncated_file_is_read_anew(log: Path) -> None:
    reader = Reader(log)
    append(log, "one\ntwo\n")
    reader.read()
    shutil.copy(log, log.with_name("app.log.1"))
    os.truncate(log, 0)
    append(log, "three\n")
    assert reader.read() == ["three"]
    os.truncate(log, 0)
    assert reader.read() == []
    append(log, "four\n")
    assert reader.read() == ["four"]


@pytest.mark.parametrize("running", [True, False])
def test_a_truncated_file_that_has_grown_beyond_its_position_is_told_by_its_beginning(log: Path, running: bool) -> None:
    reader = Reader(log)
    append(log, "one\ntwo\n")
    reader.read()
    os.truncate(log, 0)
    append(log, "three\nfour\nfive\n")
    if not running:
        reader.restart()
    assert reader.read() == ["three", "four", "five"]


@pytest.mark.parametrize("size", [3, 200, 255, 256, 257, 1000])
def test_a_file_is_the_same_however_far_its_beginning_was_read(log: Path, size: int) -> None:
    reader = Reader(log)
    append(log, "x" * size + "\n")
    assert reader.read() == ["x" * size]
    reader.restart()
    append(log, "y\n")
    assert reader.read() == ["y"]
    reader.restart()
    assert reader.read() == []


def test_another_file_with_the_same_inode_is_told_by_its_beginning(log: Path) -> None:
    reader = Reader(log)
    append(log, "one\n")
    reader.read()
    # As a file system does that gives the inode of a deleted file to the next.
    log.write_text("other\nlines\n")
    reader.restart()
    assert reader.read() == ["other", "lines"]


def test_a_device_that_has_another_number_after_a_restart_of_the_machine_changes_nothing(log: Path) -> None:
    reader = Reader(log)
    append(log, "one\n")
    reader.read()
    reader.positions = {f"9{key}": text for key, text in reader.positions.items()}
    append(log, "two\n")
    reader.restart()
    assert reader.read() == ["two"]


def test_new_files_that_match_are_read_from_their_start_and_packed_ones_are_passed_over(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "**" / "*.log*")
    assert reader.read() == []
    (tmp_path / "deep").mkdir()
    append(tmp_path / "a.log", "a\n")
    append(tmp_path / "deep" / "b.log", "b\n")
    append(tmp_path / "c.log.1.gz", "packed\n")
    append(tmp_path / "d.txt", "d\n")
    assert sorted(reader.read()) == ["a", "b"]


def test_two_names_of_a_file_are_one_file(log: Path, tmp_path: Path) -> None:
    append(log, "one\n")
    (tmp_path / "current.log").symlink_to(log)
    reader = Reader(tmp_path / "current.log", tmp_path / "*.log")
    assert reader.read() == ["one"]


def test_from_the_end_holds_for_what_is_there_at_the_first_start_only(log: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path / "*.log")
    append(log, "old\nunfini")
    reader.restart(from_end=True)
    assert reader.read() == []
    append(log, "shed\n")
    append(tmp_path / "new.log", "new\n")
    assert sorted(reader.read()) == ["new", "unfinished"]
    append(log, "more\n")
    append(tmp_path / "newer.log", "newer\n")
    reader.restart(from_end=True)
    assert sorted(reader.read()) == ["more", "newer"]


def test_from_the_end_is_remembered_before_anything_was_written(log: Path) -> None:
    append(log, "old\n")
    reader = Reader(log)
    reader.restart(from_end=True)
    reader.read()
    append(log, "new\n")
    reader.restart()
    assert reader.read() == ["new"]


def test_once_reads_to_where_the_file_ends_now(log: Path) -> None:
    append(log, "one\ntwo\n")
    reader = Reader(log)
    reader.restart(once=True)
    assert reader.read() == ["one", "two"]
    assert reader.files.ended
    reader.restart(once=True)
    assert reader.read() == []
    assert reader.files.ended


def test_once_takes_an_unfinished_last_line_if_nothing_more_comes(log: Path) -> None:
    append(log, "one\ntwo")
    reader = Reader(log)
    reader.restart(once=True)
    assert reader.read() == ["one"]
    assert not reader.files.ended
    age(log)
    assert reader.read() == ["two"]
    assert reader.files.ended


def test_once_ends_though_the_writer_does_not(log: Path) -> None:
    append(log, "one\ntw")
    reader = Reader(log)
    reader.restart(once=True)
    assert reader.read() == ["one"]
    append(log, "o\nthree\nfou")
    assert reader.read() == ["two", "three"]
    assert reader.files.ended


def test_a_file_that_cannot_be_read_is_named_once(log: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    reader = Reader(loop, log)
    reader.read()
    reader.read()
    assert sorted(reader.said) == [f"{path} cannot be read: there is no such file yet" for path in (log, loop)]
    append(log, "one\n")
    assert reader.read() == ["one"]
    assert reader.files.unread == {str(loop)}


def test_what_was_read_of_a_file_before_the_disk_failed_is_not_read_again(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{number} {'x' * 10_000}" for number in range(200)]
    append(log, "\n".join([*lines, ""]))
    reader, pread = Reader(log), os.pread

    def failing(fd: int, size: int, offset: int) -> bytes:
        if offset:
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, size, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing)
        begun = reader.read()
    assert 0 < len(begun) < len(lines)
    assert reader.said == [f"{log} cannot be read: Input/output error"]
    reader.restart()
    assert begun + reader.read() == lines


def test_a_long_line_goes_on_with_its_next_piece_after_a_restart(log: Path) -> None:
    reader = Reader(log)
    append(log, "x" * (MAX_LINE_BYTES + 10))
    reader.read()
    reader.restart()
    append(log, '{"message": "no record of its own"}\n')
    reader.read()
    assert [record["metadata"].get("piece") for record in reader.records] == ["1", "2"]
    assert reader.records[1]["metadata"]["pieces"] == "2"
    assert reader.records[1]["message"] == 'xxxxxxxxxx{"message": "no record of its own"}'


def test_a_large_file_comes_in_batches_and_does_not_keep_others_waiting(log: Path, tmp_path: Path) -> None:
    lines = [f"number {number}" for number in range(5 * MAX_BATCH_LINES // 2)]
    append(log, "\n".join([*lines, ""]))
    append(tmp_path / "small.log", "small\n")
    reader = Reader(log, tmp_path / "small.log")
    first = reader.files.read()
    assert len(first.records) == MAX_BATCH_LINES
    assert json.loads(reader.files.read().records[0])["message"] == "small"
    reader.restart()
    assert Counter(reader.read()) == Counter([*lines, "small"])


def test_the_position_of_a_file_that_is_gone_is_forgotten_after_a_month(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(log)
    append(log, "one\n")
    reader.read()
    reader.files.stop()
    log.unlink()
    reader.restart()
    reader.read()
    assert len(reader.positions) == 1
    monkeypatch.setattr(follow, "KEPT_SECONDS", -1)
    reader.restart()
    reader.read()
    assert reader.positions == {}


class History:
    """What happens to a file and its reader; a rotation finds each file seen, or its new name still matches."""

    def __init__(self, directory: Path, pattern: str) -> None:
        self.log = directory / "app.log"
        self.log.touch()
        self.reader = Reader(directory / pattern)
        self.matches_all = pattern != "app.log"
        self.written: list[str] = []
        self.half = False
        self.rotations = 0

    def write(self, end: str = "\n") -> None:
        if not self.half:
            self.written.append(f"line {len(self.written)}")
            append(self.log, self.written[-1])
        append(self.log, end)
        self.half = not end

    def write_half(self) -> None:
        self.write("")

    def read(self) -> None:
        self.reader.read()

    def restart(self) -> None:
        self.reader.restart()

    def crash(self) -> None:
        self.reader.read(store=False)
        self.reader.restart()

    def rotate(self) -> None:
        self._finish()
        if not self.matches_all:
            self.read()
            self.write()
        self.rotations += 1
        self.log.rename(self.log.with_name(f"app.log.{self.rotations}"))
        self.log.touch()

    def delete(self) -> None:
        # What is deleted or truncated before it was read is lost, whoever reads.
        self._finish()
        self.read()
        self.log.unlink()
        self.log.touch()

    def truncate(self) -> None:
        self._finish()
        self.read()
        os.truncate(self.log, 0)

    def _finish(self) -> None:
        if self.half:
            self.write()


ACTIONS = (
    History.write,
    History.write_half,
    History.read,
    History.restart,
    History.crash,
    History.rotate,
    History.delete,
    History.truncate,
)


@pytest.mark.parametrize("pattern", ["app.log", "app.log*"])
@settings(max_examples=100, deadline=None)
@given(actions=st.lists(st.sampled_from(ACTIONS), max_size=40))
def test_after_any_history_each_line_was_read_once(
    pattern: str, actions: list[Callable[[History], None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    history = History(tmp_path_factory.mktemp("history"), pattern)
    for action in [*actions, History.write, History.restart, History.read]:
        action(history)
    assert Counter(record["message"] for record in history.reader.records) == Counter(history.written)
    history.reader.files.stop()
