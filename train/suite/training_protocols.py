"""The protocols that train a whole tower: end-to-end fine-tuning, and distillation of what was fine-tuned.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. They run the programs
that a user has, train/finetune.py and train/distill.py, on the sets that ask for it in set.json: `"details":
{"fine_tuning": true}`, since each takes minutes.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from train import distill, finetune
from train.compute import Compute
from train.evaluation_sets.reading import EvaluationSet, Part
from train.evaluators.accuracy import guessed, ranks, within
from train.evaluators.distillation_gain import Gain, gain
from train.evaluators.features import Doubles
from train.evaluators.intervals import paired_bootstrap
from train.input import Augment
from train.loop import train
from train.mixture import open_mixture
from train.optimizer import Optimizer
from train.state import Step
from train.suite.context import Context
from train.suite.outcome import CannotRun, Outcome, Plot
from train.suite.probes import fitted, training_part
from train.suite.protocol import Protocol
from train.suite.shares import Shares
from train.tower import Tower
from train.tower_opening import open_tower

FINE_TUNING, DISTILLATION = "fine-tuning/1", "distillation/1"
ASKED = "fine_tuning"  # in a set's details
LAYER_DECAY, TUNED_BATCH = 0.75, 64
DEPTH, TAUGHT_BATCH = 2, 32  # the student is of size mu with so many blocks
AUGMENT = Augment(min_area=0.5, flip=False)

_TUNED: WeakKeyDictionary[Context, dict[Path, Path]] = WeakKeyDictionary()


def fine_tuning(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """The tower, fine-tuned at another resolution, beside the linear probe of the tower as it was."""
    test, rows = described.part("test"), Shares(FINE_TUNING, described)
    wanted, workdir = test.targets, fine_tuned(context, described)
    with open_tower(f"checkpoint:{workdir}") as tower:
        right = _right(tower, test)
        settings = {
            "resolution": tower.preprocess.resolution,
            "steps": context.effort.fine_tune_steps,
            "batch": TUNED_BATCH,
            "layer_decay": LAYER_DECAY,
        }
    yield rows.row("top1", right, guessed(wanted), **settings)
    probed = within(ranks(fitted(context, described).logits(context.pooled(test.files)), wanted), 1)
    row = rows.mean("top1, gain on the linear probe", right - probed, None, probe="L-BFGS", **settings)
    kind = "paired bootstrap over images"
    yield dataclasses.replace(row, interval=paired_bootstrap(right, probed), interval_kind=kind)


def distillation(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """A small student that learns from the teacher, beside the same one that learns from the labels."""
    test, rows, effort = described.part("test"), Shares(DISTILLATION, described), context.effort
    wanted = test.targets
    if not effort.distil_steps:
        raise CannotRun("--distil_steps is 0; give some to train a student")
    with contextlib.ExitStack() as opened:
        teacher, who = _teacher(context, described, opened)
        taught = _right(teacher, test)
        distilled = _students(context, described, teacher, label_weight=0.0)
        alone = _students(context, described, teacher, label_weight=1.0)
    settings = {"student": f"mu, {DEPTH} blocks", "steps": effort.distil_steps, "batch": TAUGHT_BATCH, "teacher": who}
    chance = guessed(wanted)
    yield rows.row("top1 of the teacher", taught, chance, teacher=who)
    for name, right in (("top1, distilled", distilled), ("top1, from labels alone", alone)):
        row = rows.mean(name, right.mean(axis=0), chance, **settings)
        deviation = float(right.mean(axis=1).std(ddof=1)) if effort.seeds > 1 else None
        yield dataclasses.replace(row, deviation=deviation, seeds=effort.seeds)
    found = gain(distilled, alone)
    row = rows.mean("top1, gain of distillation", (distilled - alone).mean(axis=0), None, **settings)
    kind = "bootstrap over seeds and images"
    yield dataclasses.replace(
        row, interval=found.interval, interval_kind=kind, deviation=found.deviation, seeds=effort.seeds
    )
    yield _plot(rows.data, taught, distilled, alone, found)


def fine_tuned(context: Context, described: EvaluationSet) -> Path:
    """Work directory of the tower, fine-tuned on a set's training part; trained the first time.

    Raises:
        CannotRun: there are no weights to move, no steps to move them in, or no images to move them by.
    """
    checkpoint, steps = context.tower.checkpoint, context.effort.fine_tune_steps
    if checkpoint is None:
        raise CannotRun(
            "a server does not give its model's weights away; name the checkpoint that it was exported from"
        )
    if not steps:
        raise CannotRun("--fine_tune_steps is 0; give some to fine-tune the tower")
    known = _TUNED.setdefault(context, {})
    if described.folder in known:
        return known[described.folder]
    part = training_part(described)
    image, before = context.tower.config.image, context.tower.preprocess.resolution
    settings = finetune.Settings(
        checkpoint=checkpoint,
        data=(str(part.folder),),
        workdir=_folder(context),
        resolution=before + image.patch,
        head="new",
        layer_decay=LAYER_DECAY,
        steps=steps,
        batch=min(TUNED_BATCH, len(part)),
        augment=AUGMENT,
        optimizer=_optimizer(1e-3, steps),
        compute=Compute(dtype="float32"),
        **_quiet(steps),
    )
    finetune.finetune(settings)
    known[described.folder] = settings.workdir
    return settings.workdir


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


def _students(context: Context, described: EvaluationSet, teacher: Tower, label_weight: float) -> Doubles:
    """A student for each seed: 1 where it is right, [seeds, n]."""
    part, test, steps = training_part(described), described.part("test"), context.effort.distil_steps
    image = context.tower.config.image
    step: Step | None = None
    found = []
    for seed in range(context.effort.seeds):
        settings = distill.Settings(
            teacher=teacher.source,
            data=(str(part.folder),),
            workdir=_folder(context),
            size="mu",
            patch=image.patch,
            resolution=context.tower.preprocess.resolution,
            depth=DEPTH,
            pooling="mean",
            classes="data",
            label_weight=label_weight,
            steps=steps,
            seed=seed,
            batch=min(TAUGHT_BATCH, len(part) // 2 * 2),
            augment=AUGMENT,
            optimizer=_optimizer(2e-3, steps),
            compute=Compute(dtype="float32"),
            **_quiet(steps),
        )
        mesh = settings.compute.make_mesh()
        task = distill.make_task(settings, open_mixture(settings.data), teacher, mesh)
        # Students differ in nothing that is compiled.
        task = task if step is None else dataclasses.replace(task, step=step)
        step = task.step
        train(task, settings, mesh)
        with open_tower(f"checkpoint:{settings.workdir}") as student:
            found.append(_right(student, test))
    return np.stack(found)


def _right(tower: Tower, test: Part) -> Doubles:
    """1 where a tower's head says an image's class, among those of the set that it knows; [n]."""
    logits, classes = tower.logits(test.files), test.set.classes
    scores = np.full((len(test), len(classes)), np.finfo(np.float32).min)
    for column, name in enumerate(classes):
        if name in tower.labels:
            scores[:, column] = logits[:, tower.labels.index(name)]
    return within(ranks(scores, test.targets), 1)


def _plot(data: str, taught: Doubles, distilled: Doubles, alone: Doubles, found: Gain) -> Plot:
    title = f"Distillation: {100 * found.value:+.1f} points"
    values = {
        "names": ["teacher", "distilled", "from labels"],
        "values": [float(right.mean()) for right in (taught, distilled, alone)],
        "intervals": None,
        "label": "top-1 accuracy",
    }
    return Plot(DISTILLATION, data, "bars", title, values)


def _folder(context: Context) -> Path:
    """A new folder of the evaluation's own: what an earlier one left must not be continued."""
    context.scratch.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=context.scratch))


