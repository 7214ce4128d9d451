"""Every source gives the same examples as the folder that it was made from."""

import errno
import io
import itertools
import json
import os
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from webdataset import TarWriter

from tests.pictures import encoded, picture
from train.input import Augment, Order, training_batches
from train.mixture import Mixture, open_mixture
from train.sources.example import Example
from train.sources.opening import open_source
from train.sources.records import write_records
from train.sources.tars import write_tar
from vit22b.folder import Record, read_folder, write_metadata
from vit22b.preprocess import Preprocess

# tfds reads its protos in a way that protobuf has deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning:tensorflow_datasets")

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
CLASSES = ("bird", "cat", "dog")
COUNT = 11


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def folder(root):
    """Eleven real images of five formats, with none to three labels and a caption each."""
    path = root / "folder"
    path.mkdir()
    subsets = [labels for n in range(4) for labels in itertools.combinations(CLASSES, n)]
    records = []
    for i in range(COUNT):
        kind = KINDS[i % len(KINDS)]
        name = f"{i:02}.{kind.lower()}"
        (path / name).write_bytes(encoded(picture(height=20 + i, width=30 + i), kind))
        records.append(Record(path / name, name, subsets[i % len(subsets)], f"Nº {i}"))
    write_metadata(path, records)
    return path


@pytest.fixture(scope="module")
def examples(folder):
    source = open_source(str(folder))
    return [source[i] for i in range(len(source))]


def write_labels(path):
    (path / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))


@pytest.fixture(scope="module")
def records(root, examples):
    path = root / "records"
    path.mkdir()
    write_records(path / "a-0.arrayrecord", examples[:7])
    write_records(path / "a-1.arrayrecord", examples[7:])
    write_labels(path)
    return f"arrayrecord:{path}/*.arrayrecord"


@pytest.fixture(scope="module")
def tars(root, examples):
    path = root / "tars"
    path.mkdir()
    write_tar(path / "a-0.tar", examples[:4])
    write_tar(path / "a-1.tar", examples[4:])
    return f"tar:{path}/*.tar"


def write_split(data_dir, labels, rows):
    """A data set of tfds, prepared by its own writer, in the order of the rows: (file, caption, labels)."""
    features = tfds.features.FeaturesDict(
        {"caption": tfds.features.Text(), "image": tfds.features.Image(shape=(None, None, 3)), "labels": labels}
    )
    values = [dict(zip(("image", "caption", "labels"), row, strict=True)) for row in rows]
    tfds.dataset_builders.store_as_tfds_dataset(
        "pictures",
        "1.0.0",
        features,
        {"train": list(enumerate(values))},
        data_dir=data_dir,
        file_format="array_record",
        disable_shuffling=True,
    )
    return f"tfds:pictures/train@{data_dir}"


@pytest.fixture(scope="module")
def split(root, folder, examples):
    labels = tfds.features.Sequence(tfds.features.ClassLabel(names=CLASSES))
    rows = [(str(folder / example.name), example.caption, list(example.labels)) for example in examples]
    return write_split(root / "tfds", labels, rows)


@pytest.fixture(params=["records", "tars", "split"])
def source(request):
    return open_source(request.getfixturevalue(request.param))


def test_a_source_has_the_examples_of_the_folder_it_was_made_from(source, examples):
    assert source.labels == CLASSES
    assert len(source) == COUNT
    for i, example in enumerate(examples):
        found = source[i]
        assert (found.image_bytes, found.labels, found.caption) == (
            example.image_bytes,
            example.labels,
            example.caption,
        )
        assert found.name == source.name(i)
    assert len({source.name(i) for i in range(COUNT)}) == COUNT


def test_a_source_gives_the_batches_that_the_folder_gives(source, folder):
    order = Order(COUNT, 4, 7, 1, 5)
    one, other = (
        list(training_batches(Mixture((each,)), Preprocess(28), Augment(), order))
        for each in (open_source(str(folder)), source)
    )
    assert len(one) == len(other) == 4
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a["pixels"], b["pixels"])
        np.testing.assert_array_equal(a["targets"], b["targets"])


def test_part_of_a_tfds_split_is_a_source(split, examples):
    name, _, data_dir = split.partition("@")
    part = open_source(f"{name}[3:6]@{data_dir}")
    assert [part[i].image_bytes for i in range(len(part))] == [example.image_bytes for example in examples[3:6]]


