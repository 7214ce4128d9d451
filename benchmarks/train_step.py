"""Our train step against the same ViT's in Flax Linen, what checkpoints cost, and parallel against sequential blocks.

    .venv/bin/python benchmarks/train_step.py --output build/bench/train_step.json

Ours is the step that train/pretrain.py takes; the rival is benchmarks/linen_vit.py. Both have one shape, one batch that
lies on the device, one optimizer, float32 and no rematerialisation. They take their steps in turns within one run, so
that a ratio does not depend on what else the machine does. Fields: docs/reports.md.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import linen_vit
from train import optimizer, pretrain, resume
from train.compute import Compute
from train.mixture import Mixture
from train.resume import Position
from train.skips import Skips
from train.sources.folders import FolderSource
from train.state import Batch
from train.task import Task
from vit22b import program
from vit22b.checkpoint import Checkpoints
from vit22b.config import vit
from vit22b.folder import Folder

Rates = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time train steps on this machine."""

    output: Path = Path("build/bench/train_step.json")
    """Report to write."""
    size: str = "S"
    """Name of the size, as train/pretrain.py takes it."""
    batch: int = 4
    """Images of a step."""
    classes: int = 1000
    """Classes of the head."""
    steps: int = 4
    """Steps that each takes in a round."""
    rounds: int = 5
    """Rounds; the median of their ratios counts."""
    save_every: int = 20
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("batch", "classes", "steps", "rounds", "save_every"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--{name} is {value}; expected 1 or more")


@dataclasses.dataclass
class Contestant:
    """One who trains: a compiled step that consumes its state, and that state."""

    step: Callable[[Any, Batch], tuple[Any, Any]]
    state: Any

    def seconds(self, batch: Batch) -> float:
        """Takes a step, and waits for it."""
        begin = time.perf_counter()
        self.state, found = self.step(self.state, batch)
        jax.block_until_ready((self.state, found))
        return time.perf_counter() - begin


def pretraining(settings: Settings, workdir: Path) -> pretrain.Settings:
    """The run that train/pretrain.py would make of it, on one device."""
    return pretrain.Settings(
        workdir=workdir,
        data=("",),
        size=settings.size,
        batch=settings.batch,
        save_every=settings.save_every,
        compute=Compute(dtype="float32"),
    )


def our_task(settings: Settings, run: pretrain.Settings) -> Task:
    """What train/pretrain.py trains; no image is ever read, since one batch lies on the device."""
    labels = tuple(f"{label}" for label in range(settings.classes))
    return pretrain.make_task(run, Mixture((FolderSource(Folder((), labels)),)), run.compute.make_mesh())


def rival(settings: Settings, run: pretrain.Settings, parallel: bool) -> Contestant:
    """The Linen ViT, with blocks that are parallel or sequential."""
    network = linen_vit.ViT(vit(settings.size), settings.classes, parallel)
    update = optimizer.make(run.optimizer, run.steps)
    return Contestant(linen_vit.step, linen_vit.init_state(network, update, run.seed))


def random_batch(settings: Settings) -> Batch:
    """Pixels and targets with one label an image, on the first device."""
    random, side = np.random.default_rng(0), vit(settings.size).resolution
    pixels = random.integers(256, size=(settings.batch, side, side, 3), dtype=np.uint8)
    targets = np.eye(settings.classes, dtype=np.float32)[random.integers(settings.classes, size=settings.batch)]
    return jax.device_put({"pixels": pixels, "targets": targets}, jax.devices()[0])


def compare(contestants: Mapping[str, Contestant], batch: Batch, settings: Settings) -> list[Rates]:
    """Images a second of each, by round; they take turns after every step."""
    for contestant in contestants.values():
        for _ in range(2):  # compiles; where a state lies is settled by its first step, and may compile once more
            contestant.seconds(batch)
    rates = []
    for _ in range(settings.rounds):
        turns = [{name: each.seconds(batch) for name, each in contestants.items()} for _ in range(settings.steps)]
        images = settings.batch * settings.steps
        rates.append(told({name: images / sum(turn[name] for turn in turns) for name in contestants}))
    return rates


def compare_saving(task: Task, run: pretrain.Settings, batch: Batch, rounds: int) -> tuple[float, list[Rates]]:
    """What checkpoints cost: the seconds of one by itself, and images a second with them and without, by round.

    Of two turns of run.save_every steps each, one saves first and takes its steps while the state is written; it ends
    when that is done as well.
    """
    ours = Contestant(task.step, task.init())
    ours.seconds(batch)  # compiles, if no one has taken this step before
    with Checkpoints(run.workdir, run.keep) as checkpoints:

        def turn(number: int, saving: bool = True, steps: int = 0) -> float:
            begin = time.perf_counter()
            if saving:
                resume.save(task, run, checkpoints, Position(number, ours.state, Skips()), metrics={})
            for _ in range(steps):
                ours.seconds(batch)
            checkpoints.wait()
            return time.perf_counter() - begin

        turn(0)  # the first makes folders and starts threads
        alone = statistics.median(turn(number) for number in range(1, rounds + 1))
        rates, steps = [], run.save_every
        for number in range(rounds + 1, 2 * rounds + 1):
            order = (True, False) if number % 2 else (False, True)  # what the machine does besides comes and goes
            seconds = {saving: turn(number, saving, steps) for saving in order}
            images = run.batch * steps
            rates.append(told({"saving": images / seconds[True], "not_saving": images / seconds[False]}))
    return alone, rates


def told(rates: Rates) -> Rates:
    """The rates, printed: all of it takes minutes."""
    print("images/s", *(f"{name} {rate:.3g}" for name, rate in rates.items()), sep="  ", flush=True)
    return rates


def summary(rates: Sequence[Rates], ratios: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Median rates by name, and of each ratio (name -> numerator, denominator) its median and its value by round."""
    found: dict[str, Any] = {
        f"{name}_images_per_second": round(statistics.median(rate[name] for rate in rates), 3) for name in rates[0]
    }
    for ratio, (above, below) in ratios.items():
        rounds = [rate[above] / rate[below] for rate in rates]
        found[ratio] = round(statistics.median(rounds), 4)
        found[f"{ratio}_by_round"] = [round(value, 4) for value in rounds]
    return found


def measure(settings: Settings) -> dict[str, Any]:
    """The report."""
    batch = random_batch(settings)
    with tempfile.TemporaryDirectory() as scratch:
        run = pretraining(settings, Path(scratch))
        task = our_task(settings, run)
        contestants = {
            "ours": Contestant(task.step, task.init()),
            "linen": rival(settings, run, parallel=False),
            "linen_parallel": rival(settings, run, parallel=True),
        }
        steps = compare(contestants, batch, settings)
        del contestants
        save_seconds, saving = compare_saving(task, run, batch, settings.rounds)
    return {
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "flax": flax.__version__,
        **{name: value for name, value in dataclasses.asdict(settings).items() if name != "output"},
        **summary(steps, {"ours_to_linen": ("ours", "linen"), "parallel_to_sequential": ("linen_parallel", "linen")}),
        "save_seconds": round(save_seconds, 3),
        **summary(saving, {"saving_to_not_saving": ("saving", "not_saving")}),
    }


def main(settings: Settings) -> None:
    """Measures, writes the report and prints it."""
    report = measure(settings)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(report, indent=2) + "\n")
    table = Table("field", "value")
    for name, value in report.items():
        table.add_row(name, str(value))
    Console().print(table)
    print(settings.output)


if __name__ == "__main__":
    program.run(main, Settings, __doc__)
