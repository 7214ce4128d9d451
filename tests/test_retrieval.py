import math

import numpy as np
import pytest

from train.evaluators.retrieval import matches, ranked


def test_the_right_ones_first_is_perfect_and_last_is_nothing() -> None:
    right = np.eye(12, dtype=bool)
    perfect, worst = ranked(right.astype(float), right), ranked(-right.astype(float), right)
    for top in (1, 5, 10):
        assert perfect.recall(top).mean() == 1.0
        assert worst.recall(top).mean() == 0.0
    assert worst.first.tolist() == [11] * 12


def test_several_captions_of_an_image_and_one_caption_of_several_images() -> None:
    # Image 0 has two captions; "A Dog." is said of images 1 and 2, with other case and blanks.
    right = matches(["a cat", "a kitten", "a dog.", "A  Dog.", "a bird"], [0, 0, 1, 2, 3], 4)
    assert right.astype(int).tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]


def test_recall_is_counted_by_hand() -> None:
    right = matches(["a cat", "a kitten", "a dog", "a dog"], [0, 0, 1, 2], 3)
    similarities = np.array([[0.1, 0.9, 0.5, 0.5], [0.9, 0.8, 0.7, 0.1], [0.3, 0.1, 0.2, 0.9]])
    images = ranked(similarities, right)
    assert images.first.tolist() == [0, 2, 0]
    assert images.right.tolist() == [2, 2, 2]
    assert [images.recall(top).mean() for top in (1, 2, 3)] == pytest.approx([2 / 3, 2 / 3, 1])
    texts = ranked(similarities.T, right.T)
    assert texts.first.tolist() == [2, 0, 0, 0]
    assert texts.recall(1).mean() == 0.75


def test_of_equals_the_first_comes_first() -> None:
    right = np.array([[False, True], [True, False]])
    assert ranked(np.zeros((2, 2)), right).first.tolist() == [1, 0]


def test_chance_is_what_random_orders_reach() -> None:
    right = matches([str(caption) for caption in range(30)], [index // 3 for index in range(30)], 10)
    generator = np.random.default_rng(0)
    for top, expected in ((1, 3 / 30), (5, 1 - math.comb(27, 5) / math.comb(30, 5)), (30, 1.0)):
        found = [ranked(generator.random(right.shape), right) for _ in range(300)]
        assert found[0].chance(top) == pytest.approx(expected)
        assert np.mean([each.recall(top).mean() for each in found]) == pytest.approx(expected, abs=0.03)
    # With 28 drawn of 30, three right ones cannot all be missed.
    assert ranked(np.zeros((10, 30)), right).chance(28) == 1.0


def test_what_cannot_be_searched_is_told() -> None:
    with pytest.raises(ValueError, match="1 of 2 images have no caption"):
        matches(["a cat"], [0], 2)
    with pytest.raises(ValueError, match="owners go from 0 to 2; expected 0 to 1"):
        matches(["a", "b"], [0, 2], 2)
    with pytest.raises(ValueError, match="2 captions and 1 owners"):
        matches(["a", "b"], [0], 1)
    with pytest.raises(ValueError, match="1 queries have no right answer"):
        ranked(np.zeros((2, 2)), np.array([[True, False], [False, False]]))
    with pytest.raises(ValueError, match="have the shapes"):
        ranked(np.zeros((2, 3)), np.eye(2, dtype=bool))
