"""The loop that pretraining and locked-image tuning share: restore or begin, step, log, save, stop when told to.

On the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
import hashlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.sharding import Mesh

from train.input import Order
from train.metrics import MetricsWriter
from train.state import Metrics, Step, TrainState
from vit22b.checkpoint import Checkpoints, Description, read_description
from vit22b.model import Params
from vit22b.program import Interrupted
from vit22b.sharding import DATA, batch_sharding, with_shardings


@dataclasses.dataclass(frozen=True)
class Run:
    """How long a run is, and what it leaves behind."""

    steps: int
    batch: int
    seed: int
    workdir: Path
    log_every: int
    save_every: int
    keep: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected 1 or more")


@dataclasses.dataclass(frozen=True)
class Task:
    """What a program trains; the loop does the rest.

    Attributes:
        description: becomes the checkpoints' model.json.
        target: shapes and places of the trained state, as train.state.abstract_state gives them.
        locked: parameters that are saved beside the trained ones and never change.
        init: makes the first state.
        step: takes one step (see train.state.make_step).
        examples: how many there are.
        batches: the batches of an order, from its start on.
        learning_rate: of a step, for the log.
        recipe: the program's other settings that decide what is learnt; a run is continued with the same ones.
    """

    description: Description
    target: TrainState
    locked: Params
    init: Callable[[], TrainState]
    step: Step
    examples: int
    batches: Callable[[Order], Iterator[Mapping[str, Any]]]
    learning_rate: Callable[[int], jax.Array]
    recipe: Mapping[str, Any]


def recipe(settings: Any) -> dict[str, Any]:
    """What a program's settings say of the training itself, as plain values.

    Left out is how long it goes on, where it runs, what it writes when, and where the data lie: those may change when a
    run is continued.
    """
    free = {"data", "checkpoint", "workdir", "steps", "mesh_data", "mesh_model", "log_every", "save_every", "keep"}
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in free}


def train(task: Task, run: Run, mesh: Mesh) -> TrainState:
    """Begins a run, or continues the one in the work directory, to its end.

    Args:
        task: what to train.
        run: how long, and what is logged and saved when.
        mesh: batches are split over its data axis.

    Returns:
        The last state.

    Raises:
        ValueError: the work directory holds a run with other settings; the message names them.
        Interrupted: on SIGTERM or SIGINT, once the state is saved.
        FloatingPointError: the loss or the gradient is not finite; nothing is saved of that step.
    """
    if run.batch % mesh.shape[DATA]:
        below = run.batch - run.batch % mesh.shape[DATA]
        raise ValueError(
            f"--batch {run.batch} does not divide over the {mesh.shape[DATA]} devices of the mesh axis {DATA!r}; "
            f"take {below or mesh.shape[DATA]}"
        )
    with _StopSignal() as stop, Checkpoints(run.workdir, run.keep) as checkpoints:
        start, state = _resume(task, run, checkpoints) or (0, task.init())
        if start == run.steps:
            print(f"{run.workdir}: all of the {run.steps} steps were taken before")
            return state
        state = _steps(task, run, mesh, checkpoints, start, state, stop)
    print(f"{run.workdir}: step {run.steps} saved")
    return state


def _resume(task: Task, run: Run, checkpoints: Checkpoints) -> tuple[int, TrainState] | None:
    """The latest checkpoint's step and state, or None where the work directory has none."""
    step = checkpoints.latest()
    if step is None:
        return None
    saved = read_description(run.workdir)
    _same(run, _identity(saved), _identity(task.description))
    places = jax.tree.map(lambda leaf: leaf.sharding, task.locked)
    everything = {**with_shardings(task.locked, places), **task.target.params}
    params, opt_state, data = checkpoints.restore(step, everything, task.target.opt_state)
    here = _position(task, run, data["step"])
    _same(run, data.pop("recipe", {}), here.pop("recipe"))
    _same(run, data, here)
    if step > run.steps:
        raise ValueError(f"{run.workdir} has taken {step} steps already; give more --steps, or another --workdir")
    return step, TrainState({name: params[name] for name in task.target.params}, opt_state)


