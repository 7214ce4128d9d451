"""Training of heads on frozen features, and of towers end to end: AdamW over seeded batches, the same every time.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. There is no early
stop and no choice by a noisy criterion: features that differ by rounding give weights that differ by little more.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx

from vit22b.tree import Params

Loss = Callable[..., jax.Array]
Rows = npt.NDArray[np.integer]
EPSILON = 1e-6  # Adam's own 1e-8 makes whole steps of gradients that are rounding errors
_PART = 64  # examples that a head is asked of at once


class Examples(Protocol):
    """n examples, an array [n, ...] or what makes one of those that are taken."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> npt.NDArray[Any]: ...


@dataclasses.dataclass(frozen=True)
class Descent:
    """How something is trained.

    Attributes:
        steps: of AdamW.
        rate: the largest learning rate, after a linear warm-up over a twentieth of the steps; then half a cosine to 0.
        batch: examples a step; all of them where there are fewer.
        decay: decoupled weight decay, times the rate.
        seed: of the order of the examples.
    """

    steps: int
    rate: float
    batch: int = 16
    decay: float = 0.0
    seed: int = 0

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with the schedule, behind a clip of the gradient's global norm at 1."""
        warmup = min(max(self.steps // 20, 1), self.steps - 1)  # a run of one step has none
        rate = optax.warmup_cosine_decay_schedule(self.rate / (warmup + 1), self.rate, warmup, self.steps)
        adam = optax.adamw(rate, eps=EPSILON, weight_decay=self.decay)
        return optax.chain(optax.clip_by_global_norm(1.0), adam)

    @property
    def summary(self) -> str:
        """For a row of the report."""
        decay = f", decay {self.decay:g}" if self.decay else ""
        return f"AdamW, {self.steps} steps of {self.batch}, rate {self.rate:g}{decay}, seed {self.seed}"


def batches(examples: int, descent: Descent) -> npt.NDArray[np.int64]:
    """Which examples each step takes: int64 [steps, batch], whole seeded shuffles one after the other."""
    random = np.random.default_rng(descent.seed)
    batch = min(descent.batch, examples)
    needed = descent.steps * batch
    shuffles = [random.permutation(examples) for _ in range(-(-needed // examples))]
    return np.concatenate(shuffles)[:needed].reshape(descent.steps, batch)


def descend(
    loss: Loss, params: Params, arrays: Sequence[Examples], descent: Descent, rows: Rows | None = None
) -> Params:
    """Trains parameters.

    Args:
        loss: of the parameters and a batch of each array, a mean over examples. Compiled once for as long as the
            caller gives the same object and the shapes of a batch stay.
        params: at the start; left as they are.
        arrays: each [n, ...].
        descent: how.
        rows: int [m], the examples that it is trained on; all if not given.

    Returns:
        The trained parameters.

    Raises:
        ValueError: the loss is not finite at the end.
    """
    state = descent.optimizer.init(params)
    value = jnp.zeros(())
    chosen = np.arange(len(arrays[0])) if rows is None else rows
    for places in batches(len(chosen), descent):
        batch = tuple(array[chosen[places]] for array in arrays)
        params, state, value = _step(loss, descent, params, state, batch)
    if not jnp.isfinite(value):
        raise ValueError(
            f"the loss is {float(value)} after {descent.steps} steps, expected a finite number; see whether the "
            "tower's features are finite"
        )
    return params


@functools.partial(jax.jit, static_argnames=("loss", "descent"))
def _step(
    loss: Loss, descent: Descent, params: Params, state: optax.OptState, batch: tuple[jax.Array, ...]
) -> tuple[Params, optax.OptState, jax.Array]:
    value, gradient = jax.value_and_grad(loss)(params, *batch)
    updates, state = descent.optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


class Learner:
    """A head that can be trained many times, from the same start, on data of any size; it is compiled once."""

    def __init__(self, head: nnx.Module, loss: Loss, descent: Descent, settings: Mapping[str, Any]) -> None:
        """Takes a head as it is at the start.

        Args:
            head: called with a batch of each input, gives an array [B, ...].
            loss: the mean over a batch, of what the head gives and the targets.
            descent: how it is trained.
            settings: what to say of the head in a row of the report; how it is trained is added.
        """
        self.graph, state = nnx.split(head)
        self.start: Params = nnx.to_pure_dict(state)
        self.descent = descent
        self.settings = {**settings, "training": descent.summary}
        self.loss: Loss = lambda params, *batch: loss(self.outputs(params, *batch[:-1]), batch[-1])
        self._compiled = jax.jit(self.outputs)

    def outputs(self, params: Params, *inputs: jax.Array) -> jax.Array:
        """What the head gives for a batch, traceable."""
        return nnx.merge(self.graph, params)(*inputs)

    def fit(self, inputs: Sequence[Examples], targets: Examples, rows: Rows | None = None) -> Params:
        """The parameters that the head learns from inputs, each [n, ...], and targets [n, ...]; see descend."""
        return descend(self.loss, self.start, (*inputs, targets), self.descent, rows)

    def parts(self, params: Params, inputs: Sequence[Examples]) -> Iterator[npt.NDArray[np.float32]]:
        """What the head gives for inputs, each [n, ...], a part after the other: float32 [some, ...]."""
        for at in range(0, len(inputs[0]), _PART):
            yield np.asarray(self._compiled(params, *(each[at : at + _PART] for each in inputs)))

    def __call__(self, params: Params, inputs: Sequence[Examples]) -> npt.NDArray[np.float32]:
        """What the head gives for inputs, each [n, ...]: float32 [n, ...]."""
        return np.concatenate(list(self.parts(params, inputs)))
