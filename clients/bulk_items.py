"""The items of a source: images by name, in order, read as they are wanted.

Second step of clients/bulk_embed.py, in the workers, beside the walk SavedModel -> server -> client. An item whose
image cannot be had is given with the reason. So is the rest of a file that is damaged; that a file system fails is no
fault of an image, and raises.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from clients import bulk_storage, bulk_tars, bulk_tfrecord
from clients.bulk_job import BulkError, Settings
from vit22b.sources import named

_RAW = CompressionTypes.UNCOMPRESSED
_WEB = ("http://", "https://")
_ROWS = 64  # of a Parquet file that are held at once; they may have images in them
_STORES = frozenset(
    {"azfs", "gs", "hdfs", "s3"}
)  # where a ValueError is of the machine: a module or a setting is missing

Span = tuple[int, int | None]


@dataclasses.dataclass(frozen=True)
class Item:
    """An image, or what is known of it.

    Attributes:
        index: its place in its source.
        name: unique as far as the input makes it so.
        image: the bytes of its file; empty where it could not be had.
        uri: where it lies, if it lies by itself.
        reason: why there is no image.
    """

    index: int
    name: str
    image: bytes = b""
    uri: str = ""
    reason: str = ""

    def without(self, reason: str) -> Self:
        """The item, without its image."""
        return dataclasses.replace(self, image=b"", reason=reason)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are read that lie by themselves.

    Attributes:
        readers: how many at once, in a worker.
        allow_urls: fetch those whose URI begins with http:// or https://, too.
    """

    readers: int = 8
    allow_urls: bool = False

    def __post_init__(self) -> None:
        if self.readers < 1:
            raise ValueError(f"readers is {self.readers}; expected at least 1")


def read_items(path: str, span: Span, settings: Settings, reading: Reading) -> Iterator[Item]:
    """The items of a file from the first number of the span to before the second, None for its end, in order.

    Raises:
        BulkError: a file without the column asked for, or an address on the web where none is allowed.
        OSError: a file system that fails.
    """
    if settings.kind == "webdataset":
        return itertools.islice(_tar_items(path), *span)
    if settings.kind == "tfrecord":
        return itertools.islice(_record_items(path, settings), *span)
    return _fetched(_rows(path, span, settings), reading)


def _tar_items(path: str) -> Iterator[Item]:
    with FileSystems.open(path, compression_type=_RAW) as file:
        for index, sample in _until_damage(bulk_tars.samples(file, path)):
            if isinstance(sample, str):
                yield Item(index, f"{path}, from sample {index} on", reason=sample)
                return
            item = Item(index, f"{path}/{sample['__key__']}")
            images = sorted(bulk_tars.IMAGES & sample.keys())
            if len(images) == 1 and sample[images[0]] is None:
                yield item.without(f"its {images[0]} is a link to another file; expected the image itself")
            elif len(images) == 1:
                yield dataclasses.replace(item, image=sample[images[0]])
            else:
                held = ", ".join(sorted(name for name in sample if not name.startswith("__"))) or "nothing"
                yield item.without(f"the sample has {len(images)} images; expected one, it has {held}")


def _record_items(path: str, settings: Settings) -> Iterator[Item]:
    with FileSystems.open(path) as file:
        for index, record in _until_damage(bulk_tfrecord.records(file)):
            if isinstance(record, str):
                yield Item(index, f"{path}, from record {index} on", reason=record)
                return
            item = Item(index, f"{path}, record {index}")
            try:
                features = bulk_tfrecord.features(record)
            except ValueError as error:
                yield item.without(str(error))
                continue
            if keys := features.get(settings.key_column):
                item = dataclasses.replace(item, name=keys[0].decode("utf-8", "backslashreplace"))
            images = features.get(settings.column, ())
            if len(images) == 1 and images[0]:
                yield dataclasses.replace(item, image=images[0])
            else:
                yield item.without(f"the feature {settings.column} has {len(images)} values in bytes; expected one")


