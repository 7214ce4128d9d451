"""The train state: made in place on the mesh, advanced by one compiled step.

On the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Initialisation is
eval_shape -> shardings -> jit with out_shardings, so that no device ever holds more than its own part.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from train.signals import gradient_norms
from vit22b import sharding
from vit22b.chips import chip_of
from vit22b.tree import Params, merged

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[[Params, Batch], tuple[jax.Array, Metrics]]
Step = Callable[["TrainState", Mapping[str, Any]], tuple["TrainState", Metrics]]


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
        params: the trained parameters' tree, float32.
        opt_state: the optimizer's.
        ema: the parameters' exponential moving average, or None where a run keeps none.
    """

    params: Params
    opt_state: optax.OptState
    ema: Params | None = None


def abstract_state(
    init: Callable[..., Params],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    ema: bool = False,
    rules: sharding.Rules = sharding.RULES,
    given: Sequence[Any] = (),
) -> TrainState:
    """The state as a tree of jax.ShapeDtypeStruct with shardings by the rules, nothing allocated.

    Args:
        init: makes the parameters of a key, and of what is given.
        optimizer: makes its state of the parameters.
        mesh: where they lie.
        ema: whether the state has an average of the parameters.
        rules: how parameters are laid out on the mesh.
        given: trees of arrays, or of their shapes, that `init` is called with behind the key.
    """
    params = jax.eval_shape(init, jax.random.key(0), *given)
    opt_state = jax.eval_shape(optimizer.init, params)
    places = sharding.param_shardings(params, mesh, rules)
    moments = sharding.optimizer_shardings(optimizer, opt_state, params, mesh, rules)
    state = TrainState(params, opt_state, params if ema else None)
    return sharding.with_shardings(state, TrainState(places, moments, places if ema else None))


def init_state(
    init: Callable[..., Params],
    optimizer: optax.GradientTransformation,
    target: TrainState,
    seed: int,
    given: Sequence[Any] = (),
) -> TrainState:
    """The first state, made where `target` (see abstract_state) says that it lies; an average starts at the weights."""

    def make(key: jax.Array, *given: Any) -> TrainState:
        params = init(key, *given)
        return TrainState(params, optimizer.init(params), None if target.ema is None else params)

    return jax.jit(make, out_shardings=_places(target))(jax.random.key(seed), *given)


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    target: TrainState,
    accumulate: int = 1,
    ema: float = 0.0,
    beside: Params | None = None,
) -> Step:
    """Compiles one step: gradients, update, average, metrics; on a TPU with the options of vit22b/chips.py.

    A step whose loss or gradient is not finite leaves the state as it is, the optimizer's counters included.
    optax.apply_if_finite does not fit: it looks at the gradients alone, and after a number of such steps takes one.

    Args:
        loss: of parameters and a batch; returns a mean over the batch, and further means.
        optimizer: makes updates of gradients.
        target: the state's shapes and places, which a step keeps.
        accumulate: parts that a batch is computed in; a batch must divide into them on every device.
        ema: decay of the average of the parameters, where the state has one.
        beside: arrays that no step changes; the loss is given them in one tree with the parameters.

    Returns:
        A function of state and batch, which consumes the state; its metrics are loss's with `loss`, `grad_norm` and,
        for stacked blocks, `layer_grad_norm` [L].
    """
    places = _places(target)

    def advance(state: TrainState, batch: Batch, beside: Params) -> tuple[TrainState, Metrics]:
        of_trained = jax.value_and_grad(lambda params, batch: loss(merged(beside, params), batch), has_aux=True)
        gradient = _accumulated(of_trained, places.params, accumulate)
        (value, metrics), gradients = gradient(state.params, batch)
        norm = optax.tree.norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = None if state.ema is None else optax.incremental_update(params, state.ema, 1 - ema)
        # A select, not a branch: it becomes part of each leaf's one update.
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        after = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), TrainState(params, opt_state, average), state
        )
        return after, {"loss": value, "grad_norm": norm, **gradient_norms(gradients), **metrics}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return advance(state, batch, {})

    mesh = _mesh(places)
    # Metrics lie on every device, so that each host can read them.
    outputs = places, sharding.replicated(mesh)
    options = _compiler_options(mesh)
    if not beside:
        return jax.jit(step, donate_argnums=0, out_shardings=outputs, compiler_options=options)
    # As arguments: arrays that a compiled function closes over become constants of its program.
    compiled = jax.jit(advance, donate_argnums=0, out_shardings=outputs, compiler_options=options)
    return lambda state, batch: compiled(state, batch, beside)


def _accumulated(gradient: Callable[..., Any], places: Any, parts: int) -> Callable[..., Any]:
    """A function as `gradient`, which computes a batch in parts; their mean is that of the batch."""
    if parts == 1:
        return gradient
    mesh = _mesh(places)

    def whole(params: Params, batch: Batch) -> Any:
        micro_batches = jax.tree.map(lambda leaf: in_parts(leaf, parts, mesh), batch)

        def add(total: Any, micro_batch: Batch) -> tuple[Any, None]:
            (found, gradients) = gradient(params, micro_batch)
            gradients = jax.lax.with_sharding_constraint(gradients, places)
            return jax.tree.map(jnp.add, total, (found, gradients)), None

        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda leaf: leaf[0], micro_batches))
        found, gradients = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        start = found, jax.lax.with_sharding_constraint(gradients, places)
        total, _ = jax.lax.scan(add, start, micro_batches)
        return jax.tree.map(lambda leaf: leaf / parts, total)

    return whole


def in_parts(leaf: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """[B, ...] as [parts, B / parts, ...], where every device splits the rows that it has and none moves.

    Raises:
        ValueError: the rows do not divide.
    """
    place, shards = sharding.batch_sharding(mesh), mesh.shape[sharding.DATA]
    if leaf.shape[0] % (shards * parts):
        raise ValueError(
            f"a batch of {leaf.shape[0]} does not divide over {shards} devices in --accumulate {parts} parts each; "
            f"take a multiple of {shards * parts}"
        )
    rest = leaf.shape[1:]
    split = leaf.reshape(shards, parts, -1, *rest).swapaxes(0, 1).reshape(parts, -1, *rest)
    return jax.lax.with_sharding_constraint(split, NamedSharding(mesh, PartitionSpec(None, *place.spec)))


def _compiler_options(mesh: Mesh | AbstractMesh) -> dict[str, str] | None:
    """What vit22b/chips.py has for the mesh's chips; nothing for a mesh without any, which can only be traced."""
    chip = None if isinstance(mesh, AbstractMesh) else chip_of(mesh.devices.flat[0])
    return dict(chip.compiler_options) if chip else None


def _places(target: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, target)


def _mesh(places: Any) -> Mesh:
    return jax.tree.leaves(places)[0].mesh
