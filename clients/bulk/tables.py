"""Parquet files: their rows, which have an image or the URI of one.

One of the inputs of clients/bulk_embed.py, beside the walk SavedModel -> server -> client.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from clients.bulk.items import Item, Span, text_name
from clients.bulk.job import BulkError, Settings

_RAW = CompressionTypes.UNCOMPRESSED
_ROWS = 64  # that are held at once; they may have images in them


def items(path: str, span: Span, settings: Settings) -> Iterator[Item]:
    """The rows that a span has: with the image, or with the URI of it.

    Raises:
        BulkError: the file lacks a column.
        OSError: it cannot be read.
    """
    column, key = settings.column, settings.key_column
    folder = FileSystems.split(path)[0]
    for index, row in rows(path, [column, *([key] if key else [])], span):
        found = row[column]
        if isinstance(found, dict):  # as Hugging Face's data sets store an image
            found = found.get("bytes") or found.get("path")
        uri = _resolved(found, folder) if isinstance(found, str) and found else ""
        name = text_name(row.get(key)) or uri or f"{path}, row {index}"
        image = found if isinstance(found, bytes) else b""
        yield Item(index, name, image, uri, "" if image or uri else f"the row has nothing in {column}")


def rows(path: str, columns: Sequence[str], span: Span) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows that a span has, with their numbers; row groups outside of it are not read.

    Raises:
        BulkError: the file lacks a column.
        OSError: it cannot be read.
    """
    with FileSystems.open(path, compression_type=_RAW) as opened:
        # Arrow's own threads would call the file, which is Python's: interrupted there, the program could not end.
        file = pq.ParquetFile(opened, pre_buffer=False)
        missing = set(columns) - set(file.schema_arrow.names)
        if missing:
            raise BulkError(f"{path} has no column {', '.join(sorted(missing))}, which other files of the input have")
        groups, index = _groups(file.metadata, span)
        start, stop = span
        for batch in file.iter_batches(_ROWS, groups, columns, use_threads=False):
            skipped = min(max(start - index, 0), len(batch))
            index += skipped
            left = None if stop is None else max(stop - index, 0)
            for row in pa.Table.from_batches([batch]).slice(skipped, left).to_pylist():
                yield index, row
                index += 1


def count(path: str) -> int:
    """How many rows a file has, by its footer.

    Raises:
        ValueError: it is no Parquet file.
        OSError: it cannot be read.
    """
    return int(_footer(path).num_rows)


def columns(path: str) -> dict[str, bool]:
    """Names of the columns, and whether each can be an image: bytes, a URI, or both as Hugging Face stores them.

    Raises:
        ValueError: it is no Parquet file.
        OSError: it cannot be read.
    """
    return {field.name: _can_be_image(field.type) for field in _footer(path).schema.to_arrow_schema()}


def _footer(path: str) -> pq.FileMetaData:
    try:
        with FileSystems.open(path, compression_type=_RAW) as file:
            return pq.read_metadata(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error


def _groups(metadata: pq.FileMetaData, span: Span) -> tuple[list[int], int]:
    """The row groups that a span lies in, and the number of their first row."""
    start, stop = span
    stop = metadata.num_rows if stop is None else stop
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    ends = np.cumsum(sizes)
    groups = [group for group, end in enumerate(ends) if end > start and end - sizes[group] < stop]
    return groups, int(ends[groups[0]]) - sizes[groups[0]] if groups else 0


def _resolved(uri: str, folder: str) -> str:
    """A path in a Parquet file counts from the folder that the file lies in."""
    if "://" in uri or uri.startswith("/"):
        return uri
    return FileSystems.join(folder, uri)


def _can_be_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 or kind.get_field_index("path") >= 0
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)
