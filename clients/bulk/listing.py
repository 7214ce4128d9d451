"""A folder of images as a bulk job reads it: a table of them, which is written into the job's output.

First step of clients/bulk_embed.py, and in the workers second, beside the walk SavedModel -> server -> client.
"""

import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import FileMetadata

from clients.bulk import storage, tables
from clients.bulk.items import Item, Span
from clients.bulk.job import Settings, Source

_URI, _NAME = "uri", "name"


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images that were found, in order: their URIs, and the names that they go by."""

    uris: tuple[str, ...]
    names: tuple[str, ...]
    digest: str

    @property
    def file(self) -> str:
        """Its name in the job's output, another one for every other listing."""
        return f"listing-{self.digest}.parquet"

    @property
    def source(self) -> Source:
        """The listing, as what a job reads."""
        return Source(0, self.file, 0, 0.0, len(self.uris))

    def write(self, output: str, shard_rows: int) -> None:
        """Writes it into the job's output; a row group is a shard, which a worker reads alone."""
        # Bytes, since a file's name may be no UTF-8.
        columns = {_URI: self.uris, _NAME: self.names}
        table = pa.table({name: pa.array(map(os.fsencode, texts), pa.binary()) for name, texts in columns.items()})
        file = io.BytesIO()
        pq.write_table(table, file, row_group_size=shard_rows)
        storage.write_whole(output, self.file, file.getvalue())


def list_images(files: Sequence[FileMetadata], patterns: Sequence[str]) -> Listing:
    """A listing of image files; named by the path below the folder where a single folder was given, else by the URI."""
    root = storage.absolute(patterns[0]) + "/" if len(patterns) == 1 else ""
    uris = tuple(file.path for file in files)
    names = tuple(uri.removeprefix(root) for uri in uris)
    # Sizes and times count, so that an image that was replaced makes another listing.
    state = [(file.path, file.size_in_bytes, file.last_updated_in_seconds) for file in files]
    return Listing(uris, names, hashlib.sha256(repr((names, state)).encode()).hexdigest()[:12])


def items(path: str, span: Span, settings: Settings) -> Iterator[Item]:
    """The images of a listing that a span has, still to be read.

    Raises:
        OSError: the listing cannot be read.
    """
    del settings
    for index, row in tables.rows(path, (_URI, _NAME), span):
        yield Item(index, os.fsdecode(row[_NAME]), uri=os.fsdecode(row[_URI]))
