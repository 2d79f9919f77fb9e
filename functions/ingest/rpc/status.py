"""Errors as google.rpc.Status, the form that gRPC and OTLP share."""

from __future__ import annotations

import logging

from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

from functions.common.errors import Overloaded, Permanent, Transient
from functions.ingest.normalise import Outcome

log = logging.getLogger(__name__)

_DETAIL_BYTES = 4000
"""Bytes of details: a status goes into the trailer of a call, and clients take 8 KiB of those."""


def of_error(error: Exception) -> Status:
    """The status of a request of which nothing was taken.

    What may be retried says by RetryInfo when. What is not ours is logged and told without its text, as UNAVAILABLE:
    after INTERNAL a client of OTLP throws its logs away.
    """
    if isinstance(error, Permanent):
        return Status(code=code_pb2.INVALID_ARGUMENT, message=str(error))
    if not isinstance(error, Transient):
        log.error("unhandled error", exc_info=error)
        error = Transient("this is a fault of the server; its log says more")
    code = code_pb2.RESOURCE_EXHAUSTED if isinstance(error, Overloaded) else code_pb2.UNAVAILABLE
    status = Status(code=code, message=str(error))
    delay = duration_pb2.Duration(seconds=error.retry_after)
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def of_rejected(outcome: Outcome, path: str) -> Status:
    """The status of a request whose every record was rejected, naming the first of them.

    `path` is the name of its list of records.
    """
    bad = error_details_pb2.BadRequest()
    for error in outcome.errors:
        # Counted from 1, as the definition of FieldViolation has it.
        field = f"{path}[{error.line}]" + (f".{error.field}" if error.field else "")
        bad.field_violations.add(field=field, description=error.error)
        if bad.ByteSize() > _DETAIL_BYTES:
            del bad.field_violations[-1]
            break
    status = Status(code=code_pb2.INVALID_ARGUMENT, message=f"no record was accepted; {summary(outcome)}")
    status.details.add().Pack(bad)
    return status


def summary(outcome: Outcome) -> str:
    """How many records were rejected, and what is wrong with the first."""
    if not outcome.rejected:
        return ""
    first = outcome.errors[0]
    place = f"record {first.line}, {first.field}" if first.field else f"record {first.line}"
    return f"{outcome.rejected} of {outcome.accepted + outcome.rejected} rejected; {place}: {first.error}"
