"""A `logging.Handler` that sends what a Python program logs to Torpor.

This file needs Python 3.11 or later and nothing else: it may be copied into a program. Records travel as JSON lines in
Torpor's own protocol (README, Send). Metadata has the names of OpenTelemetry's semantic conventions (general
attributes: code, exception, thread, process) where they have one.

`emit` builds a line and leaves it in a queue; a thread sends batches, each under an Idempotency-Key of its own, again
and again until Torpor has answered: what is sent twice counts once.
"""

from __future__ import annotations

import atexit
import contextlib
import encodings.idna  # noqa: F401  a fork while the thread loads it, to find a host, would leave half of it
import gzip
import http.client
import json
import logging
import math
import os
import random
import re
import sys
import threading
import time
import urllib.parse
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

PATH = "/api/v1/ingest"
MAX_TEXT = 250_000
"""Bytes of a message or a value of metadata; more is cut. Ingest takes messages of 256 KiB."""
MAX_BODY = 4_000_000
"""Bytes of a request before it is packed; one record alone may have more."""
MAX_WAITING = 64_000_000
"""Bytes of waiting lines: large records fill the queue before it has its capacity of records."""
_BACKOFF = (0.1, 30.0)
_MAX_RETRY_AFTER = 3600.0
_MAX_ANSWER = 1_000_000
_REFUSED = (400, 413, 415)

# What a LogRecord has of its own and under which name it is metadata; any other attribute is an `extra`.
_NAMES = {
    "name": "logger",
    "pathname": "code.file.path",
    "funcName": "code.function.name",
    "lineno": "code.line.number",
    "thread": "thread.id",
    "threadName": "thread.name",
    "process": "process.pid",
    "processName": "process.name",
    "taskName": "task.name",
    "stack_info": "code.stacktrace",
}
_STANDARD = {*vars(logging.LogRecord("", 0, "", 0, "", None, None)), *_NAMES, "message", "asctime"}
_LEVELS = ((50, "FATAL"), (40, "ERROR"), (30, "WARN"), (20, "INFO"), (10, "DEBUG"), (-math.inf, "TRACE"))
_SURROGATE = re.compile("[\ud800-\udfff]")
_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_tracebacks = logging.Formatter()


def line(record: logging.LogRecord, service: str, formatter: logging.Formatter | None = None) -> bytes:
    """The record as one line of JSON, its message as `formatter` makes it. Raises what formatting the message raises.

    A text of more than MAX_TEXT bytes is cut and says so.
    """
    message = formatter.format(record) if formatter else record.getMessage()
    metadata = _metadata(record)
    fields = {
        "service": service,
        # A float of today's seconds holds microseconds; finer digits would be made up.
        "timestamp": round(record.created * 1_000_000) * 1000,
        "level": next(name for number, name in _LEVELS if record.levelno >= number),
        "message": _cut(message),
    }
    for name in ("trace_id", "span_id"):
        if 0 < len(metadata.get(name, "").encode(errors="replace")) <= 128:
            fields[name] = metadata.pop(name)
    fields["metadata"] = metadata
    text = _as_json(fields)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half characters, such as Python makes of file names that are not UTF-8
        return _SURROGATE.sub(lambda half: f"\\\\u{ord(half[0]):04x}", text).encode()


def _metadata(record: logging.LogRecord) -> dict[str, str]:
    attributes = vars(record)
    metadata = {name: _text(value) for own, name in _NAMES.items() if (value := attributes.get(own))}
    if record.levelno % 10 or not 10 <= record.levelno <= 50:
        metadata["level"] = _text(record.levelname)
    kind, value, _ = record.exc_info or (None, None, None)
    if kind:
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        metadata["exception.type"] = f"{module}{kind.__qualname__}"
        metadata["exception.message"] = _text(value, str)
    if kind or record.exc_text:
        metadata["exception.stacktrace"] = _text(record.exc_info, _stacktrace) if kind else _text(record.exc_text)
    return metadata | {str(name): _text(value) for name, value in attributes.items() if name not in _STANDARD}


