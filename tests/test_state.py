import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.towers import BATCH, HEAD, IMAGE, PREPROCESS, places, random_batch, random_params, shapes, training
from train import optimizer
from train.classifier import sigmoid_loss
from train.state import _accumulated, abstract_state, in_parts, init_state, make_step
from vit22b import model, sharding
from vit22b.config import ModelConfig
from vit22b.tree import leaves

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
    assert set(metrics) == {*expected, "layer_grad_norm"}
    for name in expected:
        number = metrics[name]
        assert float(number) == pytest.approx(float(expected[name]), rel=1e-5), name


def loss_of_head():
    return sigmoid_loss(model.abstract(HEAD)[0], PREPROCESS)


def compiled(parts, ema=0.0, mesh=(1, 1)):
    """A step of HEAD in some parts, and where it begins."""
    run = training(*mesh)
    target = run.target._replace(ema=run.target.params if ema else None)
    step = make_step(loss_of_head(), run.optimizer, target, parts, ema)
    state = run.start()
    return step, state._replace(ema=jax.tree.map(jnp.copy, state.params) if ema else None)


@pytest.mark.parametrize(("parts", "mesh"), [(4, (1, 1)), (2, (4, 2))])
def test_the_accumulated_gradient_equals_that_of_the_large_batch(gradient, parts, mesh):
    run = training(*mesh)
    whole = jax.value_and_grad(loss_of_head(), has_aux=True)
    accumulated = jax.jit(_accumulated(whole, places(run.target.params), parts))
    batch = jax.device_put(random_batch(), sharding.batch_sharding(run.mesh))
    (value, further), gradients = accumulated(run.start().params, batch)
    (expected, expected_further), expected_gradients = gradient(random_params(HEAD))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(further["train_top1"], expected_further["train_top1"], rtol=1e-6)
    largest = optax.tree.max(expected_gradients)
    for name, leaf in leaves(expected_gradients).items():
        np.testing.assert_allclose(leaves(gradients)[name], leaf, rtol=0, atol=1e-6 * largest, err_msg=name)


def test_a_run_in_parts_on_a_mesh_agrees_with_one_of_large_batches_on_one_device():
    runs = []
    for parts, mesh in ((1, (1, 1)), (2, (4, 2))):
        step, state = compiled(parts, mesh=mesh)
        place = sharding.batch_sharding(training(*mesh).mesh)
        losses = []
        for seed in range(3):
            state, metrics = step(state, jax.device_put(random_batch(seed), place))
            losses.append(float(metrics["loss"]))
        runs.append((losses, leaves(state.params)))
    (losses, params), (other_losses, others) = runs
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in params.values())
    for name, leaf in params.items():
        np.testing.assert_allclose(others[name], leaf, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_the_parts_of_a_batch_do_not_move_between_devices():
    run = training(4, 2)
    batch = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=sharding.batch_sharding(run.mesh))
    parts = jax.jit(lambda leaf: in_parts(leaf, 2, run.mesh)).lower(batch).compile()
    assert not re.search("all-|collective-|reduce-scatter", parts.as_text())
    rows = jnp.arange(48.0).reshape(16, 3)
    found = np.asarray(parts(jax.device_put(rows, batch.sharding)))
    assert found.shape == (2, 8, 3)
    assert sorted(map(tuple, found.reshape(16, 3))) == sorted(map(tuple, np.asarray(rows)))


def test_a_batch_that_does_not_divide_is_named():
    step, state = compiled(3)
    with pytest.raises(ValueError, match="a batch of 8 does not divide over 1 devices in --accumulate 3 parts"):
        step(state, random_batch())


def test_the_average_follows_the_weights():
    step, state = compiled(1, ema=0.75)
    expected = jax.tree.map(np.asarray, state.params)
    for seed in range(2):
        state, _ = step(state, random_batch(seed))
        expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * np.asarray(new), expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing(parts):
    """An infinite head bias makes the loss infinite; the state is left to the bit, the optimizer's counts included."""
    step, state = compiled(parts, ema=0.5)
    state, _ = step(state, random_batch())
    state.params["head"]["bias"] = state.params["head"]["bias"].at[0].set(jnp.inf)
    before = jax.tree.map(np.asarray, state)
    state, metrics = step(state, random_batch())
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, state, before)


def test_a_gradient_that_is_not_finite_changes_nothing():
    """The loss is finite and its gradient is not."""
    run = training()

    def loss(params, _):
        value = jnp.sqrt(jnp.square(params["head"]["bias"][0]))
        return value, {}

    step = make_step(loss, run.optimizer, run.target)
    state = run.start()
    state.params["head"]["bias"] = state.params["head"]["bias"].at[0].set(0.0)
    before = jax.tree.map(np.asarray, state)
    state, metrics = step(state, {})
    assert metrics["loss"] == 0
    assert np.isnan(metrics["grad_norm"])
    jax.tree.map(np.testing.assert_array_equal, state, before)


def test_the_norms_of_the_layers_are_those_of_their_gradients(gradient):
    run = training()
    _, metrics = run.step(run.start(), random_batch())
    _, gradients = gradient(random_params(HEAD))
    stacked = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradients["image"]["blocks"])]
    expected = [np.sqrt(sum((leaf[i] ** 2).sum() for leaf in stacked)) for i in range(HEAD.image.depth)]
    np.testing.assert_allclose(metrics["layer_grad_norm"], expected, rtol=1e-5)


def test_steps_on_one_batch_learn_it():
    run = training()
    state, losses = run.start(), []
    for _ in range(5):
        state, metrics = run.step(state, random_batch())
        losses.append(float(metrics["loss"]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
