"""Tables of positions for another resolution, resampled as the implementation that they come from does it.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Families differ in the kernel, so that a table is resampled once, when it is imported, and not by the model.
"""

import math
from typing import Literal

import jax
import numpy as np

from export.families.weights import Array

# bicubic: torch's own (Hugging Face). antialiased: bicubic with a wider kernel where the table shrinks (timm,
# DINOv2 with registers); antialiased_linear: the same, linear (SigLIP 2). zoom: linear, the grids' corners on each
# other (big_vision).
Resampling = Literal["bicubic", "antialiased", "antialiased_linear", "zoom"]
_METHODS = {"antialiased": "cubic", "antialiased_linear": "linear"}


def resampled(table: Array, tokens: int, leading: int, how: Resampling) -> Array:
    """A table for a square grid of another size.

    Args:
        table: [leading + M, D], M a square.
        tokens: N, of the new grid.
        leading: rows in front of the grid's, which stay.
        how: the kernel.

    Raises:
        ValueError: M or N is no square.
    """
    own, grid = table[:leading], table[leading:]
    old, new = math.isqrt(len(grid)), math.isqrt(tokens)
    if old * old != len(grid) or new * new != tokens:
        raise ValueError(f"the positions are {len(grid)} and the image has {tokens} patches; expected square grids")
    if old == new:
        return table
    square = grid.reshape(old, old, -1)
    if method := _METHODS.get(how):
        square = np.asarray(jax.image.resize(square, (new, new, square.shape[-1]), method, antialias=True))
    else:
        matrix = _bicubic(old, new) if how == "bicubic" else _zoom(old, new)
        square = np.einsum("ij,kl,jld->ikd", matrix, matrix, square)
    return np.concatenate([own, square.reshape(tokens, -1)]).astype(np.float32)


def _bicubic(old: int, new: int) -> Array:
    """The matrix [new, old] of torch's interpolate(mode="bicubic", align_corners=False): Keys' kernel, a = -0.75."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        distance = np.abs(at - np.floor(at) - tap)
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
        column = np.clip(np.floor(at).astype(int) + tap, 0, old - 1)
        np.add.at(matrix, (np.arange(new), column), np.where(distance <= 1, near, far))
    return matrix


def _zoom(old: int, new: int) -> Array:
    """The matrix [new, old] of linear interpolation in which first and last row meet."""
    at = np.linspace(0, old - 1, new)
    below = np.minimum(np.floor(at).astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), below), 1 - (at - below))
    np.add.at(matrix, (np.arange(new), np.minimum(below + 1, old - 1)), at - below)
    return matrix