def _stacktrace(exc_info: Any) -> str:
    return _tracebacks.formatException(exc_info)


def _text(value: object, show: Callable[[Any], str] | None = None) -> str:
    """The value as `show` shows it; by default as it is if it is text, else as JSON, else as Python shows it."""
    if show is None:
        if isinstance(value, str):
            return _cut(value)
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            return _cut(_as_json(value))
    try:
        return _cut((show or repr)(value))
    except Exception:  # noqa: BLE001  it is the program's own code, and a log is not lost for one value of it
        return f"<{type(value).__name__} that cannot be shown>"


def _cut(text: str) -> str:
    # A character has at most four bytes: most texts need not be encoded to be measured.
    if len(text) * 4 <= MAX_TEXT or len(whole := text.encode(errors="replace")) <= MAX_TEXT:
        return text
    return f"{whole[:MAX_TEXT].decode(errors='ignore')} [cut: {len(whole)} bytes]"


class Answer(NamedTuple):
    """What came back for a batch; `retry_after` is in seconds, 0 if the server does not say."""

    status: int
    retry_after: float
    body: bytes


class Transport(Protocol):
    """Carries batches to where they are stored."""

    def post(self, body: bytes, key: str, timeout: float) -> Answer:
        """Send JSON lines under an Idempotency-Key. Whatever it raises, the batch is sent again."""

    def close(self) -> None:
        """Let go of the connection."""

    def forget(self) -> None:
        """Let go of the connection without a word on it: after a fork it is another process's."""


class HttpTransport:
    """One connection to ingest, kept alive between batches. Raises ValueError if `url` is not an address."""

    def __init__(self, url: str, timeout: float, headers: Mapping[str, str]) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is not the address of ingest, such as http://localhost:8081")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._address = parts.hostname, parts.port or self._kind.default_port
        self._path = parts.path.rstrip("/").removesuffix(PATH) + PATH
        self._timeout = timeout
        self._headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
        self._headers |= {name: str(value) for name, value in headers.items()}
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, key: str, timeout: float) -> Answer:
        """Send, waiting at most `timeout` seconds, or those of the constructor, for each step."""
        # Made here, not in the program's thread: certificates take a while to load.
        connection = self._connection = self._connection or self._kind(*self._address)
        try:
            return self._exchange(connection, body, key, min(timeout, self._timeout))
        except BaseException:
            connection.close()
            raise

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes, key: str, timeout: float) -> Answer:
        connection.timeout = timeout
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(timeout)
        whole = False
        # A server that refuses early may answer and close before it has read everything.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", self._path, body, {**self._headers, "Idempotency-Key": key})
            whole = True
        with connection.getresponse() as response:
            text = response.read(_MAX_ANSWER)
            if not whole or not response.isclosed():
                connection.close()
        seconds = response.headers.get("retry-after", "")
        return Answer(response.status, float(seconds) if re.fullmatch(r"\d{1,9}", seconds) else 0.0, text)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def forget(self) -> None:
        """Close this process's copy of the socket; the other's connection goes on."""
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):
                os.close(self._connection.sock.detach())


class _Batch(NamedTuple):
    key: str
    body: bytes
    logs: int
    reported: int


