"""The train state: made in place on the mesh, advanced by one compiled step.

On the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Initialisation is
eval_shape -> shardings -> jit with out_shardings, so that no device ever holds more than its own part.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from vit22b import sharding
from vit22b.model import Params

Metrics = dict[str, jax.Array]
Loss = Callable[[Params, Mapping[str, jax.Array]], tuple[jax.Array, Metrics]]
Step = Callable[["TrainState", Mapping[str, Any]], tuple["TrainState", Metrics]]


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
        params: the trained parameters' tree.
        opt_state: the optimizer's.
    """

    params: Params
    opt_state: optax.OptState


def abstract_state(
    init: Callable[[jax.Array], Params], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The state as a tree of jax.ShapeDtypeStruct with shardings, nothing allocated."""
    params = jax.eval_shape(init, jax.random.key(0))
    opt_state = jax.eval_shape(optimizer.init, params)
    shardings = TrainState(
        sharding.param_shardings(params, mesh), sharding.optimizer_shardings(optimizer, opt_state, params, mesh)
    )
    return sharding.with_shardings(TrainState(params, opt_state), shardings)


def init_state(
    init: Callable[[jax.Array], Params], optimizer: optax.GradientTransformation, target: TrainState, seed: int
) -> TrainState:
    """The first state, made where `target` (see abstract_state) says that it lies."""

    def make(key: jax.Array) -> TrainState:
        params = init(key)
        return TrainState(params, optimizer.init(params))

    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))(jax.random.key(seed))


def make_step(loss: Loss, optimizer: optax.GradientTransformation, target: TrainState) -> Step:
    """Compiles one step: gradients, update, metrics.

    Args:
        loss: of parameters and a batch; returns the mean over the batch and further scalars.
        optimizer: makes updates of gradients.
        target: the state's shapes and places, which a step keeps.

    Returns:
        A function of state and batch, which consumes the state; its metrics are loss's with `loss` and `grad_norm`.
    """

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state), {
            "loss": value,
            "grad_norm": optax.tree.norm(gradients),
            **metrics,
        }

    places = jax.tree.map(lambda leaf: leaf.sharding, target)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None))
