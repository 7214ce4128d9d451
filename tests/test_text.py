"""What a text tower may have besides the paper's block: order, an end to pool at, a biased projection."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.towers import OTHER, random_params
from vit22b import model

END = OTHER.text.end_id
IDS = np.array([[5, 6, 7, END, *[0] * 12], [1, 2, END, 3, END, *[9] * 11], [8] * 16], np.int32)


def embed(ids, **changes):
    config = dataclasses.replace(OTHER, text=dataclasses.replace(OTHER.text, **changes))
    network = nnx.merge(model.abstract(config)[0], jax.tree.map(jnp.asarray, random_params(config)))
    return network.text, network.embed_text(jnp.asarray(ids))


def test_a_text_is_pooled_at_its_first_end_and_without_one_at_the_last_token():
    tower, out = embed(IDS)
    expected = tower.projection(out["tokens"][jnp.arange(3), jnp.array([3, 2, 15])])
    np.testing.assert_array_equal(out["pooled"], expected)
    np.testing.assert_allclose(jnp.linalg.norm(out["embedding"], axis=-1), 1.0, rtol=1e-5)


def test_what_stands_behind_the_end_changes_nothing_where_the_tower_is_causal():
    changed = np.where(np.cumsum(IDS == END, axis=1) > (IDS == END), 17, IDS)
    assert (changed != IDS).any(axis=1).tolist() == [True, True, False]
    _, before = embed(IDS)
    _, after = embed(changed)
    np.testing.assert_array_equal(after["embedding"], before["embedding"])
    _, seen = embed(IDS, causal=False)
    _, seen_after = embed(changed, causal=False)
    assert (np.abs(seen_after["embedding"] - seen["embedding"]).max(axis=1) > 1e-3).tolist() == [True, True, False]


def test_the_projection_has_a_bias_where_the_configuration_says_so():
    tower, out = embed(np.zeros((1, 16), np.int32), pooling="last")
    kernel, bias = tower.projection.kernel[...], tower.projection.bias[...]
    np.testing.assert_allclose(out["pooled"][0], out["tokens"][0, -1] @ kernel + bias, atol=1e-6)
    assert embed(np.zeros((1, 16), np.int32), projection_bias=False)[0].projection.bias is None
