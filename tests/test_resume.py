"""A run that was killed goes on as if it had not been: real processes, the real program, real files."""

import json
import os
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.artefacts import ROOT
from tests.towers import HEAD, PREPROCESS
from train import pretrain
from train.classifier import scores
from train.compute import Compute
from train.evaluators.heldout import HeldOut
from train.optimizer import Optimizer
from vit22b import model, sharding
from vit22b.checkpoint import Checkpoints, load
from vit22b.description import Description
from vit22b.tree import leaves

STEPS = 20
RATES = {"images_per_second", "input_wait", "tokens_per_second_per_chip"}


RUN = {
    "size": "mu",
    "pooling": "mean",
    "head_bias": -2.2,
    "steps": STEPS,
    "batch": 16,
    "log_every": 1,
    "signals_every": 0,
    "save_every": 2,
    "eval_every": STEPS,
}
OPTIMIZER = {"peak": 1e-4, "warmup": 4, "cooldown": 4, "ema": 0.9}
# Rounding moves the first moment, which is bfloat16, by up to this part, and so a weight by this part of its movement.
SHARE = 2**-8


def settings(digits, workdir, **changes):
    where = {"data": (str(digits / "train"),), "workdir": workdir, "eval_data": digits / "heldout"}
    return pretrain.Settings(**{**RUN, **where, "optimizer": Optimizer(**OPTIMIZER), **changes})


def command(digits, workdir):
    """The same run as a command line."""
    where = {"data": digits / "train", "workdir": workdir, "eval_data": digits / "heldout"}
    flags = [f"--{name}={value}" for name, value in {**RUN, **OPTIMIZER, **where}.items()]
    return [sys.executable, str(ROOT / "train" / "pretrain.py"), *flags]


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("resume") / "uninterrupted"
    pretrain.pretrain(settings(digits, workdir, keep=STEPS))
    return workdir


def logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in RATES} for line in lines]


def state(workdir, step=STEPS):
    """Every array of a checkpoint by item, as it was stored."""
    with Checkpoints(workdir) as checkpoints:
        shapes = {item: checkpoints._saved(step, item) for item in ("params", "opt_state", "ema")}
        is_leaf = lambda node: hasattr(node, "dtype")  # noqa: E731
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes, is_leaf=is_leaf)
        return jax.tree.map(np.asarray, checkpoints.restore(step, target))


