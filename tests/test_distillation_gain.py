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
    low, high = found.interval
    assert low <= 0.25 <= high
    assert low == 0


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
