import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit22b import block, model, stack
from vit22b.config import SIZES, ModelConfig, text_tower, vit
from vit22b.tree import leaves, parameter_count

MU = ModelConfig(vit("mu"), classes=10, text=text_tower(vit("mu"), vocabulary=300))


def build(config):
    """A model of random parameters; no zero kernels or unit scales as at the start, which would hide mistakes."""
    graph, shapes = model.abstract(config)
    random = np.random.default_rng(1)

    def value(leaf):
        fan_in = math.prod(leaf.shape[:-1]) / (config.image.depth if leaf.ndim > 2 else 1)
        return jnp.asarray(random.normal(0, max(fan_in, 16) ** -0.5, leaf.shape).astype(leaf.dtype))

    params = jax.tree.map(value, shapes)
    return nnx.merge(graph, params)


@pytest.fixture(scope="module")
def network():
    return build(MU)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(2), (3, 28, 28, 3), minval=-1.0, maxval=1.0)


def test_22b_has_the_papers_number_of_parameters():
    _, params = model.abstract(ModelConfig(vit("22b"), classes=29_593))
    assert parameter_count(params) == 22_385_128_345


def test_22bs_block_kernels_are_12_d_squared_l():
    _, params = model.abstract(ModelConfig(vit("22b")))
    kernels = {k: v for k, v in leaves(params).items() if "blocks" in k and k.endswith("kernel")}
    assert parameter_count(kernels) == 12 * 6144**2 * 48 == 21_743_271_936
    assert vit("22b").tokens == 256
    assert vit("22b").head_dim == 128


@pytest.mark.parametrize(
    ("size", "pooling", "billions"),
    [("B", "mean", 0.086), ("L", "mean", 0.303), ("g", "mean", 1.01), ("G", "mean", 1.84), ("e", "map", 3.9)],
)
def test_other_sizes_have_their_published_number_of_parameters(size, pooling, billions):
    # Without a classification head; the published figure of e counts its MAP head, the others' do not.
    _, params = model.abstract(ModelConfig(vit(size, pooling=pooling)))
    assert parameter_count(params) / 1e9 == pytest.approx(billions, rel=0.01)


def test_biases_are_on_mlp_in_and_on_the_joint_output_alone():
    names = set(leaves(model.abstract(MU)[1]))
    blocks = {n.removeprefix("image/blocks/") for n in names if n.startswith("image/blocks/")}
    kernels = {f"{n}/kernel" for n in ("query", "key", "value", "attention_out", "mlp_in", "mlp_out")}
    scales = {f"{n}/scale" for n in ("norm", "query_norm", "key_norm")}
    assert blocks == kernels | scales | {"mlp_in/bias", "out/bias"}
    pool = {n.removeprefix("image/pool/") for n in names if n.startswith("image/pool/")}
    assert pool == kernels | {"probe", "norm/scale", "mlp_in/bias", "out/bias"}
    assert "image/patch_projection/bias" in names
    assert {n.split("/")[0] for n in names} == {"image", "head", "text", "logit_scale"}


def test_a_block_is_the_papers_formula(network):
    """out = x + Attention(y) + MLP(y), written out once more in NumPy from the parameters alone."""
    graph, state = nnx.split(network.image.blocks)
    layer = jax.tree.map(lambda leaf: leaf[1], state)
    p = {k: np.asarray(v, np.float64) for k, v in leaves(nnx.to_pure_dict(layer)).items()}
    x = np.asarray(jax.random.normal(jax.random.key(3), (2, 5, 128)))

    def rms(v, scale):
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6) * scale

    y = rms(x, p["norm/scale"])
    q = rms(np.einsum("bnd,dhk->bhnk", y, p["query/kernel"]), p["query_norm/scale"])
    k = rms(np.einsum("bnd,dhk->bhnk", y, p["key/kernel"]), p["key_norm/scale"])
    weights = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(16))
    weights /= weights.sum(-1, keepdims=True)
    heads = weights @ np.einsum("bnd,dhk->bhnk", y, p["value/kernel"])
    hidden = y @ p["mlp_in/kernel"] + p["mlp_in/bias"]
    gelu = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    expected = x + np.einsum("bhnk,hkd->bnd", heads, p["attention_out/kernel"]) + gelu @ p["mlp_out/kernel"]
    expected += p["out/bias"]
    np.testing.assert_allclose(nnx.merge(graph, layer)(jnp.asarray(x)), expected, atol=1e-5)


