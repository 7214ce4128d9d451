"""Distillation: a small student of the fine-tuned tower, beside the same student of the labels alone.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Both see few images, and
each of them often (by default some 30 times, 4 times each view): a student needs patience (Beyer et al. 2022), which is
a matter of minutes where images are few. What the teacher says of a view is asked once.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from train import distill
from train.evaluation_sets.reading import EvaluationSet
from train.evaluators.accuracy import guessed
from train.evaluators.distillation_gain import Gain, gain
from train.evaluators.features import Doubles
from train.evaluators.few_shot import draw
from train.input import Augment
from train.loop import train
from train.mixture import Mixture, open_mixture
from train.sources.example import Example, Source
from train.state import Step
from train.suite.context import Context
from train.suite.fine_tuning import fine_tuned
from train.suite.outcome import CannotRun, Outcome, Plot
from train.suite.parts import training_part
from train.suite.protocol import Protocol
from train.suite.rows import Rows
from train.suite.training_runs import COMPUTE, asks, folder, optimizer, quiet, right
from train.tower import Tower
from train.tower_opening import open_tower

DISTILLATION = "distillation/1"
DEPTH = 2  # the student is of size mu with so many blocks
TEMPERATURE, PEAK, BATCH = 2.0, 3e-3, 32
SHOTS, VIEWS = 5, 8  # images of each class, crops of each image
AUGMENT = Augment(min_area=0.5, flip=False)


def distillation(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """A small student that learns from the teacher, beside the same one that learns from the labels."""
    test, rows, effort = described.part("test"), Rows(DISTILLATION, described), context.effort
    wanted = test.targets
    if not effort.distil_steps:
        raise CannotRun("--distil_steps is 0; give some to train a student")
    with contextlib.ExitStack() as opened:
        teacher, who = _teacher(context, described, opened)
        taught = right(teacher, test)
        shots = _shots(described)
        distilled = _students(context, described, teacher, shots, label_weight=0.0)
        alone = _students(context, described, teacher, shots, label_weight=1.0)
    settings = {
        "student": f"mu, {DEPTH} blocks, patch {_coarse(context.tower)}",
        "images of a class": shots,
        "views": VIEWS,
        "steps": effort.distil_steps,
        "batch": _batch(described, shots),
        "temperature": TEMPERATURE,
        "teacher": who,
    }
    chance = guessed(wanted)
    yield rows.row("top1 of the teacher", taught, chance, teacher=who)
    for name, each in (("top1, distilled", distilled), ("top1, from labels alone", alone)):
        row = rows.mean(name, each.mean(axis=0), chance, **settings)
        deviation = float(each.mean(axis=1).std(ddof=1)) if effort.seeds > 1 else None
        yield dataclasses.replace(row, deviation=deviation, seeds=effort.seeds)
    found = gain(distilled, alone)
    row = rows.mean("top1, gain of distillation", (distilled - alone).mean(axis=0), None, **settings)
    kind = "bootstrap over images" + (", widened by the deviation over seeds" if effort.seeds > 1 else "")
    yield dataclasses.replace(
        row, interval=found.interval, interval_kind=kind, deviation=found.deviation, seeds=effort.seeds
    )
    yield _plot(rows.data, taught, distilled, alone, found)


def _teacher(context: Context, described: EvaluationSet, opened: contextlib.ExitStack) -> tuple[Tower, str]:
    """The tower as it was fine-tuned; of a served model the model itself, where its head knows the classes."""
    tower = context.tower
    if tower.checkpoint is not None:
        tuned = opened.enter_context(open_tower(f"checkpoint:{fine_tuned(context, described)}"))
        return tuned, "the fine-tuned tower"
    missing = [name for name in described.classes if name not in tower.labels]
    if missing:
        raise CannotRun(
            f"the served model's head does not know {len(missing)} of the {len(described.classes)} classes, such as "
            f"{missing[0]!r}, and its weights are not served; serve one that was fine-tuned on the set"
        )
    return tower, "the served model's own head"


def _students(context: Context, described: EvaluationSet, teacher: Tower, shots: int, label_weight: float) -> Doubles:
    """A student for each seed: 1 where it is right, [seeds, n]."""
    part, test, steps = training_part(described), described.part("test"), context.effort.distil_steps
    (source,), targets = open_mixture((str(part.folder),)).sources, part.targets
    step: Step | None = None
    found = []
    for seed in range(context.effort.seeds):
        few = Mixture((Subset(source, draw(targets, shots, seed)),))
        settings = distill.Settings(
            teacher=teacher.source,
            data=(str(part.folder),),
            workdir=folder(context),
            size="mu",
            patch=_coarse(context.tower),
            resolution=context.tower.preprocess.resolution,
            depth=DEPTH,
            pooling="mean",
            classes="data",
            label_weight=label_weight,
            temperature=TEMPERATURE,
            views=VIEWS,
            steps=steps,
            seed=seed,
            batch=_batch(described, shots),
            augment=AUGMENT,
            optimizer=optimizer(PEAK, steps),
            compute=COMPUTE,
            **quiet(steps),
        )
        mesh = settings.compute.make_mesh()
        task = distill.make_task(settings, few, teacher, mesh)
        # Students differ in nothing that is compiled.
        task = task if step is None else dataclasses.replace(task, step=step)
        step = task.step
        train(task, settings, mesh)
        with open_tower(f"checkpoint:{settings.workdir}") as student:
            found.append(right(student, test))
    return np.stack(found)


def _coarse(tower: Tower) -> int:
    """The student's patch: twice the tower's, for a quarter of its tokens and time, where the images divide so."""
    patch, resolution = tower.config.image.patch, tower.preprocess.resolution
    return 2 * patch if resolution % (2 * patch) == 0 else patch


def _plot(data: str, taught: Doubles, distilled: Doubles, alone: Doubles, found: Gain) -> Plot:
    title = f"Distillation: {100 * found.value:+.1f} points"
    values = {
        "names": ["teacher", "distilled", "from labels"],
        "values": [float(each.mean()) for each in (taught, distilled, alone)],
        "intervals": None,
        "label": "top-1 accuracy",
    }
    return Plot(DISTILLATION, data, "bars", title, values)


def _shots(described: EvaluationSet) -> int:
    """Images of each class, at most as many as the smallest class has.

    Raises:
        CannotRun: a class has none.
    """
    counts = np.bincount(training_part(described).targets, minlength=len(described.classes))
    if not counts.min():
        raise CannotRun(f"no training image shows {described.classes[counts.argmin()]!r}; a student needs some of each")
    return min(SHOTS, int(counts.min()))


def _batch(described: EvaluationSet, shots: int) -> int:
    return min(BATCH, shots * len(described.classes))


class Subset:
    """Some of the examples of a source, in an order of their own; see train.sources.example.Source."""

    def __init__(self, source: Source, places: npt.NDArray[np.int64]) -> None:
        """Takes the source, and the examples [n] by their numbers in it."""
        self.labels, self.where_labels = source.labels, source.where_labels
        self._source, self._places = source, places.tolist()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._places[index]]

    def name(self, index: int) -> str:
        """See Source."""
        return self._source.name(self._places[index])


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        DISTILLATION,
        "Distillation",
        "classification",
        "section 4.2; Beyer et al. 2022",
        f"Top-1 accuracy of a student of size mu with {DEPTH} blocks that learns KL(teacher || student), at a "
        f"temperature of {TEMPERATURE:g}, of {VIEWS} crops of {SHOTS} training images of each class, from its teacher, "
        "the fine-tuned tower (of a served model its own head), and of the same student that learns from the labels of "
        "the same crops alone: means over seeds, which draw the images, and the gain.",
        distillation,
        asks,
    ),
)