class Outbox:
    """Lines that wait, and the thread that sends them.

    `report` makes the line that says how many records were dropped, and `started` is called when the thread has.
    The lock is one that its own thread may take again: a signal handler or a destructor may log while its thread logs.
    """

    def __init__(
        self,
        transport: Transport,
        capacity: int,
        batch_size: int,
        interval: float,
        report: Callable[[int], bytes],
        started: Callable[[], None],
    ) -> None:
        self.transport = transport
        self.dropped = self.refused = self.sender = 0
        self.reason = "there was no time to"
        """Why the batch in hand is not delivered yet."""
        self._capacity, self._batch_size, self._interval = capacity, batch_size, interval
        self._report, self._started = report, started
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._lines: deque[bytes] = deque()
        self._size = self._taken = self._settled = self._wanted = self._flushes = self._untold = 0
        self._sent = -math.inf
        self._hand: _Batch | None = None
        self._thread: threading.Thread | None = None
        self._stopped = self._told = False
        self._random = random.Random()  # a program that seeds the shared one expects the numbers for itself

    @property
    def waiting(self) -> int:
        """Records that are not delivered yet, those under way included."""
        return self._taken - self._settled

    def full(self) -> bool:
        """Whether there is no room for another record: then it counts as dropped."""
        with self.lock:
            if self._stopped or (self.waiting < self._capacity and self._size < MAX_WAITING):
                return False
            self.dropped += 1
            self._untold += 1
            return True

    def put(self, text: bytes) -> bool:
        """Let a line wait to be sent; False if the outbox has stopped. Waits for no sending."""
        with self.lock:
            if self._stopped:
                return False
            self._lines.append(text)
            self._taken += 1
            self._size += len(text)
            count = len(self._lines)
            if count == 1 or count % self._batch_size == 0 or self._size >= MAX_BODY > self._size - len(text):
                self._changed.notify_all()
                self._start()
            return True

    def flush(self, timeout: float) -> bool:
        """Wait `timeout` seconds at most until all that was put before is delivered or refused; whether it is."""
        deadline = time.monotonic() + timeout
        with self.lock:
            target = self._wanted = self._taken
            self._flushes += 1
            if self._stopped or (self._settled >= target and not self._untold):
                return True
            self._changed.notify_all()
            if self._start():
                return self._changed.wait_for(lambda: self._settled >= target and not self._untold, timeout)
        self._send(deadline)
        return self._settled >= target

    def stop(self) -> int:
        """End the thread; returns how many records are given up."""
        with self.lock:
            lost = 0 if self._stopped else self.waiting + self._untold
            self._stopped = True
            self._lines.clear()
            self._changed.notify_all()
        if self._thread and self.sender != threading.get_ident():
            self._thread.join(0.5)  # unless it waits for an answer it closes its connection at once
        return lost

    def _start(self) -> bool:
        """Whether the thread runs. While the interpreter ends Python 3.12 and later start none."""
        thread = self._thread
        # One without an ident is being started, by what this signal handler or destructor interrupts.
        if thread is None or (thread.ident is not None and not thread.is_alive()):
            thread = self._thread = threading.Thread(target=self._send, name="torpor-handler", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._thread = None
            else:
                self._started()
        return self._thread is not None

    def _send(self, until: float = math.inf) -> None:
        """Send until the time is up or the outbox stops; with a time, only what waits now."""
        self.sender = threading.get_ident()
        try:
            while batch := self._next(until):
                self._deliver(batch, until)
        finally:
            self.transport.close()
            self.sender = 0

    def _next(self, until: float) -> _Batch | None:
        with self.lock:
            if until < math.inf and (time.monotonic() >= until or not (self._hand or self._lines or self._untold)):
                return None
            if self._hand is None:
                self._changed.wait_for(lambda: self._stopped or self._lines or self._untold)
                # One that comes after a pause leaves at once, the next ones together.
                self._changed.wait_for(self._due, max(0.0, self._sent + self._interval - time.monotonic()))
            if self._stopped:
                return None
            if self._hand:
                return self._hand
            lines, reported = self._take(), self._untold
        # Packing takes a while: the lock is free meanwhile.
        report = [self._report(reported)] if reported else []
        body = gzip.compress(b"\n".join(lines + report), 3)
        self._hand = _Batch(str(uuid.uuid4()), body, len(lines), reported)
        return self._hand

    def _due(self) -> bool:
        full = len(self._lines) >= self._batch_size or self._size >= MAX_BODY
        return full or self._stopped or self._settled < self._wanted or not self._lines

    def _take(self) -> list[bytes]:
        self._sent = time.monotonic()
        taken: list[bytes] = []
        size = 0
        while self._lines and len(taken) < self._batch_size and (not taken or size + len(self._lines[0]) <= MAX_BODY):
            taken.append(self._lines.popleft())
            size += len(taken[-1])
        self._size -= size
        return taken

    def _deliver(self, batch: _Batch, until: float) -> None:
        attempt = 0
        while not self._stopped and (left := until - time.monotonic()) > 0:
            flushes = self._flushes
            asked = self._attempt(batch, left)
            with self.lock:
                if asked is None:
                    self._settled += batch.logs
                    self._untold -= batch.reported
                    self._hand, self._told = None, False
                    self._changed.notify_all()
                    return
                if asked:
                    self._changed.wait_for(lambda: self._stopped, min(asked, max(0.0, until - time.monotonic())))
                else:
                    attempt = self._back_off(attempt, flushes, until)

    def _back_off(self, attempt: int, flushes: int, until: float) -> int:
        """Wait, longer with every attempt, and return the number of the next. A flush ends it and begins anew."""
        least, most = _BACKOFF
        pause = self._random.uniform(least, min(most, least * 2 ** min(attempt + 1, 10)))
        self._changed.wait_for(
            lambda: self._stopped or self._flushes != flushes, min(pause, max(0.0, until - time.monotonic()))
        )
        return attempt + 1 if self._flushes == flushes else 0

    def _attempt(self, batch: _Batch, timeout: float) -> float | None:
        """None if the batch is settled, else the seconds that the server asks to wait, 0 if it does not."""
        try:
            status, retry_after, body = self.transport.post(batch.body, batch.key, timeout)
        except Exception as error:  # noqa: BLE001  whatever goes wrong on the way, the batch is not lost for it
            self.reason = f"{type(error).__name__}: {error}"
            # A network mends itself; a certificate, whose error is a ValueError as well, or a header does not.
            network = isinstance(error, (OSError, http.client.HTTPException)) and not isinstance(error, ValueError)
            self._tell_once(not network)
            return 0.0
        answer = _object(body)
        rejected = answer.get("rejected")
        if status in _REFUSED or (status == 200 and rejected):
            count = rejected if isinstance(rejected, int) and status == 200 else batch.logs
            self.refused += count
            complain(f"{count} of {batch.logs} logs were refused: {_why(answer, body)}")
        elif status != 200 or rejected != 0:
            self.reason = f"the answer is {status}: {_why(answer, body)}"
            self._tell_once(status < 500 and status != 429)
            return min(retry_after, _MAX_RETRY_AFTER)
        return None

    def _tell_once(self, matters: bool) -> None:
        """Say what keeps a batch waiting if a person has to mend it, once until something is delivered."""
        if matters and not self._told:
            self._told = True
            complain(f"logs wait: {self.reason}")


def _object(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        if isinstance(answer := json.loads(body), dict):
            return answer
    return {}


def _why(answer: dict[str, Any], body: bytes) -> str:
    errors = answer.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict) and "line" in errors[0]:
        return f"line {errors[0]['line']}: {errors[0].get('field') or 'record'}: {errors[0].get('error')}"
    return str(answer.get("detail") or body[:200].decode(errors="replace").strip() or "no reason is given")


def complain(text: str) -> None:
    """Say something on stderr, where a person may see it, unless logging.raiseExceptions is off."""
    if logging.raiseExceptions and sys.stderr:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"torpor handler: {text}\n")


