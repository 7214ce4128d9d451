"""Kills a training run again and again; what it has learnt in the end has to be what a run that was left alone learns.

    .venv/bin/python benchmarks/soak.py --kills 6

The real program on real images: SIGKILL soon after random steps, most of them not far from the writing of a checkpoint,
and the same command anew. Prints a line for each kill; exit code 1 where a loss or a weight differs by a bit, where a
run ended otherwise than by its kill, or where fewer kills than asked for found it running.
"""

import dataclasses
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train import mnist
from train.metrics import FILE
from vit22b import program
from vit22b.checkpoint import load
from vit22b.tree import leaves

ROOT = Path(__file__).parents[1]
BATCH = 32
EVERY = 5  # steps, a checkpoint
RATES = {"images_per_second", "tokens_per_second_per_chip", "input_wait", "mfu", "seconds"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Kill a run at random moments, and compare it with one that was not."""

    kills: int = 6
    """How often."""
    steps: int = 60
    """Length of the run; a checkpoint every 5."""
    folder: Path = Path("build/soak")
    """Where the images and both runs go: its folders digits, quiet and killed, which are removed first."""
    seed: int = 0
    """Of the moments."""

    def __post_init__(self) -> None:
        if not 1 <= self.kills <= self.steps - EVERY:
            raise ValueError(
                f"--kills is {self.kills}; expected 1 to {self.steps - EVERY} in a run of {self.steps} steps"
            )


def soak(settings: Settings) -> int:
    """The exit code: whether the two runs are one."""
    digits, quiet, killed = (settings.folder / name for name in ("digits", "quiet", "killed"))
    for folder in (digits, quiet, killed):
        shutil.rmtree(folder, ignore_errors=True)
    mnist.write(mnist.Settings(output=digits, limit=500))
    subprocess.run(command(settings, digits, quiet), check=True, stdout=subprocess.DEVNULL)
    step_seconds = BATCH / statistics.median(line["images_per_second"] for line in logged(quiet / FILE))
    moments = random.Random(settings.seed)
    # None in the last steps: the run has to be there when its time comes.
    targets = sorted(moments.sample(range(1, settings.steps - EVERY + 1), settings.kills))
    kills = 0
    for target in targets:
        process = subprocess.Popen(command(settings, digits, killed), stdout=subprocess.DEVNULL)
        code = kill_at(process, killed / FILE, target, moments.uniform(0, step_seconds))
        steps = sorted(int(path.name) for path in (killed / "checkpoints").glob("*") if path.name.isdigit())
        print(f"aimed at step {target}: exit code {code}, checkpoints {steps}", flush=True)
        if code not in (0, -signal.SIGKILL):
            raise subprocess.CalledProcessError(code, process.args)
        kills += code != 0
    subprocess.run(command(settings, digits, killed), check=True, stdout=subprocess.DEVNULL)
    differ = compare(quiet, killed)
    if kills < settings.kills:
        differ.append(f"{kills} kills of {settings.kills}: the run was over before the others; take more --steps")
    print("\n".join(differ) or f"the run that was killed {kills} times equals the other one bit for bit")
    return 1 if differ else 0


def kill_at(process: subprocess.Popen[bytes], log: Path, step: int, pause: float) -> int:
    """Kills a run some seconds after it has logged a step; its exit code."""
    before = _changed(log)  # by the run before, which may have come as far
    while process.poll() is None and (_changed(log) == before or last_step(log) < step):
        time.sleep(0.01)
    time.sleep(pause)
    process.kill()
    return process.wait()


def _changed(log: Path) -> int:
    return log.stat().st_mtime_ns if log.exists() else 0


def last_step(log: Path) -> int:
    """The last step that a log has."""
    lines = logged(log)
    return int(lines[-1]["step"]) if lines else 0


def logged(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; none before it is there."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [json.loads(line) for line in lines]


def command(settings: Settings, digits: Path, workdir: Path) -> list[str]:
    """Of a short run that uses what a long one does: augmentation, an average of the weights, accumulation."""
    script, data = ROOT / "train" / "pretrain.py", digits / "train"
    length = f"--size mu --steps {settings.steps} --batch {BATCH} --warmup 10 --cooldown 20"
    parts = f"--accumulate 2 --ema 0.99 --log_every 1 --signals_every 0 --save_every {EVERY} --no_flip"
    flags = f"{length} {parts}".split()
    return [sys.executable, str(script), "--data", str(data), "--workdir", str(workdir), *flags]


def compare(one: Path, other: Path) -> list[str]:
    """In what two runs differ: logged values, parameters, averages."""
    logs = [
        [{k: v for k, v in line.items() if k not in RATES} for line in logged(path)]
        for path in (one / FILE, other / FILE)
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
