"""ArrayRecord files as a source, through array_record's own reader.

First step of the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A record is a
serialized tf.train.Example:

| feature | type | what it is |
|---|---|---|
| image/encoded, or image | one bytes | the file of the image, not decoded |
| image/labels, labels or label (optional) | bytes or int64, any number | its classes by name, or by number from 0 |
| image/caption, or caption (optional) | one bytes | a text that describes it, UTF-8 |

Where records have labels, a `labels.txt` beside the files names the classes, one a line.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from google.protobuf.message import DecodeError

from train.sources.example import LABELS_FILE, Classes, Example, read_labels_files

IMAGE = ("image/encoded", "image")
LABELS = ("image/labels", "labels", "label")
CAPTION = ("image/caption", "caption")


class RecordSource:
    """The records of some ArrayRecord files, one file after the other."""

    where_labels = f"a feature {LABELS[0]} in each record, and a {LABELS_FILE} beside the files"

    def __init__(self, paths: Sequence[Path]) -> None:
        """Reads the files' footers and the first record.

        Raises:
            ValueError: a file is not ArrayRecord, there is no record, or records have labels and labels.txt is missing.
        """
        self._classes = Classes(read_labels_files(paths) or ())
        self.labels = self._classes.names
        self._paths = list(paths)
        with ThreadPoolExecutor() as pool:
            counts = list(pool.map(_count, paths))
        self._ends = np.cumsum(counts)
        if not len(self):
            raise ValueError(f"{paths[0]}{' and the others' if paths[1:] else ''}: there are no records in it")
        # With its range in the name a file need not be opened again to be counted.
        self._records = ArrayRecordDataSource(
            [f"{path}[0:{count}]" for path, count in zip(paths, counts, strict=True) if count]
        )
        if not self.labels and _values(self._parsed(0), LABELS):
            raise ValueError(
                f"the records of {paths[0]} have labels, but {paths[0].parent / LABELS_FILE} is missing; write it, "
                "the name of one class a line, in the order of the classes' numbers"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        features = self._parsed(index)
        images = _values(features, IMAGE)
        if len(images) != 1 or not isinstance(images[0], bytes):
            raise ValueError(f"{self.name(index)} has no feature {' or '.join(IMAGE)} with one bytes value")
        try:
            labels = tuple(self._classes.name(_label(value)) for value in _values(features, LABELS))
            caption = _caption(_values(features, CAPTION))
        except ValueError as error:
            raise ValueError(f"{self.name(index)}: {error}") from error
        return Example(self.name(index), images[0], labels, caption)

    def name(self, index: int) -> str:
        """The file's path, and the number of the record in it."""
        file = int(np.searchsorted(self._ends, index, side="right"))
        return f"{self._paths[file]}, record {index - (self._ends[file - 1] if file else 0)}"

    def _parsed(self, index: int) -> Any:
        try:
            return tf.train.Example.FromString(self._records[index]).features.feature
        except (RuntimeError, DecodeError) as error:  # of the reader, of the record
            raise ValueError(f"{self.name(index)} cannot be read as a tf.train.Example: {error}") from error


def write_records(path: Path, examples: Iterable[Example]) -> None:
    """Writes an ArrayRecord file as RecordSource reads it, labels by name; labels.txt is the caller's to write."""
    # One record a group: a reader unpacks a whole group to get at one of it.
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for example in examples:
        values = {IMAGE[0]: [example.image_bytes], LABELS[0]: [label.encode() for label in example.labels]}
        if example.caption is not None:
            values[CAPTION[0]] = [example.caption.encode()]
        record = tf.train.Example()
        for name, value in values.items():
            record.features.feature[name].bytes_list.value.extend(value)
        writer.write(record.SerializeToString())
    writer.close()


def _count(path: Path) -> int:
    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()
    except RuntimeError as error:
        raise ValueError(f"{path} is not an ArrayRecord file, or damaged: {error}") from error
    return count


def _values(features: Any, names: Sequence[str]) -> list[Any]:
    for name in names:
        if name in features and (kind := features[name].WhichOneof("kind")):
            return list(getattr(features[name], kind).value)
    return []


def _label(value: bytes | int | float) -> str | int:
    if isinstance(value, float):
        raise ValueError(f"its label {value} is a float; expected bytes, a name, or int64, a number")
    return value.decode() if isinstance(value, bytes) else value


def _caption(values: list[Any]) -> str | None:
    if not values:
        return None
    if len(values) > 1 or not isinstance(values[0], bytes):
        raise ValueError(f"its feature {' or '.join(CAPTION)} is not one bytes value")
    return values[0].decode()
