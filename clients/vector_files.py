"""Files of vectors: what clients/embed.py writes and clients/search.py reads, one format for each suffix.

After the last step of the walk SavedModel -> server -> client -> [file]. A file is written part by part, so that it may
be larger than memory, and says of its vectors which space they lie in; docs/clients.md has what is in each format.
"""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clients.origin import Array, Origin, Rows
from vit22b.embeddings import Embeddings
from vit22b.whole_file import write_whole

SUFFIXES = (".npz", ".npy", ".parquet", ".jsonl")
_PROGRAM = "clients/embed.py"
_PARQUET_KEY = b"vit22b"


def check_suffix(path: Path) -> None:
    """Raises ValueError unless the name ends as one of the formats."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"the file is {path}; expected a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        )


def write(path: Path, origin: Origin, count: int, parts: Iterable[Rows]) -> None:
    """Writes a file, which is there as a whole or, if that fails, as it was before.

    Args:
        path: its suffix is the format. Beside an .npy file, which holds numbers alone, the names are in `path`.json.
        origin: of the vectors.
        count: how many there are.
        parts: the vectors in order, of origin.dtype [n, origin.width] each. In Parquet each is a row group.

    Raises:
        ValueError: a name of another suffix.
        OSError: it cannot be written.
    """
    check_suffix(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        write_whole(path, lambda file: _write_npy_and_names(path, file, origin, count, parts))
        return
    writer = {".npz": _write_npz, ".parquet": _write_parquet, ".jsonl": _write_jsonl}[suffix]
    write_whole(path, lambda file: writer(file, origin, count, parts))


def read(path: Path) -> Embeddings:
    """The vectors of a file as `write` writes it, or of an .npz with vectors, names, space_id and version.

    Raises:
        ValueError: another suffix, or a file that is no such file.
        OSError: it cannot be read.
    """
    check_suffix(path)
    reader = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
    try:
        names, vectors, origin = reader[path.suffix.lower()](path)
        if vectors.dtype != origin.dtype or vectors.shape != (len(names), origin.width):
            raise ValueError(
                f"it holds {vectors.dtype} {list(vectors.shape)} for {len(names)} names; "
                f"expected {origin.dtype} [{len(names)}, {origin.width}]"
            )
    except (KeyError, OverflowError, TypeError, ValueError, zipfile.BadZipFile) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is no {path.suffix} of {_PROGRAM}: {reason}") from error
    return Embeddings(vectors, tuple(names), tuple(range(len(names))), failures=(), **dataclasses.asdict(origin))


def json_line(name: str, vector: Array, origin: Origin) -> str:
    """A vector as a line of JSON, which stands for itself; float32 and float16 numbers keep their value."""
    fields = json.dumps({"name": name, **dataclasses.asdict(origin)})
    # json would write the 17 digits of a float64; 9 are enough for a float32 to come back as it was.
    numbers = ",".join(f"{number:.9g}" for number in vector.tolist())
    return f'{fields[:-1]}, "vector": [{numbers}]}}\n'


def _write_npz(file: BinaryIO, origin: Origin, count: int, parts: Iterable[Rows]) -> None:
    names: list[str] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # Sizes of 2 GiB and more have to be allowed before the first byte.
        with archive.open("vectors.npy", "w", force_zip64=True) as member:
            _write_rows(member, origin, count, _noting(names, parts))
        for name, value in {"names": np.array(names, str), **dataclasses.asdict(origin)}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)


def _read_npz(path: Path) -> tuple[Sequence[str], Array, Origin]:
    with path.open("rb") as opened, np.load(opened) as file:
        if missing := {"vectors", "names", "space_id", "version"} - set(file):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        vectors = file["vectors"]
        dimensions = file["dimensions"].item() if "dimensions" in file else vectors.shape[1]
        encoding = file["encoding"].item() if "encoding" in file else "float32"
        origin = Origin(file["space_id"].item(), file["version"].item(), dimensions, encoding)
        return file["names"].tolist(), vectors, origin


def _write_npy_and_names(path: Path, file: BinaryIO, origin: Origin, count: int, parts: Iterable[Rows]) -> None:
    names: list[str] = []
    summed = _Summed(file)
    _write_rows(summed, origin, count, _noting(names, parts))
    # The checksum tells when the names of one run have met the vectors of another.
    text = json.dumps({**dataclasses.asdict(origin), "crc32": summed.checksum, "names": names})
    write_whole(_names_file(path), lambda beside: beside.write(text.encode()))


def _read_npy(path: Path) -> tuple[Sequence[str], Array, Origin]:
    beside = _names_file(path)
    if not beside.is_file():
        raise ValueError(f"there is no {beside.name} beside it, which has the names and the space")
    fields = json.loads(beside.read_text(encoding="utf-8"))
    if not isinstance(fields, dict):
        raise ValueError(f"{beside.name} is no object")
    if _checksum(path) != fields.pop("crc32"):
        raise ValueError(f"{beside.name} is of other vectors; embed them again")
    return fields.pop("names"), np.load(path), Origin(**fields)


def _names_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while content := file.read(1 << 20):
            checksum = zlib.crc32(content, checksum)
    return checksum


def _write_parquet(file: BinaryIO, origin: Origin, count: int, parts: Iterable[Rows]) -> None:
    import pyarrow as pa  # half a second, which the other formats need not wait for
    import pyarrow.parquet as pq

    del count
    vector = pa.list_(pa.from_numpy_dtype(origin.dtype), origin.width)
    about = json.dumps(dataclasses.asdict(origin)).encode()
    schema = pa.schema([("name", pa.string()), ("vector", vector)], metadata={_PARQUET_KEY: about})
    # A vector has no value twice, and does not become smaller.
    with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        for names, vectors in parts:
            flat = pa.array(np.ascontiguousarray(vectors, origin.dtype).reshape(-1))
            # A file's name may hold bytes that are no UTF-8, which Parquet's strings have to be.
            texts = [name.encode("utf-8", "backslashreplace").decode() for name in names]
            columns = [pa.array(texts, pa.string()), pa.FixedSizeListArray.from_arrays(flat, origin.width)]
            writer.write_table(pa.table(columns, schema))


def _read_parquet(path: Path) -> tuple[Sequence[str], Array, Origin]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    origin = Origin(**json.loads((table.schema.metadata or {})[_PARQUET_KEY]))
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    return table["name"].to_pylist(), flat.reshape(-1, origin.width), origin


def _write_jsonl(file: BinaryIO, origin: Origin, count: int, parts: Iterable[Rows]) -> None:
    del count
    for names, vectors in parts:
        for name, vector in zip(names, vectors, strict=True):
            file.write(json_line(name, vector, origin).encode())


def _read_jsonl(path: Path) -> tuple[Sequence[str], Array, Origin]:
    names, vectors, origins = [], [], []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                names.append(fields.pop("name"))
                vectors.append(fields.pop("vector"))
                origins.append(Origin(**fields))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"line {number}: {error}") from error
            if origins[-1] != origins[0]:
                raise ValueError(f"line {number} is of {origins[-1]}, and line 1 of {origins[0]}")
    if not origins:
        raise ValueError("it is empty")
    return names, np.array(vectors, origins[0].dtype), origins[0]


class _Summed:
    """A file that knows the checksum of what was written to it."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.checksum = 0

    def write(self, content: bytes) -> int:
        self.checksum = zlib.crc32(content, self.checksum)
        return self._file.write(content)


def _write_rows(file: BinaryIO | _Summed, origin: Origin, count: int, parts: Iterable[Rows]) -> None:
    """An array in the format of .npy, of rows that come in parts."""
    descr = np.lib.format.dtype_to_descr(origin.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": (count, origin.width)}
    np.lib.format.write_array_header_1_0(file, header)
    for _, vectors in parts:
        file.write(np.ascontiguousarray(vectors, origin.dtype).tobytes())


def _noting(names: list[str], parts: Iterable[Rows]) -> Iterator[Rows]:
    """The parts as they are; their names are added to `names`."""
    for part in parts:
        names.extend(part[0])
        yield part
