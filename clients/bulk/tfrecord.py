"""TFRecord files without TensorFlow: their records, and the bytes features of a tf.train.Example.

One of the inputs of clients/bulk_embed.py, beside the walk SavedModel -> server -> client. The format is TensorFlow's
(tensorflow/core/lib/io/record_writer.h): length (8 bytes), its checksum (4), the record, its checksum (4), all
little-endian; a checksum is a CRC-32C, rotated and offset.
"""

import dataclasses
import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import google_crc32c
from apache_beam.io.filesystems import FileSystems
from google.protobuf.message import DecodeError

from clients.bulk import example_pb2
from clients.bulk.items import Item, Span, items_of, text_name
from clients.bulk.job import Settings

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_OFFSET = 0xA282EAD8


def items(path: str, span: Span, settings: Settings) -> Iterator[Item]:
    """The records of a file, gzip by its suffix or not, that a span has.

    Raises:
        OSError: it cannot be read.
    """

    def item(index: int, record: bytes) -> Item:
        return _item(Item(index, f"{path}, record {index}"), record, settings)

    with FileSystems.open(path) as file:
        yield from itertools.islice(items_of(records(file), item, f"{path}, from record"), *span)


def columns(path: str) -> dict[str, bool] | None:
    """Names of the features of a file's first record, and whether each is bytes; None where it has no record.

    Raises:
        ValueError: it is no file of tf.train.Example.
        OSError: it cannot be read.
    """
    with FileSystems.open(path) as file:
        try:
            record = next(records(file), None)
            return None if record is None else {name: bool(values) for name, values in features(record).items()}
        except ValueError as error:
            raise ValueError(f"{path} is no TFRecord file of tf.train.Example: {error}") from error


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
        example = example_pb2.Example.FromString(record)
    except DecodeError as error:
        raise ValueError("the record is no tf.train.Example") from error
    return {name: feature.bytes_list.value for name, feature in example.features.feature.items()}


def _item(found: Item, record: bytes, settings: Settings) -> Item:
    try:
        held = features(record)
    except ValueError as error:
        return found.without(str(error))
    if names := held.get(settings.key_column):
        found = dataclasses.replace(found, name=text_name(names[0]) or found.name)
    images = held.get(settings.column, ())
    if len(images) == 1 and images[0]:
        return dataclasses.replace(found, image=images[0])
    return found.without(f"the feature {settings.column} has {len(images)} values in bytes; expected one")


def _check(content: bytes, expected: int, what: str) -> None:
    plain = google_crc32c.value(content)
    if ((plain >> 15 | plain << 17) + _OFFSET) & 0xFFFFFFFF != expected:
        raise ValueError(f"{what} does not have the checksum that stands beside it")
