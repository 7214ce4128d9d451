import json

import numpy as np
import pytest

from tests.artefacts import CLASSES
from train import pretrain
from train.hierarchy import read_hierarchy
from train.input import Order
from train.mixture import Mixture, open_mixture
from train.optimizer import Optimizer
from train.sources.example import Example
from vit22b.folder import read_folder
from vit22b.sharding import make_mesh

DIGITS = [name.lower() for name in CLASSES]
TABLE = {
    "beagle": ["dog", "pet"],
    "dog": ["mammal"],
    "pet": [],
    "mammal": ["animal"],
    "tabby": ["cat"],
    "cat": ["mammal"],
}


class Listed:
    where_labels = "a list"

    def __init__(self, *labels):
        self.labels = tuple(dict.fromkeys(label for each in labels for label in each))
        self._each = labels

    def __len__(self):
        return len(self._each)

    def __getitem__(self, index):
        return Example(self.name(index), b"", self._each[index])

    def name(self, index):
        return f"image {index}"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE))
    return path


def test_a_label_becomes_itself_and_all_that_is_above_it(table):
    hierarchy = read_hierarchy(table)
    assert hierarchy.flattened(["beagle"]) == ("beagle", "dog", "pet", "mammal", "animal")
    assert hierarchy.flattened(["beagle", "tabby"])[:2] == ("beagle", "tabby")
    assert sorted(hierarchy.flattened(["beagle", "tabby"])) == sorted(
        {"beagle", "dog", "pet", "mammal", "animal", "tabby", "cat"}
    )
    assert hierarchy.flattened(["animal"]) == ("animal",)
    assert hierarchy.flattened([]) == ()


def test_the_examples_of_a_mixture_are_flattened_and_its_classes_grow(table):
    mixture = Mixture((Listed(("beagle",), ("tabby", "cat")), Listed(("pet",))), (2, 1))
    flat = read_hierarchy(table).over(mixture)
    assert flat.labels == ("beagle", "tabby", "cat", "dog", "pet", "mammal", "animal")
    assert flat.sources[0][1].labels == ("tabby", "cat", "mammal", "animal")
    assert flat.sources[1][0].labels == ("pet",)
    assert (len(flat), flat.shares, flat.sources[0].name(1)) == (3, (2, 1), "image 1")
    assert mixture.sources[0][0].labels == ("beagle",)


def test_the_lowest_classes_are_above_none_of_the_others(table):
    hierarchy = read_hierarchy(table)
    assert hierarchy.lowest(hierarchy.flattened(["dog", "tabby"])) == (0, 1)
    assert hierarchy.lowest(hierarchy.flattened(["dog", "tabby", "beagle"])) == (1, 2)


def test_lines_and_json_say_the_same_whatever_their_order(table, tmp_path):
    pairs = [f"{name}\t{parent}" for name, above in TABLE.items() for parent in above] + ["pet"]
    lines = tmp_path / "table.tsv"
    lines.write_text("\n".join(reversed(pairs)) + "\n\n")
    first, second = read_hierarchy(table), read_hierarchy(lines)
    assert {name: set(above) for name, above in first.parents.items()} == {
        name: set(above) for name, above in second.parents.items()
    }
    assert first.digest == second.digest
    lines.write_text("\n".join(pairs[:-2]))
    assert read_hierarchy(lines).digest != first.digest


def test_a_class_that_the_table_lacks_is_told_with_the_nearest(table):
    with pytest.raises(ValueError, match=r"lacks 1 of the classes, the first of them 'beagel' \(did you mean 'beagle'"):
        read_hierarchy(table).over(Mixture((Listed(("beagel",)),)))


@pytest.mark.parametrize(
    ("edges", "cycle"),
    [
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, "b -> c -> b"),
        ({"a": ["a"]}, "a -> a"),
        ({"x": ["a"], "a": ["b", "c"], "b": [], "c": ["x"]}, "x -> a -> c -> x"),
    ],
)
def test_a_class_above_itself_is_refused_by_name(tmp_path, edges, cycle):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(edges))
    with pytest.raises(ValueError, match=f"above itself: {cycle};"):
        read_hierarchy(path)


