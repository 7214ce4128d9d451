import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.towers import PREPROCESS, ZERO_SHOT, random_params, shapes
from vit22b import sharding
from vit22b.checkpoint import Checkpoints
from vit22b.config import Preprocess
from vit22b.description import Description
from vit22b.space import space_id

PARAMS = random_params(ZERO_SHOT)


def named(params=PARAMS, preprocess=PREPROCESS, pooling="map", tokenizer="{}", **weights):
    return space_id(params, preprocess, pooling, tokenizer, **weights)


def changed(*path, by=1e-3):
    """The parameters with the last number of one leaf moved."""
    params = copy.deepcopy(PARAMS)
    leaf = params
    for key in path:
        leaf = leaf[key]
    leaf.flat[-1] += by
    return params


def test_the_name_is_16_hex_digits():
    assert len(named()) == 16
    assert int(named(), 16) >= 0


def test_a_checkpoint_a_mesh_and_numpy_have_the_same_name(tmp_path):
    mesh = sharding.make_mesh(4, 2)
    spread = jax.device_put(PARAMS, sharding.param_shardings(PARAMS, mesh))
    assert named(spread) == named()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": spread}, {}, Description(ZERO_SHOT, PREPROCESS))
    with Checkpoints(tmp_path) as checkpoints:
        assert named(checkpoints.restore(1, {"params": shapes(spread)})["params"]) == named()


def test_the_order_of_the_tree_does_not_matter():
    assert named(dict(reversed(PARAMS.items()))) == named()


@pytest.mark.parametrize("path", [("image", "pool", "probe"), ("text", "blocks", "mlp_in", "kernel")])
def test_a_number_of_a_tower_changes_the_name(path):
    assert named(changed(*path)) != named()


@pytest.mark.parametrize("path", [("head", "kernel"), ("head", "bias"), ("logit_scale",)])
def test_what_makes_no_embedding_does_not_change_the_name(path):
    assert named(changed(*path)) == named()
    without = {k: v for k, v in PARAMS.items() if k != path[0]}
    assert named(without) == named()


def test_a_cap_of_pixels_refuses_images_and_changes_no_vector():
    assert named(preprocess=dataclasses.replace(PREPROCESS, max_pixels=100)) == named()


def test_the_rest_of_the_recipe_changes_the_name():
    others = [
        named(),
        named(pooling="mean"),
        named(tokenizer="{ }"),
        named(tokenizer=None),
        named(weights="bfloat16"),
        named(params={"image": PARAMS["image"]}),
        named(preprocess=Preprocess(56)),
        named(preprocess=dataclasses.replace(PREPROCESS, value_range=(0, 1))),
    ]
    assert len(set(others)) == len(others)


def test_parameters_in_bfloat16_have_a_name_of_their_own():
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    assert named(half) == named(jax.tree.map(np.asarray, half)) != named()
