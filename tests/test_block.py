"""The block in every form, against its formula in NumPy; tests/test_model.py has the paper's, and the stack."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.towers import FORM, random_params
from vit22b import block
from vit22b.config import ModelConfig, ViTConfig
from vit22b.tree import leaves

PLAIN = ViTConfig(32, 1, 64, 4, 4, 8)
TOKENS = np.random.default_rng(3).standard_normal((2, 5, 32)).astype(np.float32)
ACTIVATIONS = {
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


def parameters(config):
    """Of the one block of a tower, by name."""
    params = random_params(ModelConfig(config))["image"]["blocks"]
    return jax.tree.map(lambda leaf: leaf[0], params)


def run(config, params, x=TOKENS, causal=False):
    graph, _ = nnx.split(block.make_block(config, nnx.Rngs(0), causal))
    return np.asarray(nnx.merge(graph, jax.tree.map(jnp.asarray, params))(jnp.asarray(x)))


def formula(config, params, x, causal=False):
    """The block written out once more, in float64."""
    p = {name: np.asarray(leaf, np.float64) for name, leaf in leaves(params).items()}

    def norm(name, v):
        if config.norm == "layer":
            v = v - v.mean(-1, keepdims=True)
        v = v / np.sqrt((v**2).mean(-1, keepdims=True) + config.norm_epsilon) * p[f"{name}/scale"]
        return v + p.get(f"{name}/bias", 0)

    def heads(name, y):
        v = np.einsum("bnd,dhk->bnhk", y, p[f"{name}/kernel"]) + p.get(f"{name}/bias", 0)
        return norm(f"{name}_norm", v) if f"{name}_norm/scale" in p else v

    def attention(y):
        logits = np.einsum("bnhk,bmhk->bhnm", heads("query", y), heads("key", y)) / np.sqrt(config.head_dim)
        weights = np.exp(np.where(np.tri(x.shape[1], dtype=bool) | (not causal), logits, -np.inf))
        weights /= weights.sum(-1, keepdims=True)
        attended = np.einsum("bhnm,bmhk->bnhk", weights, heads("value", y))
        return np.einsum("bnhk,hkd->bnd", attended, p["attention_out/kernel"]) + p.get("attention_out/bias", 0)

    def mlp(y):
        hidden = ACTIVATIONS[config.activation](y @ p["mlp_in/kernel"] + p["mlp_in/bias"])
        return hidden @ p["mlp_out/kernel"] + p.get("mlp_out/bias", 0)

    y = norm("norm", x)
    if config.block == "parallel":
        return x + attention(y) + mlp(y) + p["out/bias"]
    h = x + p.get("attention_scale/scale", 1) * attention(y)
    return h + p.get("mlp_scale/scale", 1) * mlp(norm("mlp_norm", h))


@pytest.mark.parametrize(
    "changes",
    [
        FORM,
        {**FORM, "qk_norm": False, "layer_scale": False},
        {"block": "sequential", "activation": "gelu"},
        {"norm": "layer", "attention_bias": True, "norm_epsilon": 1e-2},
    ],
    ids=["everything", "clip", "sequential", "parallel"],
)
@pytest.mark.parametrize("causal", [False, True])
def test_a_block_of_any_form_is_its_formula(changes, causal):
    config = dataclasses.replace(PLAIN, **changes)
    params = parameters(config)
    np.testing.assert_allclose(run(config, params, causal=causal), formula(config, params, TOKENS, causal), atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_formula(name):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(block.ACTIVATIONS[name](x), ACTIVATIONS[name](x.astype(np.float64)), atol=1e-6)


def test_a_sequential_block_has_a_bias_on_every_map_and_two_norms():
    found = {name: leaf.shape for name, leaf in leaves(parameters(dataclasses.replace(PLAIN, **FORM))).items()}
    d, f, h, k = 32, 64, 4, 8
    maps = {"query": ((d,), (h, k)), "key": ((d,), (h, k)), "value": ((d,), (h, k)), "attention_out": ((h, k), (d,))}
    maps |= {"mlp_in": ((d,), (f,)), "mlp_out": ((f,), (d,))}
    expected = {f"{name}/kernel": (*i, *o) for name, (i, o) in maps.items()}
    expected |= {f"{name}/bias": o for name, (_, o) in maps.items()}
    norms = {"norm": d, "mlp_norm": d, "query_norm": k, "key_norm": k}
    expected |= {f"{name}/{part}": (size,) for name, size in norms.items() for part in ("scale", "bias")}
    assert found == expected | {"attention_scale/scale": (d,), "mlp_scale/scale": (d,)}


def test_without_attention_biases_queries_keys_and_values_alone_have_none():
    with_them = leaves(parameters(dataclasses.replace(PLAIN, **FORM)))
    without = leaves(parameters(dataclasses.replace(PLAIN, **{**FORM, "attention_bias": False})))
    assert with_them.keys() - without.keys() == {"query/bias", "key/bias", "value/bias"}


def test_layer_scales_of_1_are_as_none():
    config = dataclasses.replace(PLAIN, **FORM)
    params = parameters(config)
    ones = {**params, **{name: {"scale": np.ones(32, np.float32)} for name in ("attention_scale", "mlp_scale")}}
    without = {name: part for name, part in params.items() if name not in ("attention_scale", "mlp_scale")}
    expected = run(dataclasses.replace(config, layer_scale=False), without)
    np.testing.assert_array_equal(run(config, ones), expected)
    assert np.abs(run(config, params) - expected).max() > 1e-2


def test_a_causal_block_sees_nothing_that_comes_later():
    config = dataclasses.replace(PLAIN, block="sequential")
    params = parameters(config)
    changed = TOKENS.copy()
    changed[:, 3] += 1
    effect = {
        c: np.abs(run(config, params, changed, c) - run(config, params, causal=c)).max((0, 2)) for c in (False, True)
    }
    assert (effect[True][:3] == 0).all()
    assert (effect[True][3:] > 1e-3).all()
    assert (effect[False] > 1e-3).all()


@pytest.mark.parametrize("changes", [FORM, {"norm": "layer", "attention_bias": True}], ids=["sequential", "parallel"])
def test_norms_and_softmax_stay_float32_in_bfloat16(changes):
    config = dataclasses.replace(PLAIN, **changes)
    params = parameters(config)
    half = run(config, params, jnp.asarray(TOKENS, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    expected = run(config, params)
    assert np.abs(half.astype(np.float32) - expected).max() < 0.02 * np.abs(expected).max()
