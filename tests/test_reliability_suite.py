import dataclasses
import json

import numpy as np
import pytest

from tests.planted_tower import COLOURS, PlantedTower, context, write_part
from train.evaluation_sets.reading import EvaluationSet, read_set, write_set
from train.reports.comparison import FOUND
from train.suite import cues, people, reliability
from train.suite.outcome import Plot, Row
from train.suite.running import Task, run

CLASSES = ("red", "green", "blue")
TONES = ("light", "dark")


def classification(folder, name="colours", classes=CLASSES, train=10, test=6, noise=12.0, right=None, **fields):
    """A set of colours; `right(place)` says whether a test image is labelled as what it shows."""
    for part, size in (("train", train), ("test", test)):
        items = []
        for place, colour in enumerate(classes * size):
            shown = colour
            if part == "test" and right is not None and not right(place):
                shown = classes[(classes.index(colour) + 1) % len(classes)]
            items.append((shown, {"labels": [colour], "group": TONES[place // len(classes) % 2]}))
        write_part(folder / part, items, noise)
    described = EvaluationSet(folder, name, "classification", "painted", True, classes=classes, **fields)
    write_set(described)
    return read_set(folder)


def ran(protocols, described, tower, scratch):
    """Rows and plots of a module's protocol, and what ended it."""
    (protocol,) = protocols
    found = run(context(tower, scratch), Task(protocol, described))
    assert found.failed is None, found.failed
    rows = [each for each in found.outcomes if isinstance(each, Row)]
    for row in rows:
        assert row.protocol == protocol.id
        assert row.synthetic
        json.dumps(dict(row.settings))  # as the report writes it
        if row.interval is not None:
            assert row.interval[0] <= row.interval[1]
            assert row.interval_kind
        if row.scores is not None:
            assert len(row.scores) == row.examples
            assert np.mean(row.scores) == pytest.approx(row.value, abs=1e-12)
    return rows, [each for each in found.outcomes if isinstance(each, Plot)], found.cannot


def one(rows, metric, **settings):
    (row,) = (row for row in rows if row.metric == metric and settings.items() <= dict(row.settings).items())
    return row


CALIBRATION, DETECTION = ([protocol] for protocol in reliability.PROTOCOLS)


def test_a_perfect_tower_is_calibrated_and_a_blind_one_is_not_better_than_chance(tmp_path):
    described = classification(tmp_path / "set")
    rows, plots, cannot = ran(CALIBRATION, described, PlantedTower(CLASSES), tmp_path)
    assert cannot is None
    for name in ("probe", "own head"):
        assert one(rows, "top1", classifier=name).value == 1
        scaled = [row for row in rows if row.settings["classifier"] == name and row.settings.get("chosen")]
        assert {row.metric for row in scaled} == {"ece", "nll", "brier"}
        assert len(scaled) == 4
        assert all(row.value < 1e-3 for row in scaled)
    assert [plot.kind for plot in plots] == 4 * ["reliability"]
    assert all(sum(each["count"] for each in plot.values["bins"]) == 18 for plot in plots)

    rows, _, _ = ran(CALIBRATION, described, PlantedTower(blind=True), tmp_path)
    assert {row.settings["classifier"] for row in rows} == {"probe"}
    assert one(rows, "top1").value < 0.75
    raw = one(rows, "nll", scaled="no")
    assert raw.chance == pytest.approx(np.log(3))
    assert raw.beats_chance_by == raw.chance - raw.value < 0.2


@pytest.mark.parametrize("protocols", [CALIBRATION, DETECTION, people.PROTOCOLS])
def test_rows_of_two_models_differ_in_nothing_but_what_was_found_for_each(tmp_path, protocols):
    details = {"positive": ["red"], "out_of_distribution": "../o"}
    described = classification(tmp_path / "set", noise=90, groups="tone", details=details)
    classification(tmp_path / "o", "others", ("yellow", "magenta", "cyan"), noise=90)
    one_model, other = (
        [
            (row.data, row.metric, {name: value for name, value in row.settings.items() if name not in FOUND})
            for row in ran(protocols, described, PlantedTower(blind=blind), tmp_path)[0]
        ]
        for blind in (False, True)
    )
    assert one_model == other


def test_overconfidence_is_found_and_scaling_takes_it_away(tmp_path):
    # A third of the test labels is wrong, and the head is sure of all of them.
    described = classification(tmp_path / "set", test=60, noise=0, right=lambda place: place % 9 not in (0, 4, 8))
    rows, _, _ = ran(CALIBRATION, described, PlantedTower(CLASSES), tmp_path)
    raw, scaled = (
        [row.value for row in rows if row.settings["classifier"] == "own head" and row.metric == "ece" and chosen(row)]
        for chosen in (lambda row: row.settings["scaled"] == "no", lambda row: row.settings["scaled"] != "no")
    )
    assert raw == pytest.approx([1 / 3, 1 / 3], abs=0.01)  # sure to 100%, right in two thirds
    assert max(scaled) < 0.1  # each half of 90 gets the other's temperature, and their shares differ by chance
    assert one(rows, "top1", classifier="own head").value == pytest.approx(2 / 3)


def test_a_head_of_other_labels_is_left_out(tmp_path):
    described = classification(tmp_path / "set")
    rows, _, _ = ran(CALIBRATION, described, PlantedTower(("red", "green")), tmp_path)
    assert {row.settings["classifier"] for row in rows} == {"probe"}


def test_a_served_model_has_the_same_numbers(tmp_path):
    described = classification(
        tmp_path / "set", noise=90, test=20, groups="tone", details={"positive": ["red"], "out_of_distribution": "../o"}
    )
    classification(tmp_path / "o", "others", ("yellow", "magenta", "cyan"), noise=90)
    for protocols in (CALIBRATION, DETECTION, people.PROTOCOLS):
        ours, theirs = (
            ran(protocols, described, PlantedTower(CLASSES, wobble=wobble), tmp_path)[0] for wobble in (0.0, 1e-6)
        )
        assert len(ours) == len(theirs) > 3
        for one_row, other in zip(ours, theirs, strict=True):
            assert other.value == pytest.approx(one_row.value, abs=1e-4)
            np.testing.assert_allclose(other.interval, one_row.interval, atol=1e-4)


def test_another_set_is_told_from_the_own(tmp_path):
    described = classification(tmp_path / "set", details={"out_of_distribution": ["../others"]})
    classification(tmp_path / "others", "others", ("yellow", "magenta", "cyan"))
    rows, plots, cannot = ran(DETECTION, described, PlantedTower(CLASSES), tmp_path)
    assert cannot is None
    assert {row.settings["score"] for row in rows} == {"MSP, probe", "MSP, own head", "Mahalanobis, features"}
    for row in rows:
        assert row.settings["outside"] == "others"
        assert row.examples == 36
        assert (row.value, row.chance) == ((1.0, 0.5) if row.metric == "auroc" else (0.0, 0.95))
    assert plots[0].values["values"] == [1.0] * 3
    blind, _, _ = ran(DETECTION, described, PlantedTower(blind=True), tmp_path)
    for row in blind:
        if row.metric == "auroc":
            assert row.interval[0] - 0.05 < 0.5 < row.interval[1] + 0.05


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("../missing", "expected the folder of another set"),
        ("../same", "has the classes red in common"),
    ],
)
def test_what_is_outside_must_be_a_set_of_other_classes(tmp_path, named, message):
    described = classification(tmp_path / "set", details={"out_of_distribution": named})
    classification(tmp_path / "same", "same", ("red", "cyan"))
    rows, _, cannot = ran(DETECTION, described, PlantedTower(), tmp_path)
    broken = dataclasses.replace(described, details={"out_of_distribution": [3]})
    assert "has 3; expected a text" in run(context(PlantedTower(), tmp_path), Task(*DETECTION, broken)).failed
    assert not rows
    assert message.lower() in cannot.lower()
    assert not reliability.PROTOCOLS[1].asks(dataclasses.replace(described, details={}))


def test_subgroups_that_are_treated_alike_have_no_gap(tmp_path):
    described = classification(tmp_path / "set", train=40, groups="tone", details={"positive": ["red"]})
    rows, plots, cannot = ran(people.PROTOCOLS, described, PlantedTower(CLASSES), tmp_path)
    assert cannot is None
    for name in ("probe", "own head"):
        assert one(rows, "gap", classifier=name).value == 0
        assert [one(rows, "accuracy", classifier=name, subgroup=tone).value for tone in TONES] == [1, 1]
        assert one(rows, "demographic_parity", classifier=name, debiased="no").value == 0
    accuracies = [row for row in rows if row.metric == "binary_accuracy"]
    assert [row.settings.get("level") for row in accuracies] == [None, None, *people.fairness.LEVELS]
    assert [row.value for row in accuracies if row.settings.get("level") in (None, 1.0)] == pytest.approx([1, 1, 1])
    assert all(row.value > 0.8 for row in accuracies)  # the tones differ a little in the validation split
    assert all(row.chance == pytest.approx(2 / 3) for row in accuracies)
    assert [plot.kind for plot in plots] == ["bars", "bars", "curve"]
    assert plots[0].values["names"] == ["dark", "light"]


def test_the_gap_is_what_was_planted(tmp_path):
    # All of the dark half is shown as the next colour: red as green, green as blue, blue as red.
    described = classification(tmp_path / "set", groups="tone", right=lambda place: place // 3 % 2 == 0)
    rows, _, cannot = ran(people.PROTOCOLS, described, PlantedTower(), tmp_path)
    assert one(rows, "gap").value == 1
    assert one(rows, "accuracy", subgroup="dark").value == 0
    assert "details.positive" in cannot  # the accuracies are there all the same


def test_parity_of_decisions_and_its_price(tmp_path):
    # The light half is red and green, the dark half blue and green; red is accepted.
    folder = tmp_path / "set"
    for part, size in (("train", 20), ("test", 10)):
        pairs = [("red", "light"), ("green", "light"), ("blue", "dark"), ("green", "dark")] * size
        items = [(colour, {"labels": [colour], "group": tone}) for colour, tone in pairs]
        if part == "train":  # so that both subgroups have both outcomes to fit thresholds to
            items += [("red", {"labels": ["red"], "group": "dark"})] * 20
        write_part(folder / part, items)
    described = EvaluationSet(
        folder, "tones", "classification", "painted", True, CLASSES, groups="tone", details={"positive": ["red"]}
    )
    write_set(described)
    rows, _, cannot = ran(people.PROTOCOLS, described, PlantedTower(), tmp_path)
    assert cannot is None
    assert one(rows, "demographic_parity", debiased="no").value == 0.5
    assert one(rows, "binary_accuracy", debiased="no").value == 1
    levels = {row.settings["level"]: row for row in rows if row.metric == "binary_accuracy" and "level" in row.settings}
    assert levels[1.0].value == pytest.approx(1)
    assert levels[0.0].value < levels[0.1].value < 1


@pytest.mark.parametrize(
    ("positive", "message"), [(["purple"], "'purple'"), ([], "is []"), (list(CLASSES), "needs the names of some")]
)
def test_positive_classes_must_be_some_of_the_classes(tmp_path, positive, message):
    described = classification(tmp_path / "set", groups="tone", details={"positive": positive})
    assert message in ran(people.PROTOCOLS, described, PlantedTower(), tmp_path)[2]


def test_positive_classes_are_named_by_texts(tmp_path):
    described = classification(tmp_path / "set", groups="tone", details={"positive": 5})
    found = run(context(PlantedTower(), tmp_path), Task(*people.PROTOCOLS, described))
    assert "details.positive is 5; expected a text or a list of texts" in found.failed
    assert found.outcomes  # the accuracies are there all the same


def test_one_subgroup_cannot_be_compared(tmp_path):
    described = classification(tmp_path / "set", test=1, groups="tone")
    assert "two or more" in ran(people.PROTOCOLS, described, PlantedTower(), tmp_path)[2]
    assert people.PROTOCOLS[0].asks(described)
    assert not people.PROTOCOLS[0].asks(dataclasses.replace(described, groups=None))


CATEGORIES = {"red": "warm", "yellow": "warm", "green": "cold", "cyan": "cold", "blue": "dark"}


def conflicts(folder, shown, details=None, categories=None):
    """Images of the colour of their shape, or of their texture, as `shown` says of each place; five have a conflict."""
    pairs = [
        ("red", "green"),
        ("cyan", "yellow"),
        ("blue", "red"),
        ("green", "blue"),
        ("red", "yellow"),
        ("red", "cyan"),
    ]
    items = [(pair[shown(place)], {"shape": pair[0], "texture": pair[1]}) for place, pair in enumerate(pairs)]
    write_part(folder / "test", items)
    named = CATEGORIES if categories is None else categories
    details = {"classifier_set": "../colours"} if details is None else details
    described = EvaluationSet(
        folder,
        "cues",
        "cues",
        "painted",
        True,
        tuple(CATEGORIES),
        templates=("name",),
        categories=named,
        details=details,
    )
    write_set(described)
    return read_set(folder)


@pytest.mark.parametrize(("shown", "bias"), [(0, 1.0), (1, 0.0)])
def test_deciders_by_shape_and_by_texture_have_the_extreme_biases(tmp_path, shown, bias):
    classification(tmp_path / "colours", classes=tuple(CATEGORIES))
    described = conflicts(tmp_path / "cues", lambda _: shown)
    rows, plots, cannot = ran(cues.PROTOCOLS, described, PlantedTower(texts=False), tmp_path)
    assert cannot is None
    assert one(rows, "shape_bias").value == bias
    decided = one(rows, "cue_decisions")
    assert (decided.value, decided.chance, decided.examples) == (1.0, pytest.approx(2 / 3), 5)
    assert {row.settings["classifier"] for row in rows} == {"probe"}
    assert plots[0].values["names"] == ["warm", "cold", "dark"]
    assert set(plots[0].values["values"]) == {bias}


def test_the_text_tower_decides_by_the_names_of_the_categories(tmp_path):
    # The categories have names that the planted tower sees: of green things, and of blue and of red ones.
    named = {"red": "red", "yellow": "red", "green": "green", "cyan": "green", "blue": "blue"}
    classification(tmp_path / "colours", classes=tuple(CATEGORIES))
    described = conflicts(tmp_path / "cues", lambda _: 0, categories=named)
    rows, _, _ = ran(cues.PROTOCOLS, described, PlantedTower(), tmp_path)
    found = one(rows, "shape_bias", classifier="zero-shot")
    assert found.value == 1
    # Cyan is as far from green as from blue, so that one image may go to neither cue.
    assert found.examples >= 4


def table(described, answers, path="humans.csv", **wrong):
    """Writes what observers answered, as model-vs-human has it; `wrong` changes the last line."""
    lines = ["subj,session,trial,rt,object_response,category,condition,imagename"]
    shapes = [CATEGORIES[shape] for shape in described.part("test").column("shape")]
    for observer, given in answers.items():
        lines += [f"{observer},1,1,0.5,{a},{shapes[n]},0,{n:04d}.png" for n, a in enumerate(given)]
    for old, new in wrong.items():
        lines[-1] = lines[-1].replace(*new) if old == "last" else lines[-1]
    (described.folder / path).write_text("\n".join(lines) + "\n")


def test_consistency_with_people_who_err_alike_and_otherwise(tmp_path):
    classification(tmp_path / "colours", classes=tuple(CATEGORIES))
    details = {"classifier_set": "../colours", "humans": "humans.csv"}
    # The model goes by the texture on places 0 and 1 and errs there; warm, cold, dark, cold, warm, warm are right.
    described = conflicts(tmp_path / "cues", lambda place: int(place < 2), details)
    table(
        described,
        {
            "alike": ["na", "warm", "dark", "cold", "warm", "warm"],
            "never": ["warm", "cold", "dark", "cold", "warm", "warm"],
            "otherwise": ["warm", "cold", "cold", "na", "warm", "warm"],
        },
    )
    rows, _, cannot = ran(cues.PROTOCOLS, described, PlantedTower(texts=False), tmp_path)
    assert cannot is None
    found = {row.settings["observer"]: row.value for row in rows if row.metric == "error_consistency"}
    # Both right on 4 of 6: by chance they agree on 4/9 + 1/9 of the images; here on 2 of 6.
    assert found == pytest.approx({"alike": 1, "never": 0, "otherwise": (1 / 3 - 5 / 9) / (4 / 9), "mean": 0.5 / 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("0005.png", "5.png"), "there is no image '5.png'"),
        (("0005.png", "0004.png"), "answers 0004.png once more"),
        (("0.5,warm", "0.5,hot"), "the answer 'hot' is no category"),
        ((",warm,0,", ",cold,0,"), "0005.png is of 'cold'"),
        ((",0005.png", ""), "more or fewer fields"),
        (("0005.png", "0005.png,more"), "more or fewer fields"),
        (("0005.png", '"0005.png'), "no CSV"),
        (("ada", ""), "answers 0005.png once more"),
    ],
)
def test_a_broken_table_of_people_is_refused(tmp_path, change, message):
    described = conflicts(tmp_path / "cues", lambda _: 0, {"classifier_set": "../colours", "humans": "humans.csv"})
    table(described, {"ada": ["warm", "cold", "dark", "cold", "warm", "warm"]}, last=change)
    found = run(context(PlantedTower(), tmp_path), Task(cues.PROTOCOLS[0], described))
    assert message in found.failed
    assert "humans.csv" in found.failed


def test_a_missing_table_or_column_is_told(tmp_path):
    described = conflicts(tmp_path / "cues", lambda _: 0, {"classifier_set": "../colours", "humans": "humans.csv"})
    task = Task(cues.PROTOCOLS[0], described)
    assert "there is no table" in run(context(PlantedTower(), tmp_path), task).failed
    for text, message in (("subj,category\na,b\n", "lacks the columns object_response, imagename"), ("", "lacks")):
        (described.folder / "humans.csv").write_text(text)
        assert message in run(context(PlantedTower(), tmp_path), task).failed
    table(described, {})
    assert "has no answers" in run(context(PlantedTower(), tmp_path), task).failed


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({}, "names no classifier"),
        ({"classifier_set": "../nothing"}, "expected the folder of another set"),
        ({"classifier_set": "../few"}, "has no class of the categories dark"),
    ],
)
def test_a_classifier_of_the_categories_is_needed(tmp_path, details, message):
    classification(tmp_path / "few", classes=("red", "green"))
    described = conflicts(tmp_path / "cues", lambda _: 0, details)
    assert message in ran(cues.PROTOCOLS, described, PlantedTower(), tmp_path)[2]


def test_a_cue_without_a_category_is_told(tmp_path):
    described = conflicts(tmp_path / "cues", lambda _: 0, categories={"red": "warm", "yellow": "warm", "cyan": "cold"})
    found = run(context(PlantedTower(), tmp_path), Task(cues.PROTOCOLS[0], described))
    assert "has the shape 'blue'" in found.failed


def test_a_decider_for_neither_cue_has_no_bias(tmp_path):
    folder = tmp_path / "cues"
    classification(tmp_path / "colours", classes=tuple(CATEGORIES))
    described = conflicts(folder, lambda _: 0)
    write_part(folder / "test", [(COLOURS["blue"], {"shape": "red", "texture": "green"})] * 3)
    rows, _, cannot = ran(cues.PROTOCOLS, described, PlantedTower(texts=False), tmp_path)
    assert [row.metric for row in rows] == ["cue_decisions"]
    assert rows[0].value == 0
    assert "no decision of probe" in cannot
