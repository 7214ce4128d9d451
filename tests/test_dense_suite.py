import collections
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.planted_tower import COLOURS, SIDE, PlantedTower, context
from tests.towers import random_params
from train.checkpoint_tower import CheckpointTower
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.writing import PartWriter
from train.evaluators import depth as depth_measures
from train.suite import clips, dense_targets, depth, overlays, segmentation, video
from train.suite.clips import Sampling, crop, square
from train.suite.outcome import CannotRun, Plot, Row
from vit22b.checkpoint import Checkpoints
from vit22b.config import ModelConfig, ViTConfig
from vit22b.description import Description
from vit22b.image import image_batches
from vit22b.preprocess import Preprocess

NAMES = tuple(COLOURS)[:3]
PAINTS = np.asarray([COLOURS[name] for name in NAMES], np.uint8)


def halves(values: np.ndarray) -> np.ndarray:
    """Pictures [n, SIDE, SIDE] whose left and right half have the values [n, 2]."""
    return values[:, None, :].repeat(SIDE, axis=1).repeat(SIDE // 2, axis=2)


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    """Images of two colours, which are the classes; three pixels of each are void."""
    folder = tmp_path_factory.mktemp("mosaics")
    for part, count in (("train", 32), ("test", 8)):
        classes = halves(np.random.default_rng(count).integers(0, 3, (count, 2))).astype(np.uint8)
        with PartWriter(folder / part) as writer:
            for place, each in enumerate(classes):
                mask = each.copy()
                mask[0, :3] = 255
                writer.save(f"{place:02d}_mask.png", Pillow.fromarray(mask))
                writer.add(f"{place:02d}.png", Pillow.fromarray(PAINTS[each]), [], mask=f"{place:02d}_mask.png")
    return EvaluationSet(folder, "mosaics", "segmentation", "painted", True, NAMES, legend={"red": (10, 20, 30)})


@pytest.fixture(scope="module")
def distances(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    """Greys that are brighter where they are farther; a pixel of each has no depth."""
    folder = tmp_path_factory.mktemp("distances")
    for part, count in (("train", 32), ("test", 6)):
        depths = halves(np.random.default_rng(count).uniform(1, 4, (count, 2))).astype(np.float32)
        with PartWriter(folder / part) as writer:
            for place, each in enumerate(depths):
                grey = Pillow.fromarray(np.rint(60 * each).astype(np.uint8)).convert("RGB")
                stored = writer.save_array(f"{place:02d}.npy", np.where(np.arange(SIDE) == 0, np.nan, each))
                writer.add(f"{place:02d}.png", grey, [], depth=stored)
    return EvaluationSet(folder, "distances", "depth", "painted", False)


@pytest.fixture(scope="module")
def fades(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    """Clips of five frames that become red or stop being it: each frame could be of either class."""
    folder = tmp_path_factory.mktemp("fades")
    for part, count in (("train", 24), ("test", 10)):
        random = np.random.default_rng(count)
        with PartWriter(folder / part) as writer:
            for clip in range(count):
                names = [f"{clip:02d}_{frame}.png" for frame in range(5)]
                reds = np.linspace(40, 200, 5)[:: 1 if clip % 2 else -1] + random.uniform(-20, 20)
                frames = [Pillow.new("RGB", (SIDE, SIDE), (int(red), 90, 90)) for red in reds]
                for name, frame in zip(names[1:], frames[1:], strict=True):
                    writer.save(name, frame)
                writer.add(names[0], frames[0], ["in" if clip % 2 else "out"], frames=names)
    details = {"sampling": {"frames": 4, "views": 2, "crops": 3}}
    return EvaluationSet(folder, "fades", "video", "painted", True, ("in", "out"), details=details)


def divided(outcomes) -> tuple[list[Row], list[Plot]]:
    found = list(outcomes)
    rows = [each for each in found if isinstance(each, Row)]
    for row in rows:
        assert row.scores is None or np.mean(row.scores) == pytest.approx(row.value)
        assert row.chance is not None
    return rows, [each for each in found if isinstance(each, Plot)]


def keyed(rows: list[Row]) -> dict[tuple, float]:
    return {(row.metric, row.settings["head"], row.settings["fraction"]): row.value for row in rows}


def test_segmentation_of_planted_colours(mosaics, tmp_path, monkeypatch):
    monkeypatch.setattr(segmentation, "FRACTIONS", (1 / 2, 1.0))  # seconds
    rows, plots = divided(segmentation.frozen(context(PlantedTower(), tmp_path), mosaics))
    assert [row.settings["training images"] for row in rows if row.metric == "mIoU"] == [16, 32] * 2
    assert all((row.protocol, row.data, row.synthetic) == ("segmentation/1", "mosaics", True) for row in rows)
    whole = [row for row in rows if row.metric == "mIoU" and row.settings["fraction"] == 1]
    for row in whole:
        assert row.value > 0.9
        assert row.interval[0] <= row.value <= row.interval[1]
        assert row.settings["resolution"] == "16x16, the labels' own"
    labels = dense_targets.masks(mosaics.part("test"), Preprocess(SIDE))
    pixels = np.stack(labels.maps)
    most = max((pixels == kind).sum() for kind in range(3)) / (pixels != 255).sum()
    assert whole[0].chance == pytest.approx(most / 3)
    served, _ = divided(segmentation.frozen(context(PlantedTower(wobble=1e-6), tmp_path), mosaics))
    assert keyed(served) == pytest.approx(keyed(rows), abs=1e-4)
    assert [plot.kind for plot in plots] == ["curve", "bars", "overlays"]
    assert plots[0].values["series"]["decoder"][-1] == whole[1].value
    image, label, _found = plots[2].values["rows"][0]
    np.testing.assert_array_equal(label[0, 0], image[0, 0])  # void
    first = labels.maps[0][8, 0]
    wanted = 0.4 * image[8, 0] + 0.6 * overlays.palette(mosaics)[first]
    np.testing.assert_array_equal(label[8, 0], np.rint(wanted))


def test_a_served_tower_is_not_tuned(mosaics, tmp_path):
    with pytest.raises(CannotRun, match="served model's weights"):
        next(segmentation.tuned(context(PlantedTower(), tmp_path), mosaics))
    here = PlantedTower(checkpoint=tmp_path)
    with pytest.raises(CannotRun, match="--fine_tune_steps is 0"):
        next(segmentation.tuned(context(here, tmp_path, fine_tune_steps=0), mosaics))


def test_a_tower_is_tuned_from_its_checkpoint(mosaics, tmp_path, monkeypatch):
    monkeypatch.setattr(segmentation, "KINDS", ("linear",))  # seconds
    config = ModelConfig(ViTConfig(width=16, depth=1, mlp_dim=32, heads=2, patch=4, resolution=SIDE))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": random_params(config)}, {}, Description(config, Preprocess(SIDE)))
    with CheckpointTower(tmp_path) as tower:
        given = context(tower, tmp_path, decoder_steps=20, fine_tune_steps=20)
        rows, plots = divided(segmentation.tuned(given, mosaics))
    assert [row.metric for row in rows] == ["mIoU", "pixel accuracy", "mean class accuracy"]
    assert rows[0].beats_chance_by > 0.1
    assert rows[0].settings["tuning"] == "AdamW, 20 steps of 16, rate 0.0005, decay 0.01, seed 0"
    assert [plot.kind for plot in plots] == ["overlays"]


def test_depth_of_planted_greys(distances, tmp_path):
    rows, plots = divided(depth.frozen(context(PlantedTower(), tmp_path, decoder_steps=40), distances))
    found = {(row.settings["head"], row.settings["align"], row.metric): row for row in rows}
    assert len(found) == len(rows) == 2 * 2 * 6
    for head in ("linear", "DPT"):
        for metric in ("MSE", "AbsRel", "delta < 1.25"):
            assert found[head, "none", metric].beats_chance_by > 0
        assert found[head, "none", "AbsRel"].better == "less"
        assert found[head, "none", "delta < 1.1"].better == "more"
    assert found["DPT", "none", "AbsRel"].settings["layers"] == "0, 1, 2, 3"
    (plot,) = plots
    assert plot.values["columns"] == ["image", "depth", "linear", "DPT"]
    assert plot.values["rows"][0][1].shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(plot.values["rows"][0][1][:, 0], 0)  # no depth


def test_depth_keeps_the_maps_that_are_shown_and_reads_a_part_once_for_each_use(distances, tmp_path, monkeypatch):
    read = collections.Counter()

    def counted(part, preprocess):
        found = dense_targets.depths(part, preprocess)

        def count(path):
            read[part.name] += 1
            return found.maps.read(path)

        return dataclasses.replace(found, maps=dataclasses.replace(found.maps, read=count))

    monkeypatch.setattr(depth, "depths", counted)
    list(depth.frozen(context(PlantedTower(), tmp_path, decoder_steps=1), distances))
    # To train: the median, and what each of two heads learns. To test: the errors of the median and of each head, and
    # what is shown.
    assert read == {"train": 32 * (1 + 2), "test": 6 * (1 + 2) + overlays.SHOWN}
    test = dense_targets.depths(distances.part("test"), Preprocess(SIDE))
    measured = depth.Measured.of(iter([np.zeros((4, 4, 4, 1), np.float32), np.zeros((2, 4, 4, 1), np.float32)]), test)
    assert list(measured.found) == overlays.places(6)
    each = [depth_measures.errors(np.ones((SIDE, SIDE)), true, "median")["AbsRel"] for true in test.maps]
    np.testing.assert_allclose(measured.errors["median"]["AbsRel"], each)


def test_dpt_says_how_many_layers_it_took(distances, tmp_path, monkeypatch):
    monkeypatch.setattr(depth, "KINDS", ("DPT",))
    given = context(PlantedTower(layers=()), tmp_path, decoder_steps=1)
    rows, _ = divided(depth.frozen(given, distances))
    assert rows[-1].settings["layers"] == "none is served; the tokens behind the last norm"


def test_video_of_planted_fades(fades, tmp_path):
    (row,), (plot,) = divided(video.frozen(context(PlantedTower(), tmp_path), fades))
    assert (row.value, row.chance, row.examples) == (1, 0.5, 10)
    assert (row.settings["frames"], row.settings["samples of a clip"], row.settings["crops"]) == (4, 6, 3)
    assert plot.values["counts"] == [[5, 0], [0, 5]]


def test_centred_features_say_what_changes(fades, tmp_path):
    given, frames = context(PlantedTower(), tmp_path), clips.clips(fades.part("test"))
    plain = clips.features(given, frames, Sampling(frames=3))
    centred = clips.features(given, frames, Sampling(frames=3, centred=True))
    np.testing.assert_allclose(centred.mean(axis=2), 0, atol=1e-6)
    np.testing.assert_allclose(np.diff(centred, axis=2), np.diff(plain, axis=2), atol=1e-6)


def test_sampling_is_checked(fades, tmp_path):
    wrong = [
        ({"frames": 0}, "frames is 0"),
        ({"crops": 2}, "crops is 2; expected one of 1, 3, 5"),
        ({"crops": [1]}, r"crops is \(1,\); expected a whole number"),
        ({"crops": True}, "crops is True; expected a whole number"),
        ({"frames": 2.5}, r"frames is 2\.5; expected a whole number"),
        ({"views": "2"}, "views is '2'; expected a whole number"),
        ({"views": True}, "views is True; expected a whole number"),
        ({"frame": 4}, "frame"),
        ({"centred": 1}, "centred is 1; expected true or false"),
        (3, "expected an object"),
    ]
    for sampling, message in wrong:
        broken = dataclasses.replace(fades, details={"sampling": sampling})
        with pytest.raises(ValueError, match=rf"set\.json: details\.sampling.*{message}"):
            list(video.frozen(context(PlantedTower(), tmp_path), broken))
    short = dataclasses.replace(fades, details={"sampling": {"frames": 6}})
    with pytest.raises(ValueError, match="5 frames for views of 6"):
        list(video.frozen(context(PlantedTower(), tmp_path), short))
    assert Sampling.of({}) == Sampling(8, 1, 1)


def test_crops_lie_where_they_are_said_to():
    assert [square(160, 80, 3, index) for index in range(3)] == [(0, 0, 80, 80), (40, 0, 120, 80), (80, 0, 160, 80)]
    assert square(80, 160, 1, 0) == (0, 40, 80, 120)
    assert [square(80, 80, 3, index) for index in range(3)] == [(0, 0, 70, 70), (5, 5, 75, 75), (10, 10, 80, 80)]
    assert square(160, 80, 5, 4) == (90, 10, 160, 80)


def test_a_crop_is_cut_out_or_the_file_itself(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    wide, small = tmp_path / "wide.png", tmp_path / "square.png"
    Pillow.fromarray(pixels).save(wide)
    Pillow.fromarray(pixels[:, :8]).save(small)
    assert crop(small, 1, 0) == small
    with Pillow.open(io.BytesIO(crop(wide, 3, 2))) as cut:
        np.testing.assert_array_equal(np.asarray(cut), pixels[:, 8:])
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"no\.png is no image"):
        crop(tmp_path / "no.png", 1, 0)


def part_of(folder: Path, kind: str, **fields) -> EvaluationSet:
    with PartWriter(folder / "test") as writer:
        writer.add("0.png", Pillow.new("RGB", (6, 4)), [], **fields)
    return EvaluationSet(folder, "one", kind, "here", True, NAMES)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((6, 4), np.uint8), r"mask\.png has 6x4 pixels \(height x width\), its image .*0\.png 4x6"),
        (np.full((4, 6), 3, np.uint8), "has the value 3; expected the classes 0 to 2, or 255 for void"),
        (np.zeros((4, 6, 3), np.uint8), "has 3 channels; a mask has one"),
        (np.full((4, 6), 255, np.uint8), "every pixel of every mask .* is 255"),
    ],
)
def test_masks_are_checked(mask, message, tmp_path):
    described = part_of(tmp_path, "segmentation", mask="mask.png")
    Pillow.fromarray(mask).save(tmp_path / "test" / "mask.png")
    with pytest.raises(ValueError, match=message):
        dense_targets.masks(described.part("test"), Preprocess(SIDE))