def _until_damage(parts: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    """The parts of a file with their numbers; where it is damaged, last, a text that says so."""
    index = 0
    while True:
        try:
            part = next(parts)
        except StopIteration:
            return
        except bulk_tars.DAMAGE as error:
            yield index, f"the file is damaged, and what follows is left out: {_said(error)}"
            return
        yield index, part
        index += 1


def _said(error: Exception) -> str:
    # webdataset appends arguments to the error.
    return str(error.args[0] if error.args else type(error).__name__)


def _rows(path: str, span: Span, settings: Settings) -> Iterator[Item]:
    """Rows of a Parquet file: with the image, or with the URI of it."""
    column, key = settings.column, settings.key_column
    folder = FileSystems.split(path)[0]
    with FileSystems.open(path, compression_type=_RAW) as opened:
        # Arrow's own threads would call the file, which is Python's: interrupted there, the program could not end.
        file = pq.ParquetFile(opened, pre_buffer=False)
        missing = {column, *([key] if key else [])} - set(file.schema_arrow.names)
        if missing:
            raise BulkError(f"{path} has no column {', '.join(sorted(missing))}, which other files of the input have")
        for index, row in _range(file, [column, *([key] if key else [])], span):
            found = row[column]
            if isinstance(found, dict):  # as Hugging Face's data sets store an image
                found = found.get("bytes") or found.get("path")
            uri = _resolved(found, folder) if isinstance(found, str) and found else ""
            name = str(row[key]) if key else uri or f"{path}, row {index}"
            image = found if isinstance(found, bytes) else b""
            yield Item(index, name, image, uri, "" if image or uri else f"the row has nothing in {column}")


def _range(file: pq.ParquetFile, columns: list[str], span: Span) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a span with their numbers; row groups outside of it are not read."""
    start, stop = span
    stop = file.metadata.num_rows if stop is None else stop
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    ends = np.cumsum(sizes)
    groups = [group for group, end in enumerate(ends) if end > start and end - sizes[group] < stop]
    index = int(ends[groups[0]]) - sizes[groups[0]] if groups else 0
    for batch in file.iter_batches(_ROWS, groups, columns, use_threads=False):
        skipped = min(max(start - index, 0), len(batch))
        index += skipped
        for row in pa.Table.from_batches([batch]).slice(skipped, max(stop - index, 0)).to_pylist():
            yield index, row
            index += 1


def _resolved(uri: str, folder: str) -> str:
    """A path in a Parquet file counts from the folder that the file lies in."""
    if "://" in uri or uri.startswith("/"):
        return uri
    return FileSystems.join(folder, uri)


def _fetched(items: Iterator[Item], reading: Reading) -> Iterator[Item]:
    """The items, those with a URI read, a few ahead of the one that is wanted."""
    waiting: deque[Any] = deque()
    pool = ThreadPoolExecutor(reading.readers)
    try:
        for item in items:
            waiting.append(pool.submit(_fetch, item, reading))
            if len(waiting) > 2 * reading.readers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(item: Item, reading: Reading) -> Item:
    if item.uri.startswith(_WEB):
        return _download(item, reading)
    return _read(item) if item.uri else item


def _download(item: Item, reading: Reading) -> Item:
    if not reading.allow_urls:
        raise BulkError(f"the image {item.name} is the address {item.uri}; say --allow_urls to have it fetched")
    try:
        return dataclasses.replace(item, image=named(item.index, item.uri, allow_urls=True).read())
    except OSError as error:
        # Of addresses on the web some are always gone, and a job is not to end with them.
        return item.without(f"cannot be fetched: {error.strerror or error}")


def _read(item: Item) -> Item:
    try:
        image = bulk_storage.read(item.uri)
    except ValueError as error:
        # A name that no file can have, or a scheme that Beam does not know.
        if FileSystems.get_scheme(item.uri) in _STORES:
            raise
        return item.without(f"cannot be read: {error}")
    except OSError as error:
        there = FileSystems.exists(item.uri)
        if there and not isinstance(error, IsADirectoryError | PermissionError):
            raise
        return item.without(f"cannot be read: {error.strerror if there else 'there is no such file'}")
    return dataclasses.replace(item, image=image) if image else item.without("the file is empty")
