"""What becomes of one record: posted, tried again, or left at the dead-letter sink.

The rules are those of Knative's KafkaSource. They have one hole: a record that the dead-letter sink does not take
either, or for which there is none, counts as done. So has this; a line of ERROR says which record it was.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import httpx

from functions.common.config import ConfigError
from functions.common.envelope import Envelope, Record, Unusable, envelope
from functions.common.errors import KafkaUnavailable
from functions.common.kafka import Publisher
from functions.local.manifests import Destination, Source

log = logging.getLogger(__name__)

ERROR_DATA_BYTES = 1024
"""Bytes of a refusal's body that a dead letter holds."""
_ERROR_PREFIX = "kne-"
_RETRIED = frozenset((404, 408, 409, 429))


def retried(status: int) -> bool:
    """Whether a response with this status, 300 or above, is worth another try."""
    return status >= 500 or status in _RETRIED


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why an attempt failed: a response, or no response at all (status 0)."""

    reason: str
    status: int = 0
    data: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Whether another attempt cannot do better."""
        return bool(self.status) and not retried(self.status)

    def extensions(self, destination: str) -> dict[str, str]:
        """What a dead letter tells about it."""
        if not self.status:
            return {"knativeerrordest": destination}
        own = {name.lower().removeprefix(_ERROR_PREFIX): value for name, value in self.headers.items()}
        data = base64.b64encode(self.data[:ERROR_DATA_BYTES]).decode()
        return {
            **{name: value for name, value in own.items() if name.isascii() and name.isalnum()},
            "knativeerrordest": destination,
            "knativeerrorcode": str(self.status),
            **({"knativeerrordata": data} if data else {}),
        }


def connections(count: int) -> list[httpx.AsyncClient]:
    """Clients of one connection each: to find a free one among fifty takes a shared client milliseconds a request."""
    limits = httpx.Limits(max_connections=1)
    tls = httpx.create_ssl_context(trust_env=False)
    return [httpx.AsyncClient(limits=limits, timeout=None, trust_env=False, verify=tls) for _ in range(count)]


Attempt = Callable[[], Awaitable[Failure | None]]


class Delivery:
    """Delivers records, one POST a record, and counts what became of them.

    `delivered` were taken by the sink, `dead_lettered` by the dead-letter sink, `failed` by neither. There must be as
    many clients as records that are delivered at once.
    """

    def __init__(
        self,
        source: Source,
        sinks: Mapping[str, str],
        publisher: Publisher,
        dead_letter_topics: Mapping[str, str],
        clients: Sequence[httpx.AsyncClient],
    ) -> None:
        self._source = source
        self._spec = source.delivery
        self._publisher = publisher
        self._idle = list(clients)
        self._url = _url(source.sink, sinks)
        self._dead_letter_topic, self._dead_letter_url = "", ""
        if sink := self._spec.dead_letter:
            self._dead_letter_topic = _topic(sink, dead_letter_topics)
            self._dead_letter_url = "" if self._dead_letter_topic else _url(sink, sinks)
        self._down: set[str] = set()
        self.delivered = 0
        self.dead_lettered = 0
        self.failed = 0

    async def deliver(self, record: Record) -> None:
        """Return when nothing is left to be done for the record. Raises only if it is cancelled."""
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        try:
            event = envelope(record, self._source)
            failure = await self._try(functools.partial(self._post, self._url, event))
            if failure is None:
                self.delivered += 1
                return
            await self._bury(event.with_extensions(failure.extensions(self._url)), failure, place)
        except Unusable as error:
            self.failed += 1
            log.error("record discarded", extra={"error": str(error), **place})
        except Exception:  # a fault must not hold back the partition for ever
            self.failed += 1
            log.exception("record lost", extra=place)

    async def _bury(self, event: Envelope, failure: Failure, place: Mapping[str, object]) -> None:
        if self._dead_letter_topic:
            refusal = await self._try(functools.partial(self._publish, event))
        elif self._dead_letter_url:
            refusal = await self._try(functools.partial(self._post, self._dead_letter_url, event))
        else:
            refusal = Failure("there is none")
        details = {"sink": failure.reason, **place}
        if refusal is None:
            self.dead_lettered += 1
            log.warning("record left at the dead-letter sink", extra=details)
        else:
            self.failed += 1
            log.error("record lost", extra={"dead_letter_sink": refusal.reason, **details})

    async def _try(self, attempt: Attempt) -> Failure | None:
        failure = await attempt()
        for number in range(1, self._spec.retry + 1):
            if failure is None or failure.final:
                break
            await asyncio.sleep(self._spec.backoff(number))
            failure = await attempt()
        return failure

    async def _post(self, url: str, event: Envelope) -> Failure | None:
        headers = {**event.http_headers(), "prefer": "reply", "kn-namespace": self._source.namespace}
        # As bytes: what HTTP cannot carry is then a failed attempt, and not an error of encoding.
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        client = self._idle.pop()
        try:
            async with asyncio.timeout(self._spec.timeout):
                failure = _failure(await client.post(url, content=event.data, headers=encoded))
        except (httpx.TransportError, TimeoutError) as error:
            failure = Failure(f"{type(error).__name__} {error}".strip())
        finally:
            self._idle.append(client)
        self._note(url, failure)
        return failure

    async def _publish(self, event: Envelope) -> Failure | None:
        key = event.attributes.get("partitionkey") or event.attributes["id"]
        try:
            await self._publisher.publish(self._dead_letter_topic, key, event.data, event.kafka_headers())
        except KafkaUnavailable as error:
            return Failure(str(error))
        return None

    def _note(self, url: str, failure: Failure | None) -> None:
        """Log the begin and the end of a time in which the sink takes nothing, not every attempt."""
        if failure and not failure.final:
            if url not in self._down:
                log.warning("sink does not take events; trying again", extra={"sink": url, "error": failure.reason})
            self._down.add(url)
        elif url in self._down:
            log.info("sink answers again", extra={"sink": url})
            self._down.discard(url)


def _failure(response: httpx.Response) -> Failure | None:
    if response.status_code < 300:
        return None
    own = {name: value for name, value in response.headers.items() if name.lower().startswith(_ERROR_PREFIX)}
    return Failure(f"status {response.status_code}", response.status_code, response.content[:ERROR_DATA_BYTES], own)


def _url(destination: Destination, sinks: Mapping[str, str]) -> str:
    if not destination.uri and destination.name not in sinks:
        raise ConfigError(f"nobody said where the {destination.kind} {destination.name} is")
    return destination.uri or sinks[destination.name]


def _topic(destination: Destination, topics: Mapping[str, str]) -> str:
    """The topic behind a destination; empty if it is no KafkaSink."""
    if destination.kind != "KafkaSink":
        return ""
    if destination.name not in topics:
        raise ConfigError(f"there is no manifest of the KafkaSink {destination.name}")
    return topics[destination.name]