@pytest.mark.parametrize(
    ("depths", "message"),
    [
        (np.ones((3, 6), np.float32), "has 3x6 pixels"),
        (np.full((4, 6), np.inf, np.float32), "has no value that is finite and above 0"),
        (np.ones((4, 6), int), "no array .* of floats"),
        (np.ones(4, np.float32), "no array .* of floats"),
    ],
)
def test_depths_are_checked(depths, message, tmp_path):
    described = part_of(tmp_path, "depth", depth="depth.npy")
    np.save(tmp_path / "test" / "depth.npy", depths)
    with pytest.raises(ValueError, match=message):
        dense_targets.depths(described.part("test"), Preprocess(SIDE))


def test_files_that_are_something_else_are_told(tmp_path):
    described = part_of(tmp_path, "depth", depth="other", mask="other")
    (tmp_path / "test" / "other").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"other is no \.npy array"):
        dense_targets.depths(described.part("test"), Preprocess(SIDE))
    with pytest.raises(ValueError, match="other is no PNG"):
        dense_targets.masks(described.part("test"), Preprocess(SIDE))


def test_frames_are_checked(tmp_path):
    for frames, message in (("0.png", "expected a list"), ([], "expected a list"), (["0.png", "1.png"], "missing")):
        with pytest.raises(ValueError, match=message):
            clips.clips(part_of(tmp_path / str(len(message + str(frames))), "video", frames=frames).part("test"))


