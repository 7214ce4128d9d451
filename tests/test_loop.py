import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.towers import BATCH, HEAD, PREPROCESS, SETTINGS, STEPS, random_batch, training
from train import resume
from train.input import index_batches
from train.loop import train
from train.optimizer import schedule
from train.run import Run
from train.task import Task
from vit22b.checkpoint import Checkpoints
from vit22b.config import vit
from vit22b.description import Description
from vit22b.program import Interrupted

RATES = ("images_per_second", "input_wait")  # what no two runs have in common


RECIPE = {"optimizer": {"peak": 0.001}, "crops": (1, 2)}
LABELS = tuple(f"class {i}" for i in range(HEAD.classes))
DESCRIPTION = Description(HEAD, PREPROCESS, LABELS)


def task(at_start=lambda _: None, step_function=None, **changes):
    """What the tests train: as the programs do, but from memory. `at_start` is called with the step it begins at."""
    setup = training()
    examples = [random_batch(seed) for seed in range(3)]
    pixels, targets = (np.concatenate([batch[key] for batch in examples]) for key in ("pixels", "targets"))
    fields = {field.name: changes.pop(field.name) for field in dataclasses.fields(Task) if field.name in changes}

    def batches(order):
        at_start(order.start)
        return ({"pixels": pixels[index], "targets": targets[index]} for index in index_batches(order))

    return Task(
        **{
            "description": dataclasses.replace(DESCRIPTION, **changes),
            "target": setup.target,
            "locked": {},
            "init": setup.start,
            "step": step_function or setup.step,
            "examples": len(pixels),
            "batches": batches,
            "names": lambda step: [f"{step}-{row}.png" for row in range(BATCH)],
            "learning_rate": schedule(SETTINGS, STEPS),
            "recipe": RECIPE,
            **fields,
        }
    )


