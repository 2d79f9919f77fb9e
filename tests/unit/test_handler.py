"""The handler of Python's logging: what a record becomes, and what a program that logs is spared."""

from __future__ import annotations

import gzip
import json
import logging
import logging.handlers
import math
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.common.record import Incoming
from functions.edge.handler import MAX_TEXT, Answer, TorporHandler, Transport, line
from functions.ingest.dialects import json_records
from functions.ingest.normalise import Normaliser, Outcome

ROOT = Path(__file__).parents[2]


class Memory:
    """Keeps what is posted; `gate` holds the answers back, `answers` are given first, then all is taken."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, list[dict[str, Any]]]] = []
        self.answers: list[Answer | Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self.while_posting: Callable[[], object] = lambda: None

    def post(self, body: bytes, key: str, timeout: float) -> Answer:
        self.gate.wait(30)
        self.while_posting()
        lines = [json.loads(text) for text in gzip.decompress(body).split(b"\n")]
        self.posts.append((key, lines))
        answer = self.answers.pop(0) if self.answers else Answer(200, 0, b'{"accepted": 1, "rejected": 0}')
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """There is no connection."""

    forget = close

    @property
    def logs(self) -> list[dict[str, Any]]:
        return [log for _, logs in self.posts for log in logs]

    @property
    def messages(self) -> list[str]:
        return [log["message"] for log in self.logs]


class MemoryHandler(TorporHandler):
    """Posts into memory: unit tests have no network."""

    def transport(self) -> Transport:
        self.memory = getattr(self, "memory", None) or Memory()
        return self.memory


Start = Callable[..., tuple[logging.Logger, MemoryHandler]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes a logger of its own with a handler, which is closed in the end."""
    handlers: list[MemoryHandler] = []

    def make(**settings: Any) -> tuple[logging.Logger, MemoryHandler]:
        handler = MemoryHandler("pay", **settings)
        logger = logging.Logger("shop.cart", level=1)
        logger.addHandler(handler)
        handlers.append(handler)
        return logger, handler

    yield make
    for handler in handlers:
        handler.memory.gate.set()
        handler.close()


def fields(formatter: logging.Formatter | None = None, **attributes: Any) -> dict[str, Any]:
    """The line of a record with these attributes."""
    record = logging.makeLogRecord({"name": "shop", "levelno": 20, "levelname": "INFO", "msg": "m", **attributes})
    made: dict[str, Any] = json.loads(line(record, "pay", formatter))
    return made


def metadata(**attributes: Any) -> dict[str, str]:
    made: dict[str, str] = fields(**attributes)["metadata"]
    return made


