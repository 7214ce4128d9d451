"""Shards: a block's items embedded, and written so that they are there as a whole or not at all.

Third step of clients/bulk_embed.py, in the workers, beside the walk SavedModel -> server -> client. A shard is done
when its receipt is there, which is written last; until then it is made again, under the same names. What is in it
depends on the job alone: not on the worker, nor on how often the job was interrupted.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from clients import vector_files
from clients.bulk import storage
from clients.bulk.items import Item
from clients.bulk.job import Block, BulkError, Settings
from clients.bulk.reading import Reading, read_items
from clients.origin import Origin
from vit22b.embeddings import Embeddings
from vit22b.fields import from_fields

SHARDS, FAILURES, RECEIPTS = "shards", "failures", "receipts"


class Model(Protocol):
    """What embeds, served or loaded."""

    def embed(self, images: Iterator[bytes]) -> Iterator[Embeddings]:
        """Vectors of a stream of image files, in parts, in order; what cannot be decoded is left out and named."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a job's shards go, and what they have in common."""

    output: str
    fingerprint: str
    settings: Settings
    reading: Reading

    @property
    def origin(self) -> Origin:
        """What every file of vectors says of itself."""
        settings = self.settings
        return Origin(settings.space_id, settings.version, settings.dimensions, settings.encoding)

    def receipt_file(self, source: int, start: int) -> str:
        """Name of the receipt of the shard of a source that begins with an item."""
        return f"{RECEIPTS}/{self.fingerprint}-{source:05d}-{start:010d}.json"


@dataclasses.dataclass(frozen=True)
class Receipt:
    """A shard that is done.

    Attributes:
        source: number of the source that it is from.
        start, stop: the range of its items there.
        rows: how many have vectors.
        failures: how many have not.
        last: whether its source, or the part of it that a worker was given, ends with it.
        files: sha256 of each of its files, by name below the output.
    """

    source: int
    start: int
    stop: int
    rows: int
    failures: int
    last: bool
    files: dict[str, str]

    def to_json(self) -> str:
        """The receipt as a line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Reads what to_json has written."""
        return from_fields(cls, json.loads(text))


def complete(target: Target, block: Block, model: Model) -> Iterator[Receipt]:
    """The receipts of all shards of a block, in order; those that are not done yet are made.

    Raises:
        BulkError: as read_items says; or the model is not the job's any more.
        OSError: a file system that fails.
        VitError: no answer.
    """
    start = block.start
    for receipt in _done(target, block):
        yield receipt
        start = receipt.stop
        if receipt.last:
            return
    path = block.source.location(target.output)
    items = read_items(path, (start, block.stop), target.settings, target.reading)
    ahead = list(itertools.islice(items, 1))
    last = False
    # A source without items has one shard, which is empty.
    while not last:
        shard = _Shard(itertools.chain(ahead, itertools.islice(items, target.settings.shard_rows - len(ahead))))
        vectors = shard.embed(model, target.origin)
        ahead = list(itertools.islice(items, 1))
        last, stop = not ahead, start + shard.count
        yield _write(target, shard, vectors, (block.source.number, start, stop), last=last)
        start = stop


class _Shard:
    """The items of a shard on their way through a model."""

    def __init__(self, items: Iterator[Item]) -> None:
        self.count = 0
        self.names: list[str] = []
        self.failed: list[Item] = []
        self._items = items
        self._sent: list[Item] = []

    def embed(self, model: Model, origin: Origin) -> npt.NDArray[Any]:
        """The vectors of those that have one, in order, as `origin` says."""
        parts = [np.zeros((0, origin.width), origin.dtype)]
        for part in model.embed(self._images()):
            if Origin.of(part) != origin:
                raise BulkError(f"the model has answered as {Origin.of(part)}; the job's vectors are {origin}")
            parts.append(part.vectors)
            self.names.extend(self._sent[index].name for index in part.indices)
            self.failed.extend(self._sent[failure.index].without(failure.reason) for failure in part.failures)
        self.failed.sort(key=lambda item: item.index)
        return np.concatenate(parts)

    def _images(self) -> Iterator[bytes]:
        for item in self._items:
            self.count += 1
            if item.reason:
                self.failed.append(item)
            else:
                # Its name is wanted when the answer comes, its image no more.
                self._sent.append(item.without(""))
                yield item.image


def _done(target: Target, block: Block) -> Iterator[Receipt]:
    """The receipts of a block that are there, from its first shard on without a gap."""
    start = block.start
    while True:
        path = FileSystems.join(target.output, *target.receipt_file(block.source.number, start).split("/"))
        if not FileSystems.exists(path):
            return
        receipt = Receipt.from_json(storage.read(path))
        yield receipt
        if receipt.last:
            return
        start = receipt.stop


def _write(
    target: Target, shard: _Shard, vectors: npt.NDArray[Any], place: tuple[int, int, int], *, last: bool
) -> Receipt:
    source, start, stop = place
    name = f"{target.fingerprint}-{source:05d}-{start:010d}-{stop:010d}"
    contents = dict(_vector_files(f"{name}.{target.settings.format}", target.origin, shard.names, vectors))
    if shard.failed:
        contents[f"{FAILURES}/{name}.parquet"] = _failure_table(shard.failed)
    for file, content in contents.items():
        storage.write_whole(target.output, file, content)
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    receipt = Receipt(source, start, stop, len(vectors), len(shard.failed), last, sums)
    storage.write_whole(target.output, target.receipt_file(source, start), receipt.to_json().encode())
    return receipt


def _vector_files(
    name: str, origin: Origin, names: list[str], vectors: npt.NDArray[Any]
) -> Iterable[tuple[str, bytes]]:
    """The file of a shard, as clients/embed.py writes it; and of an .npy the names beside it."""
    with tempfile.TemporaryDirectory() as folder:
        vector_files.write(Path(folder, name), origin, len(names), [(names, vectors)])
        return [(f"{SHARDS}/{file.name}", file.read_bytes()) for file in sorted(Path(folder).iterdir())]


def _failure_table(items: list[Item]) -> bytes:
    """A dead-letter table: items of one shard and why they have no vector. Its URIs can be the input of another job."""
    texts = {
        field: pa.array([getattr(item, field).encode("utf-8", "backslashreplace").decode() for item in items], "string")
        for field in ("name", "uri", "reason")
    }
    table = pa.table({"index": pa.array([item.index for item in items], "int64"), **texts})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()
