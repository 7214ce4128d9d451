import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.towers import BATCH, HEAD, IMAGE, PREPROCESS, random_batch, random_params, shapes, training
from train import optimizer
from train.pretrain import sigmoid_loss
from train.state import abstract_state, init_state
from vit22b import model, sharding
from vit22b.config import ModelConfig
from vit22b.model import leaves

SMALL = ModelConfig(dataclasses.replace(IMAGE, depth=1, pooling="mean"), classes=HEAD.classes)


def first_params(key):
    return model.init(SMALL, key)


def first_state(data, model_axis):
    update = optimizer.make(optimizer.Optimizer(), 10)
    target = abstract_state(first_params, update, sharding.make_mesh(data, model_axis))
    return target, init_state(first_params, update, target, seed=3)


@pytest.fixture(scope="module")
def first():
    return first_state(1, 1)[1]


@pytest.fixture(scope="module")
def gradient():
    """Loss, metrics and gradients of parameters."""
    loss = jax.value_and_grad(sigmoid_loss(model.abstract(HEAD)[0], PREPROCESS), has_aux=True)
    batch = jax.tree.map(jnp.asarray, random_batch())
    compiled = jax.jit(loss).lower(random_params(HEAD), batch).compile()
    return lambda params: compiled(params, batch)


@pytest.fixture(scope="module")
def at_the_start(first, gradient):
    return gradient({**random_params(HEAD), "head": first.params["head"]})


def test_the_first_state_is_made_where_it_lies_and_is_the_same_on_every_mesh(first):
    target, state = first_state(4, 2)
    assert shapes(state) == target
    jax.tree.map(np.testing.assert_array_equal, state, first)


def test_another_seed_is_another_model():
    init = jax.jit(first_params).lower(jax.random.key(0)).compile()
    one, same, other = (init(jax.random.key(seed)) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (one["image"]["position_embedding"] != other["image"]["position_embedding"]).mean() > 0.99


def test_the_first_loss_is_the_heads_prior(at_the_start):
    (value, metrics), _ = at_the_start
    labels = random_batch()["targets"].sum() / BATCH
    assert 1 < labels < 2
    assert float(value) == pytest.approx(10 * np.log1p(np.exp(-10)) + 10 * labels, rel=1e-6)
    assert set(metrics) == {"train_top1"}


def test_a_zero_head_alone_gets_the_first_gradient(at_the_start):
    _, gradients = at_the_start
    moved = {name for name, leaf in leaves(gradients).items() if np.asarray(leaf).any()}
    assert moved == {"head/kernel", "head/bias"}


def test_a_step_keeps_shapes_and_places_and_consumes_the_state():
    run = training()
    state = run.start()
    after, _ = run.step(state, random_batch())
    assert shapes(after) == run.target
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_a_steps_metrics_are_those_of_the_parameters_before_it(gradient):
    run = training()
    _, metrics = run.step(run.start(), random_batch())
    (value, further), gradients = gradient(random_params(HEAD))
    norm = np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(gradients)))
    expected = {"loss": value, "grad_norm": norm, **further}
    assert set(metrics) == set(expected)
    for name, number in metrics.items():
        assert float(number) == pytest.approx(float(expected[name]), rel=1e-5), name


def test_steps_on_one_batch_learn_it():
    run = training()
    state, losses = run.start(), []
    for _ in range(5):
        state, metrics = run.step(state, random_batch())
        losses.append(float(metrics["loss"]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
