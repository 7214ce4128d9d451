import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clients import bulk_columns, bulk_listing
from tests import bulk_inputs


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(*patterns: object, kind: str | None = None) -> tuple[str, list[str]]:
    chosen, files = bulk_listing.find([str(pattern) for pattern in patterns], kind)
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
    listing = bulk_listing.list_images(bulk_listing.find([f"{tmp_path}/"], None)[1], [f"{tmp_path}/"])
    assert listing.names == ("a/[1].webp", "b.JPG")
    assert listing.uris == (str(tmp_path / "a/[1].webp"), str(tmp_path / "b.JPG"))


def test_a_listing_changes_with_its_images(tmp_path: Path):
    touch(tmp_path, "a.png", "b.png")

    def digest() -> str:
        return bulk_listing.list_images(bulk_listing.find([str(tmp_path)], None)[1], [str(tmp_path)]).digest

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
        bulk_listing.sources(*reversed(bulk_listing.find([str(tmp_path / pattern)], None)))


def test_the_usual_columns_are_found(tmp_path: Path):
    bulk_inputs.parquet_bytes(tmp_path, bulk_inputs.images(2))
    path = str(tmp_path / "table.parquet")
    assert bulk_columns.choose("parquet", path, None, "id") == ("image", "id")
    with pytest.raises(ValueError, match="has no photo, it has id, image; say --column"):
        bulk_columns.choose("parquet", path, "photo", None)
    pq.write_table(pa.table({"image": [1], "photo": pa.array(["a"]).dictionary_encode()}), path)
    with pytest.raises(ValueError, match=r"image in .* has neither text nor bytes"):
        bulk_columns.choose("parquet", path, None, None)
    assert bulk_columns.choose("parquet", path, "photo", None) == ("photo", "")


def test_the_usual_features_are_found(tmp_path: Path):
    bulk_inputs.records(tmp_path, bulk_inputs.images(2), files=1)
    (path,) = map(str, tmp_path.glob("part*"))
    assert bulk_columns.choose("tfrecord", path, None, None) == ("image/encoded", "")
    with pytest.raises(ValueError, match=r"image/width in .* has neither text nor bytes"):
        bulk_columns.choose("tfrecord", path, "image/width", None)
    with pytest.raises(ValueError, match="has no photo"):
        bulk_columns.choose("tfrecord", path, "photo", None)
    (tmp_path / "x.tfrecord").write_bytes(b"not a record")
    with pytest.raises(ValueError, match=r"is no TFRecord file of tf.train.Example"):
        bulk_columns.choose("tfrecord", str(tmp_path / "x.tfrecord"), None, None)
