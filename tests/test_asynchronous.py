import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.hlo import moved_bytes
from vit22b import asynchronous, stack
from vit22b.config import vit
from vit22b.execution import Execution
from vit22b.sharding import make_mesh
from vit22b.tree import leaves

MESHES = [(1, 8), (2, 4), (4, 2), (8, 1)]
CONFIG = dataclasses.replace(vit("mu"), width=64, mlp_dim=256, depth=2)
SHAPE = (16, 9, CONFIG.width)


@functools.cache
def problem():
    """The stack's graph, its parameters, tokens, and a cotangent; no scale is 1 and no bias 0."""
    graph, state = nnx.split(stack.stack(CONFIG, nnx.Rngs(0)))
    random = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf + 0.1 * random.standard_normal(leaf.shape), np.float32), nnx.to_pure_dict(state)
    )
    x, cotangent = random.standard_normal((2, *SHAPE)).astype(np.float32)
    return graph, params, x, cotangent


def with_gradients(execution):
    """The compiled stack: its output, and the cotangents of every parameter and of the tokens."""
    graph, params, x, cotangent = problem()

    def run(params, x, cotangent):
        out, derivative = jax.vjp(lambda p, x: stack.run(nnx.merge(graph, p), x, execution=execution), params, x)
        return out, *derivative(cotangent.astype(out.dtype))

    return jax.jit(run).lower(params, jnp.asarray(x, execution.dtype), cotangent).compile()


@functools.cache
def unsharded(dtype="float32"):
    _, params, x, cotangent = problem()
    return with_gradients(Execution(jnp.dtype(dtype)))(params, jnp.asarray(x, dtype), cotangent)


def named(out, gradients, dx):
    return {"out": out, **leaves(gradients), "dx": dx}


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("split", ["images", "features"])
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_output_and_every_gradient_equal_the_unsharded_stack(mesh, split, remat):
    _, params, x, cotangent = problem()
    execution = Execution(parallel="ring", split=split, remat=remat, mesh=make_mesh(*mesh))
    found = named(*with_gradients(execution)(params, x, cotangent))
    for name, theirs in named(*unsharded()).items():
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(found[name], theirs, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("split", ["images", "features"])
def test_the_rings_of_the_compiled_stack_move_the_floats_of_the_closed_form(mesh, split):
    data, model = mesh
    execution = Execution(parallel="ring", split=split, remat="full", mesh=make_mesh(*mesh))
    moved = moved_bytes(with_gradients(execution).as_text(), "collective-permute")
    tokens = SHAPE[0] // data * SHAPE[1]
    floats = CONFIG.depth * asynchronous.RINGS * (model - 1) / model * CONFIG.width * tokens
    assert moved == floats * 4


@pytest.mark.parametrize("split", ["images", "features"])
def test_bfloat16_loses_no_more_over_the_rings_than_on_one_device(split):
    _, params, x, cotangent = problem()
    execution = Execution(jnp.dtype("bfloat16"), parallel="ring", split=split, remat="full", mesh=make_mesh(2, 4))
    rings = named(*with_gradients(execution)(params, jnp.asarray(x, "bfloat16"), cotangent))
    one, exact = named(*unsharded("bfloat16")), named(*unsharded())

    def error(found):
        return {k: np.linalg.norm(np.float32(found[k]) - exact[k]) / np.linalg.norm(exact[k]) for k in exact}

    ours, theirs = error(rings), error(one)
    # Partial sums are rounded as they travel: a little more, not another order.
    assert max(ours.values()) < 1.5 * max(theirs.values()) < 0.1


def test_the_gspmd_layers_equal_the_unsharded_stack():
    _, params, x, cotangent = problem()
    for split in ("images", "features"):
        execution = Execution(remat="full", split=split, mesh=make_mesh(2, 4))
        found = named(*with_gradients(execution)(params, x, cotangent))
        for name, theirs in named(*unsharded()).items():
            np.testing.assert_allclose(found[name], theirs, rtol=0, atol=1e-5 * np.abs(theirs).max(), err_msg=name)


@pytest.mark.parametrize("remat", ["dots", "full", "offload"])
def test_rematerialisation_changes_no_gradient(remat):
    _, params, x, cotangent = problem()
    found = named(*with_gradients(Execution(remat=remat))(params, x, cotangent))
    for name, theirs in named(*unsharded()).items():
        np.testing.assert_allclose(found[name], theirs, rtol=0, atol=1e-6 * np.abs(theirs).max(), err_msg=name)


def test_images_that_do_not_divide_are_named():
    graph, params, x, _ = problem()
    execution = Execution(parallel="ring", split="images", mesh=make_mesh(2, 4))
    message = r"12 images do not divide over 8 devices of the mesh 2x4 \(split images\); take a multiple of 8"
    with pytest.raises(ValueError, match=message):
        stack.run(nnx.merge(graph, params), jnp.asarray(x[:12]), execution=execution)


def test_an_execution_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"\(ring\) need a mesh"):
        Execution(parallel="ring")
    with pytest.raises(ValueError, match="remat offload is of gspmd; with ring take full, dots or none"):
        Execution(parallel="ring", remat="offload", mesh=make_mesh(1, 1))
    with pytest.raises(ValueError, match="remat is 'some'; expected one of none, dots, full, offload"):
        Execution(remat="some")


def test_blocks_that_are_not_the_papers_are_refused_by_name():
    config = dataclasses.replace(CONFIG, block="sequential", norm="layer")
    execution = Execution(parallel="ring", mesh=make_mesh(1, 1))
    message = (
        r"\(ring\) run the paper's block alone, and this tower's has block sequential, norm layer; take --parallel"
    )
    with pytest.raises(ValueError, match=message):
        stack.run(stack.stack(config, nnx.Rngs(0)), jnp.zeros(SHAPE), execution=execution)
    asynchronous.check(dataclasses.replace(CONFIG, qk_norm=False))
