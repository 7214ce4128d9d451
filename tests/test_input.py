import itertools

import numpy as np
import pytest

from tests.pictures import encoded, picture
from train.input import Augment, Order, index_batches, multi_hot, training_batches
from vit22b import image
from vit22b.config import Preprocess
from vit22b.folder import Folder, Record, read_folder

PREPROCESS = Preprocess(28)
AUGMENT = Augment(min_area=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten real images of two classes, each of its own size, so that each decodes to its own pixels."""
    root = tmp_path_factory.mktemp("images")
    for i in range(10):
        name = root / ("cat" if i < 4 else "dog") / f"{i}.png"
        name.parent.mkdir(exist_ok=True)
        name.write_bytes(encoded(picture(height=20 + i, width=34 + i), "PNG"))
    return read_folder(root)


def order(examples=10, batch=4, seed=5, start=0, steps=10):
    return Order(examples, batch, seed, start, steps)


def indices(**changes):
    return np.concatenate([[], *index_batches(order(**changes))]).astype(int)


def batches(folder, augment=AUGMENT, **changes):
    return list(training_batches(folder, PREPROCESS, augment, order(**changes)))


@pytest.mark.parametrize("examples", [1, 2, 10, 37])
def test_an_epoch_is_a_permutation(examples):
    found = indices(examples=examples, batch=1, steps=3 * examples).reshape(3, examples)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(examples), (3, 1)))


def test_the_order_differs_by_epoch_and_by_seed():
    found = [*indices(examples=20, batch=20, steps=3).reshape(3, 20), indices(examples=20, batch=20, steps=1, seed=6)]
    for one, other in itertools.combinations([np.arange(20), *found], 2):
        assert (one != other).sum() > 10


def test_an_epochs_end_falls_anywhere_in_a_batch():
    assert len(list(index_batches(order(batch=4, steps=5)))) == 5
    np.testing.assert_array_equal(np.bincount(indices(batch=4, steps=5)), np.full(10, 2))


@pytest.mark.parametrize("start", [0, 1, 7, 10])
def test_the_order_is_a_function_of_seed_and_step(start):
    np.testing.assert_array_equal(indices(start=start), indices()[4 * start :])


@pytest.fixture(scope="module")
def plain(folder):
    """Three epochs without augmentation, an epoch a batch."""
    return batches(folder, Augment(min_area=1.0, flip=False), batch=10, steps=3)


@pytest.fixture(scope="module")
def augmented(folder):
    return batches(folder, batch=10, steps=3)


def by_image(found):
    """The pixels of epochs [3, 10, R, R, 3] in the folder's order."""
    places = indices(batch=10, steps=3).reshape(3, 10)
    return np.stack([batch["pixels"][np.argsort(place)] for batch, place in zip(found, places, strict=True)])


def test_a_run_that_starts_at_a_step_sees_what_the_uninterrupted_one_sees(folder, augmented):
    rest = batches(folder, batch=5, start=4, steps=6)
    assert len(rest) == 2
    for key in ("pixels", "targets"):
        np.testing.assert_array_equal(np.concatenate([batch[key] for batch in rest]), augmented[2][key])


def test_a_batch_has_the_towers_pixels_and_the_targets_of_its_images(plain):
    for batch, place in zip(plain, indices(batch=10, steps=3).reshape(3, 10), strict=True):
        assert batch["pixels"].shape == (10, 28, 28, 3)
        assert batch["pixels"].dtype == np.uint8
        np.testing.assert_array_equal(batch["targets"], [[i < 4, i >= 4] for i in place])


def test_without_augmentation_the_pixels_are_those_that_a_served_model_sees(folder, plain):
    served = [image.preprocess_bytes(record.path.read_bytes(), PREPROCESS).numpy() for record in folder.records]
    assert len({pixels.tobytes() for pixels in served}) == 10
    np.testing.assert_array_equal(by_image(plain), np.stack([served] * 3))


def test_augmentation_is_another_each_epoch(plain, augmented):
    seen = np.concatenate([by_image(augmented), by_image(plain)[:1]])
    for i in range(10):
        assert len({pixels.tobytes() for pixels in seen[:, i]}) == 4, i


def test_half_of_the_images_are_mirrored_where_that_is_asked_for(folder, plain):
    flipped = by_image(batches(folder, Augment(min_area=1.0, flip=True), batch=10, steps=3))
    same = (flipped == by_image(plain)).all(axis=(2, 3, 4))
    mirrored = (flipped == by_image(plain)[:, :, :, ::-1]).all(axis=(2, 3, 4))
    assert (mirrored ^ same).all()
    assert 7 <= mirrored.sum() <= 23


def test_targets_are_1_where_a_record_has_the_label(tmp_path):
    labels = (("b",), (), ("c", "a"), ("a", "a"))
    records = tuple(Record(tmp_path / f"{i}.png", f"{i}.png", names) for i, names in enumerate(labels))
    targets = multi_hot(Folder(records, ("a", "b", "c")), np.array([2, 0, 1, 3]))
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]])


@pytest.mark.parametrize(("content", "reason"), [(b"no image", "not an image: expected JPEG"), (None, "No such file")])
def test_an_image_that_cannot_be_used_is_named_when_it_comes_up(folder, tmp_path, content, reason):
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    records = (*folder.records[:9], Record(bad, "bad.png", ("dog",)))
    feed = training_batches(Folder(records, folder.labels), PREPROCESS, AUGMENT, order(batch=5, steps=2))
    with pytest.raises(ValueError, match=rf"bad\.png is not an image that can be used: .*{reason}.*; mend it, or"):
        list(feed)


@pytest.mark.parametrize("min_area", [0.0, -1.0, 1.5])
def test_a_crop_that_cannot_be_is_an_error(min_area):
    with pytest.raises(ValueError, match=f"--min_area is {min_area}; expected a share of the image in"):
        Augment(min_area=min_area)
