"""What an image tower may have besides the paper's: class token, registers, norms, projection, similarity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.towers import OTHER, random_params
from vit22b import model, stack
from vit22b.config import ModelConfig

IMAGES = np.random.default_rng(5).uniform(-1, 1, (3, 28, 28, 3)).astype(np.float32)
PLAIN = dataclasses.replace(OTHER.image, registers=0, pre_norm=False, norm_pooled=False, projection=0)


def build(image, **changes):
    config = ModelConfig(dataclasses.replace(image, **changes))
    params = random_params(config)
    return merged(model.abstract(config)[0], params).image, params["image"]


def merged(graph, params):
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params))


def behind_the_blocks(tower, images=IMAGES):
    return stack.run(tower.blocks, tower.embed_patches(jnp.asarray(images)))


def test_class_token_and_registers_stand_before_the_patches_and_the_grid_alone_has_positions():
    tower, params = build(PLAIN, registers=3)
    x = np.asarray(tower.embed_patches(jnp.asarray(IMAGES)))
    assert x.shape == (3, 1 + 3 + 4, 32) == (3, tower.config.sequence, 32)
    table = params["position_embedding"]
    assert table.shape == (5, 32)
    np.testing.assert_allclose(x[:, 0], np.tile(params["class_token"] + table[0], (3, 1)), atol=1e-6)
    np.testing.assert_array_equal(x[:, 1:4], np.tile(params["registers"], (3, 1, 1)))
    projection = params["patch_projection"]
    patches = np.asarray(model.patches(jnp.asarray(IMAGES), 14))
    np.testing.assert_allclose(x[:, 4:], patches @ projection["kernel"] + projection["bias"] + table[1:], atol=1e-5)


def test_a_class_token_without_a_position_leaves_the_table_to_the_grid():
    tower, params = build(PLAIN, class_position=False)
    assert params["position_embedding"].shape == (4, 32)
    np.testing.assert_array_equal(tower.embed_patches(jnp.asarray(IMAGES))[1, 0], params["class_token"])


def test_at_another_resolution_the_class_tokens_position_is_not_resized():
    tower, params = build(PLAIN)
    x = tower.embed_patches(jnp.zeros((1, 56, 56, 3)))
    assert x.shape == (1, 1 + 16, 32)
    np.testing.assert_allclose(x[0, 0], params["class_token"] + params["position_embedding"][0], atol=1e-6)


def test_patches_have_no_bias_where_the_configuration_says_so():
    _, params = build(PLAIN, patch_bias=False)
    assert set(params["patch_projection"]) == {"kernel"}


def test_the_norm_before_the_blocks_is_on_every_token():
    tower, params = build(PLAIN, registers=3, pre_norm=True)
    graph, _ = nnx.split(build(PLAIN, registers=3)[0])
    without = merged(graph, {name: part for name, part in params.items() if name != "pre_norm"})
    expected = tower.pre_norm(without.embed_patches(jnp.asarray(IMAGES)))
    np.testing.assert_allclose(tower.embed_patches(jnp.asarray(IMAGES)), expected, atol=1e-6)


def test_class_pooling_is_the_first_token_behind_the_norm_and_tokens_are_the_patches():
    tower, _ = build(PLAIN, registers=3, pooling="class")
    assert tower.pool is None
    out, x = tower(jnp.asarray(IMAGES), layers=(1,)), behind_the_blocks(tower)
    np.testing.assert_allclose(out["pooled"], tower.final_norm(x)[:, 0], atol=1e-5)
    np.testing.assert_allclose(out["tokens"], tower.final_norm(x)[:, 4:], atol=1e-5)
    np.testing.assert_allclose(out["tokens_1"], x[:, 4:], atol=1e-5)


def test_mean_and_map_pooling_are_of_the_patches_alone():
    tower, _ = build(PLAIN, registers=3, pooling="mean")
    out = tower(jnp.asarray(IMAGES))
    np.testing.assert_allclose(out["pooled"], out["tokens"].mean(axis=1), atol=1e-6)
    tower, _ = build(PLAIN, registers=3)
    out = tower(jnp.asarray(IMAGES))
    np.testing.assert_allclose(out["pooled"], tower.pool(out["tokens"]), atol=1e-5)


def test_a_norm_on_the_pooled_vector_is_on_it_alone():
    tower, _ = build(PLAIN, norm_pooled=True, pooling="mean")
    out, x = tower(jnp.asarray(IMAGES)), behind_the_blocks(tower)
    np.testing.assert_allclose(out["tokens"], x[:, 1:], atol=1e-5)
    np.testing.assert_allclose(out["pooled"], tower.final_norm(x[:, 1:].mean(axis=1)), atol=1e-5)


def test_the_embedding_is_the_projection_of_the_pooled_vector():
    tower, params = build(PLAIN, projection=24)
    out = tower(jnp.asarray(IMAGES))
    projected = np.asarray(out["pooled"]) @ params["projection"]["kernel"]
    np.testing.assert_allclose(
        out["embedding"], projected / np.linalg.norm(projected, axis=-1, keepdims=True), atol=1e-6
    )
    assert (out["pooled"].shape, tower.config.embedding) == ((3, 32), 24)


@pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])
def test_the_similarity_is_the_scaled_cosine_and_a_sigmoids_has_a_bias(similarity):
    config = dataclasses.replace(OTHER, similarity=similarity)
    params = random_params(config)
    network = merged(model.abstract(config)[0], params)
    images = np.asarray(network.embed_image(jnp.asarray(IMAGES))["embedding"])
    texts = np.asarray(network.embed_text(jnp.ones((2, 16), jnp.int32))["embedding"])
    expected = np.exp(params["logit_scale"]) * images @ texts.T + params.get("logit_bias", 0)
    assert ("logit_bias" in params) == (similarity == "sigmoid")
    np.testing.assert_allclose(network.similarity(jnp.asarray(images), jnp.asarray(texts)), expected, atol=1e-5)


def test_a_model_without_text_has_no_similarity():
    network = merged(model.abstract(ModelConfig(PLAIN))[0], random_params(ModelConfig(PLAIN)))
    with pytest.raises(ValueError, match="no text tower"):
        network.similarity(jnp.zeros((1, 32)), jnp.zeros((1, 32)))


def test_a_sigmoids_bias_starts_at_siglips():
    params = jax.jit(lambda key: model.init(OTHER, key))(jax.random.key(0))
    assert (params["logit_bias"], params["logit_scale"]) == (-10.0, pytest.approx(np.log(10)))
