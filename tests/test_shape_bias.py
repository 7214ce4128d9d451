import numpy as np
import pytest

from train.evaluators import shape_bias
from train.evaluators.shape_bias import Decisions, by_category, category_scores, count, decide, error_consistency


def test_extreme_deciders_have_the_extreme_biases():
    random = np.random.default_rng(0)
    shapes = random.integers(16, size=200)
    textures = (shapes + random.integers(1, 16, size=200)) % 16
    assert count(shapes, shapes, textures) == Decisions(200, 0, 0)
    assert (count(shapes, shapes, textures).bias, count(textures, shapes, textures).bias) == (1.0, 0.0)
    other = np.asarray([next(c for c in range(16) if c not in pair) for pair in zip(shapes, textures, strict=True)])
    found = count(other, shapes, textures)
    assert found.decided == 0
    assert np.isnan(found.bias)


def test_drawing_lots_decides_for_a_cue_twice_in_the_categories():
    random = np.random.default_rng(1)
    shapes = random.integers(16, size=50_000)
    textures = (shapes + random.integers(1, 16, size=50_000)) % 16
    found = count(random.integers(16, size=50_000), shapes, textures)
    assert found.decided == pytest.approx(2 / 16, abs=0.005)
    assert found.bias == pytest.approx(0.5, abs=0.02)


def test_by_hand_and_images_without_a_conflict_are_left_out():
    #            shape texture neither none none
    decisions = np.array([0, 1, 2, 0, 1])
    shapes, textures = np.array([0, 0, 0, 0, 1]), np.array([1, 1, 1, 0, 1])
    found = count(decisions, shapes, textures)
    assert found == Decisions(1, 1, 1)
    assert (found.images, found.bias, found.decided) == (3, 0.5, pytest.approx(2 / 3))
    assert by_category(decisions, shapes, textures, ("a", "b", "c")) == {"a": Decisions(1, 1, 1)}


def test_categories_have_the_mean_of_their_classes_and_not_the_sum():
    probabilities = np.array([[0.2, 0.2, 0.2, 0.3, 0.1]])  # three classes of category 0, one of 1, one of none
    scores = category_scores(probabilities, [0, 0, 0, 1, -1], 2)
    np.testing.assert_allclose(scores, [[0.2, 0.3]])
    assert decide(scores).tolist() == [1]
    assert decide([[0.5, 0.5]]).tolist() == [0]


def test_error_consistency_by_hand():
    # Right on 3 and 3 of 4, on the same two and both wrong on none: observed 2/4, expected 9/16 + 1/16.
    assert error_consistency([1, 1, 1, 0], [0, 1, 1, 1]) == pytest.approx((0.5 - 0.625) / 0.375)
    assert error_consistency([1, 1, 0, 0], [1, 1, 0, 0]) == 1
    assert error_consistency([1, 1, 0, 0], [0, 0, 1, 1]) == -1
    assert error_consistency([1, 1, 1, 1], [1, 1, 0, 1]) == 0
    assert np.isnan(error_consistency([1, 1], [1, 1]))


def test_independent_observers_are_not_consistent():
    random = np.random.default_rng(2)
    one, two = random.random(100_000) < 0.7, random.random(100_000) < 0.4
    assert error_consistency(one, two) == pytest.approx(0, abs=0.01)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="no conflict to decide"):
        count([0], [1], [1])
    with pytest.raises(ValueError, match=r"expected \[n\] each"):
        count([0], [1, 2], [2, 1])
    with pytest.raises(ValueError, match=r"categories \[1\] hold no class"):
        category_scores(np.ones((1, 2)), [0, 0], 2)
    with pytest.raises(ValueError, match=r"expected \[n, k\] and \[k\]"):
        category_scores(np.ones((1, 2)), [0], 1)
    with pytest.raises(ValueError, match="not finite"):
        decide([[0.2, np.nan]])
    with pytest.raises(ValueError, match="on the same images"):
        error_consistency([1], [1, 0])
    assert shape_bias.Decisions(1, 1, 0).images == 2
