"""Where a run begins: at its first state, or at the last complete checkpoint of the same run.

Between checkpoint and train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. A run is continued with the settings that it had, since with others it would be another run; what those are is
compared field by field, before a weight is read. The length is one of them: the schedule depends on it.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.hosts import on_first
from train.run import Run
from train.skips import Skips
from train.sources.example import Source
from train.state import TrainState
from train.task import Task
from vit22b.checkpoint import Checkpoints
from vit22b.description import Description, read_description
from vit22b.tree import merged


@dataclasses.dataclass
class Position:
    """Where a run stands.

    Attributes:
        step: steps taken.
        state: after them.
        skips: how many of them changed nothing.
    """

    step: int
    state: TrainState
    skips: Skips


def begin_or_continue(task: Task, run: Run, checkpoints: Checkpoints) -> Position:
    """The position of the work directory's last complete checkpoint, or the first one.

    Raises:
        ValueError: the work directory holds a run with other settings; the message lists them.
    """
    step = agreed(checkpoints.latest())
    if step is None:
        return Position(0, task.init(), Skips())
    data = checkpoints.data(step)
    description = read_description(checkpoints.folder / str(step))
    there = {**_description(description), **{name: data.get(name) for name in _settings(task, run)}}
    _compare(run, there, {**_description(task.description), **_settings(task, run)})
    if step > run.steps:
        raise ValueError(
            f"{run.workdir} has taken {step} steps already, --steps is {run.steps}; give more with --allow_changes, or "
            "another --workdir"
        )
    if step < run.steps:
        print(f"{run.workdir}: continuing from step {step}")
    restored = checkpoints.restore(step, items(task.target), beside=task.locked)
    state = TrainState(restored["params"], restored["opt_state"], restored.get("ema"))
    return Position(step, state, Skips.from_json(data.get("skips", {})))


def agreed(step: int | None) -> int | None:
    """The latest step as process 0 sees it: on a shared disk another host may not see the newest folder yet."""
    if jax.process_count() == 1:
        return step
    found = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if step is None else step)))
    return None if found < 0 else found


def save(task: Task, run: Run, checkpoints: Checkpoints, position: Position, metrics: Mapping[str, float]) -> None:
    """Writes a checkpoint of a position in the background; `metrics` are those that it is kept for."""
    trees = items(position.state)
    trees["params"] = merged(task.locked, trees["params"])
    data = {"step": position.step, "skips": dataclasses.asdict(position.skips), **_settings(task, run)}
    checkpoints.save(position.step, trees, data, task.description, metrics)


def items(state: TrainState) -> dict[str, Any]:
    """A state as the items of a checkpoint; there is no average where a run keeps none."""
    return {name: tree for name, tree in state._asdict().items() if tree is not None}


def recipe(settings: Run, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a program's settings say of the training itself, as plain values.

    Left out is what every run has (what of it decides what is learnt is compared by itself), what it is computed with
    (the program adds the dtype), and where the data lie: those may change when a run is continued.

    Args:
        settings: the program's.
        beside: further settings that may change.
    """
    where = {"compute", "hosts", "data", "eval_data", "max_bad_rate"}
    free = {field.name for field in dataclasses.fields(Run)} | where | set(beside)
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in free}


def identity(source: Source) -> str:
    """By what a source is known again, wherever it lies: its length, and a hash of its first and last record's names.

    Of a name, which begins with a path, it takes the last component.
    """
    indices = range(len(source))
    ends = "\0".join(source.name(index).rpartition("/")[2] for index in (*indices[:1], *indices[-1:]))
    return f"{len(source)} records {hashlib.sha256(ends.encode()).hexdigest()[:8]}"


def _description(description: Description) -> dict[str, Any]:
    """What of a description must not change in a run: not the revision of the code, nor where its source lies now."""
    values = description.to_json()
    values["source"] = description.source and description.source["space_id"]
    del values["git_revision"]
    return values


def _settings(task: Task, run: Run) -> dict[str, Any]:
    """What the order of the input and the schedule are functions of, and the recipe."""
    of_run = {"seed": run.seed, "batch": run.batch, "steps": run.steps}
    return {**of_run, "examples": task.examples, "recipe": dict(task.recipe)}


def _compare(run: Run, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    before, now = _flat(there), _flat(here)
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    if not names:
        return
    lines = "\n".join(f"  {name}: {_short(before, name)} there, {_short(now, name)} here" for name in names)
    found = f"{run.workdir} holds a run with other settings:\n{lines}\n"
    if not run.allow_changes:
        raise ValueError(
            found + "continue with the settings that it has, say --allow_changes, or give another --workdir"
        )
    if on_first():
        print(found + "it is continued with those of here, as --allow_changes says", file=sys.stderr)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optimizer.peak": value, ...} of nested mappings, as JSON gives them back: tuples are lists there."""
    flat = {}
    for name, value in json.loads(json.dumps(values)).items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _short(values: Mapping[str, Any], name: str) -> str:
    """A value as a message shows it: a tokenizer or a list of classes by its beginning and a hash."""
    text = repr(values[name]) if name in values else "nothing"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return text if len(text) <= 300 else f"{text[:200]}... (sha256 {digest})"