def kill_when(process, workdir, ready):
    """Kills the process with SIGKILL once ready(folder of the checkpoints) says so; fails where it ends before."""
    while not ready(workdir / "checkpoints"):
        if process.poll() is not None:
            pytest.fail(f"it ended with {process.returncode} before it was killed:\n{process.stderr.read()}")
        time.sleep(0.002)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_bit_for_bit(digits, uninterrupted, tmp_path):
    """Killed once while a checkpoint is being written, once at a random moment, and then left to end."""
    workdir, moment = tmp_path / "run", random.uniform(0.0, 0.5)

    def writing(folder):
        return any("tmp" in path.name and path.name[:1] not in "12" for path in folder.glob("*"))

    def later(folder):
        found = any(path.name.isdigit() and int(path.name) >= 8 for path in folder.glob("*"))
        if found:
            time.sleep(moment)
        return found

    for ready in (writing, later):
        process = subprocess.Popen(
            command(digits, workdir), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        kill_when(process, workdir, ready)
        with Checkpoints(workdir) as checkpoints:
            latest = checkpoints.latest()
        assert latest is None or latest < STEPS
        assert latest is None or load(workdir).step == latest
    pretrain.pretrain(settings(digits, workdir))
    assert logged(workdir) == logged(uninterrupted)
    jax.tree.map(np.testing.assert_array_equal, state(workdir), state(uninterrupted))


def test_a_run_is_evaluated_with_its_averaged_weights(digits, uninterrupted):
    *before, last = logged(uninterrupted)
    assert not any("eval/loss" in line for line in before)
    losses = {}
    for weights in ("ema", "params"):
        trained = load(uninterrupted, weights=weights)
        of, mesh = trained.description, sharding.make_mesh()
        score = scores(model.abstract(of.config)[0], of.preprocess)
        params = jax.device_put(trained.params, sharding.param_shardings(trained.params, mesh))
        losses[weights] = HeldOut(digits / "heldout", of.labels, of.preprocess, score, 16, mesh)(params)["loss"]
    assert last["eval/loss"] == pytest.approx(losses["ema"], rel=1e-6)
    assert losses["ema"] != pytest.approx(losses["params"], rel=1e-5)


def test_a_run_that_goes_on_on_another_mesh_agrees_after_20_steps(digits, uninterrupted, tmp_path):
    """On 1x1 to step 4, on 4x2 from there: losses agree to 1e-5, weights to 1e-5 of the largest.

    And each leaf to SHARE of its own movement on the way, which is 2e-4 of the largest for some: to 1e-5 of that an
    update that is wrong by 4% would agree as well.
    """
    shutil.copytree(uninterrupted / "checkpoints" / "4", tmp_path / "checkpoints" / "4")
    pretrain.pretrain(settings(digits, tmp_path, save_every=STEPS, compute=Compute(mesh="4x2")))
    losses = [line["loss"] for line in logged(tmp_path)]
    np.testing.assert_allclose(losses, [line["loss"] for line in logged(uninterrupted)][4:], rtol=1e-5)
    for item in ("params", "ema"):
        begin, expected = (leaves(state(uninterrupted, step)[item]) for step in (4, STEPS))
        found = leaves(state(tmp_path)[item])
        largest = max(np.abs(leaf).max() for leaf in expected.values())
        for name, leaf in expected.items():
            near = min(1e-5 * largest, SHARE * np.abs(leaf - begin[name]).max())
            np.testing.assert_allclose(found[name], leaf, rtol=0, atol=near, err_msg=f"{item} {name}")


MEASURE = """
import sys
import jax
from tests.test_resume import big_tree
from vit22b.checkpoint import Checkpoints

def kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

with Checkpoints(sys.argv[1]) as checkpoints:
    # What threads and libraries take once is no part of a restore.
    jax.block_until_ready(checkpoints.restore(1, {"params": big_tree(8, 128, (2, 4))}))
    before = kib("VmRSS")
    params = jax.block_until_ready(checkpoints.restore(2, {"params": big_tree(24, 1024, (2, 4))}))["params"]
    print((kib("VmHWM") - before) * 1024 / sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


def big_tree(layers, width, mesh):
    """The shapes of some kernels on a mesh; with 24 layers of width 1024 they are 300 MB."""
    place = jax.sharding.NamedSharding(sharding.make_mesh(*mesh), jax.sharding.PartitionSpec(None, "data", "model"))
    names = {f"kernel_{i}": (layers, width, width) for i in range(3)}
    return {name: jax.ShapeDtypeStruct(shape, np.float32, sharding=place) for name, shape in names.items()}


def test_a_restore_needs_at_most_1_3_times_what_it_restores(tmp_path):
    """Written on 4x2, read on 2x4, in a process that has done nothing else.

    The C library keeps freed blocks of up to 32 MiB for later. A shard of a model that fills a host is larger; those of
    300 MB are not, and are made to go back to the system as those would.
    """
    with Checkpoints(tmp_path) as checkpoints:
        for step, layers, width in ((1, 8, 128), (2, 24, 1024)):
            tree = big_tree(layers, width, (4, 2))
            params = {
                name: jax.device_put(np.random.default_rng(0).random(leaf.shape, np.float32), leaf.sharding)
                for name, leaf in tree.items()
            }
            checkpoints.save(step, {"params": params}, {}, Description(HEAD, PREPROCESS))
            checkpoints.wait()
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )
    assert 0.9 < float(measured.stdout) < 1.3