def test_a_record_that_tfds_gives_no_label_has_none_and_a_number_of_no_class_is_told_by_its_record(tmp_path, folder):
    rows = [(str(folder / "00.png"), "a", label) for label in (-1, 2)]
    name = write_split(tmp_path, tfds.features.ClassLabel(names=CLASSES), rows)
    assert [open_source(name)[i].labels for i in range(2)] == [(), ("dog",)]
    # The classes as of another version than the records.
    written = tmp_path / "pictures" / "1.0.0"
    (written / "labels.labels.txt").write_text("bird\ncat\n")
    features = (written / "features.json").read_text()
    (written / "features.json").write_text(features.replace('"numClasses": "3"', '"numClasses": "2"'))
    with pytest.raises(ValueError, match=r"tfds:pictures/train, record 1: its label 2 is none of the 2 classes"):
        open_source(name)[1]


def write_wds(path, *samples):
    with TarWriter(str(path)) as tar:
        for sample in samples:
            tar.write(sample)
    return f"tar:{path}"


def png(i=0):
    return encoded(picture(height=20 + i), "PNG")


def test_a_tar_gives_classes_and_captions_as_webdataset_writes_them(tmp_path):
    """`cls` is a number there; samples may lie in folders, and other files are passed over."""
    name = write_wds(
        tmp_path / "a.tar",
        {"__key__": "x/a", "png": png(), "cls": 2, "txt": "a dog", "seg.png": b"a mask"},
        {"__key__": "x/b", "jpg": png(1), "cls": 0},
    )
    plain = open_source(name)
    assert plain.labels == ("0", "2")
    assert plain[0] == Example(f"{tmp_path}/a.tar/x/a", png(), ("2",), "a dog")
    assert plain[1] == Example(f"{tmp_path}/a.tar/x/b", png(1), ("0",), None)
    write_labels(tmp_path)
    named = open_source(name)
    assert named.labels == CLASSES
    assert [named[i].labels for i in range(2)] == [("dog",), ("bird",)]


def test_an_index_is_made_once_and_again_for_another_tar(tmp_path):
    name = write_wds(tmp_path / "a.tar", {"__key__": "a", "png": png()})
    open_source(name)
    (index,) = tmp_path.glob(".vit22b-*.npz")
    made = index.stat().st_mtime_ns
    assert open_source(name)[0].image_bytes == png()
    assert index.stat().st_mtime_ns == made
    write_wds(tmp_path / "a.tar", {"__key__": "a", "png": png(1)}, {"__key__": "b", "png": png(2)})
    source = open_source(name)
    assert [source[i].image_bytes for i in range(len(source))] == [png(1), png(2)]
    assert not list(tmp_path.glob("*.partial"))


