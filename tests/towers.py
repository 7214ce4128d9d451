"""Small models for the tests, with parameters as training leaves them, and the compiled step that trains them.

No kernel is 0 and no scale is 1: a zero head, as at the start, makes every gradient of the body 0.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from train import optimizer
from train.classifier import sigmoid_loss
from train.state import Step, TrainState, abstract_state, make_step
from vit22b import model, sharding
from vit22b.config import ModelConfig, TextConfig, ViTConfig, text_tower, vit
from vit22b.execution import Execution
from vit22b.preprocess import Preprocess

IMAGE = dataclasses.replace(vit("mu"), depth=2)
HEAD = ModelConfig(IMAGE, classes=10)
ZERO_SHOT = ModelConfig(IMAGE, classes=10, text=text_tower(IMAGE, vocabulary=300))
PREPROCESS = Preprocess(IMAGE.resolution)
# A model with everything that the paper's has not.
FORM = {
    "block": "sequential",
    "norm": "layer",
    "norm_epsilon": 1e-5,
    "attention_bias": True,
    "activation": "quick_gelu",
    "layer_scale": True,
}
OTHER = ModelConfig(
    ViTConfig(
        *(32, 2, 64, 4, 14, 28),
        **FORM,
        class_token=True,
        class_position=True,
        registers=3,
        pre_norm=True,
        norm_pooled=True,
        projection=24,
    ),
    classes=10,
    text=TextConfig(
        *(32, 2, 64, 4),
        vocabulary=50,
        projection=24,
        **FORM,
        causal=True,
        pooling="end",
        end_id=49,
        projection_bias=True,
    ),
    similarity="sigmoid",
)

BATCH, STEPS = 8, 6
SETTINGS = optimizer.Optimizer(warmup=1, cooldown=2)


def random_params(config, seed=1):
    """A model's tree of float32 NumPy arrays."""
    random = np.random.default_rng(seed)

    def value(path, leaf):
        if path[-1].key == "scale":
            return (1 + 0.1 * random.standard_normal(leaf.shape)).astype(np.float32)
        fan_in = math.prod(leaf.shape[:-1]) / (leaf.shape[0] if len(leaf.shape) > 2 else 1)
        return np.asarray(random.standard_normal(leaf.shape) / math.sqrt(max(fan_in, 16)), np.float32)

    return jax.tree_util.tree_map_with_path(value, model.abstract(config)[1])


def random_batch(seed=2):
    """Pixels uint8 [B, R, R, 3] and targets float32 [B, Y] with one or two labels a row."""
    random = np.random.default_rng(seed)
    targets = np.eye(HEAD.classes, dtype=np.float32)[random.integers(HEAD.classes, size=(2, BATCH))].max(axis=0)
    pixels = random.integers(256, size=(BATCH, IMAGE.resolution, IMAGE.resolution, 3)).astype(np.uint8)
    return {"pixels": pixels, "targets": targets}


class Training(NamedTuple):
    """What trains HEAD on one mesh: its optimizer, its state's shapes and places, its compiled step."""

    mesh: Mesh
    optimizer: optax.GradientTransformation
    target: TrainState
    step: Step

    def start(self):
        """A state of random parameters; a new one each time, since a step consumes it."""
        params = random_params(HEAD)
        state = TrainState(params, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self.target.opt_state))
        return jax.device_put(state, places(self.target))


@functools.cache
def training(data=1, model_axis=1, **compute):
    """The training of HEAD on a mesh, compiled once in a run; `compute` are fields of Execution."""
    mesh = sharding.make_mesh(data, model_axis)
    execution = Execution(mesh=mesh, **compute)
    update = optimizer.make(SETTINGS, STEPS)
    target = abstract_state(lambda _: random_params(HEAD), update, mesh)
    step = make_step(sigmoid_loss(model.abstract(HEAD)[0], PREPROCESS, execution), update, target)
    batch = jax.device_put(random_batch(), sharding.batch_sharding(mesh))
    return Training(mesh, update, target, step.lower(target, batch).compile())


def places(tree):
    """The tree of where its arrays lie."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def shapes(tree):
    """The tree with each array as a jax.ShapeDtypeStruct of its shape, dtype and place."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)
