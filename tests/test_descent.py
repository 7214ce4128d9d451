import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.evaluators.descent import Descent, Learner, batches, descend
from vit22b.block import Linear

DESCENT = Descent(80, 0.1, batch=4)


class Line(nnx.Module):
    def __init__(self) -> None:
        self.map = Linear("BD,DY->BY", (2, 1), nnx.Rngs(0), bias=True)

    def __call__(self, x):
        return self.map(x)


def squared(predicted, targets):
    return jnp.square(predicted - targets).mean()


def test_batches_go_through_all_examples_before_any_comes_again():
    rows = batches(10, Descent(5, 0.1, batch=4))
    assert rows.shape == (5, 4)
    assert sorted(rows.ravel()[:10]) == sorted(rows.ravel()[10:]) == list(range(10))


def test_a_batch_is_all_examples_where_there_are_fewer():
    assert batches(3, Descent(2, 0.1, batch=4)).shape == (2, 3)


def test_the_seed_decides_the_order():
    same, other = (batches(50, Descent(3, 0.1, seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(same, batches(50, Descent(3, 0.1)))
    assert (same != other).any()


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_rate_rises_to_its_peak_and_falls(steps):
    def gradient_is_one(params, rows):
        return (params * rows.mean()).sum()

    start = jnp.ones(1)
    end = descend(gradient_is_one, start, (np.ones(4, np.float32),), Descent(steps, 0.01))
    moved = float(start[0] - end[0])
    assert 0 < moved <= 0.01 * steps * 1.001


def test_a_head_learns_a_line_and_the_start_stays():
    x = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    y = x @ np.asarray([[1.5], [-0.5]], np.float32) + 0.25
    learner = Learner(Line(), squared, DESCENT, {"head": "line"})
    before = np.asarray(learner.start["map"]["kernel"]).copy()
    first, second = learner.fit((x,), y), learner.fit((x,), y)
    np.testing.assert_allclose(learner(first, (x,)), y, atol=0.1)
    np.testing.assert_array_equal(first["map"]["kernel"], second["map"]["kernel"])
    np.testing.assert_array_equal(learner.start["map"]["kernel"], before)
    assert learner.settings == {"head": "line", "training": "AdamW, 80 steps of 4, rate 0.1, seed 0"}


def test_chosen_rows_teach_what_a_copy_of_them_teaches():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 2)).astype(np.float32), random.normal(size=(30, 1)).astype(np.float32)
    learner, rows = Learner(Line(), squared, DESCENT, {}), random.permutation(30)[:9]
    found, copied = learner.fit((x,), y, rows), learner.fit((x[rows],), y[rows])
    jax.tree.map(np.testing.assert_array_equal, found, copied)


def test_a_head_answers_any_number_of_examples():
    learner = Learner(Line(), squared, DESCENT, {})
    x = np.random.default_rng(0).normal(size=(130, 2)).astype(np.float32)
    np.testing.assert_array_equal(learner(learner.start, (x,))[100:], learner(learner.start, (x[100:],)))


def test_features_that_are_not_finite_are_told():
    learner = Learner(Line(), squared, Descent(2, 0.1), {})
    with pytest.raises(ValueError, match=r"loss is nan after 2 steps.*features are finite"):
        learner.fit((np.full((4, 2), np.nan, np.float32),), np.zeros((4, 1), np.float32))
