"""Video, classified from features of its frames: a small transformer over time, and the mean over views and crops.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The tower sees each
frame by itself and is frozen; what learns is a projection, positions in time, four blocks, and a map of a class token
(Dehghani et al. 2023, on video classification; the factorised encoder of Arnab et al. 2021).
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jaxtyping import Array, Float

from train.evaluators.descent import Descent, Learner
from vit22b.block import Linear, Norm
from vit22b.block_config import BlockConfig
from vit22b.stack import run, stack

BLOCKS = 4
WIDTH = 128
HEADS = 4


class TemporalTransformer(nnx.Module):
    """Pooled features of F frames to the logits of a clip; the blocks are those of the towers."""

    def __init__(self, width: int, frames: int, classes: int, rngs: nnx.Rngs) -> None:
        config = BlockConfig(WIDTH, BLOCKS, 4 * WIDTH, HEADS)
        normal = nnx.initializers.normal(WIDTH**-0.5)
        self.input = Linear("BFD,DW->BFW", (width, WIDTH), rngs, bias=True)
        self.positions = nnx.Param(normal(rngs.params(), (frames, WIDTH)))
        self.class_token = nnx.Param(normal(rngs.params(), (1, WIDTH)))
        self.blocks = stack(config, rngs)
        self.norm = Norm(WIDTH, config)
        self.output = Linear("BW,WY->BY", (WIDTH, classes), rngs, bias=True)

    def __call__(self, features: Float[Array, "B F D"]) -> Float[Array, "B Y"]:
        x = self.input(features) + self.positions[...][None]
        token = jnp.broadcast_to(self.class_token[...][None], (x.shape[0], 1, WIDTH))
        x = run(self.blocks, jnp.concatenate([token, x], axis=1))
        return self.output(self.norm(x[:, 0]))


def temporal_transformer(width: int, frames: int, classes: int, steps: int, seed: int = 0) -> Learner:
    """The head before it is trained, for standardised features [n, F, D] and classes int [n].

    Args:
        width: D.
        frames: F.
        classes: Y.
        steps: of its training.
        seed: of its start and of the order of the clips.
    """
    head = TemporalTransformer(width, frames, classes, nnx.Rngs(seed))
    form = {"head": "temporal transformer", "blocks": BLOCKS, "width": WIDTH, "heads": HEADS, "pooling": "class token"}
    return Learner(head, cross_entropy, Descent(steps, 1e-3, batch=32, decay=0.05, seed=seed), form)


def cross_entropy(logits: Float[Array, "B Y"], targets: Array) -> jax.Array:
    """The mean over clips."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def averaged(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Class probabilities of clips, float64 [n, Y]: the mean over the samples of each of the softmax.

    Args:
        logits: [n, s, Y] of s samples of each clip, its views x crops.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return (exponentials / exponentials.sum(axis=-1, keepdims=True)).mean(axis=1)


def right(probabilities: npt.NDArray[np.floating], targets: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Whether the most probable class, among equals the first, is the clip's: 0 or 1, float64 [n]."""
    return (probabilities.argmax(axis=-1) == targets).astype(np.float64)


def starts(frames: int, wanted: int, views: int) -> tuple[int, ...]:
    """Where in a clip its views begin, evenly from its start to its end; a single view is in the middle.

    Args:
        frames: of the clip.
        wanted: frames of a view, one after the other.
        views: how many; a clip too short for as many different ones has fewer.

    Raises:
        ValueError: the clip has fewer frames than a view.
    """
    if frames < wanted:
        raise ValueError(f"a clip of {frames} frames for views of {wanted}; give a longer clip or sample fewer frames")
    spare = frames - wanted
    if views == 1:
        return (spare // 2,)
    return tuple(dict.fromkeys(view * spare // (views - 1) for view in range(views)))