def until(condition: Callable[[], object], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return bool(condition())


def failure(error: Exception) -> Any:
    try:
        raise error
    except type(error):
        return sys.exc_info()


def test_a_record_becomes_a_log_with_the_place_it_came_from(start: Start) -> None:
    logger, handler = start()
    before = time.time_ns()
    logger.warning("%d of %s", 3, "four", extra={"user": "anna", "trace_id": "t" * 32, "span_id": "s" * 16})
    handler.flush()
    (log,) = handler.memory.logs
    assert before - 1000 <= log.pop("timestamp") <= time.time_ns()
    here = log.pop("metadata")
    assert log == {
        "service": "pay",
        "level": "WARN",
        "message": "3 of four",
        "trace_id": "t" * 32,
        "span_id": "s" * 16,
    }
    assert here["user"] == "anna" and here["logger"] == "shop.cart"
    assert here["code.file.path"] == __file__ and int(here["code.line.number"]) > 0
    assert here["code.function.name"] == "test_a_record_becomes_a_log_with_the_place_it_came_from"
    assert here["thread.name"] == "MainThread" and here["thread.id"] == str(threading.get_ident())
    assert here["process.name"] == "MainProcess" and int(here["process.pid"]) > 0


def test_a_timestamp_has_the_microseconds_of_the_record_and_no_more() -> None:
    assert fields(created=1_700_000_000.123456)["timestamp"] == 1_700_000_000_123_456_000


@pytest.mark.parametrize(
    ("number", "level"),
    [(0, "TRACE"), (5, "TRACE"), (10, "DEBUG"), (20, "INFO"), (25, "INFO"), (30, "WARN"), (40, "ERROR"), (99, "FATAL")],
)
def test_a_level_is_the_nearest_one_below(number: int, level: str) -> None:
    assert fields(levelno=number, levelname="LOUD")["level"] == level


def test_a_level_of_the_programs_own_keeps_its_name() -> None:
    assert metadata(levelno=25, levelname="NOTICE")["level"] == "NOTICE"
    assert "level" not in metadata(levelno=30, levelname="WARNING")


def test_a_formatter_makes_the_message_and_leaves_the_rest() -> None:
    made = fields(logging.Formatter("%(name)s: %(message)s"), msg="m %d", args=(1,), user="anna")
    assert made["message"] == "shop: m 1"
    assert made["metadata"] == metadata(user="anna")


def test_an_exception_is_named_as_opentelemetry_names_it() -> None:
    made = metadata(exc_info=failure(queue.Empty("none")))
    assert made["exception.type"] == "_queue.Empty" and made["exception.message"] == "none"
    assert made["exception.stacktrace"].startswith("Traceback") and "in failure" in made["exception.stacktrace"]
    assert metadata(exc_info=failure(KeyError("k")))["exception.type"] == "KeyError"


def test_exc_info_without_an_exception_is_nothing() -> None:
    assert not [name for name in metadata(exc_info=(None, None, None)) if name.startswith("exception")]


def test_the_text_of_an_exception_that_came_from_elsewhere_is_kept() -> None:
    assert metadata(exc_text="Traceback of another process")["exception.stacktrace"] == "Traceback of another process"


def test_stack_info_is_kept(start: Start) -> None:
    logger, handler = start()
    logger.info("here", stack_info=True)
    handler.flush()
    assert "test_stack_info_is_kept" in handler.memory.logs[0]["metadata"]["code.stacktrace"]


def test_an_extra_that_is_not_text_is_kept_as_json_or_as_python_shows_it() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("never")

    loop: list[object] = []
    loop.append(loop)
    made = metadata(n=1, yes=True, none=None, nested={"a": [1.5, "ü"]}, path=Path("/x"), loop=loop, broken=Broken())
    assert (made["n"], made["yes"], made["none"], made["nested"]) == ("1", "true", "null", '{"a":[1.5,"ü"]}')
    assert (made["path"], made["loop"]) == (repr(Path("/x")), "[[...]]")
    assert made["broken"] == "<Broken that cannot be shown>"


def test_what_a_record_factory_of_the_program_adds_is_kept(start: Start) -> None:
    class Record(logging.LogRecord):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.request = "r-17"

    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(Record)
    try:
        logger, handler = start()
        logger.info("m")
    finally:
        logging.setLogRecordFactory(before)
    handler.flush()
    assert handler.memory.logs[0]["metadata"]["request"] == "r-17"


def test_an_extra_wins_over_what_the_handler_would_say() -> None:
    assert metadata(logger="mine")["logger"] == "mine"


def test_a_trace_id_that_ingest_would_refuse_stays_in_the_metadata() -> None:
    made = fields(trace_id="t" * 129, span_id="")
    assert "trace_id" not in made and made["metadata"]["trace_id"] == "t" * 129


@pytest.mark.parametrize("character", ["x", "ü", "€", "😀"])
def test_a_long_message_is_cut_between_characters_and_says_so(character: str) -> None:
    size = len(character.encode())
    whole = character * (MAX_TEXT // size)
    assert fields(msg=whole)["message"] == whole
    cut = fields(msg=character * (MAX_TEXT // size + 1), long=character * 300_000)
    assert cut["message"] == f"{whole} [cut: {size * (MAX_TEXT // size + 1)} bytes]"
    assert len(cut["message"].encode()) < 256 * 1024
    assert cut["metadata"]["long"].endswith(f"[cut: {size * 300_000} bytes]")


def test_half_characters_do_not_cost_the_log() -> None:
    made = fields(msg="file \udcff", name="\udcfe")
    assert (made["message"], made["metadata"]["logger"]) == ("file \\udcff", "\\udcfe")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    message=st.text(st.characters()),
    extra=st.dictionaries(st.text(st.characters(), min_size=1), anything, max_size=5),
    level=st.integers(-5, 100),
)
def test_ingest_takes_whatever_is_logged(message: str, extra: dict[str, Any], level: int) -> None:
    extra = {f"x{name}": value for name, value in extra.items()}
    record = logging.makeLogRecord({"msg": message, "levelno": level, **extra})
    read = json_records.read(line(record, "pay"))
    assert isinstance(read, Incoming)
    assert len(read.metadata) >= len({name.encode(errors="replace") for name in extra})
    outcome = Outcome("key")
    list(Normaliser("t", "key", True, time.time_ns(), 10**15, 256 * 1024).chunks([(1, read)], outcome))
    assert (outcome.accepted, outcome.errors) == (1, [])


def test_records_leave_together_and_each_batch_under_a_key_of_its_own(start: Start) -> None:
    logger, handler = start(batch_size=10)
    handler.memory.gate.clear()
    for number in range(35):
        logger.info("%d", number)
    handler.memory.gate.set()
    handler.flush()
    assert handler.memory.messages == [str(number) for number in range(35)]
    sizes = [len(logs) for _, logs in handler.memory.posts]
    assert max(sizes) == 10 and len(sizes) <= 5
    assert len({key for key, _ in handler.memory.posts}) == len(sizes)


def test_a_record_leaves_within_the_interval_without_a_flush(start: Start) -> None:
    logger, handler = start(interval=0.2)
    logger.info("first")
    assert until(lambda: handler.waiting == 0, 2)
    logger.info("second")
    logger.info("third")
    assert until(lambda: handler.waiting == 0, 2)
    assert [len(logs) for _, logs in handler.memory.posts] == [1, 2]


def test_a_body_stays_below_a_few_megabytes(start: Start) -> None:
    logger, handler = start()
    handler.memory.gate.clear()
    for _ in range(50):
        logger.info("x" * 240_000)
    handler.memory.gate.set()
    handler.flush(20)
    assert sum(len(logs) for _, logs in handler.memory.posts) == 50
    assert max(len(logs) for _, logs in handler.memory.posts) <= 16


def test_when_the_queue_is_full_the_newest_are_dropped_and_a_warning_says_how_many(start: Start) -> None:
    logger, handler = start(capacity=10, batch_size=5)
    handler.memory.gate.clear()
    for number in range(25):
        logger.info("%d", number)
    assert (handler.waiting, handler.dropped) == (10, 15)
    handler.memory.gate.set()
    handler.flush()
    assert [text for text in handler.memory.messages if text.isdigit()] == [str(number) for number in range(10)]
    (told,) = [log for log in handler.memory.logs if not log["message"].isdigit()]
    assert told["level"] == "WARN" and told["message"].startswith("15 logs were dropped")
    assert told["metadata"]["dropped"] == "15"
    logger.info("room again")
    handler.flush()
    assert handler.memory.messages[-1] == "room again" and handler.dropped == 15


def test_large_records_fill_the_queue_before_it_has_its_number_of_records(start: Start) -> None:
    logger, handler = start()
    handler.memory.gate.clear()
    for _ in range(400):
        logger.info("x" * 240_000)
    assert handler.dropped > 100
    assert handler.waiting * 240_000 < 75_000_000


def test_emit_waits_neither_for_the_server_nor_for_a_flush(start: Start) -> None:
    logger, handler = start(flush_timeout=30)
    handler.memory.gate.clear()
    logger.info("held")

    def flush_as_logging_does() -> None:
        handler.acquire()
        handler.flush()
        handler.release()

    flushing = threading.Thread(target=flush_as_logging_does)
    flushing.start()
    assert until(lambda: handler._outbox._flushes == 1)
    began = time.perf_counter()
    for _ in range(1000):
        logger.info("not held")
    assert time.perf_counter() - began < 2
    assert flushing.is_alive()
    handler.memory.gate.set()
    flushing.join(10)


def test_a_flush_returns_when_its_time_is_up(start: Start) -> None:
    logger, handler = start()
    handler.memory.gate.clear()
    logger.info("held")
    began = time.monotonic()
    handler.flush(0.1)
    assert 0.1 <= time.monotonic() - began < 1
    assert handler.waiting == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, 0, b"{}"),
        Answer(429, 0.01, b""),
        Answer(401, 0, b""),
        Answer(500, 0, b"no"),
        Answer(200, 0, b"<html>another server</html>"),
        ConnectionResetError(),
        TimeoutError(),
        ValueError(),
    ],
)
def test_a_batch_that_is_not_answered_is_sent_again_as_it_is(start: Start, answer: Answer | Exception) -> None:
    logger, handler = start()
    handler.memory.answers = [answer, answer]
    logger.info("once")
    handler.flush()
    assert len(handler.memory.posts) == 3
    assert handler.memory.posts[0] == handler.memory.posts[1] == handler.memory.posts[2]
    assert (handler.waiting, handler.refused) == (0, 0)


