"""Where the image stands in a row of the input: a column of Parquet, or a feature of a tf.train.Example.

First step of clients/bulk_embed.py, beside the walk SavedModel -> server -> client. Decided once, by the first file.
"""

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from clients import bulk_tfrecord
from clients.bulk_job import Kind
from clients.bulk_listing import NAME, URI

# Usual names, the first that is there counts.
_PARQUET = ("image", "image_bytes", "bytes", "uri", "url", "path", "file_name")
_TFRECORD = ("image/encoded", "image", "image_bytes")


def choose(kind: Kind, first: str, column: str | None, key_column: str | None) -> tuple[str, str]:
    """The column that has the image or its URI, and the one that has its name, "" where its place is its name.

    Args:
        kind: of the input.
        first: its first file.
        column, key_column: what was asked for; None for the usual names.

    Raises:
        ValueError: there is no such column, or none that can be an image.
    """
    if kind in ("images", "webdataset"):
        if column or key_column:
            raise ValueError(f"the column {column or key_column} is given for {kind}, which have none; leave it out")
        return (URI, NAME) if kind == "images" else ("", "")
    held = _parquet_columns(first) if kind == "parquet" else _features(first)
    usual = _PARQUET if kind == "parquet" else _TFRECORD
    chosen = column or next((name for name in usual if name in held), usual[0])
    for name in (chosen, key_column):
        if name and name not in held:
            raise ValueError(f"{first} has no {name}, it has {', '.join(sorted(held)) or 'nothing'}; say --column")
    if not held[chosen]:
        raise ValueError(f"{chosen} in {first} has neither text nor bytes; name the image's column by --column")
    return chosen, key_column or ""


def _parquet_columns(path: str) -> dict[str, bool]:
    """Names of the columns, and whether each can be an image: bytes, a URI, or both as Hugging Face stores them."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        schema = pq.read_schema(file)
    return {field.name: _can_be_image(field.type) for field in schema}


def _can_be_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 or kind.get_field_index("path") >= 0
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _features(path: str) -> dict[str, bool]:
    """Names of the features of a file's first record, and whether each is bytes."""
    with FileSystems.open(path) as file:
        try:
            record = next(bulk_tfrecord.records(file), None)
            found = bulk_tfrecord.features(record) if record is not None else dict.fromkeys(_TFRECORD, (b"",))
        except ValueError as error:
            raise ValueError(f"{path} is no TFRecord file of tf.train.Example: {error}") from error
    return {name: bool(values) for name, values in found.items()}