def test_qk_normalisation_bounds_the_attention_logits(network):
    y = 100 * jax.random.normal(jax.random.key(4), (2, 9, 128))
    graph, state = nnx.split(network.image.blocks)
    layer = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], state))
    logits = block.attention_logits(*layer.queries_and_keys(y))
    scales = [float(jnp.abs(norm.scale[...]).max()) for norm in (layer.query_norm, layer.key_norm)]
    bound = math.sqrt(16) * scales[0] * scales[1]
    assert 0.1 * bound < jnp.abs(logits).max() <= bound * (1 + 1e-5)
    assert math.sqrt(vit("22b").head_dim) == pytest.approx(11.3, abs=0.02)


def test_without_qk_normalisation_the_logits_have_no_bound(images):
    config = ModelConfig(vit("mu", qk_norm=False))
    _, params = model.abstract(config)
    assert not any("query_norm" in name for name in leaves(params))
    tower = build(config).image
    graph, state = nnx.split(tower.blocks)
    layer = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], state))
    y = jax.random.normal(jax.random.key(5), (1, 9, 128))
    small, large = (float(jnp.abs(block.attention_logits(*layer.queries_and_keys(s * y))).max()) for s in (1.0, 10.0))
    assert large == pytest.approx(100 * small, rel=1e-4)
    assert jnp.isfinite(tower(images)["pooled"]).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 100.0])  # logits of 5 and of 50,000, which the paper saw without QK norm
def test_attention_is_the_softmax_of_the_logits(dtype, scale):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 5, 3, 16)).astype(dtype) for i in range(3))
    logits = block.attention_logits(scale * q, scale * k)
    assert logits.dtype == jnp.float32
    expected = jnp.einsum("BHNM,BMHK->BNHK", jax.nn.softmax(logits, axis=-1), v.astype(jnp.float32))
    found = block.attend(scale * q, scale * k, v)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=1e-5 if dtype == jnp.float32 else 2e-2)


def test_the_scan_over_layers_equals_a_loop(network):
    x = jax.random.normal(jax.random.key(6), (2, 5, 128))
    graph, state = nnx.split(network.image.blocks)
    looped = x
    for i in range(4):
        looped = nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state))(looped)
    np.testing.assert_allclose(stack.run(network.image.blocks, x), looped, atol=1e-5)