@pytest.fixture(scope="module")
def go():
    """Begins or continues the run of a work directory; returns where it began, what it saved, and the last state.

    `at_step` and `at_save` are called with the number of a step as it is taken and as it is saved.
    """

    def call(workdir, at_step=lambda _: None, at_save=lambda _: None, step_function=None, fields=None, **changes):
        settings = {"steps": STEPS, "batch": BATCH, "seed": 5, "log_every": 1, "save_every": 3, "keep": 9} | changes
        starts, saved = [], []

        class Recorded(Checkpoints):
            def save(self, step, *state):
                super().save(step, *state)
                saved.append(step)
                at_save(step)

        def step(state, batch):
            at_step(next(count))
            return (step_function or training().step)(state, batch)

        def begin(start):
            nonlocal count
            starts.append(start)
            count = itertools.count(start + 1)

        count = itertools.count(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("train.loop.Checkpoints", Recorded)
            run = Run(workdir=workdir, **settings)
            state = train(task(begin, step, **(fields or {})), run, training().mesh)
        return starts[0] if starts else STEPS, saved, jax.tree.map(np.asarray, state)

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
    assert set(found[0]) == {
        *("step", "loss", "grad_norm", "layer_grad_norm", "train_top1", "learning_rate", "skipped")
    }
    assert [line["learning_rate"] for line in found] == [float(schedule(SETTINGS, STEPS)(i)) for i in range(1, 7)]
    rates = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert rates["images_per_second"] > 0
    assert 0 <= rates["input_wait"] <= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_and_continues_bit_for_bit(go, uninterrupted, tmp_path, number):
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped at step 4 of 6; the same command continues from there"):
        go(tmp_path, at_step=at(4, send(number)))
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
    _, saved, state = go(tmp_path, at_step=at(6, send(signal.SIGTERM)))
    assert saved == [3, 6]
    assert_same_run(tmp_path, state, uninterrupted)


def test_a_run_that_was_killed_continues_from_its_last_checkpoint_bit_for_bit(go, uninterrupted, tmp_path):
    def die():
        raise MemoryError

    with pytest.raises(MemoryError):
        go(tmp_path, at_step=at(6, die))
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


def diverging(name, steps):
    """A step whose metric is nan at these steps."""
    count = itertools.count(1)

    def step(state, batch):
        state, found = training().step(state, batch)
        return state, found | {name: jnp.float32("nan")} if next(count) in steps else found

    return step


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_too_many_skipped_steps_in_a_row_stop_the_run(go, tmp_path, name):
    last = re.escape(
        f"the last good checkpoint is {tmp_path}/checkpoints/4. Look at those records; or say --allow_changes with a"
    )
    records = r"its batch is 5-0.png, .*, 5-7.png; "
    with pytest.raises(
        FloatingPointError, match=f"{name} is nan at step 5, the last of 2 such steps in a row; {records}{last}"
    ):
        go(tmp_path, step_function=diverging(name, {2, 4, 5}), save_every=1, max_skipped=2)
    assert steps_on_disk(tmp_path) == [1, 2, 3, 4]
    assert [line["skipped"] for line in metrics(tmp_path)] == [0, 1, 1, 2]
    assert metrics(tmp_path)[1][name] is None
    # A skipped step does not move the schedule.
    rates = [line["learning_rate"] for line in metrics(tmp_path)]
    assert rates == [float(schedule(SETTINGS, STEPS)(taken)) for taken in (1, 1, 2, 2)]


def test_a_continued_run_counts_the_skipped_steps_before_it(go, tmp_path):
    with pytest.raises(Interrupted):
        go(tmp_path, at_step=at(2, send(signal.SIGTERM)), step_function=diverging("loss", {2}), max_skipped=2)
    with pytest.raises(FloatingPointError, match="loss is nan at step 3"):
        go(tmp_path, step_function=diverging("loss", {1}), max_skipped=2)


def test_a_run_with_other_settings_is_not_continued(uninterrupted, subtests):
    workdir, _, _, _ = uninterrupted
    mesh = training().mesh
    run = Run(steps=STEPS, batch=BATCH, seed=5, workdir=workdir, log_every=1, save_every=3, keep=9)
    others = {
        "config.image.depth: 2 there, 12 here": {"config": dataclasses.replace(HEAD, image=vit("Ti"))},
        "preprocess.resolution: 28 there, 32 here": {"preprocess": dataclasses.replace(PREPROCESS, resolution=32)},
        "labels: .*'class 9'.* there, .*'class x'.* here": {"labels": (*LABELS[:9], "class x")},
        "tokenizer: None there, '{}' here": {"tokenizer": "{}"},
        "recipe.optimizer.peak: 0.001 there, 0.1 here\n  [^:]*: ": {"recipe": {"optimizer": {"peak": 0.1}}},
        r"recipe.crops: \[1, 2\] there, nothing here": {"recipe": {"optimizer": {"peak": 0.001}}},
    }
    for message, changes in others.items():
        with subtests.test(message), pytest.raises(ValueError, match=message) as raised:
            train(task(**changes), run, mesh)
        assert str(raised.value).startswith(f"{workdir} holds a run with other settings:")
        assert str(raised.value).endswith("or give another --workdir")
    for name, value in (("seed", 6), ("batch", 2 * BATCH), ("steps", STEPS + 1)):
        with pytest.raises(ValueError, match=f"{name}: {getattr(run, name)} there, {value} here"):
            train(task(), dataclasses.replace(run, **{name: value}), mesh)
    with pytest.raises(ValueError, match=r"examples: 24 there, 1 here"):
        train(dataclasses.replace(task(), examples=1), run, mesh)


def test_changes_are_allowed_when_they_are_said_to_be(go, uninterrupted, tmp_path, capsys):
    shutil.copytree(uninterrupted[0] / "checkpoints", tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    start, saved, _ = go(tmp_path, fields={"recipe": {"optimizer": {"peak": 0.1}}}, allow_changes=True)
    assert (start, saved) == (3, [6])
    told = capsys.readouterr().err
    assert "recipe.optimizer.peak: 0.001 there, 0.1 here" in told
    assert "continued with those of here" in told


def test_a_run_is_evaluated_and_keeps_the_best(go, tmp_path):
    """The evaluator gets the weights of the step; the best and the latest checkpoint are kept."""
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.4, 0.5])
    seen = []

    def evaluator(params):
        seen.append(np.asarray(params["head"]["bias"]))
        return {"top1": next(scores)}

    fields = {"evaluators": {"eval": evaluator}, "best": "eval/top1"}
    _, saved, state = go(tmp_path, fields=fields, save_every=1, keep=1, keep_best=1, log_every=4)
    assert saved == [1, 2, 3, 4, 5, 6]
    assert steps_on_disk(tmp_path) == [2, 6]
    assert [line["eval/top1"] for line in metrics(tmp_path)] == [0.1, 0.9, 0.2, 0.3, 0.4, 0.5]
    np.testing.assert_array_equal(seen[-1], state.params["head"]["bias"])


