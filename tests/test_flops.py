"""The identities of the paper's efficiency, each as a test named after it."""

import jax
import pytest

from vit22b import flops, model
from vit22b.chips import CHIPS
from vit22b.config import ModelConfig, vit
from vit22b.tree import leaves, parameter_count

PAPER = vit("22b")


def test_12_d_squared_l_is_21_743_271_936():
    assert 12 * PAPER.width**2 * PAPER.depth == flops.kernel_parameters(PAPER) == 21_743_271_936


def test_224_pixels_in_patches_of_14_are_256_tokens():
    assert PAPER.tokens == 256


def test_a_forward_pass_is_11_2_tflop_an_image():
    assert flops.forward(PAPER, PAPER.tokens) == pytest.approx(11.2e12, rel=2e-3)


def test_1150_tokens_a_second_on_v4_are_an_mfu_of_54_93_percent():
    each = flops.train(PAPER, PAPER.tokens) / PAPER.tokens
    assert each == 6 * 21_743_271_936 + 12 * 48 * 6144 * 256
    assert round(100 * each * 1150 / CHIPS["v4"].peak_flops, 2) == 54.93


@pytest.mark.parametrize("size", ["mu", "B", "So400m", "e", "22b"])
def test_the_kernels_are_those_of_the_models_blocks(size):
    config = vit(size)
    blocks = {
        name: leaf
        for name, leaf in leaves(model.abstract(ModelConfig(config))[1]).items()
        if "/blocks/" in name and name.endswith("kernel")
    }
    assert flops.kernel_parameters(config) == parameter_count(blocks)


def test_a_forward_pass_is_what_the_compiler_counts_of_a_block():
    """XLA counts the elementwise operations too, which are few in a wide block."""
    from flax import nnx

    from vit22b.block import ParallelBlock

    config = vit("B", depth=1)
    graph, state = nnx.split(nnx.eval_shape(lambda: ParallelBlock(config, nnx.Rngs(0))))
    x = jax.ShapeDtypeStruct((1, config.tokens, config.width), "float32")
    counted = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, x).cost_analysis()["flops"]
    assert flops.forward(config, config.tokens) == pytest.approx(counted, rel=0.02)
