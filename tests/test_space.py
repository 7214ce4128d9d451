import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.towers import PREPROCESS, ZERO_SHOT, random_params, shapes
from vit22b import sharding
from vit22b.checkpoint import Checkpoints
from vit22b.description import Description
from vit22b.preprocess import Preprocess
from vit22b.space import space_id

PARAMS = random_params(ZERO_SHOT)


def named(params=PARAMS, preprocess=PREPROCESS, config=ZERO_SHOT, tokenizer="{}", **weights):
    return space_id(params, preprocess, config, tokenizer, **weights)


def with_image(**changes):
    """The configuration with other fields of the image tower."""
    return dataclasses.replace(ZERO_SHOT, image=dataclasses.replace(ZERO_SHOT.image, **changes))


def with_text(**changes):
    return dataclasses.replace(ZERO_SHOT, text=dataclasses.replace(ZERO_SHOT.text, **changes))


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


def test_the_name_of_the_papers_model_is_what_it_was_before_there_were_others():
    """Recorded from the version before block_config.py, with these parameters."""
    assert named() == "0eac4111380d16e2"
    image, mean = {"image": PARAMS["image"]}, with_image(pooling="mean")
    assert named(image, config=mean, tokenizer=None, weights="bfloat16") == "37440e3307570459"
    for config in (with_image(qk_norm=False), with_text(qk_norm=False), with_text(length=20)):
        assert named(config=config) == named(), "the parameters' names and shapes tell it"


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
        named(config=with_image(pooling="mean")),
        named(config=with_image(norm_epsilon=1e-5)),
        named(config=with_image(activation="gelu")),
        named(config=with_text(activation="gelu")),
        named(config=with_image(block="sequential")),
        named(config=with_image(norm_pooled=True)),
        named(config=with_text(causal=True)),
        named(config=with_text(pooling="end", end_id=3)),
        named(config=with_text(pooling="end", end_id=4)),
        named(tokenizer="{ }"),
        named(tokenizer=None),
        named(weights="bfloat16"),
        named(params={"image": PARAMS["image"]}),
        named(preprocess=Preprocess(56)),
        named(preprocess=dataclasses.replace(PREPROCESS, value_range=(0, 1))),
        named(preprocess=dataclasses.replace(PREPROCESS, method="bilinear")),
        named(preprocess=dataclasses.replace(PREPROCESS, crop="center")),
        named(preprocess=dataclasses.replace(PREPROCESS, crop="center", crop_fraction=0.875)),
        named(preprocess=dataclasses.replace(PREPROCESS, mean=(0, 0, 0), std=(1, 1, 1))),
    ]
    assert len(set(others)) == len(others)


def test_parameters_in_bfloat16_have_a_name_of_their_own():
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    assert named(half) == named(jax.tree.map(np.asarray, half)) != named()
