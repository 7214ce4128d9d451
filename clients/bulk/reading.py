"""Reads a bulk job's items, and the images that lie by themselves, a few at once.

Second step of clients/bulk_embed.py, in the workers, beside the walk SavedModel -> server -> client. A file that is
missing is a fault of its image; that a file system fails is none, and raises.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from apache_beam.io.filesystems import FileSystems

from clients.bulk import storage
from clients.bulk.items import Item, Span
from clients.bulk.job import BulkError, Settings
from clients.bulk.kinds import FORMS
from vit22b.sources import WEB, named

# Where a ValueError is of the machine: a module or a setting is missing.
_STORES = frozenset({"azfs", "gs", "hdfs", "s3"})


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
    """The items of a file that a span has, in order.

    Raises:
        BulkError: a file without the column asked for, or an address on the web where none is allowed.
        OSError: a file system that fails.
    """
    waiting: deque[Future[Item]] = deque()
    pool = ThreadPoolExecutor(reading.readers)
    try:
        for item in FORMS[settings.kind].items(path, span, settings):
            if not item.uri and not waiting:
                yield item
                continue
            waiting.append(pool.submit(_fetch, item, reading))
            if len(waiting) > 2 * reading.readers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(item: Item, reading: Reading) -> Item:
    if item.uri.startswith(WEB):
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
        image = storage.read(item.uri)
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
