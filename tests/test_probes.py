import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.planted_tower import COLOURS, PlantedTower, context, write_part
from train.evaluation_sets.reading import EvaluationSet
from train.suite.outcome import CannotRun
from train.suite.probes import fitted

NAMES = tuple(COLOURS)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    folder = tmp_path_factory.mktemp("colours")
    for part, images in (("train", 10), ("test", 5)):
        write_part(folder / part, [(name, {"labels": [name]}) for name in NAMES for _ in range(images)])
    return EvaluationSet(folder, "colours", "classification", "painted", True, NAMES, ("name",))


def test_the_probe_of_planted_colours_is_perfect_and_is_fitted_once(colours: EvaluationSet, tmp_path: Path) -> None:
    given = context(PlantedTower(), tmp_path)
    found, test = fitted(given, colours), colours.part("test")
    assert (found.logits(given.pooled(test.files)).argmax(1) == test.targets).all()
    assert found.classes == NAMES
    assert fitted(given, colours) is found
    neighbours = dataclasses.replace(colours, folder=colours.folder / "test" / "..")  # as another set names it
    assert fitted(given, neighbours) is found
    assert fitted(context(PlantedTower(), tmp_path), colours) is not found


def test_the_validation_split_is_a_fifth_of_each_class_and_its_probe_has_not_seen_it(
    colours: EvaluationSet, tmp_path: Path
) -> None:
    given = context(PlantedTower(blind=True), tmp_path)
    found, train = fitted(given, colours), colours.part("train")
    assert found.validation_logits.shape == (12, 6)
    np.testing.assert_array_equal(found.validation_targets, np.repeat(np.arange(6), 2))
    np.testing.assert_array_equal(train.targets[found.validation_indices], found.validation_targets)
    # Of noise in 8 dimensions, fitted images are told apart better than those that were held back.
    seen = found.logits(given.pooled(train.files))[found.validation_indices]
    assert not np.allclose(seen, found.validation_logits)


def test_features_that_differ_by_a_millionth_give_the_same_probe(colours: EvaluationSet, tmp_path: Path) -> None:
    files = colours.part("test").files
    one, other = (context(PlantedTower(wobble=wobble), tmp_path) for wobble in (0.0, 1e-6))
    np.testing.assert_allclose(
        fitted(one, colours).logits(one.pooled(files)), fitted(other, colours).logits(other.pooled(files)), atol=1e-4
    )


def test_a_set_that_nothing_can_be_learnt_from_is_told(tmp_path: Path) -> None:
    described = EvaluationSet(tmp_path, "alone", "classification", "painted", True, NAMES, ("name",))
    write_part(tmp_path / "test", [("red", {"labels": ["red"]})])
    with pytest.raises(CannotRun, match="has no part"):
        fitted(context(PlantedTower(), tmp_path), described)
    write_part(tmp_path / "train", [("red", {"labels": ["red"]})] * 3)
    with pytest.raises(CannotRun, match="5 of 6 classes have no training image"):
        fitted(context(PlantedTower(), tmp_path), described)
