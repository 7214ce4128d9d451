"""What a step needs, in closed form: memory of a chip, and bytes on its links. No compiler, and no TPU.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client:
train/plan.py has these where libtpu is missing, and where a program does not fit, to say what would. The arguments are
exact, the temporaries an estimate of what has to be there at once, in the paper's blocks, which a planned run has.
"""

import dataclasses
import functools
import math
from typing import Any

import jax

from train.abstract_step import Planned, abstract_arguments
from train.compute import Compute
from vit22b.asynchronous import RINGS


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes of one chip in one step.

    Attributes:
        arguments: the state and the batch.
        gradients: of all parameters in float32, in the state's layout.
        saved: what the layers keep for the backward pass.
        working: weights and activations of the layer at hand.
    """

    arguments: int
    gradients: int
    saved: int
    working: int

    @property
    def temporaries(self) -> int:
        """All that is not an argument."""
        return self.gradients + self.saved + self.working

    @property
    def total(self) -> int:
        """The whole."""
        return self.arguments + self.temporaries


def footprint(run: Planned) -> Footprint:
    """The memory of a run's step on one chip."""
    # Neither depends on how it is computed, and describing the state of 22B takes a moment.
    state, params, batch = _argument_bytes(run.with_compute(remat="full", accumulate=1, parallel="gspmd"))
    image = run.config.image
    d, f, n = image.width, image.mlp_dim, image.sequence
    _, model = run.shape
    tokens, itemsize = run.batch * n // (run.chips * run.compute.accumulate), _itemsize(run.compute)
    kernels = 4 * d * d + 2 * d * f
    # Each gathered weight is there for this layer and for the next, and its gradient once.
    weights = 3 * kernels // model * itemsize
    # Inputs and outputs of the two fused matmuls, of a data shard's tokens: values and cotangents; with the rings each
    # once more, in the pieces that travel and joined for the weights' gradient.
    copies = 4 if run.compute.parallel == "ring" else 2
    activations = copies * tokens * (2 * d * model + 4 * d + 2 * f) * itemsize
    parts = run.compute.accumulate
    return Footprint(
        arguments=state + batch,
        gradients=params * (1 if parts == 1 else 2),
        saved=image.depth * tokens * _kept(run.compute, d, f, image.heads, n) * itemsize,
        working=weights + activations,
    )


def _itemsize(compute: Compute) -> int:
    """Bytes of an activation and of a gathered weight; auto is bfloat16, as these are TPUs."""
    return 4 if compute.dtype == "float32" else 2


def _kept(compute: Compute, d: int, f: int, h: int, n: int) -> int:
    """Numbers that a layer keeps of a token: its input, and by policy the linear layers' outputs, and all the rest."""
    dots = d + 3 * d + f
    everything = dots if compute.parallel == "ring" else dots + 4 * d + f + 2 * h * n
    return {"full": d, "offload": d, "dots": dots, "none": everything}[compute.remat]


@functools.lru_cache(maxsize=16)
def _argument_bytes(run: Planned) -> tuple[int, int, int]:
    """A chip's part of the state, of the parameters in it, and of the batch."""
    target, batch = abstract_arguments(run)
    return _shard_bytes(target), _shard_bytes(target.params), _shard_bytes(batch)


def _shard_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def ring_bytes(run: Planned) -> int:
    """Bytes that a chip sends round its rings for one layer, forward and backward, of one part of a batch.

    Each ring moves (k - 1) / k of a data shard's tokens; inputs and outputs of a layer are both D wide, so that all are
    alike (Dehghani et al. 2023, section 3.1).
    """
    data, model = run.shape
    image = run.config.image
    tokens = run.batch // run.compute.accumulate // data * image.sequence
    return RINGS * (model - 1) * image.width * tokens * _itemsize(run.compute) // model


def weight_bytes(run: Planned) -> int:
    """Bytes that a chip sends over `data` for one layer: its weights gathered twice, their gradient scattered once."""
    data, model = run.shape
    image = run.config.image
    kernels = 4 * image.width**2 + 2 * image.width * image.mlp_dim
    return 3 * kernels * (data - 1) * _itemsize(run.compute) // (data * model)


def remedies(run: Planned, limit: int, most: int = 2) -> list[str]:
    """Changes of the flags that would fit a chip's memory by these closed forms, the least first."""
    tried: list[tuple[str, Planned]] = []
    if run.compute.remat != "full":
        tried.append(("--remat full", run.with_compute(remat="full")))
    parts = run.compute.accumulate
    while (parts := parts * 2) <= run.images_per_chip * run.compute.accumulate and run.images_per_chip % parts == 0:
        tried.append((f"--accumulate {parts}", run.with_compute(accumulate=parts)))
        if run.compute.remat != "full":
            tried.append((f"--remat full --accumulate {parts}", run.with_compute(accumulate=parts, remat="full")))
    return [flags for flags, changed in tried if footprint(changed).total <= limit][:most]
