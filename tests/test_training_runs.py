import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.planted_tower import PlantedTower
from train.evaluation_sets.reading import EvaluationSet
from train.evaluators.few_shot import draw
from train.mixture import open_mixture
from train.suite import distillation, fine_tuning
from train.suite.context import Context, Effort
from train.suite.distillation import DISTILLATION, Subset
from train.suite.fine_tuning import FINE_TUNING
from train.suite.outcome import Plot, Row
from train.suite.running import Task, run
from train.suite.training_runs import right
from train.tower_opening import open_tower
from vit22b.folder import read_folder, write_metadata

PROTOCOLS = (*fine_tuning.PROTOCOLS, *distillation.PROTOCOLS)
BY_ID = {protocol.id: protocol for protocol in PROTOCOLS}
EFFORT = Effort(seeds=2, fine_tune_steps=2, distil_steps=2)


@pytest.fixture(scope="module")
def small(digits, tmp_path_factory):
    """A set of 40 digits to learn from and 20 to be tested on."""
    folder = tmp_path_factory.mktemp("sets") / "small"
    for part, source, every in (("train", "train", 10), ("test", "heldout", 5)):
        records = read_folder(digits / source).records[::every]
        (folder / part).mkdir(parents=True)
        for record in records:
            shutil.copy(record.path, folder / part / record.name)
        write_metadata(folder / part, records)
    classes = read_folder(digits / "train").labels[::-1]  # not in the order of the folder's labels
    details = {"fine_tuning": True}
    return EvaluationSet(folder, "small", "classification", "MNIST", synthetic=False, classes=classes, details=details)


def test_they_run_where_a_set_asks_for_them(small):
    plain = EvaluationSet(small.folder, "plain", "classification", "MNIST", synthetic=False, classes=small.classes)
    assert [protocol.asks(small) for protocol in PROTOCOLS] == [True, True]
    assert [protocol.asks(plain) for protocol in PROTOCOLS] == [False, False]


@pytest.mark.parametrize(
    ("protocol", "tower", "effort", "reason"),
    [
        (FINE_TUNING, {}, {}, "a server does not give its model's weights away; name the checkpoint"),
        (DISTILLATION, {"labels": ("red",)}, {}, "head does not know 10 of the 10 classes, such as 'zero'"),
        (FINE_TUNING, {"checkpoint": Path("any")}, {"fine_tune_steps": 0}, "--fine_tune_steps is 0"),
        (DISTILLATION, {"checkpoint": Path("any")}, {"fine_tune_steps": 0}, "--fine_tune_steps is 0"),
        (DISTILLATION, {}, {"distil_steps": 0}, "--distil_steps is 0; give some to train a student"),
    ],
)
def test_what_cannot_be_trained_is_told(protocol, tower, effort, reason, small, tmp_path):
    context = Context(PlantedTower(**tower), Effort(**effort), tmp_path)
    ran = run(context, Task(BY_ID[protocol], small))
    assert not ran.outcomes
    assert ran.failed is None
    assert reason in ran.cannot


def test_a_class_without_a_training_image_has_no_probe_to_begin_from(pretrained, small, tmp_path):
    """Else a new head would stand in the probe's place, and nobody would be told."""
    shutil.copytree(small.folder, tmp_path / "set")
    records = [record for record in read_folder(tmp_path / "set" / "train").records if record.labels != ("five",)]
    write_metadata(tmp_path / "set" / "train", records)
    described = dataclasses.replace(small, folder=tmp_path / "set")
    ran = run(Context(PlantedTower(checkpoint=pretrained), EFFORT, tmp_path), Task(BY_ID[FINE_TUNING], described))
    assert not ran.outcomes
    assert f"1 of 10 classes have no training image, the first is number {small.classes.index('five')}" in ran.cannot


def test_a_head_is_read_by_the_names_of_its_classes(small):
    """Of a class that it does not know it is never right, and otherwise always here."""
    test = small.part("test")

    class Knowing:
        labels = tuple(name for name in small.classes[3:] if name != "five")

        def logits(self, files):
            by_file = dict(zip(test.files, test.labels, strict=True))
            return np.array([[float(label in by_file[file]) for label in self.labels] for file in files], np.float32)

    found = right(Knowing(), test)
    known = [labels[0] in Knowing.labels for labels in test.labels]
    np.testing.assert_array_equal(found, known)
    assert 0 < found.mean() < 1


def test_a_student_sees_the_images_that_were_drawn(small):
    part = small.part("train")
    (source,) = open_mixture((str(part.folder),)).sources
    few = Subset(source, draw(part.targets, 3, seed=1))
    assert len(few) == 30
    assert Counter(few[index].labels for index in range(30)) == {(name,): 3 for name in small.classes}
    assert [few.name(index) for index in range(30)] == [few[index].name for index in range(30)]


@pytest.mark.slow
def test_a_tower_is_tuned_and_distilled_and_each_number_stands_with_its_chance(pretrained, small, tmp_path):
    with open_tower(f"checkpoint:{pretrained}") as tower:
        context = Context(tower, EFFORT, tmp_path)
        ran = [run(context, Task(protocol, small)) for protocol in PROTOCOLS]
    assert [(each.cannot, each.failed) for each in ran] == [(None, None)] * 2
    rows = {row.metric: row for each in ran for row in each.outcomes if isinstance(row, Row)}
    (plot,) = (one for each in ran for one in each.outcomes if isinstance(one, Plot))
    assert rows["top1"].settings["resolution"] == 32
    assert rows["top1"].scores == rows["top1 of the teacher"].scores
    distilled, alone = rows["top1, distilled"], rows["top1, from labels alone"]
    gained = rows["top1, gain of distillation"]
    assert gained.value == pytest.approx(distilled.value - alone.value)
    assert gained.interval[0] <= gained.value <= gained.interval[1]
    assert [row.seeds for row in (distilled, alone, gained)] == [2, 2, 2]
    assert plot.values["values"] == pytest.approx([rows["top1"].value, distilled.value, alone.value])
    for row in rows.values():
        assert row.examples == 20
        assert row.value == pytest.approx(np.mean(row.scores))
        assert ("gain" in row.metric) == (row.chance is None)
