"""Protocols are run on the sets that are theirs, and what goes wrong with one hides no other."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from train.evaluation_sets.reading import EvaluationSet, Shift, read_set, write_set
from train.kept import Kept
from train.suite.context import Context, Effort
from train.suite.outcome import CannotRun, Row
from train.suite.protocol import Protocol
from train.suite.room import available_memory, require_room
from train.suite.running import Task, chosen, find_sets, run, tasks
from train.tower import TowerFeatures
from vit22b.folder import Record, write_metadata


@dataclasses.dataclass
class Counted:
    """A tower that counts what it is asked, and answers the first byte of a file."""

    fingerprint: str | None = "counted"
    source: str = "counted:"
    asked: int = 0

    def features(self, images, *, tokens=False, layers=()):
        self.asked += 1
        pooled = np.asarray([[image.read_bytes()[0]] for image in images], np.float32)
        return TowerFeatures(
            pooled, pooled[:, None] if tokens else None, {layer: pooled[:, None] + layer for layer in layers}
        )


def make_set(root, name, kind="classification", **fields):
    part = root / name / "test"
    part.mkdir(parents=True)
    records = [Record(part / f"{i}.png", f"{i}.png", (f"class {i}",)) for i in range(2)]
    for record in records:
        Image.new("RGB", (4, 4)).save(record.path)
    write_metadata(part, records)
    described = EvaluationSet(root / name, name, kind, "made by a test", False, ("class 0", "class 1"), **fields)
    write_set(described)
    return described


def protocol(runs, kind="classification", asks=lambda _: True):
    return Protocol("one/1", "One", kind, "1", "one", runs, asks)


def row(value, data="a"):
    return Row("one/1", data, "top1", value, "more", 2)


@pytest.fixture
def context(tmp_path):
    return Context(Counted(), Effort(), tmp_path / "scratch", Kept(tmp_path / "kept"))


def test_a_set_is_read_as_it_was_written(tmp_path):
    written = make_set(tmp_path, "a", shifts=(Shift("test", "the same"),), legend={"class 0": (1, 2, 3)}, groups="tone")
    assert read_set(tmp_path / "a") == written
    part = written.part("test")
    assert part.targets.tolist() == [0, 1]
    assert [file.name for file in part.files] == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sound"}, "kind is 'sound'; expected one of classification"),
        ({"classes": []}, "`classes` is empty"),
        ({"classes": "cat"}, "`classes` is 'cat'; expected a list of texts"),
        ({"classes": [1, 2]}, "`classes` has 1; expected a text"),
        ({"templates": "general"}, "`templates` is 'general'; expected a list of texts"),
        ({"name": 3}, "`name` has 3; expected a text"),
        ({"name": "a/b"}, "it cannot have a slash"),
        ({"groups": True}, "`groups` has True; expected a text"),
        ({"synthetic": "no"}, "`synthetic` is 'no'; expected true or false"),
        ({"details": ["out_of_distribution"]}, "`details` is ('out_of_distribution',); expected an object"),
        ({"categories": {"class 0": 1}}, "`categories` has 1; expected a text"),
        ({"legend": {"class 0": [0, 256, 0]}}, "`legend` has [0, 256, 0] for 'class 0'; expected a colour"),
        ({"legend": {"class 0": [0, -1, 0]}}, "`legend` has [0, -1, 0] for 'class 0'; expected a colour"),
        ({"legend": {"class 0": [0, 0.5, 0]}}, "`legend` has [0, 0.5, 0] for 'class 0'; expected a colour"),
        ({"legend": {"class 0": [0, 0]}}, "`legend` has [0, 0] for 'class 0'; expected a colour"),
        ({"legend": {"class 0": "red"}}, "`legend` has 'red' for 'class 0'; expected a colour"),
        ({"legend": {"class 0": 7}}, "`legend` has 7 for 'class 0'; expected a colour"),
        ({"legend": ["red"]}, "`legend` is ('red',); expected an object"),
        ({"shifts": [{"part": 1, "title": "x"}]}, "`part` has 1; expected a text"),
        ({"classes": ["a", "a"]}, "comes twice"),
        ({"templates": ["no place"]}, "no template"),
        ({"shifts": [{"folder": "x"}]}, "Shift has no field folder"),
        ({"more": 1}, "no field more"),
    ],
)
def test_a_broken_set_is_refused_by_name(tmp_path, change, message):
    make_set(tmp_path, "a")
    path = tmp_path / "a" / "set.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=f"set\\.json.*{re.escape(message)}"):
        read_set(tmp_path / "a")


def test_a_label_that_is_no_class_is_named_with_its_file(tmp_path):
    described = dataclasses.replace(make_set(tmp_path, "a"), classes=("class 0",))
    with pytest.raises(ValueError, match=r"1\.png has the labels \['class 1'\]; expected one of the 1 classes"):
        _ = described.part("test").targets
    with pytest.raises(ValueError, match=r"0\.png has no 'mask'"):
        described.part("test").column("mask")


def test_a_detail_is_a_text_or_a_list_of_them(tmp_path):
    described = make_set(tmp_path, "a", details={"one": "x", "two": ["x", "y"], "bad": 3, "worse": [["x"]]})
    assert [described.named(name) for name in ("one", "two", "none")] == [("x",), ("x", "y"), ()]
    for name in ("bad", "worse"):
        with pytest.raises(ValueError, match=f"details.{name}.*expected a text"):
            described.named(name)


def test_a_caption_may_hold_what_python_takes_for_the_end_of_a_line(tmp_path):
    described = make_set(tmp_path, "a")
    line = {"file_name": "0.png", "labels": ["class 0"], "caption": "one\u2028two\x85three", "group": "g"}
    (described.folder / "test" / "metadata.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n")
    part = described.part("test")
    assert part.captions == (line["caption"],)
    assert part.column("group") == ("g",)
    assert part.sources == (None,)


def test_a_source_is_a_text(tmp_path):
    described = make_set(tmp_path, "a")
    metadata = described.folder / "test" / "metadata.jsonl"
    metadata.write_text('{"file_name": "0.png", "source": "a photograph"}\n{"file_name": "1.png"}\n')
    assert described.part("test").sources == ("a photograph", None)
    metadata.write_text('{"file_name": "0.png", "source": 3}\n')
    with pytest.raises(ValueError, match=r"source in .*metadata\.jsonl` has 3; expected a text"):
        _ = described.part("test").sources


def test_sets_are_found_below_a_folder_and_chosen_by_name(tmp_path):
    for name in ("b", "a"):
        make_set(tmp_path, name)
    assert [each.name for each in find_sets(tmp_path)] == ["a", "b"]
    assert [each.name for each in find_sets(tmp_path, ["b"])] == ["b"]
    assert [each.name for each in find_sets(tmp_path / "a")] == ["a"]
    with pytest.raises(ValueError, match="--sets emojis is not among a, b"):
        find_sets(tmp_path, ["emojis"])
    with pytest.raises(ValueError, match="is no folder"):
        find_sets(tmp_path / "nowhere")
    write_set(dataclasses.replace(read_set(tmp_path / "b"), name="a"))
    with pytest.raises(ValueError, match="are both named 'a'"):
        find_sets(tmp_path)


def test_the_nearest_name_is_offered():
    with pytest.raises(ValueError, match="Did you mean few-shot/1"):
        chosen("--protocols", ["few-shots/1"], ["few-shot/1", "head/1"])


def test_protocols_run_on_sets_of_their_kind_that_they_ask_for(tmp_path):
    sets = [make_set(tmp_path, "a"), make_set(tmp_path, "b", kind="video")]
    both = protocol(None), protocol(None, "video", asks=lambda described: described.groups is not None)
    assert [str(task) for task in tasks(both, sets)] == ["one/1 on a"]


def test_what_came_before_an_error_is_kept(context, tmp_path):
    described = make_set(tmp_path, "a")

    def runs(error):
        def generator(_, __):
            yield row(0.5)
            raise error

        return generator

    (task,) = tasks([protocol(runs(CannotRun("no text tower")))], [described])
    ran = run(context, task)
    assert (ran.outcomes, ran.cannot, ran.failed) == ((row(0.5),), "no text tower", None)
    (task,) = tasks([protocol(runs(ValueError("a bad mask")))], [described])
    ran = run(context, task)
    assert (ran.outcomes, ran.cannot, ran.failed) == ((row(0.5),), None, "a bad mask")


def test_a_training_that_diverges_ends_its_protocol_alone(context, tmp_path):
    def diverges(_, __):
        raise FloatingPointError("10 steps in a row")
        yield

    (task,) = tasks([protocol(diverges)], [make_set(tmp_path, "a")])
    assert run(context, task).failed == "10 steps in a row"


def test_a_mask_has_room_for_255_classes(tmp_path):
    with pytest.raises(ValueError, match="`classes` has 256 names; a mask has room for 255"):
        dataclasses.replace(make_set(tmp_path, "a", "segmentation"), classes=tuple(f"class {i}" for i in range(256)))


def test_a_tower_is_asked_once_and_its_answers_are_kept_by_its_fingerprint(context, tmp_path):
    files = make_set(tmp_path, "a").part("test").files
    first = context.pooled(files)
    assert context.pooled(files) is first
    assert context.tower.asked == 1
    again = Context(Counted(), Effort(), tmp_path, Kept(tmp_path / "kept"))
    np.testing.assert_array_equal(again.pooled(files), first)
    assert again.tower.asked == 0
    files[0].write_bytes(b"\0another image")  # other bytes under the same name are another question
    assert again.pooled(files)[0] == 0
    assert Context(Counted(fingerprint="other"), Effort(), tmp_path, Kept(tmp_path / "kept")).pooled(files)[0] == 0


def test_a_server_is_asked_anew_in_every_run(tmp_path):
    files = make_set(tmp_path, "a").part("test").files
    for _ in range(2):
        context = Context(Counted(fingerprint=None), Effort(), tmp_path, Kept(tmp_path / "kept"))
        context.pooled(files)
        assert context.tower.asked == 1
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("answer", [np.full((2, 1), np.nan), np.zeros((1, 1))])
def test_answers_that_no_protocol_can_judge_are_told_whichever_asks(context, tmp_path, monkeypatch, answer):
    described = make_set(tmp_path, "a")
    monkeypatch.setattr(Counted, "features", lambda *_: TowerFeatures(answer.astype(np.float32)))
    ran = run(context, Task(protocol(lambda given, data: iter(given.pooled(data.part("test").files))), described))
    assert "counted: answers 2 images with pooled of the shape" in ran.failed


def test_layers_and_tokens_are_asked_in_one_pass(context, tmp_path):
    files = make_set(tmp_path, "a").part("test").files
    layers = context.layers(files, (0, 2))
    assert context.tower.asked == 1
    np.testing.assert_array_equal(layers[2], layers[0] + 2)
    assert context.tokens(files).shape == (2, 1, 1)


@pytest.mark.parametrize("fingerprint", ["one", None])
def test_tokens_are_asked_for_in_parts_and_kept_ones_stay_on_the_disk(tmp_path, monkeypatch, fingerprint):
    files = make_set(tmp_path, "a").part("test").files
    kept = Kept(tmp_path / "kept")
    whole = Context(Counted(fingerprint=None), Effort(), tmp_path, kept)
    monkeypatch.setattr("train.suite.context.DENSE_PART", 1)
    parts = Context(Counted(fingerprint=fingerprint), Effort(), tmp_path, kept)
    np.testing.assert_array_equal(parts.tokens(files), whole.tokens(files))
    np.testing.assert_array_equal(parts.layers(files, (0, 2))[2], whole.layers(files, (0, 2))[2])
    assert parts.tower.asked == 4
    if fingerprint:
        again = Context(Counted(fingerprint=fingerprint), Effort(), tmp_path, kept)
        assert isinstance(again.tokens(files).base, np.memmap)
        assert not again.layers(files, (0, 2))[0].flags.writeable
        assert again.tower.asked == 0


def test_what_there_is_no_room_for_is_refused_before_the_tower_works_on_it(tmp_path, monkeypatch):
    files = make_set(tmp_path, "a").part("test").files
    monkeypatch.setattr("train.suite.context.DENSE_PART", 1)
    monkeypatch.setattr("train.suite.room.available_memory", lambda: 7)
    context = Context(Counted(fingerprint=None), Effort(), tmp_path)
    with pytest.raises(
        ValueError, match=r"the tokens of 2 images by counted: take 0\.0 GiB, and .* available in memory"
    ):
        context.tokens(files)
    assert context.tower.asked == 1
    monkeypatch.setattr("train.suite.room.available_memory", lambda: 8)  # 2 images, 1 token, 1 float32
    assert context.tokens(files).nbytes == 8


def test_room_is_that_of_the_disk_or_of_the_memory(tmp_path):
    for folder, remedy in ((tmp_path, "an --output on a larger disk"), (None, "checkpoint as --source")):
        require_room("tokens", 1, folder)
        with pytest.raises(ValueError, match=rf"tokens take 1048576\.0 GiB, and .*GiB.*; give .*{remedy}.*--sets"):
            require_room("tokens", 2**50, folder)


def test_the_memory_that_is_left_is_the_machines_and_at_most_the_containers(tmp_path):
    memory, container = tmp_path / "meminfo", tmp_path / "cgroup"
    assert available_memory(memory, container) is None
    memory.write_text("MemTotal: 20 kB\nMemAvailable:       16 kB\n")
    assert available_memory(memory, container) == 16384
    container.mkdir()
    for name, value in (("max", "10000"), ("current", "9000"), ("stat", "anon 1\ninactive_file 500\n")):
        (container / f"memory.{name}").write_text(value)
    assert available_memory(memory, container) == 1500
    (container / "memory.max").write_text("max\n")
    assert available_memory(memory, container) == 16384


def test_kept_rows_that_are_damaged_or_do_not_come_whole_are_made_anew(tmp_path):
    kept = Kept(tmp_path / "kept")

    def broken():
        yield np.zeros((1, 2))
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        kept.rows("key", 2, broken)
    assert not list((tmp_path / "kept").iterdir())
    made = kept.rows("key", 3, lambda: [np.ones((2, 2)), np.zeros((1, 2))])
    assert made.tolist() == [[1, 1], [1, 1], [0, 0]]
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    assert kept.rows("key", 1, lambda: [np.full((1, 2), 5.0)]).tolist() == [[5, 5]]


def test_a_damaged_kept_array_is_made_anew(tmp_path):
    kept = Kept(tmp_path / "kept")
    kept.array("key", lambda: np.arange(3))
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert kept.array("key", lambda: np.arange(4)).tolist() == [0, 1, 2, 3]
    assert kept.array("key", lambda: np.arange(5)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("field", "value"), [("seeds", 0), ("probe_epochs", 0), ("fine_tune_steps", -1)])
def test_an_effort_that_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match=f"--{field} is {value}"):
        Effort(**{field: value})


@pytest.mark.parametrize(("better", "expected"), [("more", 0.3), ("less", -0.3), ("neither", None)])
def test_what_beats_chance_depends_on_the_metric(better, expected):
    found = dataclasses.replace(row(0.8), better=better, chance=0.5).beats_chance_by
    assert found == (None if expected is None else pytest.approx(expected))
