import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.hlo import moved_bytes
from vit22b import parallel
from vit22b.config import SIZES
from vit22b.sharding import make_mesh

MESHES = [(1, 8), (2, 4), (4, 2), (8, 1)]
BATCH, TOKENS = 8, 5
FLOAT = 4  # bytes


def layer(inputs, outputs, seed=0):
    """Tokens, a kernel, and a cotangent of the result."""
    random = np.random.default_rng(seed)
    shapes = (BATCH, TOKENS, inputs), (inputs, outputs), (BATCH, TOKENS, outputs)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def with_gradients(function):
    def run(x, kernel, cotangent):
        y, derivative = jax.vjp(function, x, kernel)
        return y, *derivative(cotangent)

    return jax.jit(run)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("orientation", ["rows", "columns"])
def test_the_ring_layer_equals_the_unsharded_layer(mesh, orientation):
    arguments = layer(48, 112)
    expected = with_gradients(jnp.matmul)(*arguments)
    found = with_gradients(lambda x, w: parallel.linear(x, w, make_mesh(*mesh), orientation))(*arguments)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("orientation", ["rows", "columns"])
def test_the_compiled_layer_moves_the_floats_of_the_closed_form(mesh, orientation):
    inputs, outputs = 48, 112
    x, kernel, cotangent = layer(inputs, outputs)
    data, model = mesh
    tokens = BATCH // data * TOKENS
    floats = tokens * parallel.traffic(model, outputs, inputs)[orientation]

    def forward(x, kernel):
        return parallel.linear(x, kernel, make_mesh(*mesh), orientation)

    text = jax.jit(forward).lower(x, kernel).compile().as_text()
    assert moved_bytes(text, "collective-permute") == floats * FLOAT
    # Rows also send dx; x, which the backward pass needs again, is sent once where the compiler sees both. Columns: dy.
    text = with_gradients(forward).lower(x, kernel, cotangent).compile().as_text()
    assert moved_bytes(text, "collective-permute") == 2 * floats * FLOAT


def test_row_against_column_traffic_is_the_papers():
    k, n, m = 4, 6144, 7 * 6144
    assert parallel.traffic(k, m, n) == {"rows": (k - 1) * n / k, "columns": (k - 1) * m / k}
    assert parallel.traffic(1, m, n) == {"rows": 0, "columns": 0}


def test_the_orientation_is_the_one_with_less_traffic():
    for config in SIZES.values():  # what the stack of blocks relies on
        d, f = config.width, config.mlp_dim
        assert parallel.orientation(outputs=3 * d + f, inputs=d) == "rows"  # the fused input matmul
        assert parallel.orientation(outputs=d, inputs=d + f) == "columns"  # the fused output matmul


@pytest.mark.parametrize("size", range(1, 10))
def test_every_other_device_is_on_one_side_or_the_other(size):
    left, right = parallel.offsets(size)
    assert sorted(offset % size for offset in (*left, *right)) == list(range(1, size))
    assert abs(len(left) - len(right)) <= 1


def test_features_that_do_not_divide_are_named():
    x, kernel, _ = layer(48, 110)
    with pytest.raises(ValueError, match="110 outputs do not divide over the 4 devices of the mesh axis 'model'"):
        parallel.linear(x, kernel, make_mesh(2, 4))
