"""One input, what must come of it, and what came."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

INGEST = "/api/v1/ingest"
LINES = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}
OK, REFUSED, ANY = frozenset({200}), frozenset({400}), frozenset({200, 400})
TAKEN = frozenset({200, 204})
NO_FAULT = frozenset(range(200, 500))
"""Any answer that blames the client or nobody."""


@dataclasses.dataclass(frozen=True)
class Log:
    """A log as it must be found. `time` is None where ingest gives the time of arrival.

    `line` is its place in the request; an optional one may be refused, but not changed.
    """

    service: str
    message: str = ""
    level: str = "INFO"
    metadata: tuple[tuple[str, str], ...] = ()
    trace_id: str = ""
    span_id: str = ""
    time: int | None = None
    line: int = 1
    optional: bool = False

    @property
    def content(self) -> tuple[object, ...]:
        """Everything but the time."""
        return (self.service, self.level, self.message, tuple(sorted(self.metadata)), self.trace_id, self.span_id)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back. Status 0: the connection ended without an answer; `more` are the statuses of further answers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    more: tuple[int, ...] = ()
    hung: bool = False


Check = Callable[[Answer], str | None]


@dataclasses.dataclass(frozen=True)
class Case:
    """An input. With `raw`, these bytes go over a socket as they are, with `pause` seconds between the parts; a call of
    gRPC, whose `path` is its method, has them for messages.

    `expect` holds the statuses that are right, `answers` the number of answers to raw bytes; 0 is a closed or silent
    connection. `logs` must be stored if the status is one of `stored`. `check` returns what is wrong with an answer.
    """

    name: str
    body: bytes = b""
    headers: Mapping[str, str | bytes] = dataclasses.field(default_factory=dict)
    function: str = "ingest"
    method: str = "POST"
    path: str = INGEST
    expect: frozenset[int] = NO_FAULT
    stored: frozenset[int] = TAKEN
    logs: Sequence[Log] = ()
    check: Check | None = None
    raw: Sequence[bytes] = ()
    pause: float = 0.0
    answers: int = 1
    close: bool = False
    slow: bool = False


@dataclasses.dataclass(frozen=True)
class Group:
    """Inputs of one class; `needs` names the class whose logs it looks for."""

    name: str
    make: Callable[[], Sequence[Case]]
    needs: str = ""
    parallel: int = 10
