"""The paper's schedule and optimizers, from optax parts.

Inside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Source: Dehghani et al. 2023, section 3, and Zhai et al. 2022 for the Adafactor variant.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from vit22b.tree import leaves

Schedule = Callable[[jax.Array | int], jax.Array]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The optimizer and its schedule; the defaults are the paper's."""

    name: Annotated[Literal["adafactor", "adamw"], tyro.conf.arg(name="optimizer")] = "adafactor"
    """adafactor: factored second moment (decay 0.8, cap 0.999), bfloat16 first moment. adamw: Adam's moments."""
    schedule: Literal["rsqrt", "cosine", "wsd"] = "rsqrt"
    """Behind the warm-up. rsqrt: reciprocal square root, with a cooldown at the end; wsd (warm-up, stable, decay):
    constant, with a cooldown at the end; cosine: half a cosine."""
    peak: float = 1e-3
    """Largest learning rate, reached at the end of the warm-up."""
    warmup: int = 10_000
    """Steps of linear warm-up."""
    cooldown: int = 30_000
    """Steps at the end over which the rate falls linearly to 0; a cosine has no use for it."""
    clip: float = 1.0
    """Largest global norm of a gradient; a longer one is scaled to it."""
    body_decay: float = 0.03
    """Decoupled weight decay of every kernel but the head's, times the learning rate."""
    head_decay: float = 3.0
    """Decoupled weight decay of the head's kernel, times the learning rate."""
    ema: float = 0.0
    """Decay of the weights' moving average, such as 0.9999, which is saved, evaluated and exported; 0 for none."""

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"--ema is {self.ema}; expected a decay below 1 such as 0.9999, or 0 for no average")
        for name in ("peak", "warmup", "cooldown", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected a number above 0")


def schedule(optimizer: Optimizer, steps: int) -> Schedule:
    """The learning rate of a step: 0 at step 0 and at the last, the peak at the end of the warm-up.

    Args:
        optimizer: peak, warmup W, cooldown C and what is between them.
        steps: the run's length E.

    Returns:
        A function of the number s of steps taken, float32:
        rsqrt:  peak * min(s/W, 1) * sqrt(W / max(s, W)) * min(1, (E - s) / C)
        wsd:    peak * min(s/W, 1) * min(1, (E - s) / C)
        cosine: peak * min(s/W, 1) * (1 + cos(pi * max(0, s - W) / (E - W))) / 2
    """
    peak, warmup, cooldown = optimizer.peak, optimizer.warmup, optimizer.cooldown
    if optimizer.schedule == "cosine" and warmup >= steps:
        raise ValueError(f"--warmup is {warmup} of {steps} steps, which leaves none for the cosine; shorten it")
    cosine = optax.cosine_decay_schedule(1.0, max(steps - warmup, 1))

    def rate(step: jax.Array | int) -> jax.Array:
        s = jnp.asarray(step, jnp.float32)
        # Not optax.linear_schedule, which is 1 - (1 - s / W): the first rates would be off by a thousandth.
        rise = peak * jnp.minimum(s / warmup, 1.0)
        fall = jnp.clip((steps - s) / cooldown, 0.0, 1.0)
        match optimizer.schedule:
            case "rsqrt":
                return rise * jnp.sqrt(warmup / jnp.maximum(s, warmup)) * fall
            case "wsd":
                return rise * fall
            case "cosine":
                return rise * cosine(jnp.maximum(s - warmup, 0.0))

    return rate


def advice(optimizer: Optimizer, steps: int) -> str | None:
    """What to say of a schedule that is made for a longer run, whose rate never comes near its peak."""
    rate = schedule(optimizer, steps)
    highest = max(float(rate(step)) for step in np.linspace(0, steps, 64))
    if highest > optimizer.peak / 2:
        return None
    return (
        f"note: --warmup {optimizer.warmup} and --cooldown {optimizer.cooldown} are long for {steps} steps: the "
        f"learning rate never exceeds {highest:.2g}, where --peak is {optimizer.peak:g}"
    )


def make(optimizer: Optimizer, steps: int) -> optax.GradientTransformation:
    """The whole transformation: clip, scale by moments, decay, learning rate.

    The rate of the first update is that of step 1: at step 0 it is 0, which would waste a batch.
    """
    rate = schedule(optimizer, steps)
    return optax.chain(
        optax.clip_by_global_norm(optimizer.clip),
        _adafactor() if optimizer.name == "adafactor" else optax.scale_by_adam(b1=0.9, b2=0.999, mu_dtype=jnp.bfloat16),
        optax.add_decayed_weights(optimizer.body_decay, mask=lambda params: _kernels(params, head=False)),
        optax.add_decayed_weights(optimizer.head_decay, mask=lambda params: _kernels(params, head=True)),
        optax.scale_by_learning_rate(lambda count: rate(count + 1)),
    )


def _adafactor() -> optax.GradientTransformation:
    def decay(step: jax.Array, exponent: float) -> jax.Array:
        return jnp.minimum(1.0 - (step + 1.0) ** -exponent, 0.999)

    return optax.chain(
        optax.scale_by_factored_rms(factored=True, decay_rate=0.8, decay_rate_fn=decay),
        optax.ema(0.9, debias=False, accumulator_dtype=jnp.bfloat16),
    )


def _kernels(params: Mapping[str, Any], head: bool) -> Any:
    """The tree's mask: true for the head's kernel, or for every other kernel."""
    names = iter(leaves(params))
    return jax.tree.map(lambda _: (name := next(names)).endswith("kernel") and (name == "head/kernel") == head, params)
