"""The MAP head with and without its biases, against its formula in NumPy; the paper's head is its plain case."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.towers import FORM, random_params
from vit22b.config import ModelConfig, ViTConfig
from vit22b.pooling import AttentionPool
from vit22b.tree import leaves

PLAIN = ViTConfig(32, 1, 64, 4, 4, 8)
SIGLIP = dataclasses.replace(PLAIN, **{**FORM, "activation": "gelu", "qk_norm": False, "layer_scale": False})
TOKENS = np.random.default_rng(4).standard_normal((3, 4, 32)).astype(np.float32)


def formula(config, params, tokens):
    p = {name: np.asarray(leaf, np.float64) for name, leaf in leaves(params).items()}

    def heads(name, y):
        return np.einsum("nd,dhk->hnk", y, p[f"{name}/kernel"]) + p.get(f"{name}/bias", np.zeros((4, 8)))[:, None]

    def one(image):
        weights = np.exp(heads("query", p["probe"][None]) @ heads("key", image).transpose(0, 2, 1) / np.sqrt(8))
        weights /= weights.sum(-1, keepdims=True)
        x = np.einsum("hnk,hkd->d", weights @ heads("value", image), p["attention_out/kernel"])
        x += p.get("attention_out/bias", 0)
        y = x - x.mean() if config.norm == "layer" else x
        y = y / np.sqrt((y**2).mean() + config.norm_epsilon) * p["norm/scale"] + p.get("norm/bias", 0)
        hidden = y @ p["mlp_in/kernel"] + p["mlp_in/bias"]
        if config.activation == "gelu":
            hidden = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
        else:
            hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        return x + hidden @ p["mlp_out/kernel"] + p.get("mlp_out/bias", 0) + p.get("out/bias", 0)

    return np.stack([one(image) for image in tokens])


@pytest.mark.parametrize("config", [PLAIN, SIGLIP], ids=["paper", "siglip"])
def test_the_map_head_is_its_formula(config):
    params = random_params(ModelConfig(config))["image"]["pool"]
    pool = nnx.merge(nnx.split(AttentionPool(config, nnx.Rngs(0)))[0], jax.tree.map(jnp.asarray, params))
    np.testing.assert_allclose(pool(jnp.asarray(TOKENS)), formula(config, params, TOKENS), atol=1e-5)


def test_a_map_head_of_sequential_blocks_has_a_bias_on_every_map():
    names = set(leaves(random_params(ModelConfig(SIGLIP))["image"]["pool"]))
    maps = ("query", "key", "value", "attention_out", "mlp_in", "mlp_out")
    assert names == {"probe", "norm/scale", "norm/bias"} | {f"{m}/{part}" for m in maps for part in ("kernel", "bias")}
