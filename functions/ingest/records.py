"""What the decoders give: records, each with its number, and in the place of one that cannot be read the reason."""

from __future__ import annotations

from collections.abc import Iterable

from functions.common.record import Incoming


class Rejected(Exception):
    """A record that is not taken: the field at fault, or None for the whole, and what is wrong with it."""

    def __init__(self, field: str | None, error: str) -> None:
        super().__init__(error)
        self.field = field


Numbered = Iterable[tuple[int, Incoming | Rejected]]
"""Records, each with its line, or its place in the request, counted from 1. Most decoders make them one at a time."""
