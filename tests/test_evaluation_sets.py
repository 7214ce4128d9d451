import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train import evaluation_data
from train.evaluation_sets import cut_outs, fashion, motion, pictograms, stamps, stereo, views
from train.evaluation_sets.debian import Debian, Unavailable
from train.evaluation_sets.maker import WITHOUT, Maker
from train.evaluation_sets.makers import MAKERS
from train.evaluation_sets.pretraining import FOLDER, gather
from train.evaluation_sets.reading import SET_FILE, EvaluationSet, Shift, read_set, write_set
from train.evaluation_sets.writing import PartWriter, finish, whole_folder
from vit22b.folder import METADATA_FILE, read_folder

CLASSES = ("black", "white")


def tiny(folder, name="emoji", makers=1, **values):
    """A set of four images, two a part."""
    for part in ("train", "test"):
        with PartWriter(folder / part) as writer:
            for label, colour in zip(CLASSES, (0, 255), strict=True):
                writer.add(f"{label}.png", Image.new("L", (8, 8), colour), [label], f"all {label}.", group=label[0])
    return EvaluationSet(folder, name, "classification", "a test", True, CLASSES, makers=makers, **values)


@pytest.fixture
def square():
    """A red square with alpha."""
    return Image.new("RGBA", (20, 20), (255, 0, 0, 255))


# What is written is read back.


def test_a_set_is_read_as_it_was_written(tmp_path):
    described = tiny(
        tmp_path / "set",
        shifts=(Shift("test", "the same again", "map.json"),),
        groups="first letter",
        legend={"black": (0, 0, 0)},
        categories={"black": "dark"},
        details={"positive": ["white"]},
    )
    finish(described)
    found = read_set(tmp_path / "set")
    assert found == described
    part = found.part("test")
    assert part.labels == (("black",), ("white",))
    assert part.targets.tolist() == [0, 1]
    assert part.captions == ("all black.", "all white.")
    assert part.column("group") == ("b", "w")
    assert part.folder == tmp_path / "set" / "test"
    assert len(part) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "sculpture"}, "kind is 'sculpture'"),
        ({"classes": ["a", "a"]}, "comes twice"),
        ({"classes": []}, "is empty"),
        ({"templates": ["a photo"]}, "'a photo' is no template"),
        ({"shifts": [{"folder": "test"}]}, "folder"),
        ({"colour": "red"}, "has no field colour; .* or is misspelt$"),
        ({"classses": []}, r"has no field classses; .*\(did you mean classes\?\)"),
    ],
)
def test_a_broken_set_is_told_with_its_file(tmp_path, values, message):
    finish(tiny(tmp_path / "set"))
    path = tmp_path / "set" / SET_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(ValueError, match=message) as error:
        read_set(tmp_path / "set")
    assert str(path) in str(error.value)


def test_a_folder_without_a_description_is_no_set(tmp_path):
    with pytest.raises(ValueError, match=r"has no set\.json"):
        read_set(tmp_path)


def test_a_part_with_another_class_or_without_a_field_is_told(tmp_path):
    described = tiny(tmp_path / "set")
    part = described.part("train")
    with pytest.raises(ValueError, match="has no 'mask' in"):
        part.column("mask")
    with pytest.raises(ValueError, match=r"names .*b as group, which is missing"):
        part.paths("group")
    write_set(EvaluationSet(tmp_path / "set", "set", "classification", "a test", True, ("black",)))
    with pytest.raises(ValueError, match=r"white\.png has the labels \['white'\]"):
        _ = read_set(tmp_path / "set").part("train").targets


def test_a_part_has_its_metadata_once_it_is_finished(tmp_path, square):
    with PartWriter(tmp_path / "part") as writer:
        with pytest.raises(FileExistsError):
            PartWriter(tmp_path / "part")
        writer.add("a.png", square, [])
        assert not (tmp_path / "part" / METADATA_FILE).exists()
    assert (tmp_path / "part" / METADATA_FILE).exists()
    with pytest.raises(ZeroDivisionError), PartWriter(tmp_path / "other"):
        _ = 1 / 0
    assert not (tmp_path / "other" / METADATA_FILE).exists()


def test_a_maker_cannot_forget_a_part(tmp_path):
    described = tiny(tmp_path / "set", shifts=(Shift("sketches", "drawn"),))
    with pytest.raises(AssertionError, match="has no sketches"):
        finish(described)


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "sets" / "one"
    for text in ("first", "second"):
        with whole_folder(target) as partial:
            (partial / "text").write_text(text)
        assert (target / "text").read_text() == text
    with pytest.raises(FileNotFoundError), whole_folder(target) as partial:
        (partial / "missing" / "text").write_text("third")
    assert (target / "text").read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["one"]


# What the sets are put together by.


