import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clients import vector_files
from clients.origin import Origin
from vit22b import encodings
from vit22b.encodings import Encoding

DIMENSIONS = 12  # no multiple of eight
NAMES = ["a.png", "photos/Straße, 2.png", 'quote".png', "line\nbreak.png", "🐙.png"]
VECTORS = encodings.unit(np.random.default_rng(0).normal(size=(len(NAMES), DIMENSIONS)).astype(np.float32))


def origin(encoding: Encoding = "float32", **changes: object) -> Origin:
    return dataclasses.replace(Origin("space-one", 3, DIMENSIONS, encoding), **changes)


def put(path: Path, encoding: Encoding = "float32", count: int = len(NAMES), **changes: object) -> Path:
    vectors = encodings.encode(VECTORS[:count], encoding)
    parts = [(NAMES[start : min(start + 2, count)], vectors[start : start + 2]) for start in range(0, count, 2)]
    vector_files.write(path, origin(encoding, **changes), count, parts)
    return path


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "binary"])
@pytest.mark.parametrize("suffix", vector_files.SUFFIXES)
def test_what_is_written_is_read(tmp_path: Path, suffix: str, encoding: Encoding):
    found = vector_files.read(put(tmp_path / f"v{suffix}", encoding))
    assert list(found.names) == NAMES
    assert (found.space_id, found.version, found.dimensions, found.encoding) == ("space-one", 3, DIMENSIONS, encoding)
    assert found.vectors.dtype == encodings.encode(VECTORS, encoding).dtype
    np.testing.assert_array_equal(found.vectors, encodings.encode(VECTORS, encoding))
    assert found.indices == tuple(range(len(NAMES)))


@pytest.mark.parametrize("suffix", vector_files.SUFFIXES)
def test_no_vectors_are_a_file_too_unless_it_could_not_say_of_what(tmp_path: Path, suffix: str):
    path = put(tmp_path / f"v{suffix}", count=0)
    if suffix == ".jsonl":
        with pytest.raises(ValueError, match="it is empty"):
            vector_files.read(path)
    else:
        assert vector_files.read(path).vectors.shape == (0, DIMENSIONS)


def test_numpy_reads_what_is_for_numpy(tmp_path: Path):
    with np.load(put(tmp_path / "v.npz")) as file:
        assert file["vectors"].flags.c_contiguous
        assert (file["space_id"].item(), file["version"].item(), file["names"][4]) == ("space-one", 3, "🐙.png")
    mapped = np.load(put(tmp_path / "v.npy"), mmap_mode="r")
    np.testing.assert_array_equal(mapped, VECTORS)
    assert json.loads((tmp_path / "v.npy.json").read_text())["names"] == NAMES


def test_parquet_has_a_row_group_a_part_and_vectors_of_one_length(tmp_path: Path):
    file = pq.ParquetFile(put(tmp_path / "v.parquet"))
    assert file.num_row_groups == 3
    assert str(file.schema_arrow.field("vector").type).startswith(f"fixed_size_list<element: float>[{DIMENSIONS}]")


def test_a_name_that_is_no_text_is_readable_in_parquet(tmp_path: Path):
    path = tmp_path / "v.parquet"
    vector_files.write(path, origin(), 1, [(["caf\udce9.png"], VECTORS[:1])])
    assert vector_files.read(path).names == ("caf\\udce9.png",)


def test_a_line_stands_for_itself_and_keeps_every_bit(tmp_path: Path):
    first = json.loads(put(tmp_path / "v.jsonl").read_text().splitlines()[0])
    vector = first.pop("vector")
    assert first == {"name": "a.png", "space_id": "space-one", "version": 3, "dimensions": 12, "encoding": "float32"}
    np.testing.assert_array_equal(np.array(vector, np.float32), VECTORS[0])


def test_vectors_of_before_there_were_encodings(tmp_path: Path):
    path = tmp_path / "v.npz"
    np.savez(path, vectors=VECTORS, names=np.array(NAMES), space_id="space-one", version=3)
    found = vector_files.read(path)
    assert (found.dimensions, found.encoding) == (DIMENSIONS, "float32")


def test_names_of_one_run_are_not_taken_for_the_vectors_of_another(tmp_path: Path):
    put(tmp_path / "one.npy")
    put(tmp_path / "two.npy", encoding="float16")
    shutil.copy(tmp_path / "two.npy.json", tmp_path / "one.npy.json")
    with pytest.raises(ValueError, match=r"one\.npy\.json is of other vectors"):
        vector_files.read(tmp_path / "one.npy")


def test_lines_of_two_spaces_are_refused(tmp_path: Path):
    one, two = put(tmp_path / "one.jsonl"), put(tmp_path / "two.jsonl", space_id="space-two")
    joined = tmp_path / "joined.jsonl"
    joined.write_text(one.read_text() + two.read_text())
    with pytest.raises(ValueError, match=r"line 6 is of .*space-two.* and line 1 of .*space-one"):
        vector_files.read(joined)


def _without_names(path: Path) -> None:
    path.with_name("v.npy.json").unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _foreign(path: Path) -> None:
    np.savez(path, vectors=VECTORS)


def _short(path: Path) -> None:
    np.savez(path, vectors=VECTORS, names=np.array(NAMES[:2]), space_id="space-one", version=3)


@pytest.mark.parametrize(
    ("suffix", "harm", "message"),
    [
        (".npz", _cut, "v.npz is no .npz of clients/embed.py"),
        (".npz", _foreign, "it lacks names, space_id, version"),
        (".npz", _short, r"it holds float32 \[5, 12\] for 2 names; expected float32 \[2, 12\]"),
        (".npy", _without_names, "there is no v.npy.json beside it"),
        (".npy", _cut, "v.npy.json is of other vectors"),
        (".parquet", _cut, "v.parquet is no .parquet of clients/embed.py"),
        (".jsonl", _cut, "line 1"),
    ],
)
def test_what_is_no_file_of_vectors_is_named(tmp_path: Path, suffix: str, harm, message: str):
    path = put(tmp_path / f"v{suffix}")
    harm(path)
    with pytest.raises(ValueError, match=message):
        vector_files.read(path)


def test_a_file_that_cannot_be_finished_leaves_the_one_before(tmp_path: Path):
    path = put(tmp_path / "v.npz")
    before = path.read_bytes()

    def parts():
        yield NAMES[:2], VECTORS[:2]
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        vector_files.write(path, origin(), len(NAMES), parts())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_another_suffix_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"ends in \.npz, \.npy, \.parquet or \.jsonl"):
        vector_files.read(tmp_path / "v.txt")
