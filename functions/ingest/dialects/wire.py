"""Protobuf messages taken apart into their fields (Protocol Buffers, "Encoding"), so that each is parsed by itself.

The library parses a message as a whole. It makes a hundred bytes and more of an empty message within it, which came in
two, and takes a message with one bad text for bad altogether.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from functions.common.errors import TooLarge
from functions.common.identity import MAX_RECORDS

SMALL = 1024 * 1024
"""Bytes up to which a message may be parsed as a whole, which is quicker: it grows to fifty times that at most."""
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_SIZES = {_EIGHT: 8, _FOUR: 4}
_MAX_VARINT = 10


def parts(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field that has a length, texts and messages, in their order.

    Raises DecodeError, at the field where it is found, if the bytes are no message. Groups are not read.
    """
    place, end = 0, len(message)
    while place < end:
        tag, place = _varint(message, place)
        kind = tag & 7
        if not 8 <= tag < 1 << 32:
            raise DecodeError("a field without a number")
        if kind == _LENGTH:
            size, start = _varint(message, place)
            place = start + size
            if place <= end:
                yield tag >> 3, message[start:place]
        elif kind == _VARINT:
            place = _varint(message, place)[1]
        elif kind in _SIZES:
            place += _SIZES[kind]
        else:
            raise DecodeError("a group")
    if place > end:
        raise DecodeError("cut off")


def split(message: bytes) -> tuple[list[bytes], list[bytes]]:
    """The contents of the fields 1 and 2, which hold the messages that make up a request in most protocols.

    Raises DecodeError if the bytes are no message, TooLarge if there are more than a request may hold records.
    """
    fields: tuple[list[bytes], list[bytes]] = ([], [])
    for number, part in parts(message):
        if number <= len(fields):
            fields[number - 1].append(part)
            if len(fields[number - 1]) >= MAX_RECORDS:
                raise TooLarge(f"the request has more than {MAX_RECORDS - 1} records or groups of them")
    return fields


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and where it ends."""
    digits = message[place : place + _MAX_VARINT]
    if digits and digits[0] < 128:  # most are of one
        return digits[0], place + 1
    value = 0
    for shift, byte in enumerate(digits):
        value |= (byte & 127) << 7 * shift
        if byte < 128 and value < 1 << 64:
            return value, place + shift + 1
    raise DecodeError("a number without an end")