def _identity(description: Description) -> dict[str, Any]:
    """What of a description must not change in a run: not the revision of the code, nor where its source lies now."""
    values = {field.name: getattr(description, field.name) for field in dataclasses.fields(description)}
    values["source"] = description.source and description.source["space_id"]
    del values["git_revision"]
    return values


def _position(task: Task, run: Run, step: int) -> dict[str, Any]:
    """The item `data` of a checkpoint: where the input stands, and what its order is a function of."""
    # As JSON gives it back: tuples are lists there.
    plain = json.loads(json.dumps(dict(task.recipe)))
    return {"step": step, "seed": run.seed, "batch": run.batch, "examples": task.examples, "recipe": plain}


def _same(run: Run, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    differ = [name for name in here if there.get(name) != here[name]]
    if differ:
        lines = [f"  {name}: {_short(there.get(name))} there, {_short(here[name])} here" for name in differ]
        raise ValueError(
            f"{run.workdir} holds a run with other settings:\n" + "\n".join(lines) + "\n"
            "continue with the settings that it has, or give another --workdir"
        )


def _short(value: Any) -> str:
    """A value as a message shows it: a tokenizer or a list of classes by its beginning and a hash."""
    text = repr(value)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return text if len(text) <= 300 else f"{text[:200]}... (sha256 {digest})"


def _steps(
    task: Task,
    run: Run,
    mesh: Mesh,
    checkpoints: Checkpoints,
    start: int,
    state: TrainState,
    stop: "_StopSignal",
) -> TrainState:
    batches = task.batches(Order(task.examples, run.batch, run.seed, start, run.steps))
    place = batch_sharding(mesh)
    with MetricsWriter(run.workdir, run.workdir.name, start, run.steps) as writer:
        clock = _Clock(run.batch)
        for step in range(start + 1, run.steps + 1):
            with clock.waiting():
                batch = jax.device_put(next(batches), place)
            state, metrics = task.step(state, batch)
            # One step at a time: fake CPU devices abort when several wait at a rendezvous.
            jax.block_until_ready(metrics["loss"])
            _check_finite(step, metrics)
            clock.step()
            writer.advance(step)
            stopping = stop.requested  # read once: a signal from here on is the next step's
            last = step == run.steps or stopping
            if step % run.log_every == 0 or last:
                _log(writer, step, metrics, task.learning_rate, clock)
            if step % run.save_every == 0 or last:
                params = {**task.locked, **state.params}
                checkpoints.save(step, params, state.opt_state, _position(task, run, step), task.description)
            if stopping and step < run.steps:
                raise Interrupted(f"stopped at step {step} of {run.steps}; the same command continues from there")
    return state


def _check_finite(step: int, metrics: Metrics) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            raise FloatingPointError(
                f"{name} is {float(metrics[name])} at step {step}; the last checkpoint is from before. "
                "Lower --peak or lengthen --warmup"
            )


def _log(
    writer: MetricsWriter, step: int, metrics: Metrics, learning_rate: Callable[[int], jax.Array], clock: "_Clock"
) -> None:
    values = {key: float(value) for key, value in metrics.items()}
    writer.write(step, {**values, "learning_rate": float(learning_rate(step)), **clock.read()})


class _Clock:
    """Rates since the last reading: images a second, and the share of the time spent waiting for input."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._steps = 0
        self._waited = 0.0

    def waiting(self) -> "_Clock":
        return self

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._waited += time.perf_counter() - self._entered

    def step(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._since
        values = {
            "images_per_second": round(self._steps * self._batch / seconds, 1),
            "input_wait": round(self._waited / seconds, 4),
        }
        self._reset()
        return values


class _StopSignal:
    """Turns SIGTERM and SIGINT into a request that the loop sees at the end of a step."""

    requested = False

    def __enter__(self) -> "_StopSignal":
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
