"""The loop that every program which trains shares: restore or begin, step, look, log, save, stop when told to.

On the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import contextlib
from collections.abc import Generator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from train import resume
from train.clock import Clock
from train.feed import place, prefetch
from train.hosts import on_first
from train.input import Order
from train.metrics import MetricsWriter, Unwritten
from train.profiling import ProfileWindow
from train.resume import Position
from train.run import Run
from train.skips import JUDGED
from train.state import Batch, Metrics, TrainState
from train.stop import StopSignal
from train.task import Probe, Task
from vit22b.checkpoint import Checkpoints
from vit22b.program import Interrupted
from vit22b.sharding import batch_sharding
from vit22b.tree import merged


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
        FloatingPointError: too many steps in a row had no finite loss and gradient; nothing is saved of the last.
    """
    if run.keep_best and task.best is None:
        raise ValueError(f"--keep_best {run.keep_best} needs an evaluation to choose by; give --eval_data")
    with StopSignal() as stop, Checkpoints(run.workdir, run.keep, run.keep_best, task.best) as checkpoints:
        position = resume.begin_or_continue(task, run, checkpoints)
        if position.step == run.steps:
            print(f"{run.workdir}: all of the {run.steps} steps were taken before")
            return position.state
        kind = MetricsWriter if on_first() else Unwritten
        with kind(run.workdir, run.workdir.name, position.step, run.steps) as writer:
            _Loop(task, run, mesh, checkpoints, writer, position).go(stop)
    print(f"{run.workdir}: step {run.steps} saved")
    return position.state


class _Loop:
    """The steps of a run from a position on, which they move."""

    def __init__(
        self,
        task: Task,
        run: Run,
        mesh: Mesh,
        checkpoints: Checkpoints,
        writer: MetricsWriter | Unwritten,
        at: Position,
    ) -> None:
        self._task, self._run, self._checkpoints, self._writer, self._at = task, run, checkpoints, writer, at
        self._place = batch_sharding(mesh)
        self._clock = Clock(run.batch, task.work, mesh)

    def go(self, stop: StopSignal) -> None:
        """Takes the steps to the run's end, or to the one at which it is told to stop."""
        run, at = self._run, self._at
        with (
            contextlib.closing(self._batches()) as batches,
            ProfileWindow(run.profile_window, run.workdir) as window,
        ):
            while at.step < run.steps:
                with self._clock.stopped():
                    window.before(at.step + 1)
                batch, metrics = self._step(batches)
                with self._clock.stopped():
                    window.after(at.step)
                stopping = stop.now()  # asked once: a signal from here on is the next step's
                last = at.step == run.steps or stopping
                try:
                    evaluated = self._evaluate()
                except (OSError, ValueError):  # an image that has gone bad since the start
                    if jax.process_count() == 1:  # a save waits for all, and the others may be in their evaluation
                        self._keep(batch, metrics, {}, last=True)
                    raise
                self._keep(batch, metrics, evaluated, last)
                if stopping and at.step < run.steps:
                    raise Interrupted(
                        f"stopped at step {at.step} of {run.steps}; the same command continues from there",
                        run.stop_code,
                    )

    def _keep(self, batch: Batch, metrics: Metrics, evaluated: Mapping[str, float], last: bool) -> None:
        """Logs and saves what is due of the step that was taken."""
        step, run = self._at.step, self._run
        if step % run.log_every == 0 or last or evaluated or self._due_probe():
            self._log(batch, metrics, evaluated)
        if step % run.save_every == 0 or last:
            resume.save(self._task, run, self._checkpoints, self._at, evaluated)

    def _batches(self) -> Generator[Batch, None, None]:
        """The batches from here on, read and placed while the step before is taken."""
        run = self._run
        batches = self._task.batches(Order(self._task.examples, run.batch, run.seed, self._at.step, run.steps))
        return prefetch(batches, lambda batch: place(batch, self._place, run.batch))

    def _step(self, batches: Generator[Batch, None, None]) -> tuple[Batch, Metrics]:
        at = self._at
        with self._clock:
            batch = next(batches)
        at.state, metrics = self._task.step(at.state, batch)
        # Waits for the step: whether it was skipped is told, counted, and may end the run, before there is another.
        judged = jax.device_get({name: metrics[name] for name in JUDGED})
        at.step += 1
        self._clock.step()
        self._writer.advance(at.step)
        at.skips.count(at.step, judged, self._run.max_skipped, self._task.names, self._checkpoints)
        return batch, metrics

    def _evaluate(self) -> dict[str, float]:
        """The metrics of every evaluator, where they are due: at their interval, and at the end of the run."""
        step, run = self._at.step, self._run
        if not self._task.evaluators or (step % run.evaluation_interval and step < run.steps):
            return {}
        state, found = self._at.state, {}
        weights = merged(self._task.locked, state.params if state.ema is None else state.ema)
        with self._clock.stopped():
            for name, evaluator in self._task.evaluators.items():
                found |= {f"{name}/{metric}": value for metric, value in evaluator(weights).items()}
        return found

    def _log(self, batch: Batch, metrics: Metrics, evaluated: Mapping[str, float]) -> None:
        at, task, rates, probe = self._at, self._task, self._clock.read(), self._due_probe()
        with self._clock.stopped():
            signals = probe(merged(task.locked, at.state.params), batch) if probe else {}
            found = {name: np.asarray(value).tolist() for name, value in {**metrics, **signals}.items()}
            # A skipped step does not move the schedule.
            rate = float(task.learning_rate(at.step - at.skips.total))
            counts = {"skipped": at.skips.total, **task.counts()}
            self._writer.write(
                at.step, {"loss": found["loss"], **found, "learning_rate": rate, **counts, **rates, **evaluated}
            )

    def _due_probe(self) -> Probe | None:
        """What gives every layer's stability signals, where they are looked at now."""
        every = self._run.signals_interval
        return self._task.probe if every and self._at.step % every == 0 else None