def test_the_best_need_an_evaluation(go, tmp_path):
    with pytest.raises(ValueError, match="--keep_best 1 needs an evaluation to choose by; give --eval_data"):
        go(tmp_path, keep_best=1)


def test_signals_are_logged_by_layer_when_they_are_due(go, tmp_path):
    fields = {"probe": lambda _, batch: {"max_logit": jnp.array([1.0, 2.0 + batch["pixels"].shape[0]])}}
    go(tmp_path, fields=fields, signals_every=2)
    found = metrics(tmp_path)
    assert [line.get("max_logit") for line in found] == [None, [1.0, 2.0 + BATCH]] * 3
    assert [len(line["layer_grad_norm"]) for line in found] == [HEAD.image.depth] * 6


def test_signals_that_are_due_have_a_line_of_their_own(go, tmp_path):
    fields = {"probe": lambda *_: {"max_logit": jnp.array([1.0])}}
    go(tmp_path, fields=fields, signals_every=2, log_every=3)
    assert [(line["step"], "max_logit" in line) for line in metrics(tmp_path)] == [
        (2, True),
        (3, False),
        (4, True),
        (6, True),
    ]


def test_a_profile_is_written_of_the_steps_that_it_names(go, tmp_path):
    go(tmp_path, profile="2:3")
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0


def test_what_the_profiler_takes_is_no_time_of_a_step(go, tmp_path, monkeypatch):
    """On a clock on which every reading takes a millisecond, and the profiler 100 s."""
    now = types.SimpleNamespace(seconds=0.0)

    def take(seconds):
        now.seconds += seconds
        return now.seconds

    monkeypatch.setattr("train.clock.time", types.SimpleNamespace(perf_counter=lambda: take(0.001)))
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(f"jax.profiler.{name}", lambda *_: take(100.0))
    go(tmp_path, profile="2:3")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["images_per_second"] > BATCH for line in lines)


def test_a_run_that_begins_inside_the_window_traces_the_rest(go, uninterrupted, tmp_path, capsys):
    shutil.copytree(uninterrupted[0] / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
    start, _, _ = go(tmp_path, profile="2:5")
    assert start == 3
    assert capsys.readouterr().out.count("the profiler's trace") == 1
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_run_that_is_beyond_its_end_says_so(uninterrupted):
    workdir, _, _, _ = uninterrupted
    run = Run(steps=STEPS - 1, batch=BATCH, seed=5, workdir=workdir, keep=9, allow_changes=True)
    told = f"has taken {STEPS} steps already, --steps is {STEPS - 1}; give more with --allow_changes, or another"
    with pytest.raises(ValueError, match=told):
        train(task(), run, training().mesh)


def test_a_run_is_made_longer_when_it_is_said_to_be(go, uninterrupted, tmp_path, capsys):
    shutil.copytree(uninterrupted[0] / "checkpoints", tmp_path / "checkpoints")
    start, saved, _ = go(tmp_path, steps=STEPS + 2, allow_changes=True)
    assert (start, saved) == (STEPS, [STEPS + 2])
    assert f"steps: {STEPS} there, {STEPS + 2} here" in capsys.readouterr().err


def test_the_description_is_read_of_the_step_that_is_restored(uninterrupted, tmp_path):
    """Another host may see a later step than the first one does; that is not looked at."""
    shutil.copytree(uninterrupted[0] / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "6" / "model" / "model.json").write_text("{}")
    run = Run(steps=STEPS, batch=BATCH, seed=5, workdir=tmp_path, keep=9)
    with pytest.MonkeyPatch.context() as patch, Checkpoints(tmp_path) as checkpoints:
        patch.setattr(checkpoints, "latest", lambda: 3)
        assert resume.begin_or_continue(task(), run, checkpoints).step == 3


@pytest.mark.parametrize("keep_best", [0, 1])
def test_a_run_whose_evaluation_fails_has_saved_its_step(go, tmp_path, keep_best):
    def evaluator(_):
        raise ValueError("this image was overwritten")

    fields = {"evaluators": {"eval": evaluator}, "best": "eval/top1"}
    with pytest.raises(ValueError, match="this image was overwritten"):
        go(tmp_path, fields=fields, eval_every=2, save_every=4, keep_best=keep_best)
    assert steps_on_disk(tmp_path) == [2]
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]
