"""How a log of OpenTelemetry becomes a record, whatever its encoding (OpenTelemetry, "Logs Data Model").

The resource's service.name is the service, log.record.uid the id; other attributes are metadata under their names. Of
two with one name, the log's keeps it, and the scope's or the resource's goes under scope.NAME or resource.NAME; a field
of the log whose name an attribute has goes under log.NAME.
"""

from __future__ import annotations

from collections.abc import Mapping

from functions.common.record import LEVEL_ALIASES, LEVELS, UNKNOWN_SERVICE
from functions.ingest.records import note

SERVICE = "service.name"
ID = "log.record.uid"
_STEP = 4  # severity numbers a level has, from 1 on


def real(number: float) -> float | str:
    """A number as JSON has it. Those that it has not go by protobuf's names for them."""
    return number if number - number == 0 else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(number), "NaN")


def level(number: int, text: str, metadata: dict[str, str]) -> str:
    """The level of a severity. What the level does not tell is noted in `metadata`."""
    if not 1 <= number <= len(LEVELS) * _STEP:
        if number:
            note(metadata, "severity_number", str(number))
        return text or "INFO"
    name = LEVELS[(number - 1) // _STEP]
    if number % _STEP != 1:
        note(metadata, "severity_number", str(number))
    if text and text != name and LEVEL_ALIASES.get(text.lower()) != name:
        note(metadata, "severity_text", text)
    return name


class Surroundings:
    """What the logs of a scope share: their service, and the attributes of resource and scope."""

    def __init__(self, resource: Mapping[str, str], name: str, version: str, scope: Mapping[str, str]) -> None:
        self._resource = dict(resource)
        self.service = self._resource.pop(SERVICE, "") or UNKNOWN_SERVICE
        # OpenTelemetry's names for a scope where a format has no place for it.
        self._scope = dict(scope)
        for key, text in (("otel.scope.name", name), ("otel.scope.version", version)):
            if text:
                note(self._scope, key, text, "scope")
        self._shared = {**self._resource, **self._scope}
        self._count = len(self._resource) + len(self._scope)

    def around(self, own: dict[str, str]) -> dict[str, str]:
        """The metadata of a log with attributes of its `own`."""
        metadata = {**self._shared, **own}
        if len(metadata) < self._count + len(own):
            for name, text in self._scope.items():
                if name in own:
                    note(metadata, f"scope.{name}", text, "scope")
            for name, text in self._resource.items():
                if name in own or name in self._scope:
                    note(metadata, f"resource.{name}", text, "resource")
        return metadata
