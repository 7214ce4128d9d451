import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests.towers import HEAD, IMAGE, PREPROCESS, random_batch, random_params
from train import optimizer
from train.classifier import probe, sigmoid_loss
from train.signals import gradient_norms
from train.state import abstract_state, init_state, make_step
from vit22b import model, sharding
from vit22b.config import ModelConfig
from vit22b.execution import Execution

HIGH = optimizer.Optimizer("adamw", schedule="wsd", peak=0.02, warmup=1, cooldown=1, body_decay=0.0)
STEPS = 20


def largest_logits(qk_norm):
    """The largest attention logit of each layer before and after a training at a high learning rate."""
    config = ModelConfig(dataclasses.replace(IMAGE, qk_norm=qk_norm, pooling="mean"), classes=HEAD.classes)
    update, mesh = optimizer.make(HIGH, 10 * STEPS), sharding.make_mesh()
    graph = model.abstract(config)[0]

    def init(key):
        return model.init(config, key, head_bias=-2.2)

    target = abstract_state(init, update, mesh)
    step = make_step(sigmoid_loss(graph, PREPROCESS), update, target)
    state = init_state(init, update, target, seed=0)
    observe = probe(graph, PREPROCESS, Execution())
    batch = jax.device_put(random_batch(), sharding.batch_sharding(mesh))
    before = observe(state.params, batch)["max_logit"]
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics["loss"])
    return np.asarray(before), np.asarray(observe(state.params, batch)["max_logit"])


def test_at_a_high_rate_logits_grow_without_qk_normalisation_and_not_with_it():
    """Dehghani et al. 2023, section 2: without it the larger models diverged, with logits in the ten thousands."""
    before, after = largest_logits(qk_norm=False)
    assert (after > 10 * before).all()
    before, after = largest_logits(qk_norm=True)
    assert (after < 2 * before).all()


def test_the_probe_looks_at_no_more_rows_than_a_step_computes_at_once():
    """Of 8 rows on 2 devices in 2 parts those at 0, 1, 4 and 5: each device's first half."""
    mesh = sharding.make_mesh(2, 1)
    rows = np.arange(8)
    first = np.isin(rows, (0, 1, 4, 5))
    params = random_params(HEAD)
    graph = model.abstract(HEAD)[0]
    observe = probe(graph, PREPROCESS, Execution(mesh=mesh), accumulate=2)
    pixels = random_batch()["pixels"]
    found = observe(params, {"pixels": pixels})
    without = np.where(first[:, None, None, None], pixels, 0).astype(np.uint8)
    jax.tree.map(np.testing.assert_array_equal, observe(params, {"pixels": without}), found)
    expected = probe(graph, PREPROCESS, Execution())(params, {"pixels": pixels[first]})
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), found, expected)


def test_a_layers_norm_is_over_all_that_it_has():
    gradients = random_params(HEAD)
    found = gradient_norms(gradients)["layer_grad_norm"]
    for layer in range(IMAGE.depth):
        parts = [np.asarray(leaf[layer], np.float64).ravel() for leaf in jax.tree.leaves(gradients["image"]["blocks"])]
        np.testing.assert_allclose(found[layer], np.linalg.norm(np.concatenate(parts)), rtol=1e-6)


def test_a_model_without_a_stack_has_no_layers():
    assert gradient_norms({"head": {"bias": jnp.ones(3)}}) == {}
