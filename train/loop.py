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

from train.metrics import MetricsWriter
from train.state import Metrics, Step, TrainState
from vit22b.checkpoint import Checkpoints, Description, read_description
from vit22b.program import Interrupted
from vit22b.sharding import batch_sharding


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


def resume(
    run: Run, checkpoints: Checkpoints, target: TrainState, description: Description
) -> tuple[int, TrainState] | None:
    """The latest checkpoint's step and state, or None where the work directory has none.

    Raises:
        ValueError: the checkpoint belongs to a run with other settings; the message names them.
    """
    step = checkpoints.latest()
    if step is None:
        return None
    saved = read_description(run.workdir)
    fields = [f.name for f in dataclasses.fields(Description) if f.name != "git_revision"]
    differ = [name for name in fields if getattr(saved, name) != getattr(description, name)]
    if differ:
        lines = [f"  {name}: {getattr(saved, name)!r} there, {getattr(description, name)!r} here" for name in differ]
        raise ValueError(
            f"{run.workdir} holds a run with other settings:\n" + "\n".join(lines) + "\n"
            "continue with the settings that it has, or give another --workdir"
        )
    params, opt_state, data = checkpoints.restore(step, target.params, target.opt_state)
    if data["seed"] != run.seed:
        raise ValueError(f"{run.workdir} was trained with --seed {data['seed']}, not {run.seed}; continue with that")
    return step, TrainState(params, opt_state)


def train(
    run: Run,
    start: int,
    state: TrainState,
    step_function: Step,
    batches: Iterator[Mapping[str, Any]],
    save: Callable[[int, TrainState], None],
    mesh: Mesh,
    learning_rate: Callable[[int], jax.Array],
) -> TrainState:
    """Takes the steps start + 1 .. run.steps.

    Args:
        run: its length and what is logged and saved when.
        start: steps that are behind already.
        state: after them; consumed.
        step_function: see train.state.make_step.
        batches: from step start + 1 on.
        save: writes a checkpoint; called every run.save_every steps, at the end, and on SIGTERM or SIGINT.
        mesh: batches are split over its data axis.
        learning_rate: of a step, for the log.

    Raises:
        Interrupted: on SIGTERM or SIGINT, once the state is saved.
        FloatingPointError: the loss or the gradient is not finite; nothing is saved of that step.
    """
    place = batch_sharding(mesh)
    with MetricsWriter(run.workdir, run.workdir.name, start, run.steps) as writer, _StopSignal() as stop:
        clock = _Clock(run.batch)
        for step in range(start + 1, run.steps + 1):
            with clock.waiting():
                batch = jax.device_put(next(batches), place)
            state, metrics = step_function(state, batch)
            # One step at a time: fake CPU devices abort when several wait at a rendezvous.
            jax.block_until_ready(metrics["loss"])
            _check_finite(step, metrics)
            clock.step()
            writer.advance(step)
            stopping = stop.requested  # read once: a signal from here on is the next step's
            last = step == run.steps or stopping
            if step % run.log_every == 0 or last:
                _log(writer, step, metrics, learning_rate, clock)
            if step % run.save_every == 0 or last:
                save(step, state)
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
