import numpy as np
import pytest

from train.evaluators.distillation_gain import gain


def test_what_is_always_right_gains_all_on_what_never_is():
    found = gain(np.ones((3, 20)), np.zeros((3, 20)))
    assert (found.value, found.interval, found.deviation) == (1.0, (1.0, 1.0), 0.0)


def test_equal_answers_gain_nothing():
    right = np.random.default_rng(0).integers(2, size=(3, 50))
    found = gain(right, right)
    assert (found.value, found.interval, found.deviation) == (0.0, (0.0, 0.0), 0.0)


def test_the_gain_and_its_deviation_by_hand():
    first, second = np.array([[1, 1, 1, 0], [1, 0, 1, 0]]), np.array([[1, 0, 0, 0], [1, 0, 1, 0]])
    found = gain(first, second)
    assert found.value == 0.25  # 2/4 of the first seed, 0 of the second
    assert found.deviation == pytest.approx(0.5 / np.sqrt(2))
    # Two seeds are one degree of freedom: t is 12.7, and the deviation over the root of two is 1/4.
    low, high = found.interval
    assert low < 0.25 - 12.7 * 0.25
    assert high > 0.25 + 12.7 * 0.25


def test_seeds_that_disagree_widen_the_interval():
    images = 400
    draws = np.random.default_rng(0).random((2, images))
    agreed = [draws[0] < 0.6, draws[1] < 0.6], [draws[0] < 0.4, draws[1] < 0.4]
    apart = [draws[0] < 0.9, draws[1] < 0.3], [draws[0] < 0.4, draws[1] < 0.4]
    width = [np.diff(gain(np.array(one), np.array(other)).interval)[0] for one, other in (agreed, apart)]
    assert width[1] > 2 * width[0]
    assert gain(np.ones((1, 3)), np.zeros((1, 3))).deviation is None


@pytest.mark.parametrize("shape", [(3,), (2, 4), (0, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[seeds, images\]"):
        gain(np.zeros((3, 3)) if shape == (2, 4) else np.zeros(shape), np.zeros(shape))


def test_the_interval_holds_the_true_gain_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(100):
        # Three seeds of each kind, right with shares that differ from seed to seed by some 0.04.
        first, second = (
            rng.random((3, 400)) < np.clip(share + rng.normal(0, 0.03, (3, 1)), 0, 1) for share in (0.5, 0.4)
        )
        low, high = gain(first, second).interval
        held.append(low <= 0.1 <= high)
    assert np.mean(held) > 0.92
