"""Weights that are split over `data` too: whole again before they are used, their gradients summed and split behind.

Inside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client; beside
vit22b/parallel.py, and as that inside jax.shard_map, on one device's part. The collectives are XLA's.

Over many devices a shard is a few rows, and a TPU's tiles have many: the compiler then pads, or sums everything
everywhere and cuts. So shards are joined to blocks of whole tiles first, between few neighbours, and blocks to weights
then. The bytes are the same but for the blocks, a small part.
"""

import jax
from jaxtyping import Array, Float

# Rows of two bytes that a block has a multiple of, tried for v4: gathers were padded at 24, scatters at 24 and at 48.
GATHERED_ROWS = 16
SCATTERED_ROWS = 32

Groups = list[list[int]]


def gather_rows(shard: Float[Array, "d M"], axis: str) -> Float[Array, "D M"]:
    """The whole weight of everyone's rows."""
    for groups in reversed(_stages(axis, shard.shape[0], GATHERED_ROWS)):
        shard = jax.lax.all_gather(shard, axis, axis=0, tiled=True, axis_index_groups=groups)
    return shard


def scatter_rows(gradient: Float[Array, "D M"], axis: str) -> Float[Array, "d M"]:
    """The sum of everyone's gradients, this device's rows of it."""
    rows = gradient.shape[0] // jax.lax.axis_size(axis)
    for groups in _stages(axis, rows, SCATTERED_ROWS):
        gradient = jax.lax.psum_scatter(gradient, axis, scatter_dimension=0, tiled=True, axis_index_groups=groups)
    return gradient


def _stages(axis: str, rows: int, aligned: int) -> list[Groups | None]:
    """Who takes part, first in the exchange of blocks, then within a block; one stage where a shard is a block."""
    size = jax.lax.axis_size(axis)
    block = next((n for n in range(1, size) if size % n == 0 and rows * n % aligned == 0), 1)
    if block == 1:
        return [None]
    between = [list(range(first, size, block)) for first in range(block)]
    within = [list(range(first, first + block)) for first in range(0, size, block)]
    return [between, within]
