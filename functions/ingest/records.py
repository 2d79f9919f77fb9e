"""What the decoders give: records, each with its number, and in the place of one that cannot be read the reason."""

from __future__ import annotations

from collections.abc import Iterable

from functions.common.errors import TooLarge
from functions.common.event import MAX_DATA_BYTES
from functions.common.identity import MAX_RECORDS
from functions.common.record import Incoming

MAX_RECORD_BYTES = 4 * MAX_DATA_BYTES
"""No record as large makes a row, however it is written, and to take it apart would need much memory."""
MAX_COMMAS = 2 * MAX_RECORDS


class Rejected(Exception):
    """A record that is not taken: the field at fault, or None for the whole, and what is wrong with it."""

    def __init__(self, field: str | None, error: str) -> None:
        super().__init__(error)
        self.field = field


Numbered = Iterable[tuple[int, Incoming | Rejected]]
"""Records, each with its line, or its place in the request, counted from 1. Most decoders make them one at a time."""


def check_size(data: bytes, field: str | None = None) -> None:
    """Raise Rejected if a record, or its `field`, is as large as no row can be."""
    if len(data) > MAX_RECORD_BYTES:
        raise Rejected(field, f"{len(data)} bytes; the limit is {MAX_RECORD_BYTES}")


def check_commas(body: bytes) -> None:
    """Raise TooLarge for JSON that may hold very many items: all become objects before the first of them is read."""
    if body.count(b",") > MAX_COMMAS:
        raise TooLarge(f"the JSON has more than {MAX_COMMAS} commas; send it in smaller parts")


def note(metadata: dict[str, str], name: str, text: str, of: str = "log") -> None:
    """Put `text` into `metadata` under `name`, or under OF.NAME if another text has the name: nothing is lost."""
    while metadata.setdefault(name, text) != text:
        name = f"{of}.{name}"