def test_a_cut_out_is_scaled_to_its_longer_edge_and_turned_against_the_clock(square):
    assert views.turned(square, 10.0, 0.0).size == (10, 10)
    wide = Image.new("RGBA", (40, 10), (255, 0, 0, 255))
    assert views.turned(wide, 20.0, 0.0).size == (20, 5)
    assert views.turned(wide, 20.0, 90.0).size == (5, 20)
    wide.paste((0, 0, 255, 255), (20, 0, 40, 10))  # the right half is blue
    blue = np.asarray(views.turned(wide, 40.0, 90.0))[..., 2] > 128
    assert blue[:15].all()
    assert not blue[25:].any()


def test_a_view_is_the_same_whenever_it_is_made_and_shows_all_of_the_cut_out(square):
    images = [views.view(square, views.generator("a", 1), Image.new("RGB", (64, 64), "white")) for _ in range(2)]
    assert images[0].tobytes() == images[1].tobytes()
    other = views.view(square, views.generator("a", 2), Image.new("RGB", (64, 64), "white"))
    assert images[0].tobytes() != other.tobytes()
    assert images[0].size == (64, 64)
    red = (np.asarray(images[0])[..., 1] < 128).sum()
    assert (0.7 * 64 * 0.8) ** 2 < red <= 64**2  # 0.8: what a turn by 15 degrees costs at most


def test_what_is_laid_out_of_the_picture_is_cut_off(square):
    pixels = np.asarray(views.laid(Image.new("RGB", (30, 30), "white"), square, 20, -5))
    red = (pixels == (255, 0, 0)).all(-1)
    assert red[:15, 20:].all()
    assert red.sum() == 15 * 10


def test_a_scenes_labels_are_the_things_that_are_seen(square):
    blue = Image.new("RGBA", (160, 160), (0, 0, 255, 255))
    white = Image.new("RGB", (112, 112), "white")
    large = square.resize((160, 160))  # as drawings are rendered; edges of an enlarged one are mixed
    for seed in range(5):
        image, labels = cut_outs.scene([(1, large), (2, blue)], np.random.default_rng(seed), white)
        pixels = np.asarray(image).astype(int)
        assert labels.shape == (112, 112)
        # At an edge, which is half covered, the colour is mixed; everywhere else it says which thing is in front.
        for kind, colour in ((0, (255, 255, 255)), (1, (255, 0, 0)), (2, (0, 0, 255))):
            exact = (pixels == colour).all(-1)
            assert exact.any()
            assert (labels[exact] == kind).all()
        pure = [(pixels == colour).all(-1) for colour in ((255, 255, 255), (255, 0, 0), (0, 0, 255))]
        assert np.any(pure, axis=0).mean() > 0.95


def centre_and_size(frame):
    y, x = np.nonzero(np.asarray(frame)[..., 1] < 128)
    return np.array([x.mean(), y.mean()]), len(x)


@pytest.mark.parametrize("name", motion.MOTIONS)
def test_a_clip_moves_as_its_class_says_and_no_other_way(name):
    bar = Image.new("RGBA", (30, 10), (255, 0, 0, 255))
    ground = Image.new("RGB", (112, 112), "white")
    frames = motion.clip(bar, motion.MOTIONS[name], np.random.default_rng(3), ground)
    assert len(frames) == motion.FRAMES
    (first, small), (last, large) = centre_and_size(frames[0]), centre_and_size(frames[-1])
    expected = {"moves up": (0, -1), "moves down": (0, 1), "moves left": (-1, 0), "moves right": (1, 0)}
    way = last - first
    direction = np.array(expected.get(name, (0, 0)))
    assert np.abs(way - direction * np.abs(way).max()).max() < 2  # pixels
    assert (np.abs(way).max() > 25) == (name in expected)
    growth = {"grows": 1, "shrinks": -1}.get(name, 0)
    assert np.log(large / small) * growth > 0.8 or (growth == 0 and abs(np.log(large / small)) < 0.15)


def test_the_opposite_motion_is_the_clip_backwards():
    bar = Image.new("RGBA", (30, 10), (255, 0, 0, 255))
    ground = Image.new("RGB", (112, 112), "white")
    for one, other in (("moves up", "moves down"), ("turns clockwise", "turns counterclockwise"), ("grows", "shrinks")):
        there, back = (
            motion.clip(bar, motion.MOTIONS[name], np.random.default_rng(0), ground) for name in (one, other)
        )
        assert [frame.tobytes() for frame in there] == [frame.tobytes() for frame in reversed(back)]


def test_what_moves_in_the_test_part_is_not_trained_on():
    assert not set(motion.MOVING["train"]) & set(motion.MOVING["test"])
    assert set(motion.MOVING["train"]) | set(motion.MOVING["test"]) <= set(pictograms.THINGS)


