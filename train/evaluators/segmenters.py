"""Heads that name the class of every pixel, from the tokens of a tower: a linear one and a light decoder.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Both give logits on
a grid. They learn by cross-entropy on a grid four times finer than the tokens' in each direction, where labels are
taken by nearest and logits bilinearly; what is measured is at the labels' own resolution.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from train.evaluators import grids
from train.evaluators.descent import Descent, Learner
from train.evaluators.grids import SCALE, Floats
from train.evaluators.segmentation import VOID
from vit22b.block import Linear

Kind = Literal["linear", "decoder"]
WIDTH = 64
KINDS: tuple[Kind, ...] = get_args(Kind)


class LinearSegmenter(nnx.Module):
    """One linear map of every token (a 1x1 convolution)."""

    def __init__(self, width: int, classes: int, rngs: nnx.Rngs) -> None:
        self.output = Linear("BGHD,DY->BGHY", (width, classes), rngs, bias=True)

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B G G Y"]:
        return self.output(grids.as_grid(tokens))


class Decoder(nnx.Module):
    """Two convolutions of 3x3, each behind an enlargement to twice the size, then a linear map of every pixel."""

    def __init__(self, width: int, classes: int, rngs: nnx.Rngs) -> None:
        self.input = Linear("BGHD,DW->BGHW", (width, WIDTH), rngs, bias=True)
        self.first = nnx.Conv(WIDTH, WIDTH, (3, 3), rngs=rngs)
        self.second = nnx.Conv(WIDTH, WIDTH // 2, (3, 3), rngs=rngs)
        self.output = Linear("BGHW,WY->BGHY", (WIDTH // 2, classes), rngs, bias=True)

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B 4*G 4*G Y"]:
        x = self.input(grids.as_grid(tokens))
        for convolution in (self.first, self.second):
            x = jax.nn.gelu(convolution(grids.upsample(x)))
        return self.output(x)


def segmenter(kind: Kind, width: int, classes: int, steps: int) -> Learner:
    """A head before it is trained, for standardised tokens [n, N, D] and the labels of `training_labels`.

    Args:
        kind: which.
        width: D.
        classes: Y.
        steps: of its training.
    """
    if kind == "linear":
        head: nnx.Module = LinearSegmenter(width, classes, nnx.Rngs(0))
        return Learner(head, cross_entropy, Descent(steps, 1e-2, batch=32), {"head": kind})
    head = Decoder(width, classes, nnx.Rngs(0))
    form = {"head": kind, "convolutions": 2, "width": WIDTH, "upsampling": SCALE}
    return Learner(head, cross_entropy, Descent(steps, 3e-3), form)


def cross_entropy(logits: Float[Array, "B G G Y"], labels: Int[Array, "B S S"]) -> jax.Array:
    """The mean over pixels that are not void, on the labels' grid, to which logits are resized bilinearly."""
    size = labels.shape[1]
    counted = labels != VOID
    each = optax.softmax_cross_entropy_with_integer_labels(
        grids.resized(logits, size, size), jnp.where(counted, labels, 0).astype(jnp.int32)
    )
    return jnp.where(counted, each, 0.0).sum() / jnp.maximum(counted.sum(), 1)


def training_labels(masks: Sequence[npt.NDArray[np.uint8]], tokens: int) -> npt.NDArray[np.uint8]:
    """Masks of any sizes on the grid that heads learn on: uint8 [n, 4 G, 4 G] for N = G x G tokens."""
    return np.stack([grids.nearest(mask, SCALE * grids.side(tokens)) for mask in masks])


def predicted(logits: Floats, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The class of every pixel: logits [g, g, Y] of one image, resized to `shape` [h, w]; of equals the first."""
    return grids.resized_picture(logits, *shape).argmax(axis=-1).astype(np.uint8)