def test_a_class_that_is_above_by_two_ways_is_no_cycle_however_deep(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("\n".join(f"c{i}\tc{i + 1}\nc{i}\tc{i + 2}" for i in range(3000)))
    assert len(read_hierarchy(path).flattened(["c0"])) == 3002


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "{", "is no JSON"),
        ("t.json", "[]", "holds no object"),
        ("t.json", '{"a": "b"}', "'a' has 'b'"),
        ("t.json", '{"a": [""]}', "'a' has"),
        ("t.tsv", "a\tb\tc", "line 1"),
        ("t.tsv", "a\tb\n\tc", "line 2"),
    ],
)
def test_what_is_no_table_is_told(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_hierarchy(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be read"):
        read_hierarchy(tmp_path / "none.json")


def test_pretraining_continues_with_the_same_table_wherever_it_lies(digits, tmp_path):
    table = {name: ["even" if number % 2 == 0 else "odd"] for number, name in enumerate(DIGITS)}
    table |= {"even": ["number"], "odd": ["number"]}

    def task(name):
        (tmp_path / name).write_text(json.dumps(table))
        settings = pretrain.Settings(
            data=(str(digits / "train"),),
            workdir=tmp_path / "run",
            size="mu",
            steps=2,
            batch=8,
            optimizer=Optimizer(warmup=1, cooldown=1),
            hierarchy=tmp_path / name,
        )
        hierarchy = read_hierarchy(settings.hierarchy)
        mixture = hierarchy.over(open_mixture(settings.data))
        return pretrain.make_task(settings, mixture, make_mesh(), hierarchy)

    first = task("table.json")
    assert set(first.description.labels) == {*DIGITS, "even", "odd", "number"}
    order = Order(first.examples, 8, seed=0, start=0, steps=2)
    targets = next(first.batches(order))["targets"]
    np.testing.assert_array_equal(targets.sum(axis=1), np.full(8, 3))  # itself, its parity, and that it is a number
    assert task("moved.json").recipe == first.recipe
    table["one"] = ["even"]
    changed = task("changed.json").recipe
    assert {name for name in changed if changed[name] != first.recipe[name]} == {"hierarchy"}


def test_who_only_knows_what_is_above_has_no_top1(digits, tmp_path):
    """The head says "number" of every image, and of the digits always zero."""
    (tmp_path / "table.json").write_text(json.dumps({name: ["number"] for name in DIGITS}))
    settings = pretrain.Settings(
        data=(str(digits / "train"),),
        eval_data=digits / "heldout",
        workdir=tmp_path / "run",
        size="mu",
        steps=2,
        batch=8,
        optimizer=Optimizer(warmup=1, cooldown=1),
        hierarchy=tmp_path / "table.json",
    )
    hierarchy = read_hierarchy(settings.hierarchy)
    task = pretrain.make_task(settings, hierarchy.over(open_mixture(settings.data)), make_mesh(), hierarchy)
    labels = task.description.labels
    params = task.init().params
    bias = np.zeros(len(labels), np.float32)
    bias[labels.index("zero")], bias[labels.index("number")] = 1, 2
    params["head"] = {"kernel": np.zeros_like(params["head"]["kernel"]), "bias": bias}
    zeros = [record.labels == ("zero",) for record in read_folder(digits / "heldout").records]
    assert 0 < np.mean(zeros) < 1
    assert task.evaluators["eval"](params)["top1"] == pytest.approx(np.mean(zeros))


def test_a_table_that_lacks_a_class_is_told_before_anything_is_trained(digits, tmp_path):
    (tmp_path / "table.json").write_text("{}")
    settings = pretrain.Settings(
        data=(str(digits / "train"),), workdir=tmp_path / "run", hierarchy=tmp_path / "table.json"
    )
    with pytest.raises(ValueError, match="lacks 10 of the classes"):
        pretrain.pretrain(settings)
    assert not (tmp_path / "run").exists()
