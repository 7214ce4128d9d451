import dataclasses
import itertools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.towers import BATCH, HEAD, PREPROCESS, SETTINGS, STEPS, random_batch, training
from train.input import index_batches
from train.loop import Run, Task, train
from train.optimizer import schedule
from vit22b.checkpoint import Checkpoints, Description
from vit22b.config import vit
from vit22b.program import Interrupted

RATES = ("images_per_second", "input_wait")  # what no two runs have in common


RECIPE = {"optimizer": {"peak": 0.001}, "crops": (1, 2)}
LABELS = tuple(f"class {i}" for i in range(HEAD.classes))
DESCRIPTION = Description(HEAD, PREPROCESS, LABELS)


def task(at_batch=lambda _: None, step_function=None, recipe=None, **changes):
    """What the tests train: as the programs do, but from memory. `at_batch` is called with the step as it is fed."""
    setup = training()
    examples = [random_batch(seed) for seed in range(3)]
    pixels, targets = (np.concatenate([batch[key] for batch in examples]) for key in ("pixels", "targets"))

    def batches(order):
        for step, index in enumerate(index_batches(order), order.start + 1):
            at_batch(step)
            yield {"pixels": pixels[index], "targets": targets[index]}

    return Task(
        description=dataclasses.replace(DESCRIPTION, **changes),
        target=setup.target,
        locked={},
        init=setup.start,
        step=step_function or setup.step,
        examples=len(pixels),
        batches=batches,
        learning_rate=schedule(SETTINGS, STEPS),
        recipe=RECIPE if recipe is None else recipe,
    )


@pytest.fixture(scope="module")
def go():
    """Begins or continues the run of a work directory; returns the steps that it fed and saved, and the last state.

    `at_batch` and `at_save` are called with the number of a step as it is fed and as it is saved.
    """

    def call(workdir, at_batch=lambda _: None, at_save=lambda _: None, step_function=None, **changes):
        settings = {"steps": STEPS, "batch": BATCH, "seed": 5, "log_every": 1, "save_every": 3, "keep": 9} | changes
        fed, saved = [], []

        class Recorded(Checkpoints):
            def save(self, step, *state):
                super().save(step, *state)
                saved.append(step)
                at_save(step)

        def feed(step):
            fed.append(step)
            at_batch(step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("train.loop.Checkpoints", Recorded)
            state = train(task(feed, step_function), Run(workdir=workdir, **settings), training().mesh)
        return fed[0] - 1 if fed else STEPS, saved, jax.tree.map(np.asarray, state)

    return call


@pytest.fixture(scope="module")
def uninterrupted(go, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    return workdir, *go(workdir)


def at(wanted, action):
    """Calls the action when the loop comes to a step."""
    return lambda step: action() if step == wanted else None


def send(number):
    return lambda: os.kill(os.getpid(), number)


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in RATES} for line in lines]


def steps_on_disk(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def assert_same_run(workdir, state, uninterrupted):
    first, _, _, expected = uninterrupted
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert metrics(workdir) == metrics(first)


def test_a_run_logs_and_saves_when_it_was_told_to(uninterrupted):
    workdir, start, saved, _ = uninterrupted
    assert (start, saved, steps_on_disk(workdir)) == (0, [3, 6], [3, 6])
    found = metrics(workdir)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert set(found[0]) == {"step", "loss", "grad_norm", "train_top1", "learning_rate"}
    assert [line["learning_rate"] for line in found] == [float(schedule(SETTINGS, STEPS)(i)) for i in range(1, 7)]
    rates = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert rates["images_per_second"] > 0
    assert 0 <= rates["input_wait"] <= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_and_continues_bit_for_bit(go, uninterrupted, tmp_path, number):
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped at step 4 of 6; the same command continues from there"):
        go(tmp_path, at_batch=at(4, send(number)))
    assert steps_on_disk(tmp_path) == [3, 4]
    assert signal.getsignal(number) is handler
    start, saved, state = go(tmp_path)
    assert (start, saved) == (4, [6])
    assert_same_run(tmp_path, state, uninterrupted)


def test_a_signal_while_a_step_is_saved_stops_the_next_one(go, tmp_path):
    with pytest.raises(Interrupted, match="stopped at step 4 of 6"):
        go(tmp_path, at_save=at(3, send(signal.SIGTERM)))
    assert steps_on_disk(tmp_path) == [3, 4]


def test_a_signal_in_the_last_step_stops_nothing(go, uninterrupted, tmp_path):
    _, saved, state = go(tmp_path, at_batch=at(6, send(signal.SIGTERM)))
    assert saved == [3, 6]
    assert_same_run(tmp_path, state, uninterrupted)


def test_a_run_that_was_killed_continues_from_its_last_checkpoint_bit_for_bit(go, uninterrupted, tmp_path):
    def die():
        raise MemoryError

    with pytest.raises(MemoryError):
        go(tmp_path, at_batch=at(6, die))
    assert steps_on_disk(tmp_path) == [3]
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5]
    start, saved, state = go(tmp_path)
    assert (start, saved) == (3, [6])
    assert_same_run(tmp_path, state, uninterrupted)