def test_a_tower_that_cuts_the_centre_out_is_judged_on_it(tmp_path):
    described = part_of(tmp_path, "segmentation", mask="mask.png")
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
    Pillow.fromarray(labels).save(tmp_path / "test" / "mask.png")
    part = described.part("test")
    whole, centre = (dense_targets.masks(part, Preprocess(16, crop=crop)) for crop in ("squash", "center"))
    np.testing.assert_array_equal(whole.maps[0], labels)
    np.testing.assert_array_equal(centre.maps[0], labels[:, 1:5])
    assert centre.picture(0).shape == (4, 4, 3)
    assert (whole.pixels, centre.pixels) == ("all", "those in the centre that the tower sees")
    smaller = Preprocess(12, crop="center", crop_fraction=0.75)
    assert dense_targets.window(32, 64, smaller) == (slice(4, 28), slice(20, 44))


def test_masks_and_pixels_are_read_when_they_are_looked_at(mosaics, tmp_path):
    described = part_of(tmp_path, "segmentation", mask="mask.png")
    Pillow.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "test" / "mask.png")
    found = dense_targets.masks(described.part("test"), Preprocess(SIDE))
    Pillow.fromarray(np.ones((4, 6), np.uint8)).save(tmp_path / "test" / "mask.png")
    np.testing.assert_array_equal(found.maps[0], np.ones((4, 6)))
    files = mosaics.part("test").files
    (pixels,) = image_batches(files, Preprocess(SIDE), len(files))
    np.testing.assert_array_equal(segmentation.Pixels(files, Preprocess(SIDE))[np.asarray([5, 2])], pixels[[5, 2]])


def test_a_turned_photograph_has_the_size_that_is_shown(tmp_path):
    described = part_of(tmp_path, "segmentation", mask="mask.png")
    turned = Pillow.Exif()
    turned[0x0112] = 6
    Pillow.new("RGB", (6, 4)).save(tmp_path / "test" / "0.png", exif=turned)
    Pillow.fromarray(np.zeros((6, 4), np.uint8)).save(tmp_path / "test" / "mask.png")
    found = dense_targets.masks(described.part("test"), Preprocess(SIDE))
    assert found.picture(0).shape == (6, 4, 3)
