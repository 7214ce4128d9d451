"""Kills a training run again and again; what it has learnt in the end has to be what a run that was left alone learns.

    .venv/bin/python benchmarks/soak.py --kills 6

The real program on real images: SIGKILL at random moments, most of them not far from the writing of a checkpoint, and
the same command anew. Prints a line for each kill; exit code 1 where a loss or a weight differs by a bit.
"""

import dataclasses
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from train import mnist
from vit22b import program
from vit22b.checkpoint import load
from vit22b.tree import leaves

ROOT = Path(__file__).parents[1]
RATES = {"images_per_second", "tokens_per_second_per_chip", "input_wait", "mfu", "seconds"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Kill a run at random moments, and compare it with one that was not."""

    kills: int = 6
    """How often."""
    steps: int = 60
    """Length of the run; a checkpoint every 5."""
    folder: Path = Path("build/soak")
    """Where the images and both runs go; what is there is removed first."""
    seed: int = 0
    """Of the moments."""


def soak(settings: Settings) -> int:
    """The exit code: whether the two runs are one."""
    shutil.rmtree(settings.folder, ignore_errors=True)
    mnist.write(mnist.Settings(output=settings.folder / "digits", limit=500))
    quiet, killed = settings.folder / "quiet", settings.folder / "killed"
    begin = time.monotonic()
    subprocess.run(command(settings, quiet), check=True, stdout=subprocess.DEVNULL)
    length = time.monotonic() - begin
    moments = random.Random(settings.seed)
    for kill in range(settings.kills):
        process = subprocess.Popen(command(settings, killed), stdout=subprocess.DEVNULL)
        try:
            process.wait(moments.uniform(0.3, 0.9) * length)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        steps = sorted(int(path.name) for path in (killed / "checkpoints").glob("*") if path.name.isdigit())
        print(f"kill {kill + 1}: exit code {process.returncode}, checkpoints {steps}", flush=True)
        if process.returncode == 0:
            break  # it was done
    subprocess.run(command(settings, killed), check=True, stdout=subprocess.DEVNULL)
    differ = compare(quiet, killed)
    print("\n".join(differ) or "the run that was killed equals the other one bit for bit")
    return 1 if differ else 0


def command(settings: Settings, workdir: Path) -> list[str]:
    """Of a short run that uses what a long one does: augmentation, an average of the weights, accumulation."""
    flags = f"--size mu --steps {settings.steps} --batch 32 --accumulate 2 --ema 0.99 --warmup 10 --cooldown 20"
    often = "--log_every 1 --signals_every 0 --save_every 5 --no_flip"
    data = settings.folder / "digits" / "train"
    arguments = f"--data {data} --workdir {workdir} {flags} {often}".split()
    return [sys.executable, str(ROOT / "train" / "pretrain.py"), *arguments]


def compare(one: Path, other: Path) -> list[str]:
    """In what two runs differ: logged values, parameters, averages."""
    logs = [
        [{k: v for k, v in json.loads(line).items() if k not in RATES} for line in path.read_text().splitlines()]
        for path in (one / "metrics.jsonl", other / "metrics.jsonl")
    ]
    differ = [f"step {a['step']}: {a} and {b}" for a, b in zip(*logs, strict=False) if a != b]
    if len(logs[0]) != len(logs[1]):
        differ.append(f"{len(logs[0])} and {len(logs[1])} lines of metrics")
    for weights in ("params", "ema"):
        theirs, ours = (leaves(jax.device_get(load(path, weights=weights).params)) for path in (one, other))
        differ += [f"{weights} {name}" for name in theirs if not np.array_equal(theirs[name], ours[name])]
    return differ


if __name__ == "__main__":
    program.run(soak, Settings, __doc__, failures=(subprocess.CalledProcessError,))
