"""The fields of a serialised message, found without parsing it.

Under predict_wire.py and tensor_wire.py in the server. A message is a row of fields, each a tag and a value:
https://protobuf.dev/programming-guides/encoding/. What is read here is the plain part of that, which every client
writes; whoever meets anything else has to leave the message to protobuf's parser, which knows what is valid.
"""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, LENGTH_DELIMITED = 0, 2
_LAST_ONE_BYTE_TAG = 0x7F
_MAX_VARINT_BYTES = 5  # a length has 31 bits; what else is read here, fewer


class UnusualError(Exception):
    """The bytes are not what every client writes; protobuf's parser has to say what they mean."""


class Field(NamedTuple):
    """A field: its number, and either the place of its bytes or its value."""

    number: int
    start: int
    end: int
    value: int = 0

    @property
    def is_varint(self) -> bool:
        """Whether it is a number, in `value`."""
        return self.start == self.end == -1


def fields(content: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields between two places.

    Raises:
        UnusualError: a tag of more than one byte, a wire type other than those above, or a length beyond the end.
    """
    at = start
    while at < end:
        tag = content[at]
        number, kind = tag >> 3, tag & 7
        if tag > _LAST_ONE_BYTE_TAG or not number:
            raise UnusualError
        value, at = _varint(content, at + 1, end)
        if kind == VARINT:
            yield Field(number, -1, -1, value)
        elif kind == LENGTH_DELIMITED and at + value <= end:
            yield Field(number, at, at + value)
            at += value
        else:
            raise UnusualError


def header(number: int, length: int) -> bytes:
    """What stands before a length-delimited field, whose number is at most 15."""
    return bytes((number << 3 | LENGTH_DELIMITED,)) + varint(length)


def varint(value: int) -> bytes:
    """A number that is not negative, as its field's value."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if at >= end:
            break
        group = content[at]
        at += 1
        value |= (group & 0x7F) << shift
        if group <= 0x7F:
            return value, at
    raise UnusualError