def _optimizer(peak: float, steps: int) -> Optimizer:
    return Optimizer(
        "adamw", schedule="cosine", peak=peak, warmup=max(steps // 10, 1), body_decay=0.03, head_decay=0.03
    )


def _quiet(steps: int) -> dict[str, int]:
    """The settings of a run that says and leaves as little as may be."""
    return {"log_every": steps, "signals_every": 0, "save_every": steps, "keep": 1}


def _asks(described: EvaluationSet) -> bool:
    return bool(described.details.get(ASKED))


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        FINE_TUNING,
        "End-to-end fine-tuning",
        "classification",
        "section 4.2; layer-wise rates: Bao et al. 2022",
        "Top-1 accuracy of the whole tower under a new head, fine-tuned on the training part by AdamW with a cosine "
        f"schedule, the rate of each block {LAYER_DECAY} of the next one's, at a resolution that is larger by a patch; "
        "and how much that is above the L-BFGS probe of the tower as it was.",
        fine_tuning,
        _asks,
    ),
    Protocol(
        DISTILLATION,
        "Distillation",
        "classification",
        "section 4.2; Beyer et al. 2022",
        f"Top-1 accuracy of a student of size mu with {DEPTH} blocks that learns KL(teacher || student) on the same "
        "mixed crops as its teacher, the fine-tuned tower (of a served model its own head), and of the same student "
        "that learns from the labels of the same images alone, with the same crops and mixtures: means over seeds, and "
        "the gain.",
        distillation,
        _asks,
    ),
)