class TorporHandler(logging.Handler):
    """Sends records to Torpor as logs of `service`.

    A record leaves within `interval` seconds, with at most `batch_size` others; an answer may take `timeout` seconds.
    `capacity` records may wait; newer ones are dropped and counted, in `dropped` and in a log of level WARN.
    At exit what waits has `flush_timeout` seconds to leave. `headers` go with every request.
    Raises ValueError if an argument is out of range.
    """

    def __init__(
        self,
        service: str,
        url: str = "http://localhost:8081",
        *,
        level: int | str = logging.NOTSET,
        capacity: int = 10_000,
        batch_size: int = 1000,
        interval: float = 1.0,
        timeout: float = 10.0,
        flush_timeout: float = 5.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not 0 < len(service.encode()) <= 255:
            raise ValueError("service is not text of 1 to 255 bytes")
        if min(capacity, batch_size) < 1 or min(interval, flush_timeout) < 0 or timeout <= 0:
            raise ValueError("capacity, batch_size or timeout is not positive, or interval or flush_timeout negative")
        super().__init__(level)
        self.service, self.url, self.flush_timeout = service, url, flush_timeout
        self._queue = (capacity, batch_size, interval)
        self._http = (url, timeout, dict(headers or {}))
        self._outbox = self._new_outbox()
        self._gave_up = -math.inf
        _handlers.add(self)

    @property
    def waiting(self) -> int:
        """Records that were emitted and are not delivered yet."""
        return self._outbox.waiting

    @property
    def dropped(self) -> int:
        """Records that were not kept because `capacity` others waited."""
        return self._outbox.dropped

    @property
    def refused(self) -> int:
        """Records that Torpor did not take and never will; stderr says why."""
        return self._outbox.refused

    def transport(self) -> Transport:
        """What carries batches; a subclass may carry them in another way."""
        return HttpTransport(*self._http)

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit the record if the filters pass it, without the handler's lock: a flush holds that while it waits."""
        passed = self.filter(record)
        if passed:
            # A filter may give another record in the place of this one since Python 3.12.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record to be sent. Never waits and never raises: what goes wrong goes to handleError."""
        try:
            outbox = self._outbox
            # What is logged while a batch is sent, by a patched socket say, would make a batch of its own for ever.
            if outbox.sender == threading.get_ident() or outbox.full():
                return
            text = line(record, self.service, self.formatter)
            while not (outbox := self._outbox).put(text):
                self._reopen(outbox)
        except Exception:  # noqa: BLE001  a program does not fail for its log
            self.handleError(record)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was emitted before is delivered, `timeout` seconds at most, by default flush_timeout."""
        seconds = self.flush_timeout if timeout is None else timeout
        if not self._outbox.flush(seconds) and seconds >= self.flush_timeout:
            self._gave_up = time.monotonic()

    def close(self) -> None:
        """Flush, end the thread, and say on stderr how many records could not be delivered.

        A record that is emitted later opens the handler again: logging.config closes handlers that loggers still have.
        """
        # logging.shutdown flushes and then closes: one that just waited in vain does not wait again.
        if time.monotonic() - self._gave_up > 1:
            self.flush()
        if lost := self._outbox.stop():
            complain(f"{lost} logs were not delivered to {self.url} in time: {self._outbox.reason}")
        atexit.unregister(self.close)
        super().close()

    def _new_outbox(self) -> Outbox:
        return Outbox(self.transport(), *self._queue, self._report, self._started)

    def _report(self, dropped: int) -> bytes:
        """The log that says how many were dropped."""
        text = f"{dropped} logs were dropped: as many as may wait were waiting"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)
        record.dropped = dropped
        return line(record, self.service)

    def _started(self) -> None:
        """See that the handler is closed at the end of a process that multiprocessing forks: atexit may not run."""
        multiprocessing = sys.modules.get("multiprocessing")
        util = sys.modules.get("multiprocessing.util")
        if multiprocessing and util and multiprocessing.parent_process():
            util.Finalize(None, self.close, exitpriority=-100)

    def _reopen(self, stopped: Outbox) -> None:
        with stopped.lock:
            if self._outbox is stopped:
                self._outbox = self._new_outbox()
                self._outbox.dropped, self._outbox.refused = stopped.dropped, stopped.refused
                self._gave_up = -math.inf
                # logging.shutdown may not know the handler any more.
                atexit.register(self.close)

    def _after_fork(self) -> None:
        """Begin anew in a forked process: what waits is the parent's to send."""
        self._outbox.transport.forget()
        self._outbox = self._new_outbox()
        self._gave_up = -math.inf


_handlers: weakref.WeakSet[TorporHandler] = weakref.WeakSet()


def _after_fork() -> None:
    for handler in list(_handlers):
        handler._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