def test_a_run_that_is_done_takes_no_step(go, uninterrupted):
    workdir, _, _, expected = uninterrupted
    start, saved, state = go(workdir)
    assert (start, saved) == (6, [])
    assert_same_run(workdir, state, (workdir, start, saved, expected))


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_number_that_is_none_stops_the_run_and_is_not_saved(go, tmp_path, name):
    count = itertools.count(1)

    def diverge(state, batch):
        state, found = training().step(state, batch)
        return state, found | {name: jnp.float32("nan")} if next(count) == 3 else found

    with pytest.raises(FloatingPointError, match=f"{name} is nan at step 3; .* Lower --peak or lengthen --warmup"):
        go(tmp_path, step_function=diverge, log_every=100, save_every=1)
    assert steps_on_disk(tmp_path) == [1, 2]


def test_a_run_with_other_settings_is_not_continued(uninterrupted, subtests):
    workdir, _, _, _ = uninterrupted
    mesh = training().mesh
    run = Run(steps=STEPS + 1, batch=BATCH, seed=5, workdir=workdir, log_every=1, save_every=3, keep=9)
    others = {
        "config: .*depth=2.* there, .*depth=12.* here": {"config": dataclasses.replace(HEAD, image=vit("Ti"))},
        "preprocess: .*resolution=28": {"preprocess": dataclasses.replace(PREPROCESS, resolution=32)},
        "labels: .*'class 9'.* there, .*'class x'.* here": {"labels": (*LABELS[:9], "class x")},
        "tokenizer: None there, '{}' here": {"tokenizer": "{}"},
    }
    for message, changes in others.items():
        with subtests.test(message), pytest.raises(ValueError, match=message) as raised:
            train(task(**changes), run, mesh)
        assert str(raised.value).startswith(f"{workdir} holds a run with other settings:")
        assert str(raised.value).endswith("or give another --workdir")
    for name, value in (("seed", 6), ("batch", 2 * BATCH)):
        with pytest.raises(ValueError, match=f"{name}: {getattr(run, name)} there, {value} here"):
            train(task(), dataclasses.replace(run, **{name: value}), mesh)
    with pytest.raises(ValueError, match=r"examples: .* there, 1 here"):
        train(dataclasses.replace(task(), examples=1), run, mesh)


def test_a_run_that_is_beyond_its_end_says_so(uninterrupted):
    workdir, _, _, _ = uninterrupted
    run = Run(steps=STEPS - 1, batch=BATCH, seed=5, workdir=workdir, log_every=1, save_every=3, keep=9)
    with pytest.raises(ValueError, match=f"has taken {STEPS} steps already; give more --steps"):
        train(task(), run, training().mesh)


@pytest.mark.parametrize("name", ["steps", "batch", "log_every", "save_every", "keep"])
def test_a_run_that_cannot_be_is_named(tmp_path, name):
    settings = dict.fromkeys(("steps", "batch", "seed", "log_every", "save_every", "keep"), 1) | {name: 0}
    with pytest.raises(ValueError, match=f"--{name} is 0; expected 1 or more"):
        Run(workdir=tmp_path, **settings)