def test_the_index_goes_to_the_cache_where_the_tars_lie_read_only(tmp_path, monkeypatch):
    name = write_wds(tmp_path / "a.tar", {"__key__": "a", "png": png()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Root may write everywhere, whatever a folder's mode says.
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # noqa: ARG005
    assert open_source(name)[0].image_bytes == png()
    assert len(list((tmp_path / "cache" / "vit22b").glob(".vit22b-*.npz"))) == 1
    assert not list(tmp_path.glob(".vit22b-*.npz"))


def test_the_index_is_as_readable_as_any_file_and_what_was_begun_is_taken_away(tmp_path, monkeypatch):
    name = write_wds(tmp_path / "a.tar", {"__key__": "a", "png": png()})

    def full(file, **_):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space left"):
            open_source(name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    open_source(name)
    (index,) = tmp_path.glob(".vit22b-*.npz")
    assert index.stat().st_mode == (tmp_path / "a.tar").stat().st_mode


def test_an_index_that_cannot_be_read_is_made_again_in_the_cache(tmp_path, monkeypatch):
    name = write_wds(tmp_path / "a.tar", {"__key__": "a", "png": png()})
    open_source(name)
    (index,) = tmp_path.glob(".vit22b-*.npz")
    index.unlink()
    index.mkdir()  # root may read every file
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert open_source(name)[0].image_bytes == png()
        (made,) = (tmp_path / "cache" / "vit22b").iterdir()
        assert made.name == index.name


@pytest.mark.parametrize("other", ["cat\nbird\ndog\n", None])
def test_files_of_folders_that_name_their_classes_differently_are_no_source(tmp_path, other):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_wds(tmp_path / name / "a.tar", {"__key__": "a", "png": png(), "cls": 2})
        write_labels(tmp_path / name)
    assert len(open_source(f"tar:{tmp_path}/*/a.tar")) == 2
    (tmp_path / "b" / "labels.txt").unlink()
    if other:
        (tmp_path / "b" / "labels.txt").write_text(other)
    with pytest.raises(
        ValueError, match=r"a/labels\.txt and .*b/labels\.txt are not alike, or one is missing; put the "
    ):
        open_source(f"tar:{tmp_path}/*/a.tar")


def test_a_source_says_where_a_source_of_its_kind_has_its_labels(folder, records, tars, split):
    mixture = open_mixture([f"1*{name}" for name in (folder, records, tars, split, folder)])
    assert mixture.where_labels == (
        'a sub-folder for each class, or a metadata.jsonl with "labels" on its lines; or '
        "a feature image/labels in each record, and a labels.txt beside the files; or "
        'a cls file in each sample, or a json with "labels"; or '
        "a feature that is a ClassLabel, or a sequence of them"
    )


def test_a_tar_that_has_become_shorter_is_told_by_the_record(tmp_path):
    name = write_wds(tmp_path / "a.tar", {"__key__": "a", "png": png()})
    source = open_source(name)
    os.truncate(tmp_path / "a.tar", 600)
    with pytest.raises(ValueError, match=r"a\.tar/a: .*the tar ends \d+ bytes before its file does"):
        source[0]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            [{"__key__": "a", "txt": "no image"}],
            r"the sample 'a' has the files \['txt'\], 0 images; expected exactly one",
        ),
        ([{"__key__": "a", "png": b"1", "jpg": b"2"}], r"'a' has the files \['jpg', 'png'\], 2 images"),
        ([{"__key__": "a", "png": b"1", "json": b"[]"}], 'its json is no object with a list of "labels"'),
        ([{"__key__": "a", "png": b"1", "json": b"{"}], "Expecting property name"),
        ([], "there are no samples in it"),
    ],
)
def test_a_tar_that_is_no_set_of_images_is_an_error(tmp_path, samples, message):
    with pytest.raises(ValueError, match=rf"a\.tar: .*{message}"):
        open_source(write_wds(tmp_path / "a.tar", *samples))


def test_braces_name_tars_as_in_webdataset(root, tars, examples):
    del tars
    source = open_source(f"tar:{root}/tars/a-{{0..1}}.tar")
    assert [source[i].image_bytes for i in range(len(source))] == [example.image_bytes for example in examples]
    with pytest.raises(ValueError, match=r"no file matches '.*a-2\.tar'"):
        open_source(f"tar:{root}/tars/a-{{0..2}}.tar")


def test_a_record_is_named_by_its_file_and_its_number_there(root, records, tars):
    assert open_source(records).name(8) == f"{root}/records/a-1.arrayrecord, record 1"
    assert open_source(tars).name(5) == f"{root}/tars/a-1.tar/00000001"


