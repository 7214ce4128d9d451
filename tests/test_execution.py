import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests import towers
from vit22b.block import ParallelBlock
from vit22b.execution import Execution

BLOCK = ParallelBlock(towers.IMAGE, nnx.Rngs(0))


def kept(remat):
    """The shapes of what the backward pass of one layer keeps."""
    graph, state = nnx.split(BLOCK)
    layer = Execution(remat=remat).rematerialised(lambda x, state: nnx.merge(graph, state)(x))
    x = jax.ShapeDtypeStruct((2, towers.IMAGE.tokens, towers.IMAGE.width), jnp.float32)
    _, backward = jax.eval_shape(lambda x, state: jax.vjp(layer, x, state), x, state)
    return [leaf.shape for leaf in jax.tree.leaves(backward)]


@pytest.mark.parametrize(("remat", "copies"), [("none", 1), ("dots", 1), ("full", 0)])
def test_of_the_hidden_units_no_more_is_kept_than_what_the_matmul_made(remat, copies):
    assert kept(remat).count((2, towers.IMAGE.tokens, towers.IMAGE.mlp_dim)) == copies


def test_without_rematerialisation_the_attention_weights_are_kept_once():
    weights = (2, towers.IMAGE.heads, towers.IMAGE.tokens, towers.IMAGE.tokens)
    assert (kept("none").count(weights), kept("dots").count(weights)) == (1, 0)
