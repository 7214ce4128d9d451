import json
from pathlib import Path

import numpy as np
import pytest

from train.evaluators.head import restricted, unrestricted
from train.evaluators.label_maps import LabelMap, find_map, judge, places, read_map

CLASSES = ("beagle", "poodle", "tabby", "Siamese_cat", "goldfish")
DOGS_AND_CATS = {"dog": ["beagle", "poodle"], "cat": ["tabby", "siamese cat"]}


def logits(*answers: str) -> np.ndarray:
    """The greatest logit is the answer's, then those before it in CLASSES."""
    return np.stack([10.0 * np.array([name == answer for name in CLASSES]) - np.arange(5) for answer in answers])


def test_classes_in_common_are_judged_as_they_are(tmp_path: Path) -> None:
    labels = [("beagle",), ("tabby",), ("siamese cat",)]
    label_map = find_map(None, tmp_path, CLASSES, labels)
    found = judge(label_map, logits("beagle", "tabby", "goldfish"), CLASSES, labels)
    assert found.right.tolist() == [1, 1, 0]
    assert found.guessed == pytest.approx(1 / 3)
    assert find_map("imagenet-v2", tmp_path, CLASSES, labels) == label_map


def test_restrict_lets_only_the_shared_classes_compete(tmp_path: Path) -> None:
    # The image of a tabby is taken for a goldfish, which the part has none of: without that, a beagle comes next.
    labels = [("beagle",), ("tabby",), ("beagle",)]
    for name in ("subset", "imagenet-r", "imagenet-a"):
        label_map = find_map(name, tmp_path, CLASSES, labels)
        assert set(label_map.classes) == {"beagle", "tabby"}
        found = judge(label_map, logits("goldfish", "goldfish", "tabby"), CLASSES, labels)
        assert found.right.tolist() == [1, 0, 0]
        assert found.guessed == pytest.approx(2 / 3)


def test_a_list_of_names_is_a_map_that_restricts(tmp_path: Path) -> None:
    (tmp_path / "shared.txt").write_text("tabby\nGOLDFISH\n")
    label_map = find_map("shared.txt", tmp_path, CLASSES, [])
    found = judge(label_map, logits("beagle", "goldfish"), CLASSES, [("tabby",), ("GOLDFISH",)])
    assert label_map.rule == "restrict"
    assert found.right.tolist() == [1, 1]


def test_max_takes_the_greatest_of_several_classes(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({"rule": "max", "classes": DOGS_AND_CATS}))
    label_map = find_map("map.json", tmp_path, CLASSES, [])
    found = judge(label_map, logits("poodle", "Siamese_cat", "beagle"), CLASSES, [("dog",), ("cat",), ("cat",)])
    assert found.right.tolist() == [1, 1, 0]
    assert found.guessed == pytest.approx(2 / 3)
    # The sum over a class would decide otherwise: dog 3 + 3, cat 5 + 0.
    scores = np.array([[3.0, 3.0, 5.0, 0.0, 9.0]])
    assert judge(label_map, scores, CLASSES, [("cat",)]).right.tolist() == [1]


def test_any_label_of_an_image_is_right_and_images_without_labels_are_left_out(tmp_path: Path) -> None:
    labels = [("beagle", "tabby"), (), ("goldfish",), ("tabby",)]
    for name in ("real", "imagenet-real"):
        label_map = find_map(name, tmp_path, CLASSES, labels)
        found = judge(label_map, logits("tabby", "beagle", "poodle", "tabby"), CLASSES, labels)
        assert found.kept.tolist() == [0, 2, 3]
        assert found.right.tolist() == [1, 0, 1]
        assert found.guessed == pytest.approx(2 / 3)  # always tabby
    with pytest.raises(ValueError, match="no image of the part has a label"):
        judge(label_map, logits("tabby"), CLASSES, [()])
    with pytest.raises(ValueError, match="not finite"):
        judge(label_map, logits("tabby") * np.nan, CLASSES, [("tabby",)])


def test_a_perfect_and_a_random_classifier_have_the_extreme_scores() -> None:
    labels = [(name,) for name in CLASSES for _ in range(400)]
    label_map = LabelMap("max", {name: (name,) for name in CLASSES})
    assert judge(label_map, logits(*(name for (name,) in labels)), CLASSES, labels).right.mean() == 1.0
    random = np.random.default_rng(0).normal(size=(2000, 5))
    found = judge(label_map, random, CLASSES, labels)
    assert abs(found.right.mean() - 0.2) < 0.04
    assert found.guessed == 0.2


def test_unknown_classes_are_told_with_the_nearest_names() -> None:
    label_map = LabelMap("max", {"dog": ("beagel",)})
    with pytest.raises(ValueError, match="'beagel' is none of the classifier's classes; the nearest: beagle"):
        judge(label_map, logits("beagle"), CLASSES, [("dog",)])
    label_map = LabelMap("max", {"dog": ("beagle",)})
    with pytest.raises(ValueError, match="'dogs' is none of the label map's classes; the nearest: dog"):
        judge(label_map, logits("beagle"), CLASSES, [("dogs",)])
    with pytest.raises(ValueError, match="stands twice in the labels"):
        places(["a b"], ["a_b", "A b"], "the labels")


def test_several_labels_are_for_the_rule_any() -> None:
    with pytest.raises(ValueError, match="image 1 has 2 labels; the rule max takes one"):
        judge(LabelMap("max", {"a": ("beagle",), "b": ("tabby",)}), logits("beagle", "tabby"), CLASSES, ["a", "ab"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "map.json: "),
        ("[]", "expected an object of rule and classes"),
        ('{"rule": "max"}', "expected an object of rule and classes"),
        ('{"rule": "sum", "classes": {"dog": ["beagle"]}}', "rule is 'sum'; expected 'restrict', 'max' or 'any'"),
        ('{"rule": "max", "classes": {}}', "no classes"),
        ('{"rule": "max", "classes": {"dog": []}}', "nothing for 'dog'"),
        ('{"rule": "max", "classes": {"dog": "beagle"}}', "'dog' has 'beagle'; expected a list"),
        ('{"rule": "restrict", "classes": {"dog": ["beagle", "poodle"]}}', "2 classes for 'dog'"),
    ],
)
def test_a_broken_map_is_told_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(ValueError, match=message) as told:
        read_map(tmp_path / "map.json")
    assert str(told.value).startswith(str(tmp_path / "map.json"))


def test_a_map_that_is_not_there_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'objectnet' is no file in .*none of identity, .*imagenet-real"):
        find_map("objectnet", tmp_path, CLASSES, [])


def test_the_head_is_right_among_the_sets_classes_and_may_be_wrong_among_all() -> None:
    labels, classes = ("Zero", "one", "two", "something_else"), ("two", "zero")
    values = np.array([[3.0, 0.0, 1.0, 9.0], [0.0, 0.0, 5.0, 1.0]])  # zero behind something else; two
    assert restricted(values, labels, classes).tolist() == [[1.0, 3.0], [5.0, 0.0]]
    assert unrestricted(values, labels, classes, [1, 0]).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="'three' is none of the head's labels"):
        restricted(values, labels, ("three",))
    with pytest.raises(ValueError, match=r"expected \[n, 3\]"):
        restricted(values, labels[:3], classes)