def test_the_output_is_a_dict_of_intermediates(network, images):
    out = network.embed_image(images, layers=(0, 2))
    shapes = {name: value.shape for name, value in out.items()}
    tokens = (3, 49, 128)
    assert shapes == {
        "tokens": tokens,
        "tokens_0": tokens,
        "tokens_2": tokens,
        "pooled": (3, 128),
        "embedding": (3, 128),
        "logits": (3, 10),
    }
    np.testing.assert_allclose(jnp.linalg.norm(out["embedding"], axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(out["logits"], network.embed_image(images)["logits"], atol=1e-5)


def test_a_layers_output_leads_on_to_the_tokens(network, images):
    out = network.image(images, layers=(1,))
    rest = stack.run(network.image.blocks, out["tokens_1"], start=2)
    np.testing.assert_allclose(network.image.final_norm(rest), out["tokens"], atol=1e-5)


def test_a_layers_output_takes_no_second_copy_of_the_weights():
    graph, shapes = model.abstract(MU)
    embed = jax.jit(lambda params, images: nnx.merge(graph, params).image(images, layers=(1,)))
    compiled = embed.lower(shapes, jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.float32)).compile()
    weights = 4 * parameter_count(shapes["image"]["blocks"])
    assert compiled.memory_analysis().temp_size_in_bytes < weights / 2


def test_a_layer_that_is_not_there_is_an_error(network, images):
    with pytest.raises(ValueError, match=r"no layer \[4\]; this tower has layers 0 to 3"):
        network.image(images, layers=(4,))


def test_mean_pooling_is_the_mean_of_the_tokens(images):
    out = build(ModelConfig(vit("mu", pooling="mean"))).image(images)
    np.testing.assert_allclose(out["pooled"], out["tokens"].mean(axis=1), atol=1e-6)


def test_text_embeddings_have_the_images_width_and_unit_length(network):
    out = network.embed_text(jax.random.randint(jax.random.key(7), (3, 16), 0, 300))
    assert out["embedding"].shape == (3, 128)
    np.testing.assert_allclose(jnp.linalg.norm(out["embedding"], axis=-1), 1.0, rtol=1e-5)


def test_every_token_of_a_text_reaches_its_embedding(network):
    ids = jnp.arange(16)[None]
    changed = jnp.tile(ids, (16, 1)).at[jnp.arange(16), jnp.arange(16)].set(200)
    embedding = network.embed_text(jnp.concatenate([ids, changed]))["embedding"]
    effect = jnp.abs(embedding[1:] - embedding[:1]).max(axis=-1)
    assert (effect > 1e-4).all(), effect


def test_a_model_without_text_tower_says_so():
    without = build(dataclasses.replace(MU, text=None))
    with pytest.raises(ValueError, match="no text tower"):
        without.embed_text(jnp.zeros((1, 16), jnp.int32))


def test_patches_are_row_major_squares():
    image = jnp.arange(4 * 6 * 3, dtype=jnp.float32).reshape(1, 4, 6, 3)
    cut = model.patches(image, 2)
    assert cut.shape == (1, 6, 12)
    for i, (row, column) in enumerate([(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4)]):
        np.testing.assert_array_equal(cut[0, i], image[0, row : row + 2, column : column + 2].ravel())


def test_patches_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="5x4 does not divide into patches of 2x2"):
        model.patches(jnp.zeros((1, 5, 4, 3)), 2)


def test_positions_are_interpolated_in_2d():
    line = jnp.arange(4.0)
    plane = (line[:, None] * 10 + line[None, :]).reshape(16, 1)  # linear in row and column
    np.testing.assert_array_equal(model.resize_positions(plane, 16), plane)
    bigger = model.resize_positions(plane, 64).reshape(8, 8)
    inner = bigger[2:6, 2:6]
    np.testing.assert_allclose(jnp.diff(inner, axis=0), 5.0, atol=1e-4)
    np.testing.assert_allclose(jnp.diff(inner, axis=1), 0.5, atol=1e-4)
    with pytest.raises(ValueError, match="15 tokens do not form a square"):
        model.resize_positions(plane, 15)


def test_another_resolution_runs_with_resized_positions(network):
    assert network.image(jnp.zeros((1, 56, 56, 3)))["tokens"].shape == (1, 196, 128)


def test_the_compute_dtype_is_the_images_and_the_embedding_stays_float32(network, images):
    out = network.embed_image(images.astype(jnp.bfloat16))
    assert out["tokens"].dtype == jnp.bfloat16
    assert out["embedding"].dtype == out["logits"].dtype == jnp.float32
    cosine = (out["embedding"] * network.embed_image(images)["embedding"]).sum(-1)
    assert cosine.min() > 0.999


def test_the_head_starts_at_its_prior(images):
    start = nnx.merge(model.abstract(MU)[0], jax.jit(lambda key: model.init(MU, key))(jax.random.key(0)))
    np.testing.assert_array_equal(start.embed_image(images)["logits"], -10.0)


def test_shape_letters_are_checked():
    with pytest.raises(Exception, match="Type-check"):
        block.attention_logits(jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 2, 5, 4)))


def test_every_size_divides(subtests):
    for size in SIZES:
        with subtests.test(size):
            assert vit(size).width % vit(size).heads == 0
            assert vit(size).resolution % vit(size).patch == 0