def test_what_a_person_has_to_mend_is_said_once(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    logger, handler = start()
    handler.memory.answers = [Answer(401, 0, b'{"detail": "who are you?"}')] * 3
    logger.info("once")
    handler.flush()
    assert capsys.readouterr().err == "torpor handler: logs wait: the answer is 401: who are you?\n"


def test_what_passes_by_itself_is_not_said(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    logger, handler = start()
    handler.memory.answers = [Answer(503, 0, b""), ConnectionRefusedError()]
    logger.info("once")
    handler.flush()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("status", [400, 413, 415])
def test_a_batch_that_is_refused_is_told_and_not_sent_again(
    start: Start, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    logger, handler = start()
    handler.memory.answers = [Answer(status, 0, b'{"detail": "not this way"}')]
    logger.info("refused")
    handler.flush()
    logger.info("taken")
    handler.flush()
    assert handler.memory.messages == ["refused", "taken"]
    assert (handler.refused, handler.waiting) == (1, 0)
    assert capsys.readouterr().err == "torpor handler: 1 of 1 logs were refused: not this way\n"


def test_records_that_are_rejected_are_told_with_the_servers_reason(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    logger, handler = start()
    body = {"accepted": 0, "rejected": 1, "errors": [{"line": 1, "field": "timestamp", "error": "too old"}]}
    handler.memory.answers = [Answer(200, 0, json.dumps(body).encode())]
    logger.info("old")
    handler.flush()
    assert handler.refused == 1
    assert capsys.readouterr().err == "torpor handler: 1 of 1 logs were refused: line 1: timestamp: too old\n"


def test_nothing_is_said_if_logging_is_told_not_to(
    start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger, handler = start()
    handler.memory.answers = [Answer(400, 0, b"")]
    logger.info("refused")
    logger.info("%d", "not a number")
    handler.flush()
    assert handler.refused == 1 and capsys.readouterr().err == ""


def test_a_record_that_cannot_be_formatted_does_not_fail_the_program(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    logger, handler = start()
    logger.info("%d", "not a number")
    assert "--- Logging error ---" in capsys.readouterr().err
    assert handler.waiting == 0


def test_a_flush_does_not_sit_through_a_pause(start: Start) -> None:
    logger, handler = start()
    handler.memory.answers = [ConnectionRefusedError()] * 8
    logger.info("once")
    assert until(lambda: len(handler.memory.posts) >= 6, 30)
    left = len(handler.memory.answers)
    handler.memory.answers = []
    began = time.monotonic()
    handler.flush(10)
    assert left and handler.waiting == 0
    assert time.monotonic() - began < 1


def test_the_server_decides_when_it_is_asked_again(start: Start) -> None:
    logger, handler = start()
    handler.memory.answers = [Answer(503, 0.5, b"")]
    began = time.monotonic()
    logger.info("once")
    handler.flush()
    assert time.monotonic() - began >= 0.5
    assert len(handler.memory.posts) == 2


def test_what_is_logged_while_a_batch_is_sent_makes_no_batch_of_its_own(start: Start) -> None:
    logger, handler = start(interval=0.01)
    handler.memory.while_posting = lambda: logger.info("from the sending thread")
    logger.info("from the program")
    handler.flush()
    time.sleep(0.1)
    assert handler.memory.messages == ["from the program"]


def test_a_signal_handler_may_log_while_its_thread_logs(start: Start) -> None:
    logger, handler = start(capacity=10**6)
    count = 0

    def log_too(*_: object) -> None:
        nonlocal count
        count += 1
        logger.info("signal")

    before = signal.signal(signal.SIGALRM, log_too)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(5000):
            logger.info("program")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    handler.flush(20)
    assert count > 10
    assert (handler.memory.messages.count("program"), handler.memory.messages.count("signal")) == (5000, count)


def test_many_threads_may_log(start: Start) -> None:
    logger, handler = start(capacity=10**6)

    def log() -> None:
        for _ in range(500):
            logger.info("m")

    threads = [threading.Thread(target=log) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.flush(20)
    assert len(handler.memory.logs) == 4000


def test_closing_sends_what_waits_and_ends_the_thread(start: Start) -> None:
    logger, handler = start(interval=60)
    logger.info("1")
    logger.info("2")
    handler.close()
    assert handler.memory.messages == ["1", "2"]
    assert handler._outbox._thread is not None and not handler._outbox._thread.is_alive()


def test_closing_gives_up_after_its_time_and_says_how_many_are_lost(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    logger, handler = start(flush_timeout=0.3)
    handler.memory.answers = [ConnectionRefusedError("nobody there")] * 100
    for _ in range(7):
        logger.info("lost")
    began = time.monotonic()
    handler.flush()
    handler.close()
    assert 0.3 <= time.monotonic() - began < 1
    assert capsys.readouterr().err == (
        "torpor handler: 7 logs were not delivered to http://localhost:8081 in time: "
        "ConnectionRefusedError: nobody there\n"
    )


def test_a_handler_that_was_closed_opens_with_the_next_record(start: Start) -> None:
    logger, handler = start()
    logger.info("1")
    handler.close()
    logger.info("2")
    handler.close()
    handler.close()
    assert handler.memory.messages == ["1", "2"]


def test_a_filter_of_the_handler_holds_records_back(start: Start) -> None:
    logger, handler = start(level="WARNING")
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    for text in ("a secret", "known"):
        logger.error(text)
    logger.info("below the level")
    handler.flush()
    assert handler.memory.messages == ["known"]


def test_records_may_come_through_a_queue_handler(start: Start) -> None:
    _, handler = start()
    between: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logger = logging.Logger("queued")
    logger.addHandler(logging.handlers.QueueHandler(between))
    listener = logging.handlers.QueueListener(between, handler)
    listener.start()
    logger.error("n is %d", 3, extra={"n": 3}, exc_info=failure(KeyError("k")))
    listener.stop()
    handler.flush()
    (log,) = handler.memory.logs
    assert log["message"].startswith("n is 3") and "KeyError" in log["message"]
    assert log["metadata"]["n"] == "3" and log["metadata"]["logger"] == "queued"


def test_the_handler_needs_the_standard_library_and_nothing_else() -> None:
    code = "import sys; before = {*sys.modules}; sys.path.insert(0, '.'); import functions.edge.handler\n"
    code += "names = {name.split('.')[0] for name in sys.modules.keys() - before}\n"
    code += "print(*names - sys.stdlib_module_names, *(name for name in sys.modules if name.startswith('functions.')))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {"functions", "functions.edge", "functions.edge.handler"}


@pytest.mark.parametrize(
    "settings",
    [
        {"service": ""},
        {"service": "x" * 256},
        {"url": "localhost:8081"},
        {"url": "ftp://localhost"},
        {"url": "http://"},
        {"url": "http://localhost:port"},
        {"url": "http://localhost?tenant=1"},
        {"capacity": 0},
        {"batch_size": 0},
        {"timeout": 0},
        {"interval": -1},
        {"flush_timeout": -math.inf},
    ],
)
def test_a_setting_out_of_range_is_an_error_where_it_is_made(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is not|negative|[Pp]ort"):
        TorporHandler(**{"service": "pay", **settings})
