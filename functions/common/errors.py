"""What can go wrong, and the status that says so.

    TorporError
    ├── Permanent                  the same input fails again: 4xx, never retried
    │   ├── BadRequest             400
    │   ├── NotFound               404  (query and export only: KafkaSource retries a 404)
    │   ├── MethodNotAllowed       405
    │   ├── TooLarge               413
    │   ├── UnsupportedMediaType   415
    │   ├── NotOurs                422  an event that index cannot read
    │   ├── QueryLimit             422  a query that needs more time, memory or rows than allowed
    │   └── BadRows                422  rows that ClickHouse refuses; index turns them into dead letters
    └── Transient                  the same input may work later: 503 with Retry-After
        ├── Overloaded
        ├── KafkaUnavailable
        └── ClickHouseUnavailable

Every class knows its HTTP status. The message is for the caller: it names the input at fault and holds no secret.
"""

from __future__ import annotations


class TorporError(Exception):
    """Base of all errors that a caller may see."""

    status = 500
    title = "internal error"


class Permanent(TorporError):
    """The same input will always fail."""

    status = 400
    title = "bad request"


class BadRequest(Permanent):
    """The request is malformed; `fields` maps the field at fault to what is wrong with it."""

    def __init__(self, message: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields = fields or {}


class NotFound(Permanent):
    """There is nothing under this address."""

    status = 404
    title = "not found"


class MethodNotAllowed(Permanent):
    """The address is right and the method is not; `allow` lists those that are, where they are known."""

    status = 405
    title = "method not allowed"

    def __init__(self, message: str, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class TooLarge(Permanent):
    """The request is over a limit of size."""

    status = 413
    title = "content too large"


class UnsupportedMediaType(Permanent):
    """The content type or encoding is not one that ingest reads."""

    status = 415
    title = "unsupported media type"


class NotOurs(Permanent):
    """An event that index cannot own. KafkaSource does not retry 422 and sends it to the dead-letter sink."""

    status = 422
    title = "not an event of this pipeline"


class QueryLimit(Permanent):
    """A query ran into a limit of time, memory or rows."""

    status = 422
    title = "query limit reached"


class BadRows(Permanent):
    """ClickHouse refuses the rows and always will; `code` is ClickHouse's error code."""

    status = 422
    title = "rows refused"

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Transient(TorporError):
    """The same input may work later; `retry_after` is in seconds."""

    status = 503
    title = "not now"
    retry_after = 1


class Overloaded(Transient):
    """As much is in flight as memory allows."""

    title = "overloaded"


class KafkaUnavailable(Transient):
    """Kafka did not acknowledge in time."""

    title = "kafka unavailable"
    retry_after = 2


class ClickHouseUnavailable(Transient):
    """ClickHouse did not answer, or cannot take the request now."""

    title = "clickhouse unavailable"
    retry_after = 2
