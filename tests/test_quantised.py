import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from tests.towers import PREPROCESS, ZERO_SHOT, random_params
from vit22b import model, quantised
from vit22b.block import Linear
from vit22b.config import ModelConfig, vit
from vit22b.execution import Execution
from vit22b.quantised import Quantiser, contracted, quantise
from vit22b.tree import leaves

PARAMS = random_params(ZERO_SHOT)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), np.uint8)


def stored(weights):
    """The parameters' tree in a type, by name."""
    quantise = Quantiser(ZERO_SHOT, weights)
    return {part: cast for name, leaf in leaves(PARAMS).items() for part, cast in quantise(name, leaf).items()}


def run(weights, named):
    """Embeddings of images and texts, and logits, with stored leaves."""
    graph, shapes = quantised.abstract(ZERO_SHOT, weights)
    names = leaves(shapes)
    assert names.keys() == named.keys()
    assert {k: (v.shape, v.dtype) for k, v in names.items()} == {k: (v.shape, v.dtype) for k, v in named.items()}
    tree = jax.tree.unflatten(jax.tree.structure(shapes), [named[name] for name in names])

    @jax.jit
    def embed(tree, pixels):
        network, execution = nnx.merge(graph, tree), Execution(quantised.compute_dtype(weights))
        images = network.embed_image(model.normalise(pixels, PREPROCESS, execution.dtype), execution=execution)
        texts = network.embed_text(jnp.arange(32).reshape(2, 16), execution)
        return images["embedding"], texts["embedding"], images["logits"]

    return [np.asarray(value) for value in embed(tree, PIXELS)]


@pytest.fixture(scope="module")
def float32():
    return run("float32", stored("float32"))


@pytest.mark.parametrize(("weights", "cosine"), [("bfloat16", 0.9995), ("int8", 0.999)])
def test_fewer_bits_keep_the_direction_of_an_embedding(float32, weights, cosine):
    images, texts, logits = run(weights, stored(weights))
    assert images.dtype == texts.dtype == logits.dtype == np.float32
    assert np.sum(images * float32[0], axis=-1).min() > cosine
    assert np.sum(texts * float32[1], axis=-1).min() > cosine
    assert np.corrcoef(logits.ravel(), float32[2].ravel())[0, 1] > cosine
    assert not np.array_equal(images, float32[0])


@pytest.mark.parametrize(
    ("equation", "x", "kernel"),
    [
        ("BND,DHK->BNHK", (2, 6, 8), (8, 4, 5)),
        ("BNHK,HKD->BND", (2, 6, 4, 5), (4, 5, 8)),
        ("BW,WD->BD", (2, 8), (8, 7)),
    ],
)
def test_a_scaled_output_is_that_of_the_kernel_which_the_scale_stands_for(equation, x, kernel):
    random = np.random.default_rng(0)
    linear = Linear(equation, kernel, nnx.Rngs(0), bias=True)
    values = jnp.asarray(random.standard_normal(x), jnp.float32)
    q, scale = quantise(np.asarray(linear.kernel[...]), contracted(equation))
    linear.kernel[...] = q * np.expand_dims(scale, contracted(equation))
    expected = linear(values)
    linear.kernel[...], linear.kernel_scale = q, nnx.data(nnx.Param(jnp.asarray(scale)))
    np.testing.assert_allclose(linear(values), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("equation", "shape"), [("BND,DHK->BNHK", (3, 8, 4, 5)), ("BNHK,HKD->BND", (4, 5, 8)), ("BD,DY->BY", (8, 7))]
)
def test_every_output_channel_has_a_scale_of_its_own(equation, shape):
    axes = contracted(equation)
    kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    q, scale = quantise(kernel, axes)
    assert scale.shape == tuple(n for i, n in enumerate(shape) if i - len(shape) not in axes)
    wide = np.expand_dims(scale, axes)
    assert (np.abs(q).max(axis=axes) == 127).all()
    assert (np.abs(q * wide - kernel) <= wide / 2 * (1 + 1e-6)).all()
    one = np.zeros_like(scale)
    one.flat[0] = 9
    larger, rescaled = quantise(kernel * np.exp2(np.expand_dims(one, axes)), axes)
    np.testing.assert_array_equal(larger, q)
    np.testing.assert_array_equal(rescaled, scale * np.exp2(one))


def test_a_channel_of_zeros_stays_one():
    q, scale = quantise(np.zeros((4, 3), np.float32), (-2,))
    assert not q.any()
    np.testing.assert_array_equal(scale, np.ones(3))


def test_layers_may_come_in_parts():
    """What is streamed layer by layer is what is made of the whole stack."""
    quantise = Quantiser(ZERO_SHOT, "int8")
    kernel = leaves(PARAMS)["image/blocks/attention_out/kernel"]
    whole = quantise("image/blocks/attention_out/kernel", kernel)
    parts = [quantise("image/blocks/attention_out/kernel", kernel[i : i + 1]) for i in range(len(kernel))]
    for name, leaf in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), leaf)


def test_only_kernels_and_embeddings_lose_bits():
    types = {name: leaf.dtype for name, leaf in leaves(quantised.abstract(ZERO_SHOT, "int8")[1]).items()}
    small = {name for name, dtype in types.items() if dtype == np.int8}
    assert small == {name for name in leaves(PARAMS) if name.endswith("/kernel")}
    assert {n for n, d in types.items() if d == ml_dtypes.bfloat16} == {n for n in types if n.endswith("_embedding")}
    assert {name.removesuffix("_scale") for name in types if name.endswith("kernel_scale")} == small
    half = {name: leaf.dtype for name, leaf in leaves(quantised.abstract(ZERO_SHOT, "bfloat16")[1]).items()}
    assert {n for n, d in half.items() if d == ml_dtypes.bfloat16} == small | {n for n in half if "_embedding" in n}


def test_the_types_take_the_bytes_of_their_bits():
    """Of 22B's parameters all but a thousandth are in the smaller type."""
    config = ModelConfig(vit("22b"), classes=29593)
    count = sum(math.prod(leaf.shape) for leaf in leaves(model.abstract(config)[1]).values())
    assert quantised.weight_bytes(config, "float32") == 4 * count == 4 * 22_385_128_345
    assert quantised.weight_bytes(config, "bfloat16") == pytest.approx(2 * count, rel=1e-3)
    assert quantised.weight_bytes(config, "int8") == pytest.approx(count, rel=1e-3)
