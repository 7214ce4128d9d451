import itertools
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.pictures import encoded, picture
from train.input import Augment, BadRecords, Order, index_batches, multi_hot, training_batches
from train.mixture import Mixture, open_mixture
from train.sources.folders import FolderSource
from vit22b import image
from vit22b.folder import Folder, Record, read_folder
from vit22b.preprocess import Preprocess

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


def mixture(folder):
    return Mixture((FolderSource(folder),))


def batches(folder, augment=AUGMENT, rows=None, bad=None, **changes):
    return list(training_batches(mixture(folder), PREPROCESS, augment, order(**changes), rows=rows, bad=bad))


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for key in ("pixels", "targets"):
            np.testing.assert_array_equal(a[key], b[key])


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


def test_augmentation_is_another_for_another_seed(folder):
    one = Folder(folder.records[:1], folder.labels)
    first, second = (batches(one, examples=1, batch=4, steps=1, seed=seed)[0]["pixels"] for seed in (5, 6))
    assert (first != second).any(axis=(1, 2, 3)).all()


def test_half_of_the_images_are_mirrored_where_that_is_asked_for(folder, plain):
    flipped = by_image(batches(folder, Augment(min_area=1.0, flip=True), batch=10, steps=3))
    same = (flipped == by_image(plain)).all(axis=(2, 3, 4))
    mirrored = (flipped == by_image(plain)[:, :, :, ::-1]).all(axis=(2, 3, 4))
    assert (mirrored ^ same).all()
    assert 7 <= mirrored.sum() <= 23


def test_targets_are_1_where_a_record_has_the_label():
    targets = multi_hot([("c", "a"), ("b",), (), ("a", "a")], ("a", "b", "c"))
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]])


def test_a_single_folder_is_taken_in_the_order_of_its_indices(folder, plain):
    """As index_batches gives them: LiT and pretraining agree about what a step takes."""
    served = np.stack([image.preprocess_bytes(record.path.read_bytes(), PREPROCESS) for record in folder.records])
    for batch, index in zip(plain, index_batches(order(batch=10, steps=3)), strict=True):
        np.testing.assert_array_equal(batch["pixels"], served[index])


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_hosts_shares_make_up_the_batch(folder, hosts):
    """Rows of one host need not be neighbours."""
    whole = batches(folder, batch=8, steps=4)
    shares = [np.arange(host, 8, hosts) for host in range(hosts)]
    for rows in shares:
        share = batches(folder, rows=rows, batch=8, steps=4)
        assert_equal(share, [{key: array[rows] for key, array in batch.items()} for batch in whole])


