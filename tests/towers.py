"""Small models for the tests, with parameters as training leaves them: no kernel is 0 and no scale is 1."""

import dataclasses
import math

import jax
import numpy as np

from vit22b import model
from vit22b.config import ModelConfig, Preprocess, text_tower, vit

IMAGE = dataclasses.replace(vit("mu"), depth=2)
HEAD = ModelConfig(IMAGE, classes=10)
ZERO_SHOT = ModelConfig(IMAGE, classes=10, text=text_tower(IMAGE, vocabulary=300))
PREPROCESS = Preprocess(IMAGE.resolution)


def random_params(config, seed=1):
    """A model's tree of float32 NumPy arrays."""
    random = np.random.default_rng(seed)

    def value(path, leaf):
        if path[-1].key == "scale":
            return (1 + 0.1 * random.standard_normal(leaf.shape)).astype(np.float32)
        fan_in = math.prod(leaf.shape[:-1]) / (leaf.shape[0] if len(leaf.shape) > 2 else 1)
        return (random.standard_normal(leaf.shape) / math.sqrt(max(fan_in, 16))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(value, model.abstract(config)[1])


def random_batch(size=8, classes=10, seed=2):
    """Pixels uint8 [B, R, R, 3] and targets float32 [B, Y] with one or two labels a row."""
    random = np.random.default_rng(seed)
    side = IMAGE.resolution
    targets = np.eye(classes, dtype=np.float32)[random.integers(classes, size=(2, size))].max(axis=0)
    return {"pixels": random.integers(256, size=(size, side, side, 3)).astype(np.uint8), "targets": targets}


def shapes_of(tree):
    """The tree with each array as a jax.ShapeDtypeStruct of its shape, dtype and place."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)
