"""What a bulk job reads: patterns become sources, and a folder of images becomes a listing.

First step of clients/bulk_embed.py, beside the walk SavedModel -> server -> client. Runs once, where the job is
submitted. The order is fixed here: the patterns' order, and of each the files sorted by path.
"""

import dataclasses
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems
from webdataset.shardlists import expand_urls

from clients import bulk_storage
from clients.bulk_job import Kind, Source
from vit22b.folder import IMAGE_SUFFIXES

# Columns of a listing.
URI, NAME = "uri", "name"
_FOOTERS = 16  # Parquet footers that are read at once


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
        table = pa.table({URI: pa.array(self.uris, pa.string()), NAME: pa.array(self.names, pa.string())})
        file = io.BytesIO()
        pq.write_table(table, file, row_group_size=shard_rows)
        bulk_storage.write_whole(output, self.file, file.getvalue())


def find(patterns: Sequence[str], kind: Kind | None) -> tuple[Kind, list[FileMetadata]]:
    """The files that the patterns name, and what they are by their names, unless `kind` says it.

    Args:
        patterns: files, folders, or patterns with `*`, `**`, `?`, `[...]` and, as webdataset has them, braces.
        kind: None to go by the names.

    Raises:
        ValueError: a pattern names nothing, or files of several kinds.
    """
    files: dict[str, FileMetadata] = {}
    for pattern in patterns:
        for part in expand_urls(pattern) if "{" in pattern else [pattern]:
            found = _matches(bulk_storage.absolute(part), kind)
            if not found:
                raise ValueError(f"{part} names no {kind or 'image'} file; give files, a folder, or a pattern")
            files.update((file.path, file) for file in found)
    if not files:
        raise ValueError("no input is given; name files or a folder by --input")
    kinds = {kind or kind_of(path): path for path in files}
    if None in kinds:
        raise ValueError(f"the name of {kinds[None]} does not say what it is; say it by --kind")
    if len(kinds) > 1:
        raise ValueError(f"the input has files of several kinds, {', '.join(sorted(kinds))}; give files of one")
    return next(iter(kinds)), list(files.values())


def kind_of(path: str) -> Kind | None:
    """What a file is, by its name; None for one that says nothing."""
    name = path.rpartition("/")[2].lower()
    if any(name.endswith(suffix) for suffix in IMAGE_SUFFIXES):
        return "images"
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return "webdataset"
    return "tfrecord" if ".tfrec" in name else None


def list_images(files: Sequence[FileMetadata], patterns: Sequence[str]) -> Listing:
    """A listing of image files; named by the path below the folder where a single folder was given, else by the URI."""
    root = bulk_storage.absolute(patterns[0]) + "/" if len(patterns) == 1 else ""
    uris = tuple(file.path for file in files)
    names = tuple(uri.removeprefix(root) for uri in uris)
    # Sizes and times count, so that an image that was replaced makes another listing.
    state = [(file.path, file.size_in_bytes, file.last_updated_in_seconds) for file in files]
    return Listing(
        uris, names, hashlib.sha256(repr((names, state)).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    )


def sources(files: Sequence[FileMetadata], kind: Kind) -> tuple[Source, ...]:
    """The files as sources; of Parquet files the footers are read, which have the numbers of rows.

    Raises:
        ValueError: a file is named as Parquet and is none.
    """
    rows: list[int | None] = [None] * len(files)
    if kind == "parquet":
        with ThreadPoolExecutor(_FOOTERS) as pool:
            rows = list(pool.map(_rows, [file.path for file in files]))
    return tuple(
        Source(number, file.path, file.size_in_bytes, file.last_updated_in_seconds, count)
        for number, (file, count) in enumerate(zip(files, rows, strict=True))
    )


def _matches(pattern: str, kind: Kind | None) -> list[FileMetadata]:
    """The files of a pattern; where it is a folder, those of the kind, by default images, that lie below it."""
    inside = [] if set("*?[") & set(pattern) else bulk_storage.match(bulk_storage.below(pattern))
    if not inside:
        return bulk_storage.match(pattern)
    return [file for file in inside if kind_of(file.path) == (kind or "images") and not _hidden(file.path, pattern)]


def _hidden(path: str, folder: str) -> bool:
    return any(part.startswith(".") for part in path[len(folder) + 1 :].split("/"))


def _rows(path: str) -> int:
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            count: int = pq.read_metadata(file).num_rows
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error
    return count
