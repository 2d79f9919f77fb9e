"""What ingest asks of a protocol that comes by HTTP: a module here has `new(request)`, which makes a Dialect."""

from __future__ import annotations

from typing import Protocol

from starlette.responses import Response

from functions.ingest.normalise import Outcome
from functions.ingest.records import Numbered


class Dialect(Protocol):
    """How one request of a protocol is read and answered. Pure: it waits for nothing and keeps nothing."""

    @property
    def name(self) -> str:
        """The protocol's name in metrics."""

    @property
    def encoding(self) -> str:
        """The Content-Encoding of a body that comes without that header."""

    @property
    def max_errors(self) -> int:
        """How many rejected records the answer has to name."""

    def records(self, body: bytes) -> Numbered:
        """The records of an unpacked body. Raises TorporError, here or while they are read, if it is malformed."""

    def answer(self, outcome: Outcome) -> Response:
        """The answer once the accepted records are in Kafka: some or all of them, or none, may have been rejected."""

    def problem(self, error: Exception) -> Response:
        """The answer if nothing was taken."""