def test_depth_is_middleburys_formula_and_zero_where_there_is_none():
    found = stereo.depth(np.array([[0.0, 31.086], [np.nan, np.inf]]))
    np.testing.assert_allclose(found, [[6.177435, 3.088718], [0, 0]], rtol=3e-7)
    assert found.dtype == np.float32


def test_there_are_sixteen_categories_of_five_and_no_drawing_comes_twice():
    assert len(pictograms.CATEGORIES) == 16
    assert {len(things) for things in pictograms.CATEGORIES.values()} == {5}
    assert len(pictograms.THINGS) == len(set(pictograms.THINGS.values())) == 80
    assert all(len(text) == 1 for text in pictograms.THINGS.values())


def test_stamps_with_the_same_caption_are_not_divided():
    found = [stamps.Stamp(Path(f"{i}.png"), "bird", f"A bird {i // 2}.") for i in range(20)]
    parts = stamps.divided(found)
    assert len(parts["test"]) == 6
    assert len(parts["train"]) == 14
    assert not {s.caption for s in parts["train"]} & {s.caption for s in parts["test"]}


def test_another_package_than_the_stamps_is_told(tmp_path):
    with pytest.raises(ValueError, match="has no stamp of the class bird"):
        stamps.read_stamps(tmp_path)


def test_idx_is_read_and_anything_else_refused(tmp_path):
    import gzip

    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + bytes(range(6))))
    assert fashion.read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(gzip.compress(b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + bytes(5)))
    with pytest.raises(ValueError, match="has 5 values"):
        fashion.read_idx(path)
    path.write_bytes(gzip.compress(b"PNG"))
    with pytest.raises(ValueError, match="begins with b'PNG'"):
        fashion.read_idx(path)


# Debian's packages.


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts commands of one's own in place of all others: name -> shell script."""

    def put(**scripts):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, script in scripts.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\nPATH={os.defpath}\n{script}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return put


def test_a_package_is_fetched_once_and_unpacked(tmp_path, commands):
    commands(
        apt_get=f'echo got >> {tmp_path}/log; for last; do :; done; echo deb > "$last.deb"',
        dpkg='mkdir -p usr/share && cp "$2" usr/share/',
    )
    debian = Debian(tmp_path / "debian")
    for again in (debian, debian, Debian(tmp_path / "debian", allowed=False)):
        folder = again.package("fonts")
        assert (folder / "usr/share/fonts.deb").read_text() == "deb\n"
    assert (tmp_path / "log").read_text() == "got\n"
    assert [path.name for path in (tmp_path / "debian").iterdir()] == ["fonts"]
    assert [path.name for path in folder.iterdir()] == ["usr"]


def test_a_package_that_cannot_be_had_is_tried_once_and_says_why(tmp_path, commands):
    commands()
    with pytest.raises(Unavailable, match="there is no apt-get on this machine"):
        Debian(tmp_path / "debian").package("fonts")
    commands(apt_get=f"echo tried >> {tmp_path}/log; echo E: Unable to locate package fonts >&2; exit 100")
    debian = Debian(tmp_path / "debian")
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"apt-get: E: Unable to locate package fonts\. .*dpkg -x fonts_"):
            debian.package("fonts")
    assert (tmp_path / "log").read_text() == "tried\n"
    assert not list((tmp_path / "debian").iterdir())
    with pytest.raises(Unavailable, match="--no_debian"):
        Debian(tmp_path / "debian", allowed=False).package("fonts")


# The program.


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    """Runs the program with makers of one's own; returns what it printed, and how often each was called."""
    calls = []

    def maker(name, version=1, needs=None, uses=None, modules=()):
        def make(folder, debian):
            calls.append(name)
            if needs:
                debian.package(needs)
            without = [uses] if uses and not (debian.folder / uses).is_dir() else []
            return tiny(folder, name, version, details={WITHOUT: without})

        return Maker(name, version, modules, make)

    def run(*makers, **settings):
        calls.clear()
        monkeypatch.setattr(evaluation_data, "MAKERS", tuple(maker(*given) for given in makers))
        values = {"output": tmp_path / "sets", "debian": tmp_path / "debian", "no_debian": True, **settings}
        evaluation_data.write(evaluation_data.Settings(**values))
        return capsys.readouterr().out.splitlines(), list(calls)

    return run


def test_what_is_there_is_skipped_and_made_anew_by_another_version(program, tmp_path):
    lines, calls = program(("emoji",), ("digits",))
    assert calls == ["emoji", "digits"]
    assert lines[0].startswith("emoji: test 2, train 2; ")
    assert lines[-1] == f"{FOLDER}: 4 images"
    lines, calls = program(("emoji",), ("digits",))
    assert calls == []
    assert lines == ["emoji: there already", "digits: there already", f"{FOLDER}: there already"]
    _, calls = program(("emoji", 2), ("digits",))
    assert calls == ["emoji"]
    assert read_set(tmp_path / "sets" / "emoji").makers == 2


