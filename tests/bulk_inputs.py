"""The same images in every form that a bulk job reads, for the tests; and the files that one has written."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from webdataset.writer import TarWriter

from clients import vector_files
from tests.standin import picture

Images = Mapping[str, bytes]
COLOURS = ("red", "green", "blue")


def images(count: int, bad: Mapping[int, bytes] | None = None) -> dict[str, bytes]:
    """Images by name, no two alike, red, green and blue in turn; `bad` has the content of others by their number."""
    found = {f"{number:03}.png": picture(COLOURS[number % len(COLOURS)], 4 + number) for number in range(count)}
    return found | {f"{number:03}.png": content for number, content in (bad or {}).items()}


def folder(root: Path, given: Images) -> list[str]:
    (root / "photos").mkdir()
    for name, content in given.items():
        (root / "photos" / name).write_bytes(content)
    return [str(root / "photos")]


def tars(root: Path, given: Images, files: int = 2) -> list[str]:
    for number, part in enumerate(np.array_split(list(given), files)):
        with TarWriter(str(root / f"{number}.tar")) as tar:
            for name in part.tolist():
                tar.write({"__key__": name.removesuffix(".png"), "png": given[name], "json": b"{}"})
    return [f"{root}/{{0..{files - 1}}}.tar"]


def records(root: Path, given: Images, files: int = 2, compression: str = "") -> list[str]:
    import tensorflow as tf

    suffix = ".gz" if compression else ""
    for number, part in enumerate(np.array_split(list(given), files)):
        path = str(root / f"part.tfrecord-{number}-of-{files}{suffix}")
        with tf.io.TFRecordWriter(path, compression) as writer:
            for name in part.tolist():
                example = tf.train.Example()
                example.features.feature["image/encoded"].bytes_list.value.append(given[name])
                example.features.feature["image/width"].int64_list.value.append(6)
                writer.write(example.SerializeToString())
    return [str(root / "part.tfrecord-*")]


def compressed_records(root: Path, given: Images) -> list[str]:
    return records(root, given, files=1, compression="GZIP")


def parquet_uris(root: Path, given: Images) -> list[str]:
    folder(root, given)
    # One path counts from the table's folder, the others from the root.
    uris = [f"photos/{name}" if place == 0 else str(root / "photos" / name) for place, name in enumerate(given)]
    pq.write_table(pa.table({"uri": uris, "label": ["x"] * len(uris)}), root / "table.parquet", row_group_size=4)
    return [str(root / "table.parquet")]


def parquet_bytes(root: Path, given: Images) -> list[str]:
    table = pa.table(
        {"image": [{"bytes": content, "path": name} for name, content in given.items()], "id": list(given)}
    )
    pq.write_table(table, root / "table.parquet", row_group_size=5)
    return [str(root / "table.parquet")]


FORMS: dict[str, Callable[[Path, Images], list[str]]] = {
    "folder": folder,
    "tars": tars,
    "records": records,
    "compressed records": compressed_records,
    "URIs in Parquet": parquet_uris,
    "bytes in Parquet": parquet_bytes,
}


def written(output: Path) -> dict[str, bytes]:
    """Every file of an output, by its path in it."""
    return {str(file.relative_to(output)): file.read_bytes() for file in sorted(output.rglob("*")) if file.is_file()}


def vectors(output: Path, suffix: str = ".parquet") -> tuple[list[str], np.ndarray]:
    """The names and vectors of all shards of an output, in their order, as clients/search.py reads them."""
    parts = [vector_files.read(file) for file in sorted((output / "shards").glob(f"*{suffix}"))]
    return [name for part in parts for name in part.names], np.concatenate([part.vectors for part in parts])


def failures(output: Path) -> list[dict]:
    """The rows of the dead-letter tables, in order."""
    return [row for file in sorted((output / "failures").glob("*")) for row in pq.read_table(file).to_pylist()]
