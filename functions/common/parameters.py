"""From a request's parameters, of the URL or of a JSON body, to a Filter. Bad ones raise BadRequest by their name."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from functions.common import timestamps
from functions.common.errors import BadRequest
from functions.common.record import LEVEL_ALIASES, LEVELS
from functions.common.search import Cursor, Filter

DEFAULT_RANGE = 24 * 3600 * timestamps.NANOSECONDS
METADATA = "metadata."
MAX_SEARCH = 1000
MAX_VALUES = 100


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _no_other(value: Any) -> Any:
    # Else the fault would be told once for each type that a time may have, and `true` would be a second.
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError("a time is a text or a number")
    return value


Several = Annotated[
    list[Annotated[str, Field(max_length=255)]], BeforeValidator(_as_list), Field(max_length=MAX_VALUES)
]
Moment = Annotated[str | int | float | None, BeforeValidator(_no_other), Field(examples=["2026-01-31T12:00:00Z"])]


class SearchParameters(BaseModel):
    """What every search may say. Times are RFC 3339, a number of s, ms, us or ns since 1970, or `-15m` before now."""

    model_config = ConfigDict(extra="forbid")

    start_time: Annotated[
        Moment,
        Field(description="First moment, inclusive; by default 24 hours before the end", examples=["-1h"]),
    ] = None
    end_time: Annotated[Moment, Field(description="Last moment, exclusive; by default now")] = None
    service: Annotated[Several, Field(description="Name of the service; repeat it for several")] = []
    level: Annotated[
        Several,
        Field(description=f"{', '.join(LEVELS)} or an alias; repeat it, or separate by commas, for several"),
    ] = []
    search: Annotated[
        str,
        Field(description="Words that the message must all hold, in any order and case", max_length=MAX_SEARCH),
    ] = ""
    trace_id: Annotated[str, Field(description="Trace id", max_length=128)] = ""
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=1000)], Several],
        Field(description="Values that entries of the metadata must equal", max_length=MAX_VALUES),
    ] = {}

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, values: Any) -> Any:
        """Let `metadata.<key>` stand beside the other names in a JSON body, as it does in a URL."""
        if not isinstance(values, dict):
            return values
        dotted = {name: value for name, value in values.items() if str(name).startswith(METADATA)}
        if not dotted or not isinstance(values.get("metadata", {}), dict):
            return values
        metadata = {name.removeprefix(METADATA): value for name, value in dotted.items()}
        plain = {name: value for name, value in values.items() if name not in dotted}
        return {**plain, "metadata": {**values.get("metadata", {}), **metadata}}


def gather(items: list[tuple[str, str]]) -> dict[str, Any]:
    """Parameters of a URL as one mapping for a model: those that may stand several times become lists.

    Raises BadRequest if any other is given twice.
    """
    values: dict[str, Any] = {}
    for name, value in items:
        if name.startswith(METADATA) or name in ("service", "level"):
            values.setdefault(name, []).append(value)
        elif name == "metadata":
            raise BadRequest("bad parameter", {name: "write metadata.<key>=<value>"})
        elif name in values:
            raise BadRequest("bad parameter", {name: "given more than once"})
        else:
            values[name] = value
    return values


def to_filter(parameters: SearchParameters, tenant: str, cursor: Cursor | None = None) -> Filter:
    """The filter that the parameters mean for `tenant`; a cursor brings its own range."""
    start, end = (cursor.start, cursor.end) if cursor else _range(parameters)
    search = parameters.search
    if search and not re.search(r"[^\W_]", search):
        raise BadRequest("bad parameter", {"search": "there is no word in it; a word is made of letters and digits"})
    return Filter(
        tenant=tenant,
        start=start,
        end=end,
        services=parameters.service,
        levels=_levels(parameters.level),
        search=search,
        trace_id=parameters.trace_id,
        metadata=parameters.metadata,
    )


def interval_seconds(text: str) -> int:
    """Seconds of an interval such as 30s, 5m, 1h or 1d."""
    try:
        seconds = timestamps.duration({"minute": "1m", "hour": "1h", "day": "1d"}.get(text, text))
    except ValueError as error:
        raise BadRequest("bad parameter", {"interval": str(error)}) from None
    if not seconds:
        raise BadRequest("bad parameter", {"interval": "longer than nothing, such as 5m"})
    return seconds


def _range(parameters: SearchParameters) -> tuple[int, int]:
    now = timestamps.now()
    end = now if parameters.end_time is None else _moment("end_time", parameters.end_time, now)
    start = end - DEFAULT_RANGE
    if parameters.start_time is not None:
        start = _moment("start_time", parameters.start_time, now)
    if start >= end:
        raise BadRequest("bad parameter", {"start_time": "not before end_time"})
    return max(start, 0), end


def _moment(name: str, value: str | int | float, now: int) -> int:
    try:
        moment = timestamps.parse_or_ago(value, now)
    except ValueError as error:
        raise BadRequest("bad parameter", {name: str(error)}) from None
    if not 0 <= moment < 1 << 63:
        raise BadRequest("bad parameter", {name: "outside the years 1970 to 2262"})
    return moment


def _levels(names: list[str]) -> list[str]:
    levels = []
    for name in (part.strip() for text in names for part in text.split(",")):
        if (level := LEVEL_ALIASES.get(name.lower())) is None:
            raise BadRequest("bad parameter", {"level": f"{name!r} is not one of {', '.join(LEVELS)}"})
        levels.append(level)
    return levels
