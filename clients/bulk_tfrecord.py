"""TFRecord files without TensorFlow: their records, and the bytes features of a tf.train.Example.

One of the inputs of clients/bulk_embed.py, beside the walk SavedModel -> server -> client. The format is TensorFlow's
(tensorflow/core/lib/io/record_writer.h): length (8 bytes), its checksum (4), the record, its checksum (4), all
little-endian; a checksum is a CRC-32C, rotated and offset.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import google_crc32c
from google.protobuf.message import DecodeError

from clients import bulk_example_pb2

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_OFFSET = 0xA282EAD8


def records(file: BinaryIO) -> Iterator[bytes]:
    """The records of a file, in order.

    Raises:
        ValueError: it is no TFRecord file, or damaged; the records before that have been given.
    """
    number = 0
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise ValueError(f"it ends within the header of record {number}")
        length, checksum = _HEADER.unpack(header)
        _check(header[:8], checksum, f"the length of record {number}")
        record = file.read(length)
        tail = file.read(_CHECKSUM.size)
        if len(record) < length or len(tail) < _CHECKSUM.size:
            raise ValueError(f"it ends within record {number}")
        _check(record, _CHECKSUM.unpack(tail)[0], f"record {number}")
        yield record
        number += 1


def features(record: bytes) -> Mapping[str, Sequence[bytes]]:
    """The features of a tf.train.Example that are bytes, by name; others are there and empty.

    Raises:
        ValueError: it is no tf.train.Example.
    """
    try:
        example = bulk_example_pb2.Example.FromString(record)
    except DecodeError as error:
        raise ValueError("the record is no tf.train.Example") from error
    return {name: feature.bytes_list.value for name, feature in example.features.feature.items()}


def _check(content: bytes, expected: int, what: str) -> None:
    plain = google_crc32c.value(content)
    if ((plain >> 15 | plain << 17) + _OFFSET) & 0xFFFFFFFF != expected:
        raise ValueError(f"{what} does not have the checksum that stands beside it")