def test_a_compressed_tar_is_an_error(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        entry = tarfile.TarInfo("a.png")
        entry.size = len(png())
        tar.addfile(entry, io.BytesIO(png()))
    with pytest.raises(ValueError, match=r"a\.tar: .*; expected an uncompressed WebDataset tar"):
        open_source(f"tar:{tmp_path}/a.tar")


LISTS = {
    bytes: ("bytes_list", tf.train.BytesList),
    int: ("int64_list", tf.train.Int64List),
    float: ("float_list", tf.train.FloatList),
}


def write_examples(path, *examples):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for features in examples:
        feature = {}
        for name, values in features.items():
            field, kind = LISTS[type(values[0])]
            feature[name] = tf.train.Feature(**{field: kind(value=values)})
        writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    writer.close()
    return f"arrayrecord:{path}"


def test_records_may_give_classes_by_number(tmp_path):
    name = write_examples(tmp_path / "a", {"image": [png()], "label": [2]}, {"image": [png()], "labels": [0, 1]})
    with pytest.raises(ValueError, match=r"the records of .*/a have labels, but .*/labels\.txt is missing; write it, "):
        open_source(name)
    write_labels(tmp_path)
    source = open_source(name)
    assert [source[i].labels for i in range(2)] == [("dog",), ("bird", "cat")]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": [b"a"], "label": [3]}, "a, record 1: its label 3 is none of the 3 classes"),
        ({"image": [b"a"], "label": [b"cow"]}, "a, record 1: its label 'cow' is none of the 3 classes"),
        (
            {"image": [b"a"], "label": [1.0]},
            r"a, record 1: its label 1\.0 is a float; expected bytes, a name, or int64",
        ),
        ({"image": [b"a"], "label": [b"\xff"]}, "a, record 1: 'utf-8' codec can't decode byte 0xff"),
        ({"image": [b"a"], "caption": [b"\xff"]}, "a, record 1: 'utf-8' codec can't decode byte 0xff"),
        ({"image": [b"a"], "caption": [3]}, "a, record 1: its feature image/caption or caption is not one bytes value"),
        ({"image": [1.0]}, "a, record 1 has no feature image/encoded or image with one bytes value"),
        ({"label": [0]}, "a, record 1 has no feature image/encoded or image with one bytes value"),
    ],
)
def test_a_record_that_is_no_labelled_image_is_an_error_when_it_is_read(tmp_path, features, message):
    write_labels(tmp_path)
    source = open_source(write_examples(tmp_path / "a", {"image": [png()], "label": [0]}, features))
    assert source[0].labels == ("bird",)
    with pytest.raises(ValueError, match=message):
        source[1]


def test_a_damaged_record_is_told_by_its_number_and_the_others_are_read(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "a"
    name = write_examples(path, *({"image": [random.bytes(3000)]} for _ in range(4)))
    data = path.read_bytes()
    middle = data.index(open_source(name)[2].image_bytes[:100])
    path.write_bytes(data[:middle] + bytes(100) + data[middle + 100 :])
    source = open_source(name)
    with pytest.raises(ValueError, match=r"a, record 2 cannot be read as a tf\.train\.Example: .*hash mismatch"):
        source[2]
    assert all(len(source[i].image_bytes) == 3000 for i in (0, 1, 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere is missing; expected a folder of images"),
        ("zip:a.zip", "'zip' is no kind of source; expected a folder, or tfds:, arrayrecord:, tar:"),
        ("tar:nowhere/*.tar", r"no file matches 'nowhere/\*\.tar'; expected a path, or a pattern such as"),
        ("arrayrecord:pyproject.toml", "pyproject.toml is not an ArrayRecord file, or damaged: .*64KB"),
        ("tfds:mnist", "tfds:mnist: expected a data set and a split, for instance tfds:mnist/train"),
        ("tfds:pictoria/train@nowhere", "tfds:pictoria: "),
        (
            "tfds:mnist/train@nowhere",
            r"tfds:mnist is not prepared in .*nowhere/mnist/.*; run: tfds build mnist --file_",
        ),
    ],
)
def test_a_source_that_is_not_there_is_an_error_with_the_remedy(name, message):
    with pytest.raises(ValueError, match=message):
        open_source(name)


def test_labels_that_come_twice_are_an_error(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ncat\n")
    with pytest.raises(ValueError, match="has an empty line or a name that comes twice"):
        open_source(write_examples(tmp_path / "a", {"image": [b"a"], "label": [0]}))


def test_a_tfds_split_that_does_not_exist_is_an_error(split):
    with pytest.raises(ValueError, match=r"tfds:pictures/test"):
        open_source(split.replace("/train@", "/test@"))


def test_a_source_whose_package_is_missing_says_what_to_install(tars, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "train.sources.tars", None)
    with pytest.raises(ValueError, match="which is not installed: pip install webdataset"):
        open_source(tars)


def test_written_json_is_that_of_metadata(root, tars):
    del tars
    with tarfile.open(root / "tars" / "a-0.tar") as tar:
        first = json.loads(tar.extractfile("00000001.json").read())
    assert first == {"labels": ["bird"], "caption": "Nº 1"}


def test_a_folder_is_read_by_its_rules(folder, examples):
    records = read_folder(folder).records
    assert [(str(r.path), r.labels, r.caption) for r in records] == [(e.name, e.labels, e.caption) for e in examples]
    assert [r.path.read_bytes() for r in records] == [e.image_bytes for e in examples]
