import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from train.arithmetic import matmul_flops
from vit22b.sharding import DATA, make_mesh

X, W = jnp.ones((8, 16)), jnp.ones((16, 16))
MATMUL = 2 * 8 * 16 * 16


def count(function, *arguments):
    return matmul_flops(jax.jit(function).trace(*arguments).jaxpr.jaxpr)


def scanned(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]


def test_a_scan_counts_its_length():
    assert count(scanned, X, W) == 5 * MATMUL


def test_a_backward_pass_is_twice_the_forward_and_recomputation_is_counted():
    def total(layer):
        return lambda x, w: jax.lax.scan(lambda x, _: (layer(x, w), None), x, None, length=5)[0].sum()

    def layer(x, w):
        return jnp.tanh(x @ w)

    kept = count(jax.grad(total(layer), (0, 1)), X, W)
    again = count(jax.grad(total(jax.checkpoint(layer)), (0, 1)), X, W)
    assert (kept, again) == (3 * 5 * MATMUL, 4 * 5 * MATMUL)


def test_a_sharded_function_counts_on_every_device():
    spec = PartitionSpec(DATA)
    mesh = make_mesh(4, 2)
    sharded = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
    assert count(sharded, X, W) == 2 * MATMUL  # the same on both devices of the axis model


def test_a_branch_counts_the_dearest():
    assert count(lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w), X, W) == 2 * MATMUL


def test_what_is_not_counted_is_an_error():
    image, kernel = np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 2, 2), np.float32)
    with pytest.raises(ValueError, match="the FLOPs of conv_general_dilated are not counted"):
        count(lambda x, k: jax.lax.conv(x, k, (1, 1), "VALID"), image, kernel)