def test_a_set_of_ones_own_is_left_alone(program, tmp_path):
    own = tmp_path / "sets" / "emoji"
    finish(tiny(own, makers=None))
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    lines, calls = program(("emoji",), ("digits",), only=("emoji",))
    assert calls == []
    assert lines == ["emoji: your own set, left alone"]
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", ["picture.png", SET_FILE])
def test_what_is_no_set_is_neither_replaced_nor_deleted(program, tmp_path, content):
    own = tmp_path / "sets" / "digits"
    own.mkdir(parents=True)
    (own / content).write_text("mine")
    with pytest.raises(ValueError, match=str(own)):
        program(("emoji",), ("digits",))
    assert (own / content).read_text() == "mine"
    assert not (tmp_path / "sets" / "emoji").exists()  # told before work begins


def test_a_set_whose_package_is_missing_is_left_out_and_the_others_are_made(program, tmp_path):
    lines, _ = program(("fashion", 1, "clothes"), ("emoji",))
    assert lines[0].startswith("fashion: left out. Debian's package clothes is not here: downloads are switched off")
    assert lines[1].startswith("emoji: test 2")
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["emoji", FOLDER]
    (tmp_path / "debian" / "clothes").mkdir(parents=True)
    assert program(("fashion", 1, "clothes"), ("emoji",))[1] == ["fashion"]


def test_a_set_is_made_anew_when_what_it_did_without_is_there(program, tmp_path):
    given = ("emoji", 1, None, "fonts")
    assert program(given)[0][0].endswith("; without Debian's fonts")
    assert program(given)[0][0] == "emoji: there already; without Debian's fonts"
    (tmp_path / "debian" / "fonts").mkdir(parents=True)
    assert program(given)[1] == ["emoji"]
    assert program(given)[0][0] == "emoji: there already"


def test_a_missing_package_of_pypi_is_told_before_anything_is_made(program, tmp_path):
    with pytest.raises(ValueError, match=r"the set digits needs the module no_such_module.*--group eval"):
        program(("emoji",), ("digits", 1, None, None, ("no_such_module",)))
    assert not (tmp_path / "sets").exists()


def test_only_takes_names_of_sets(program):
    with pytest.raises(ValueError, match=f"'emojy'; the sets are emoji, digits, {FOLDER}"):
        program(("emoji",), ("digits",), only=("emojy",))
    assert program(("emoji",), ("digits",), only=("digits",))[1] == ["digits"]


def test_every_maker_has_a_name_of_its_own():
    names = [maker.name for maker in MAKERS]
    assert len(set(names)) == len(names)
    assert {"digits", "emoji", "captions", "people", "cues", "stereo", "motion", "cut_outs"} <= set(names)


# What the demo's tower is trained on.


def test_the_train_parts_are_gathered_without_being_copied(tmp_path):
    for name in ("emoji", "digits"):
        finish(tiny(tmp_path / name, name))
    assert gather(tmp_path) == 4
    folder = read_folder(tmp_path / FOLDER)
    assert [record.name for record in folder.records] == [
        *("digits/black.png", "digits/white.png", "emoji/black.png", "emoji/white.png"),
    ]
    assert folder.labels == CLASSES
    assert folder.records[0].caption == "all black."
    if sys.platform == "linux":
        assert folder.records[0].path.samefile(tmp_path / "digits" / "train" / "black.png")
    assert gather(tmp_path) is None
    finish(tiny(tmp_path / "photos", "photos"))
    assert gather(tmp_path) == 6


def test_images_that_changed_under_their_names_are_gathered_anew(tmp_path):
    finish(tiny(tmp_path / "emoji"))
    assert gather(tmp_path) == 2
    with whole_folder(tmp_path / "emoji") as again:
        finish(tiny(again))
    assert gather(tmp_path) is None
    with whole_folder(tmp_path / "emoji") as other:
        finish(tiny(other))
        Image.new("L", (8, 8), 7).save(other / "train" / "black.png")
    assert gather(tmp_path) == 2
    of_set, gathered = (tmp_path / "emoji" / "train" / "black.png", tmp_path / FOLDER / "emoji" / "black.png")
    assert gathered.read_bytes() == of_set.read_bytes()


def test_a_folder_of_ones_own_and_a_lack_of_sets_are_told(tmp_path):
    with pytest.raises(ValueError, match="has none of the sets emoji, digits, photos"):
        gather(tmp_path)
    finish(tiny(tmp_path / "emoji"))
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(ValueError, match="was not made by this program"):
        gather(tmp_path)
