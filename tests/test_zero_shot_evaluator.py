import numpy as np
import pytest

from train.evaluators.accuracy import balanced, guessed, ranks, within
from train.evaluators.zero_shot import classify, cosines


def test_a_bank_of_the_images_own_directions_is_perfect_and_its_opposite_never_right() -> None:
    targets = np.tile(np.arange(8), 5)
    bank = np.eye(8)
    perfect, worst = classify(3 * bank[targets], bank, targets), classify(-bank[targets], bank, targets)
    for scores in (perfect.top1, perfect.top5, perfect.per_class):
        assert scores.mean() == 1.0
    for scores in (worst.top1, worst.top5, worst.per_class):
        assert scores.mean() == 0.0


def test_a_constant_answer_has_the_share_of_its_class_and_the_recall_of_one_class() -> None:
    targets = np.array([0] * 6 + [1] * 3 + [2])
    found = classify(np.tile([1.0, 0.1, 0.0], (10, 1)), np.eye(3), targets)
    assert found.top1.mean() == pytest.approx(0.6)
    assert found.per_class.mean() == pytest.approx(1 / 3)
    assert found.top5.mean() == 1.0
    assert guessed(targets) == 0.6
    assert guessed(targets, 2) == pytest.approx(0.9)


def test_ranks_are_counted_by_hand() -> None:
    scores = [[0.1, 0.7, 0.2], [0.5, 0.5, 0.5], [0.5, 0.5, 0.9]]
    found = ranks(scores, [2, 1, 1])
    assert found.tolist() == [1, 1, 2]  # of equals the first comes first
    assert within(found, 2).tolist() == [1.0, 1.0, 0.0]


def test_recall_by_class_weighs_each_class_that_occurs_the_same() -> None:
    # Class 0: 1 of 4, class 2: 1 of 1; class 1 does not occur.
    scores = balanced([1, 0, 0, 0, 1], [0, 0, 0, 0, 2])
    assert scores.mean() == pytest.approx((0.25 + 1.0) / 2)


def test_lengths_do_not_matter_and_widths_do() -> None:
    np.testing.assert_allclose(cosines([[2.0, 0.0]], [[5.0, 0.0], [3.0, 3.0]]), [[1.0, 0.5**0.5]])
    with pytest.raises(ValueError, match="widths 2 and 3"):
        cosines(np.ones((1, 2)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="points nowhere"):
        cosines(np.zeros((1, 2)), np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"expected \[n, D\]"):
        cosines(np.ones(2), np.ones((1, 2)))


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.ones((2, 3)), [0], "have the shapes"),
        (np.full((1, 3), np.inf), [0], "not finite"),
        (np.ones((2, 3)), [0, 3], "go from 0 to 3; expected 0 to 2"),
    ],
)
def test_scores_that_cannot_be_ranked_are_told(scores: np.ndarray, targets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranks(scores, targets)
