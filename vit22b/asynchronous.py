"""The stack of blocks over a mesh, in asynchronous parallel layers, with a backward pass of its own.

Inside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Source: Dehghani et al. 2023, section 3.1, over vit22b/parallel.py: query, key, value and MLP-in are one matmul whose
input travels, attention-out and MLP-out one whose output travels. The stored tree knows nothing of it: the parts are
parameters of their own, and their local shards are joined here.

Weights are split over `data` as well. The body of the scan computes one layer and meanwhile gathers the weights of the
next, which the carry holds; the backward pass sums and scatters the gradients of the layer before. So nothing in a body
waits for the links; autodiff would gather where the layer begins.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from vit22b.block import attend, over_last, rms_norm
from vit22b.block_config import BlockConfig
from vit22b.execution import Execution, Split
from vit22b.parallel import expand, gather, reduce, weight_gradient
from vit22b.sharding import DATA, MODEL, named_sharding
from vit22b.tree import Params, name_of

INPUTS = ("query", "key", "value", "mlp_in")
OUTPUTS = ("attention_out", "mlp_out")
# Times that a layer's tokens, of width D, go round the ring: into the first matmul and out of the second; backward the
# cotangent in, the normed input once more, and the cotangent out.
RINGS = 5
EPSILON = BlockConfig.norm_epsilon


def check(config: BlockConfig) -> None:
    """Checks that a tower's blocks are the paper's, with or without QK normalisation: nothing else runs here.

    Raises:
        ValueError: they are not; the message has in what.
    """
    if other := {name: value for name, value in config.form.items() if name != "qk_norm"}:
        found = ", ".join(f"{name} {value}" for name, value in other.items())
        raise ValueError(
            f"the asynchronous parallel layers (ring) run the paper's block alone, and this tower's has {found}; "
            "take --parallel gspmd"
        )


def run(blocks: Params, x: Float[Array, "B N D"], execution: Execution) -> Float[Array, "B N D"]:
    """Runs a stack's blocks over the execution's mesh.

    Args:
        blocks: their parameters' tree, each with a leading axis L.
        x: tokens.
        execution: its mesh, split, remat and dtype.

    Raises:
        ValueError: the mesh does not divide the images, the heads, the MLP or the width.
    """
    assert execution.mesh is not None, "Execution checks that a ring has a mesh"
    _check(x.shape, execution.split, execution.mesh)
    stack = _Stack(dataclasses.replace(execution, dtype=x.dtype), blocks["query"]["kernel"].shape[-1])
    specs = _specs(blocks, execution.split, execution.mesh)
    tokens = execution.residual_spec
    # What `forward` hands to `backward` is each device's own; as one array, sewn together on the first axis that is
    # free, it has no meaning, and none is made of it.
    kept = (PartitionSpec(None, *tokens), [PartitionSpec(None, (DATA, MODEL))] * stack.pieces)
    shard = functools.partial(jax.shard_map, mesh=execution.mesh, check_vma=False)

    @jax.custom_vjp
    def apply(blocks: Params, x: jax.Array) -> jax.Array:
        return forward(blocks, x)[0]

    def forward(blocks: Params, x: jax.Array) -> tuple[jax.Array, Any]:
        out, saved = shard(stack.forward, in_specs=(specs, tokens), out_specs=(tokens, kept))(blocks, x)
        return out, (blocks, saved)

    def backward(saved: Any, dx: jax.Array) -> tuple[Params, jax.Array]:
        return shard(stack.backward, in_specs=(specs, kept, tokens), out_specs=(specs, tokens))(*saved, dx)

    apply.defvjp(forward, backward)
    return apply(blocks, execution.residual(x))


@dataclasses.dataclass(frozen=True)
class _Stack:
    """One device's part of the stack, forward and backward."""

    execution: Execution
    head_dim: int

    @property
    def pieces(self) -> int:
        """How many arrays `expand` gives, of those that the backward pass keeps."""
        if self.execution.remat == "full":
            return 0
        assert self.execution.mesh is not None
        return self.execution.mesh.shape[MODEL] if self.execution.split == "images" else 1

    def forward(self, blocks: Params, x: jax.Array) -> tuple[jax.Array, Any]:
        """The output, and what the backward pass needs of each layer: its input, and what remat keeps of z."""
        depth = blocks["norm"]["scale"].shape[0]

        def body(carry: Any, layer: jax.Array) -> tuple[Any, Any]:
            x, (w_in, w_out) = carry
            following = self.weights(blocks, jnp.minimum(layer + 1, depth - 1))
            small = self.small(blocks, layer)
            y, _ = self.norm(x, small["norm"])
            z, _ = expand(jax.lax.optimization_barrier(y), w_in, self.execution.split, MODEL)
            joined = [jax.lax.optimization_barrier(self.middle(piece, small)) for piece in z]
            out = x + reduce(joined, w_out, self.execution.split, MODEL) + over_last(small["out"], x)
            return (out, following), (x, z if self.pieces else [])

        (x, _), saved = jax.lax.scan(body, (x, self.weights(blocks, 0)), jnp.arange(depth))
        return x, saved

    def backward(self, blocks: Params, saved: Any, dx: jax.Array) -> tuple[Params, jax.Array]:
        """The cotangents of the parameters and of the tokens."""
        depth = blocks["norm"]["scale"].shape[0]

        def body(carry: Any, kept: Any) -> tuple[Any, Any]:
            layer, (x, z) = kept
            dx, weights = carry
            # Or the compiler lays the whole stack of saved inputs out anew in every trip, as one reader likes it.
            x = jax.lax.optimization_barrier(x)
            following = self.weights(blocks, jnp.maximum(layer - 1, 0))
            dx, *gradients = self.layer_backward(x, z, dx, weights, blocks, self.small(blocks, layer))
            return (dx, following), gradients

        carry = (dx, self.weights(blocks, depth - 1))
        (dx, _), (kernels, small) = jax.lax.scan(body, carry, (jnp.arange(depth), saved), reverse=True)
        return self.tree(kernels, small, blocks), dx

    def layer_backward(
        self, x: jax.Array, z: list[jax.Array], dx: jax.Array, weights: Any, blocks: Params, small: Params
    ) -> tuple[jax.Array, Params, Params]:
        """One layer: the cotangents of its input, of its kernels (this device's shards) and of its small parameters."""
        split = self.execution.split
        w_in, w_out = weights
        d_joined, d_chunks = expand(dx, w_out, split, MODEL)
        y, normed = self.norm(x, small["norm"])
        y = jax.lax.optimization_barrier(y)
        if z:
            chunks = gather(y, MODEL)
        else:
            z, chunks = expand(y, w_in, split, MODEL)
        joined, dz, d_small = [], [], []
        for piece, cotangent in zip(z, d_joined, strict=True):
            value, derivative = jax.vjp(self.middle, piece, small)
            d_piece, d_parameters = derivative(cotangent)
            joined.append(jax.lax.optimization_barrier(value))
            dz.append(jax.lax.optimization_barrier(d_piece))
            d_small.append(d_parameters)
        dw_out = weight_gradient(d_chunks, joined, split, MODEL)
        # The scatter of this one is hidden by the matmuls of `reduce`, which have to come after it for that.
        dw_in, dz[0] = jax.lax.optimization_barrier((weight_gradient(chunks, dz, split, MODEL), dz[0]))
        kernels = {**self.shards(dw_out, blocks, OUTPUTS), **self.shards(dw_in, blocks, INPUTS)}
        total = jax.tree.map(lambda *parts: sum(parts), *d_small)
        total["out"] = dx.astype(jnp.float32).sum(axis=(0, 1))
        total["norm"], through_norm = self.norm_backward(normed, reduce(dz, w_in, split, MODEL), small["norm"])
        return dx + through_norm, kernels, total

    def middle(self, z: jax.Array, small: Params) -> jax.Array:
        """Between the two matmuls: attention of the local heads and GELU of the local hidden units, side by side."""
        size = (z.shape[-1] - small["mlp_in"].shape[-1]) // 3
        q, k, v, hidden = jnp.split(z, (size, 2 * size, 3 * size), axis=-1)
        q, k, v = (part.reshape(*part.shape[:-1], -1, self.head_dim) for part in (q, k, v))
        if "query_norm" in small:
            q, k = rms_norm(q, small["query_norm"], EPSILON), rms_norm(k, small["key_norm"], EPSILON)
        attended = attend(q, k, v)
        hidden = jax.nn.gelu(hidden + over_last(small["mlp_in"], hidden), approximate=True)
        return jnp.concatenate([attended.reshape(*hidden.shape[:-1], size), hidden], axis=-1)

    def norm(self, x: jax.Array, scale: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The block's norm, and what its derivative needs: x over its root mean square, and 1 over that."""
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(self.mean(jnp.square(x32)) + EPSILON)
        unit = x32 * inverse
        return (unit * over_last(scale, unit)).astype(x.dtype), (unit, inverse)

    def norm_backward(self, normed: Any, dy: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        unit, inverse = normed
        dy32 = dy.astype(jnp.float32)
        d_unit = dy32 * over_last(scale, dy32)
        through = inverse * (d_unit - unit * self.mean(d_unit * unit))
        return (dy32 * unit).sum(axis=(0, 1)), through.astype(dy.dtype)

    def mean(self, x: jax.Array) -> jax.Array:
        """Over all features, wherever they are; one float a token travels where they are split."""
        local = x.mean(axis=-1, keepdims=True)
        return local if self.execution.split == "images" else jax.lax.pmean(local, MODEL)

    def weights(self, blocks: Params, layer: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        """Both weights of a layer, gathered over `data`."""
        return self.weight(blocks, layer, INPUTS), self.weight(blocks, layer, OUTPUTS)

    def weight(self, blocks: Params, layer: jax.Array | int, names: tuple[str, ...]) -> jax.Array:
        """A layer's joined kernels as one weight [D, M]: the width whole, the other axis this device's."""

        def part(name: str) -> jax.Array:
            kernel = jax.lax.dynamic_index_in_dim(blocks[name]["kernel"], layer, keepdims=False)
            kernel = kernel.astype(self.execution.dtype)
            if name in OUTPUTS:  # its width is the last axis
                return kernel.reshape(-1, kernel.shape[-1]).T
            return kernel.reshape(kernel.shape[0], -1)

        shard = jnp.concatenate([part(name) for name in names], axis=1)
        return jax.lax.all_gather(shard, DATA, axis=0, tiled=True)

    def shards(self, gradient: jax.Array, blocks: Params, names: tuple[str, ...]) -> Params:
        """A joined gradient summed over `data`, and this device's shard of it as the kernels that it is made of."""
        shard = jax.lax.psum_scatter(gradient, DATA, scatter_dimension=0, tiled=True)
        kernels, begin = {}, 0
        for name in names:
            kernel = blocks[name]["kernel"]
            end = begin + kernel[0].size // shard.shape[0]
            part = shard[:, begin:end].T if name in OUTPUTS else shard[:, begin:end]
            kernels[name] = part.reshape(kernel.shape[1:]).astype(kernel.dtype)
            begin = end
        return kernels

    def small(self, blocks: Params, layer: jax.Array) -> Params:
        """What a layer has besides its kernels: scales and biases."""
        names = {"norm": "scale", "query_norm": "scale", "key_norm": "scale", "mlp_in": "bias", "out": "bias"}
        return {
            name: jax.lax.dynamic_index_in_dim(blocks[name][kind], layer, keepdims=False)
            for name, kind in names.items()
            if name in blocks
        }

    def tree(self, gradients: Params, small: Params, blocks: Params) -> Params:
        """The gradients as the stack's tree; the small ones are summed over the mesh once for all layers."""
        by_features = self.execution.split == "features"
        tree: Params = {name: {"kernel": gradient} for name, gradient in gradients.items()}
        for name, gradient in small.items():
            local = name == "mlp_in" or (by_features and name in ("norm", "out"))  # split over `model` itself
            kind = "bias" if name in ("mlp_in", "out") else "scale"
            summed = jax.lax.psum(gradient, DATA if local else (DATA, MODEL))
            tree.setdefault(name, {})[kind] = summed.astype(blocks[name][kind].dtype)
        return tree


def _specs(blocks: Params, split: Split, mesh: Mesh) -> Params:
    """Where the parameters lie: as the rules say, but that what scales or shifts split features is split with them."""
    specs = jax.tree_util.tree_map_with_path(
        lambda path, leaf: named_sharding(f"image/blocks/{name_of(path)}", leaf.shape, mesh).spec, blocks
    )
    if split == "features":
        specs["norm"]["scale"] = specs["out"]["bias"] = PartitionSpec(None, MODEL)
    return specs


def _check(shape: tuple[int, ...], split: Split, mesh: Mesh) -> None:
    """What the rules of vit22b/sharding.py do not see: that the images, or the width, divide."""
    data, model = mesh.shape[DATA], mesh.shape[MODEL]
    images, _, width = shape
    parts = data * model if split == "images" else data
    if images % parts:
        raise ValueError(
            f"{images} images do not divide over {parts} devices of the mesh {data}x{model} (split {split}); "
            f"take a multiple of {parts} images a step, or of {parts} a micro-batch"
        )
    if split == "features" and width % model:
        raise ValueError(f"the width {width} does not divide over the {model} devices of the mesh axis {MODEL!r}")
