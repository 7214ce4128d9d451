import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks.soak import Settings, command, compare, kill_at, last_step
from tests.towers import HEAD, PREPROCESS, random_params
from vit22b.checkpoint import Checkpoints
from vit22b.description import Description

LABELS = tuple(f"class {i}" for i in range(HEAD.classes))


def line(step, loss, seconds):
    return json.dumps({"step": step, "loss": loss, "seconds": seconds}) + "\n"


def changed(params, by):
    """The parameters with one number of one of them changed."""
    bias = params["head"]["bias"].copy()
    bias[3] += by
    return {**params, "head": {**params["head"], "bias": bias}}


def run(workdir, params=0.0, ema=0.0, loss=0.5, seconds=1.0):
    """A run of two steps, which may differ a little in one place."""
    learnt = random_params(HEAD)
    average = jax.tree.map(lambda leaf: leaf / 2, learnt)
    with Checkpoints(workdir) as checkpoints:
        trees = {"params": changed(learnt, params), "ema": changed(average, ema)}
        checkpoints.save(2, trees, {}, Description(HEAD, PREPROCESS, LABELS))
    (workdir / "metrics.jsonl").write_text(line(1, 0.75, seconds) + line(2, loss, seconds))
    return workdir


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return run(tmp_path_factory.mktemp("soak") / "quiet")


TINY = float(np.float32(1e-3))


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({}, []),
        ({"seconds": 2.0}, []),
        ({"params": TINY}, ["params head/bias"]),
        ({"ema": TINY}, ["ema head/bias"]),
        ({"loss": 0.5000001}, ["step 2: {'step': 2, 'loss': 0.5} and {'step': 2, 'loss': 0.5000001}"]),
    ],
    ids=["equal", "slower", "weight", "average", "metric"],
)
def test_two_runs_differ_in_what_they_learnt_and_logged_and_not_in_their_pace(quiet, tmp_path, change, differ):
    assert compare(quiet, run(tmp_path / "other", **change)) == differ


def test_a_log_that_ends_early_differs(quiet, tmp_path):
    other = run(tmp_path / "other")
    (other / "metrics.jsonl").write_text(line(1, 0.75, 1.0))
    assert compare(quiet, other) == ["2 and 1 lines of metrics"]


def test_a_folder_may_have_a_space_in_its_name(tmp_path):
    arguments = command(Settings(), tmp_path / "my digits", tmp_path / "my run")
    assert arguments[arguments.index("--data") + 1] == str(tmp_path / "my digits" / "train")
    assert arguments[arguments.index("--workdir") + 1] == str(tmp_path / "my run")


def test_more_kills_than_steps_are_refused():
    with pytest.raises(ValueError, match="--kills is 16; expected 1 to 15 in a run of 20 steps"):
        Settings(kills=16, steps=20)


def start(code):
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_run_is_killed_once_it_has_logged_the_step_itself(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text(line(1, 0.75, 1.0) + line(2, 0.5, 1.0))  # of the run before
    writes = f"""
import time
log = open({str(log)!r}, "w")
for step in range(10_000):
    print('{{"step": %d}}' % step, file=log, flush=True)
    time.sleep(0.01)
"""
    assert kill_at(start(writes), log, step=2, pause=0.0) == -9
    assert 2 <= last_step(log) < 9_999


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_that_ends_by_itself_is_told_apart_from_one_that_was_killed(tmp_path, code):
    assert kill_at(start(f"raise SystemExit({code})"), tmp_path / "metrics.jsonl", step=2, pause=0.0) == code