@pytest.fixture(scope="module")
def damaged(folder, tmp_path_factory):
    """The folder with three of its ten images spoilt, each in another way."""
    root = tmp_path_factory.mktemp("damaged")
    (root / "text.png").write_bytes(b"no image")
    data = folder.records[5].path.read_bytes()
    (root / "half.png").write_bytes(data[: len(data) // 2])
    records = list(folder.records)
    for i, name in ((1, "text.png"), (5, "half.png"), (8, "gone.png")):
        records[i] = Record(root / name, name, records[i].labels)
    return Folder(tuple(records), folder.labels)


REASONS = {
    "text.png": "not an image: expected JPEG",
    "half.png": "the PNG is truncated or damaged",
    "gone.png": "No such",
}


def test_a_bad_record_is_replaced_counted_and_logged_by_name(folder, damaged, caplog):
    """In two epochs each comes up at its own places at least; what stands in may be bad once more."""
    bad = BadRecords(max_rate=1.0)
    with caplog.at_level(logging.WARNING, "train.input"):
        found = batches(damaged, bad=bad, batch=10, steps=2)
    assert {Path(name).name for name in bad.names} == set(REASONS)
    assert 6 <= bad.count <= 20
    assert len(caplog.records) == 3
    for name, reason in bad.names.items():
        assert f"skipped {name}: {reason}" in caplog.text
        assert REASONS[Path(name).name] in reason
    whole = batches(folder, batch=10, steps=2)
    for step, index in enumerate(index_batches(order(batch=10, steps=2))):
        spoilt = np.isin(index, [1, 5, 8])
        np.testing.assert_array_equal(found[step]["pixels"][~spoilt], whole[step]["pixels"][~spoilt])
        assert (found[step]["pixels"] != whole[step]["pixels"]).any(axis=(1, 2, 3))[spoilt].all()
        assert found[step]["pixels"][spoilt].any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(found[step]["targets"].sum(axis=1), 1)


def test_what_stands_in_has_its_own_label(damaged):
    """Without augmentation its pixels are those of a good record of the folder, and so is the target."""
    known = {
        image.preprocess_bytes(record.path.read_bytes(), PREPROCESS).numpy().tobytes(): record.labels
        for i, record in enumerate(damaged.records)
        if i not in (1, 5, 8)
    }
    for batch in batches(damaged, Augment(min_area=1.0, flip=False), bad=BadRecords(1.0), batch=10, steps=2):
        for pixels, target in zip(batch["pixels"], batch["targets"], strict=True):
            assert known[pixels.tobytes()] == (damaged.labels[target.argmax()],)


def test_what_stands_in_is_the_same_when_a_run_resumes_and_on_any_number_of_hosts(damaged):
    whole = batches(damaged, bad=BadRecords(1.0), steps=10)
    assert_equal(batches(damaged, bad=BadRecords(1.0), start=3), whole[3:])
    for rows in (np.array([0, 2]), np.array([1, 3])):
        share = batches(damaged, rows=rows, bad=BadRecords(1.0))
        assert_equal(share, [{key: array[rows] for key, array in batch.items()} for batch in whole])


class Unsteady(FolderSource):
    """A folder on a disk that fails at the first read of every other image."""

    def __init__(self, folder):
        super().__init__(folder)
        self.failing = set(range(0, len(folder.records), 2))

    def __getitem__(self, index):
        if index in self.failing:
            self.failing.remove(index)
            raise OSError("the disk was busy")
        return super().__getitem__(index)


def test_a_read_that_fails_once_changes_nothing(folder):
    source, bad = Unsteady(folder), BadRecords(max_rate=0)
    found = list(training_batches(Mixture((source,)), PREPROCESS, AUGMENT, order(steps=5), bad=bad))
    assert not source.failing
    assert_equal(found, batches(folder, steps=5))
    assert bad.count == 0


def test_too_many_bad_records_end_the_run_with_their_names(damaged):
    bad = BadRecords(max_rate=0.01, least=4)
    steps = training_batches(mixture(damaged), PREPROCESS, AUGMENT, order(batch=2, steps=100), bad=bad)
    with pytest.raises(
        ValueError, match=r"(?s)5 of \d+ records could not be used, more than --max_bad_rate 0\.01"
    ) as caught:
        list(steps)
    assert all(f"  {name}: " in str(caught.value) for name in bad.names)


def test_a_rate_that_is_not_exceeded_lets_the_run_go_on(damaged):
    assert len(batches(damaged, bad=BadRecords(max_rate=0.6, least=0))) == 10


def test_at_a_rate_of_0_the_first_bad_record_ends_the_run(damaged):
    with pytest.raises(ValueError, match=r"\d of \d records could not be used, more than --max_bad_rate 0 allows"):
        batches(damaged, bad=BadRecords(max_rate=0), batch=1)


def test_a_folder_without_one_good_image_ends_the_run(damaged):
    nothing = Folder((damaged.records[1],), damaged.labels)
    with pytest.raises(
        ValueError, match=r"(?s)16 records in a row cannot be used; mend the data:.*text\.png: .*not an image"
    ):
        batches(nothing, bad=BadRecords(1.0))


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_that_cannot_be_is_an_error(rate):
    with pytest.raises(ValueError, match=f"--max_bad_rate is {rate}; expected a share of the records in"):
        BadRecords(rate)


def test_no_thread_is_left_when_the_batches_are_closed(folder):
    before = threading.active_count()
    feed = training_batches(mixture(folder), PREPROCESS, AUGMENT, order(steps=1000))
    next(feed)
    assert threading.active_count() > before
    feed.close()
    assert threading.active_count() == before


def test_a_mixtures_batches_have_the_targets_of_all_its_classes(folder, tmp_path):
    (tmp_path / "fish").mkdir()
    (tmp_path / "fish" / "a.png").write_bytes(encoded(picture(), "PNG"))
    mixed = open_mixture([f"3*{folder.records[0].path.parent.parent}", f"1*{tmp_path}"])
    assert mixed.labels == ("cat", "dog", "fish")
    positions = Order(len(mixed), 256, 0, 0, 4)
    found = list(training_batches(mixed, PREPROCESS, AUGMENT, positions))
    np.testing.assert_array_equal(sum(batch["targets"].sum(axis=0) for batch in found)[2], 256)
    names = mixed.names(positions.positions(2), 0)
    for name, target in zip(names, found[2]["targets"], strict=True):
        assert mixed.labels[target.argmax()] == Path(name).parent.name


@pytest.mark.parametrize("min_area", [0.0, -1.0, 1.5])
def test_a_crop_that_cannot_be_is_an_error(min_area):
    with pytest.raises(ValueError, match=f"--min_area is {min_area}; expected a share of the image in"):
        Augment(min_area=min_area)
