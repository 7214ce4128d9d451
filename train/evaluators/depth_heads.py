"""Heads that say how far every pixel is, from the tokens of a tower: a linear one and DPT.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Both give the
logarithm of the depth on a grid, and learn by the scale-invariant log loss (Eigen et al. 2014, section 3.2) on a grid
four times finer than the tokens' in each direction; what is measured is at the depths' own resolution.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx
from jaxtyping import Array, Float

from train.evaluators import grids
from train.evaluators.depth import valid
from train.evaluators.descent import Descent, Learner
from train.evaluators.grids import SCALE, Floats
from vit22b.block import Linear

Kind = Literal["linear", "DPT"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STAGES = 4
WIDTH = 32
DECAY = 0.1
VARIANCE_FOCUS = 0.5  # lambda of the loss: 0 is the squared error in the log, 1 leaves an image's scale out


class LinearDepth(nnx.Module):
    """One linear map of every token (a 1x1 convolution), around the logarithm of a usual depth."""

    def __init__(self, width: int, start: float, rngs: nnx.Rngs) -> None:
        self.start = start
        self.output = _from_zero(Linear("BGHD,DY->BGHY", (width, 1), rngs, bias=True))

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B G G 1"]:
        return self.start + self.output(grids.as_grid(tokens))


class ResidualUnit(nnx.Module):
    """Two convolutions of 3x3, each behind a GELU, added to what came in.

    DPT has rectifiers there. Their kinks make features that differ by 1e-6 train to depths that differ by 3e-4.
    """

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.second = nnx.Conv(width, width, (3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "B G H W"]) -> Float[Array, "B G H W"]:
        return x + self.second(jax.nn.gelu(self.first(jax.nn.gelu(x))))


class DPT(nnx.Module):
    """The dense prediction transformer's decoder (Ranftl et al. 2021, section 3.1), small.

    The tokens of four layers are projected and reassembled as pictures at 4, 2, 1 and 1/2 times the tokens' grid, the
    earliest as the finest, and fused from the coarsest on: a residual unit of the stage, added, another residual unit,
    and an enlargement to the next stage's size.
    """

    def __init__(self, width: int, start: float, rngs: nnx.Rngs) -> None:
        self.start = start
        self.projections = nnx.List([Linear("BGHD,DW->BGHW", (width, WIDTH), rngs, bias=True) for _ in range(STAGES)])
        self.before = nnx.List([ResidualUnit(WIDTH, rngs) for _ in range(STAGES - 1)])
        self.behind = nnx.List([ResidualUnit(WIDTH, rngs) for _ in range(STAGES)])
        self.last = nnx.Conv(WIDTH, WIDTH, (3, 3), rngs=rngs)
        self.output = _from_zero(Linear("BGHW,WY->BGHY", (WIDTH, 1), rngs, bias=True))

    def __call__(self, *layers: Float[Array, "B N D"]) -> Float[Array, "B 4*G 4*G 1"]:
        stages = [project(grids.as_grid(x)) for project, x in zip(self.projections, layers, strict=True)]
        stages = [
            grids.upsample(grids.upsample(stages[0])),
            grids.upsample(stages[1]),
            stages[2],
            grids.halved(stages[3]),
        ]
        x = self.behind[-1](stages[-1])
        for stage, before, behind in zip(stages[-2::-1], self.before, self.behind, strict=False):
            x = grids.resized(x, *stage.shape[1:3])
            x = behind(x + before(stage))
        return self.start + self.output(jax.nn.gelu(self.last(x)))


def _from_zero(linear: Linear) -> Linear:
    """With a kernel of zeros, so that a head says the usual depth everywhere before it has learnt."""
    linear.kernel[...] = jnp.zeros_like(linear.kernel[...])
    return linear


def depth_head(kind: Kind, width: int, usual: float, steps: int) -> Learner:
    """A head before it is trained, for standardised tokens: of the last layer, or for DPT of four layers in order.

    Args:
        kind: which.
        width: D.
        usual: the depth that it says before it has learnt: the median of those that it will learn from.
        steps: of its training.
    """
    start = float(np.log(usual))
    target = {"predicts": "log depth", "loss": f"scale-invariant log, lambda {VARIANCE_FOCUS}"}
    if kind == "linear":
        head: nnx.Module = LinearDepth(width, start, nnx.Rngs(0))
        return Learner(head, scale_invariant, Descent(steps, 1e-2, decay=DECAY), {"head": kind, **target})
    head = DPT(width, start, nnx.Rngs(0))
    return Learner(head, scale_invariant, Descent(steps, 1e-3, decay=DECAY), {"head": kind, "width": WIDTH, **target})


def scale_invariant(predicted: Float[Array, "B G G 1"], depths: Float[Array, "B S S"]) -> jax.Array:
    """The mean over images of mean(d^2) - lambda mean(d)^2 over valid pixels, d the difference of logarithms.

    Args:
        predicted: logarithms of depths; they are resized to the depths' grid bilinearly.
        depths: what is not finite or not above 0 counts nowhere.
    """
    size = depths.shape[1]
    counted = jnp.isfinite(depths) & (depths > 0)
    logs = jnp.log(jnp.where(counted, depths, 1.0))
    d = jnp.where(counted, grids.resized(predicted, size, size)[..., 0] - logs, 0.0)
    pixels = jnp.maximum(counted.sum(axis=(1, 2)), 1)
    squares, means = jnp.square(d).sum(axis=(1, 2)) / pixels, d.sum(axis=(1, 2)) / pixels
    return (squares - VARIANCE_FOCUS * jnp.square(means)).mean()


def training_depths(depths: Sequence[npt.NDArray[np.floating]], tokens: int) -> Floats:
    """Depths of any sizes on the grid that heads learn on: float32 [n, 4 G, 4 G], 0 where there is none."""
    fine = SCALE * grids.side(tokens)
    found = np.stack([grids.nearest(np.where(valid(each), each, 0), fine) for each in depths])
    return found.astype(np.float32)


def predicted(logs: Floats, shape: tuple[int, ...]) -> Floats:
    """Depths [h, w] of one image: the head's logarithms [g, g, 1], resized bilinearly, as depths."""
    return np.exp(grids.resized_picture(logs, *shape)[..., 0])


def stages(layers: Sequence[int]) -> tuple[int, ...]:
    """Which of the layers at hand each of DPT's four stages takes: evenly spaced and the last among them.

    Where there are fewer than four, some are taken twice.

    Raises:
        ValueError: there is none.
    """
    if not layers:
        raise ValueError("no layer at hand for DPT's stages; it takes the tokens of one to four")
    ordered = sorted(layers)
    return tuple(ordered[-(-len(ordered) * (stage + 1) // STAGES) - 1] for stage in range(STAGES))
