"""The loop that pretraining and locked-image tuning share: restore or begin, step, log, save, stop when told to.

On the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
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
from vit22b.sharding import batch_sharding, with_shardings


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
    """

    description: Description
    target: TrainState
    locked: Params
    init: Callable[[], TrainState]
    step: Step
    examples: int
    batches: Callable[[Order], Iterator[Mapping[str, Any]]]
    learning_rate: Callable[[int], jax.Array]


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
    with Checkpoints(run.workdir, run.keep) as checkpoints:
        start, state = _resume(task, run, checkpoints) or (0, task.init())
        state = _steps(task, run, mesh, checkpoints, start, state)
    print(f"{run.workdir}: step {run.steps} saved")
    return state


def _resume(task: Task, run: Run, checkpoints: Checkpoints) -> tuple[int, TrainState] | None:
    """The latest checkpoint's step and state, or None where the work directory has none."""
    step = checkpoints.latest()
    if step is None:
        return None
    saved = read_description(run.workdir)
    fields = [f.name for f in dataclasses.fields(Description) if f.name != "git_revision"]
    _same(run, {f: getattr(saved, f) for f in fields}, {f: getattr(task.description, f) for f in fields})
    places = jax.tree.map(lambda leaf: leaf.sharding, task.locked)
    everything = {**with_shardings(task.locked, places), **task.target.params}
    params, opt_state, data = checkpoints.restore(step, everything, task.target.opt_state)
    # The order of the input is a function of these: with another batch it would go on somewhere else.
    _same(run, data, _position(task, run, data["step"]))
    if step >= run.steps:
        raise ValueError(f"{run.workdir} has taken {step} steps already; give more --steps, or another --workdir")
    return step, TrainState({name: params[name] for name in task.target.params}, opt_state)


def _position(task: Task, run: Run, step: int) -> dict[str, int]:
    return {"step": step, "seed": run.seed, "batch": run.batch, "examples": task.examples}


def _same(run: Run, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    differ = [name for name in here if there.get(name) != here[name]]
    if differ:
        lines = [f"  {name}: {there.get(name)!r} there, {here[name]!r} here" for name in differ]
        raise ValueError(
            f"{run.workdir} holds a run with other settings:\n" + "\n".join(lines) + "\n"
            "continue with the settings that it has, or give another --workdir"
        )


def _steps(task: Task, run: Run, mesh: Mesh, checkpoints: Checkpoints, start: int, state: TrainState) -> TrainState:
    batches = task.batches(Order(task.examples, run.batch, run.seed, start, run.steps))
    place = batch_sharding(mesh)
    with MetricsWriter(run.workdir, run.workdir.name, start, run.steps) as writer, _StopSignal() as stop:
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
