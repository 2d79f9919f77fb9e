"""Posts events to index as KafkaSource does, and again while index asks for it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from typing import NamedTuple

import urllib3

from functions.common.envelope import Record, Unusable, envelope

IN_FLIGHT = 8
"""Posts under way at a time."""
BACKOFF = (0.2, 0.5, 1, 2, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5)
"""Seconds before the second and each further try of an event, if index asks for no more."""
MAX_WAIT = 30.0
"""Seconds that a Retry-After may ask for."""
RETRIED = ("429", "503", "no answer")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The KafkaSource that events are posted as: its name stands in what it makes of a record that is no event."""

    name: str = "logs"
    namespace: str = "default"
    extensions: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Outcome(NamedTuple):
    """What became of an event; `status` is that of the last answer, `text` its beginning."""

    status: str
    text: str = ""

    @property
    def stored(self) -> bool:
        """Whether index has taken it."""
        return self.status.startswith("2")


class Poster:
    """Posts to `url`, from several threads if asked to. `stop` ends all waiting.

    The first event that index cannot take now, however often it is asked, sets `stop`: the next would fare no better.
    """

    def __init__(self, url: str) -> None:
        self.stop = threading.Event()
        self._url = url
        self._pool = urllib3.PoolManager(
            maxsize=IN_FLIGHT, block=True, retries=False, timeout=urllib3.Timeout(connect=5, read=60)
        )

    def reachable(self) -> bool:
        """Whether anything answers at index's address."""
        try:
            self._pool.request("GET", self._url)
        except urllib3.exceptions.HTTPError:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def deliver(self, record: Record) -> Outcome:
        """Post the event that KafkaSource makes of the record until index has taken or refused it."""
        try:
            event = envelope(record, Origin())
        except Unusable as error:
            return Outcome("no event", str(error))
        for delay in (*BACKOFF, None):
            outcome, asked = self._post(event.http_headers(), event.data)
            if outcome.status not in RETRIED:
                break
            if delay is None or self.stop.wait(min(max(delay, asked), MAX_WAIT)):
                self.stop.set()
                break
        return outcome

    def _post(self, headers: Mapping[str, str], data: bytes) -> tuple[Outcome, float]:
        try:
            answer = self._pool.request("POST", self._url, body=data, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            return Outcome("no answer", type(error).__name__), 0.0
        asked = answer.headers.get("retry-after", "")
        text = "" if answer.status == 204 else " ".join(answer.data[:300].decode(errors="replace").split())
        return Outcome(str(answer.status), text), float(asked) if asked.isascii() and asked.isdecimal() else 0.0
