"""Asynchronous parallel linear layers: matmuls whose operands or results travel round a ring while they are computed.

Inside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Source: Dehghani et al. 2023, section 3.1: y = x A over k devices, either with x travelling (A split by its outputs: a
hop brings a block of x) or with y travelling (A split by its inputs: a hop takes a partial sum of y on). The matmul on
the block at hand hides the hop of the next. Both directions of the ring are used.

Everything here but `linear` runs inside jax.shard_map, on one device's part. W is that part of a weight, [D, M] with M
split over the ring. `expand` contracts D and `reduce` contracts M; each is the other's derivative:

    z = expand(x, W)    dx = reduce(dz, W)    dW = weight_gradient(chunks of x, dz)
    y = reduce(z, W)    dz = expand(dy, W)    dW = weight_gradient(chunks of dy, z)

Sums that travel, and sums over chunks, are in the dtype of the operands: in bfloat16 a little more is rounded than in
one matmul, which adds up in float32 (tests/test_asynchronous.py has how much).

What is split over the ring outside of the two, `split`, is the features D or the images (the leading axis). With
images, a hop carries whole rows: the matmuls are larger, nothing is added up in `expand`, and the bytes are the same.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from vit22b.execution import Split
from vit22b.sharding import DATA, MODEL

Orientation = Literal["rows", "columns"]

Chunks = dict[int, jax.Array]  # by whose they are: 0 is this device's, -1 its left neighbour's


def offsets(size: int) -> tuple[range, range]:
    """Whose chunks come from the left, whose from the right, nearest first: all but one's own, half on each side."""
    return range(-1, -1 - size // 2, -1), range(1, size - size // 2)


def gather(x: Float[Array, "..."], ring: str) -> Chunks:
    """Sends this device's part round the ring; in size - 1 hops every device has everyone's."""
    size = jax.lax.axis_size(ring)
    chunks = {0: x}
    for side in offsets(size):
        for offset in side:
            chunks[offset] = _hop(chunks[offset - side.step], ring, -side.step)
    return chunks


def scatter(partial: Callable[[int], Float[Array, "..."]], ring: str) -> Float[Array, "..."]:
    """Sums everyone's contributions to everyone's part; in size - 1 hops every device has its own sum.

    Args:
        partial: this device's contribution to the part of the device at an offset. The farthest are asked for first, as
            they have the longest way.
        ring: the mesh axis.
    """
    size = jax.lax.axis_size(ring)
    arrived = []
    for side in offsets(size):
        travelling = None
        for offset in reversed(side):
            own = partial(offset)
            travelling = _hop(own if travelling is None else travelling + own, ring, side.step)
        if travelling is not None:
            arrived.append(travelling)
    return functools.reduce(jnp.add, arrived, partial(0))


def expand(
    x: Float[Array, "b N d"], weight: Float[Array, "D M"], split: Split, ring: str
) -> tuple[list[Float[Array, "b N M"]], Chunks]:
    """The product x @ W, for which x travels.

    Args:
        x: this device's part of the tokens: some images with all features, or all images with some features.
        weight: this device's columns.
        split: which of the two it is.
        ring: the mesh axis.

    Returns:
        z: of all the images. By images it comes in pieces, in the order of the second result; by features in one.
        chunks: everyone's x, for weight_gradient.
    """
    chunks = gather(x, ring)
    if split == "images":
        return [_contract(chunk, weight, 0) for chunk in chunks.values()], chunks
    pieces = [_contract(chunk, _block(weight, offset, ring), 0) for offset, chunk in chunks.items()]
    return [functools.reduce(jnp.add, pieces)], chunks


def reduce(
    z: Sequence[Float[Array, "b N M"]], weight: Float[Array, "D M"], split: Split, ring: str
) -> Float[Array, "b N d"]:
    """The product z @ W^T, whose sums travel; z comes as `expand` gives it, and the result is laid out as its x."""
    if split == "images":
        order = [0, *(offset for side in offsets(jax.lax.axis_size(ring)) for offset in side)]
        mine = dict(zip(order, z, strict=True))
        return scatter(lambda offset: _contract(mine[offset], weight, 1), ring)
    (whole,) = z
    return scatter(lambda offset: _contract(whole, _block(weight, offset, ring), 1), ring)


def weight_gradient(chunks: Chunks, z: Sequence[Float[Array, "b N M"]], split: Split, ring: str) -> Float[Array, "D M"]:
    """The sum over tokens of x^T z: of `expand` with z its cotangent, of `reduce` with x the cotangent's chunks."""
    if split == "images":
        # A sum of matmuls, each adding to the one before: concatenated operands would be written and read once more.
        return functools.reduce(jnp.add, map(_outer, chunks.values(), z))
    (whole,) = z
    blocks = jnp.stack([_outer(chunk, whole) for chunk in chunks.values()])
    # Block j of the rows is the one at offset j - i.
    order = jnp.asarray([offset % len(chunks) for offset in chunks])
    place = jnp.argsort((jax.lax.axis_index(ring) + order) % len(chunks))
    return blocks[place].reshape(-1, whole.shape[-1])


def traffic(size: int, outputs: int, inputs: int) -> dict[Orientation, float]:
    """Floats that a device sends for one token of y = x A, by orientation (Dehghani et al. 2023, section 3.1).

    Args:
        size: k, devices on the ring.
        outputs: m, features of y.
        inputs: n, features of x.

    Returns:
        rows (blocks of x travel): (k - 1) n / k; columns (partial sums of y travel): (k - 1) m / k.
    """
    return {"rows": (size - 1) * inputs / size, "columns": (size - 1) * outputs / size}


def orientation(outputs: int, inputs: int) -> Orientation:
    """The orientation with less traffic: x travels where it is the smaller of the two."""
    return "rows" if inputs <= outputs else "columns"


def linear(
    x: Float[Array, "B N n"], kernel: Float[Array, "n m"], mesh: Mesh, orientated: Orientation | None = None
) -> Float[Array, "B N m"]:
    """One asynchronous parallel layer by itself, x @ kernel, forward and backward.

    The stack of blocks (vit22b/asynchronous.py) needs no choice: its first matmul has more outputs than inputs, its
    second more inputs than outputs, whatever the size.

    Args:
        x: images over the mesh axis `data`, features over `model`; so is the result.
        kernel: over `model` by its outputs for rows, by its inputs for columns.
        mesh: the mesh.
        orientated: rows or columns; the one with less traffic by default.

    Raises:
        ValueError: the mesh does not divide the features.
    """
    inputs, outputs = kernel.shape
    size = mesh.shape[MODEL]
    for name, features in (("inputs", inputs), ("outputs", outputs)):
        if features % size:
            raise ValueError(f"{features} {name} do not divide over the {size} devices of the mesh axis {MODEL!r}")
    rows = (orientated or orientation(outputs, inputs)) == "rows"
    tokens = PartitionSpec(DATA, None, MODEL)
    weight = PartitionSpec(None, MODEL) if rows else PartitionSpec(MODEL, None)
    shard = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)

    @jax.custom_vjp
    def apply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return shard(_rows if rows else _columns, in_specs=(tokens, weight), out_specs=tokens)(x, kernel)

    def backward(kept: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        derivative = _rows_backward if rows else _columns_backward
        return shard(derivative, in_specs=(tokens, weight, tokens), out_specs=(tokens, weight))(*kept, dy)

    apply.defvjp(lambda x, kernel: (apply(x, kernel), (x, kernel)), backward)
    return apply(x, kernel)


def _rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    (y,), _ = expand(x, kernel, "features", MODEL)
    return y


def _rows_backward(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    gradient = weight_gradient(gather(x, MODEL), [dy], "features", MODEL)
    return reduce([dy], kernel, "features", MODEL), jax.lax.psum(gradient, DATA)


def _columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return reduce([x], kernel.T, "features", MODEL)


def _columns_backward(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    (dx,), chunks = expand(dy, kernel.T, "features", MODEL)
    return dx, jax.lax.psum(weight_gradient(chunks, [x], "features", MODEL).T, DATA)


def _hop(x: Float[Array, "..."], ring: str, step: int) -> Float[Array, "..."]:
    size = jax.lax.axis_size(ring)
    return jax.lax.ppermute(x, ring, [(i, (i + step) % size) for i in range(size)])


def _block(weight: Float[Array, "D M"], offset: int, ring: str) -> Float[Array, "d M"]:
    """The rows of a weight that belong to the features of the device at an offset."""
    size = jax.lax.axis_size(ring)
    rows = weight.shape[0] // size
    return jax.lax.dynamic_slice_in_dim(weight, (jax.lax.axis_index(ring) + offset) % size * rows, rows)


def _contract(x: Float[Array, "..."], weight: Float[Array, "D M"], axis: int) -> Float[Array, "..."]:
    return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (axis,)), ((), ())))


def _outer(x: Float[Array, "b N d"], z: Float[Array, "b N M"]) -> Float[Array, "d M"]:
    return jax.lax.dot_general(x, z, (((0, 1), (0, 1)), ((), ())))
