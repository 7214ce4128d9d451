"""Grids: tokens as pictures, and the ways between their resolution and that of labels.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Of
segmentation and depth.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
SCALE = 4  # heads learn on a grid this many times finer than the tokens'
_AT_ONCE = 16  # rows of features in float64
_SMALLEST = 1e-6  # what a variance counts for at least, against the mean one: a constant feature is not blown up


@dataclasses.dataclass(frozen=True)
class Standard:
    """Statistics of training features, by which all are standardised, as a batch norm does when it is frozen.

    Attributes:
        mean: float32 [D].
        scale: float32 [D], one over the standard deviation.
    """

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, features: Floats) -> Self:
        """Of training features [n, ..., D], a few of the n at once: float64 copies of all are larger than memories."""
        count = features.size // features.shape[-1]
        mean = _total(features, lambda rows: rows) / count
        variance = _total(features, lambda rows: np.square(rows - mean)) / count
        floor = _SMALLEST * max(float(variance.mean()), _SMALLEST)
        return cls(mean.astype(np.float32), (1 / np.sqrt(variance + floor)).astype(np.float32))

    def __call__(self, features: Any) -> Any:
        """Features [..., D] of numpy or of JAX, standardised."""
        shape = (1,) * (features.ndim - 1) + self.mean.shape
        return (features - self.mean.reshape(shape)) * self.scale.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Standardised:
    """Features [n, ..., D] that are standardised as they are taken, so that there is no second copy of them all."""

    features: Floats
    standard: Standard

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the features."""
        return self.features.shape

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Any) -> Floats:
        found: Floats = self.standard(self.features[rows])
        return found


def _total(features: Floats, of: Callable[[Doubles], Doubles]) -> Doubles:
    """The sum over all but the last axis of something of the features: float64 [D]."""
    width = features.shape[-1]
    total = np.zeros(width)
    for at in range(0, len(features), _AT_ONCE):
        rows = of(features[at : at + _AT_ONCE].reshape(-1, width).astype(np.float64))
        rows[0] += total  # numpy adds row by row: the sum is, to the last bit, that of all rows at once
        total = rows.sum(axis=0)
    return total


def side(tokens: int) -> int:
    """The side of the square grid that N tokens form.

    Raises:
        ValueError: they form none.
    """
    found = math.isqrt(tokens)
    if found * found != tokens:
        raise ValueError(f"{tokens} tokens form no square grid; dense heads need the tokens of a square image")
    return found


def as_grid(tokens: Float[Array, "B N D"]) -> Float[Array, "B G G D"]:
    """Tokens, which are row by row, as a picture."""
    g = side(tokens.shape[1])
    return tokens.reshape(tokens.shape[0], g, g, tokens.shape[2])


def bilinear(source: int, target: int) -> Floats:
    """The matrix [target, source] that resizes one axis bilinearly.

    Pixels are areas, whose centres are at 1/2, 3/2 ...; what lies beyond the outermost centres is as these are, and
    nothing is averaged where an axis shrinks: the usual resizing of logits ("align_corners=False").
    """
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    rows = [np.interp(centres, np.arange(source), unit) for unit in np.eye(source)]
    return np.stack(rows, axis=1).astype(np.float32)


def resized(x: Float[Array, "B G H C"], height: int, width: int) -> Float[Array, "B height width C"]:
    """Pictures of C channels in another size; see bilinear."""
    down, across = bilinear(x.shape[1], height), bilinear(x.shape[2], width)
    return jnp.einsum("hg,bgwc,vw->bhvc", down, x, across)


def resized_picture(x: Floats, height: int, width: int) -> Floats:
    """One picture [g, w, c] in another size, in numpy, for labels of any size without a compilation for each."""
    down, across = bilinear(x.shape[0], height), bilinear(x.shape[1], width)
    rows = np.tensordot(down, x, axes=(1, 0))  # [height, w, c]
    return np.ascontiguousarray(np.moveaxis(np.tensordot(across, rows, axes=(1, 1)), 0, 1))


def nearest(picture: npt.NDArray[Any], target: int) -> npt.NDArray[Any]:
    """A picture [h, w] sampled at the centres of a grid of target x target cells: what heads learn from."""
    rows, columns = (((np.arange(target) + 0.5) * size / target).astype(int) for size in picture.shape[:2])
    return picture[np.ix_(rows, columns)]


def upsample(x: Float[Array, "B G G C"]) -> Float[Array, "B 2*G 2*G C"]:
    """Pictures twice as large, bilinearly."""
    return resized(x, 2 * x.shape[1], 2 * x.shape[2])


def halved(x: Float[Array, "B G G C"]) -> Float[Array, "B G/2 G/2 C"]:
    """Pictures of half the size, rounded up: means of 2 x 2 pixels, at an odd edge of those that are there."""
    size = x.shape[1]
    pairs = np.eye(-(-size // 2), dtype=np.float32).repeat(2, axis=1)[:, :size]
    means = pairs / pairs.sum(axis=1, keepdims=True)
    return jnp.einsum("hg,bgwc,vw->bhvc", means, x, means)
