import os
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clients.bulk.columns import choose_columns
from clients.bulk.inputs import find_files, sources
from clients.bulk.job import Kind
from clients.bulk.kinds import FORMS
from clients.bulk.listing import list_images
from tests import bulk_inputs


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(*patterns: object, kind: str | None = None) -> tuple[str, list[str]]:
    chosen, files = find_files([str(pattern) for pattern in patterns], kind)
    return chosen, [Path(file.path).name for file in files]


def test_patterns_name_files_in_the_patterns_order_and_each_once(tmp_path: Path):
    touch(tmp_path, "b.tar", "a.tar", "c.tar.gz", "deep/er/d.tgz")
    assert found(tmp_path / "*.tar") == ("webdataset", ["a.tar", "b.tar"])
    assert found(tmp_path / "b.tar", tmp_path / "*.tar*") == ("webdataset", ["b.tar", "a.tar", "c.tar.gz"])
    assert found(tmp_path / "**.tgz") == ("webdataset", ["d.tgz"])
    assert found(tmp_path / "{a..b}.tar") == ("webdataset", ["a.tar", "b.tar"])
    assert found(tmp_path, kind="webdataset") == ("webdataset", ["a.tar", "b.tar", "c.tar.gz", "d.tgz"])


def test_a_folder_stands_for_the_images_in_it_and_below(tmp_path: Path):
    touch(tmp_path, "b.JPG", "a/[1].webp", "notes.txt", ".hidden/c.png", "a/.d.png", "x.tar")
    assert found(tmp_path) == ("images", ["[1].webp", "b.JPG"])
    listing = list_images(find_files([f"{tmp_path}/"], None)[1], [f"{tmp_path}/"])
    assert listing.names == ("a/[1].webp", "b.JPG")
    assert listing.uris == (str(tmp_path / "a/[1].webp"), str(tmp_path / "b.JPG"))


def test_a_listing_changes_with_its_images(tmp_path: Path):
    touch(tmp_path, "a.png", "b.png")

    def digest() -> str:
        return list_images(find_files([str(tmp_path)], None)[1], [str(tmp_path)]).digest

    first = digest()
    assert digest() == first
    os.utime(tmp_path / "a.png", (1, 1))
    second = digest()
    (tmp_path / "b.png").unlink()
    assert len({first, second, digest()}) == 3


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        (["a.png"], "missing", "names no image file"),
        (["a.png"], "*.tar", "names no image file"),
        (["a.tar", "b.png"], "*", "files of several kinds, images, webdataset"),
        (["a.dat"], "a.dat", "does not say what it is; say it by --kind"),
        (["0.tar", "2.tar"], "{0..2}.tar", "1.tar names no image file"),
        (["a.parquet"], "a.parquet", "a.parquet is no Parquet file"),
    ],
)
def test_what_names_nothing_or_too_much_is_refused(names: list[str], pattern: str, message: str, tmp_path: Path):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        sources(*reversed(find_files([str(tmp_path / pattern)], None)))


def test_every_kind_has_a_form():
    assert set(FORMS) == set(get_args(Kind))


def test_the_usual_columns_are_found(tmp_path: Path):
    bulk_inputs.parquet_bytes(tmp_path, bulk_inputs.images(2))
    path = str(tmp_path / "table.parquet")
    assert choose_columns("parquet", [path], None, "id") == ("image", "id")
    with pytest.raises(ValueError, match="has no photo, it has id, image; say --column"):
        choose_columns("parquet", [path], "photo", None)
    pq.write_table(pa.table({"image": [1], "photo": pa.array(["a"]).dictionary_encode()}), path)
    with pytest.raises(ValueError, match=r"image in .* has neither text nor bytes"):
        choose_columns("parquet", [path], None, None)
    assert choose_columns("parquet", [path], "photo", None) == ("photo", "")


def test_the_usual_features_are_found(tmp_path: Path):
    bulk_inputs.records(tmp_path, bulk_inputs.images(2), files=1)
    (path,) = map(str, tmp_path.glob("part*"))
    assert choose_columns("tfrecord", [path], None, None) == ("image/encoded", "")
    with pytest.raises(ValueError, match=r"image/width in .* has neither text nor bytes"):
        choose_columns("tfrecord", [path], "image/width", None)
    with pytest.raises(ValueError, match="has no photo"):
        choose_columns("tfrecord", [path], "photo", None)
    (tmp_path / "x.tfrecord").write_bytes(b"not a record")
    with pytest.raises(ValueError, match=r"is no TFRecord file of tf.train.Example"):
        choose_columns("tfrecord", [str(tmp_path / "x.tfrecord")], None, None)


def test_a_file_that_is_empty_leaves_the_features_to_the_next_one(tmp_path: Path):
    bulk_inputs.records(tmp_path, bulk_inputs.images(2), files=1)
    (path,) = map(str, tmp_path.glob("part*"))
    (tmp_path / "empty.tfrecord").touch()
    empty = str(tmp_path / "empty.tfrecord")
    with pytest.raises(ValueError, match=f"{path} has no photo"):
        choose_columns("tfrecord", [empty, path], "photo", None)
    assert choose_columns("tfrecord", [empty], "photo", None) == ("photo", "")
    assert choose_columns("tfrecord", [empty], None, None) == ("image/encoded", "")
