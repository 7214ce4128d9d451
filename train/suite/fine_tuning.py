"""End-to-end fine-tuning: the whole tower under the probe's head, at another resolution.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from train import finetune
from train.evaluation_sets.reading import EvaluationSet
from train.evaluators.accuracy import guessed, ranks, within
from train.evaluators.intervals import paired_bootstrap
from train.input import Augment
from train.suite.context import Context
from train.suite.outcome import CannotRun, Outcome
from train.suite.parts import training_part
from train.suite.probes import fitted
from train.suite.protocol import Protocol
from train.suite.rows import Rows
from train.suite.training_runs import COMPUTE, asks, folder, optimizer, quiet, right
from train.tower_opening import open_tower
from vit22b.checkpoint import Checkpoints, load
from vit22b.config import ModelConfig

FINE_TUNING = "fine-tuning/1"
LAYER_DECAY, PEAK, BATCH = 0.75, 1e-3, 32
AUGMENT = Augment(min_area=0.8, flip=False)

_TUNED: WeakKeyDictionary[Context, dict[Path, Path]] = WeakKeyDictionary()


def fine_tuning(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """The tower, fine-tuned at another resolution, beside the linear probe of the tower as it was."""
    test, rows = described.part("test"), Rows(FINE_TUNING, described)
    wanted, workdir = test.targets, fine_tuned(context, described)
    with open_tower(f"checkpoint:{workdir}") as tower:
        tuned = right(tower, test)
        settings = {
            "resolution": tower.preprocess.resolution,
            "steps": context.effort.fine_tune_steps,
            "batch": _batch(described),
            "layer_decay": LAYER_DECAY,
        }
    yield rows.row("top1", tuned, guessed(wanted), **settings)
    probed = within(ranks(fitted(context, described).logits(context.pooled(test.files)), wanted), 1)
    row = rows.mean("top1, gain on the linear probe", tuned - probed, None, probe="L-BFGS", **settings)
    _, low, high = paired_bootstrap(tuned, probed)
    yield dataclasses.replace(row, interval=(low, high), interval_kind="paired bootstrap over images")


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
        checkpoint=_probed(context, described, checkpoint),
        data=(str(part.folder),),
        workdir=folder(context),
        resolution=before + image.patch,
        layer_decay=LAYER_DECAY,
        steps=steps,
        batch=_batch(described),
        augment=AUGMENT,
        optimizer=optimizer(PEAK, steps),
        compute=COMPUTE,
        **quiet(steps),
    )
    finetune.finetune(settings)
    known[described.folder] = settings.workdir
    return settings.workdir


def _probed(context: Context, described: EvaluationSet, checkpoint: Path) -> Path:
    """A checkpoint of the tower with the linear probe as its head."""
    trained, probe = load(checkpoint), fitted(context, described)
    image = trained.description.config.image
    bias = probe.logits(np.zeros((1, image.width)))[0]
    kernel = probe.logits(np.eye(image.width)) - bias  # standardisation and weights are one linear map
    head = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    config = ModelConfig(image, classes=len(described.classes))
    description = dataclasses.replace(trained.description, config=config, labels=described.classes, tokenizer=None)
    workdir = folder(context)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(trained.step, {"params": {"image": trained.params["image"], "head": head}}, {}, description)
    return workdir


def _batch(described: EvaluationSet) -> int:
    return min(BATCH, len(training_part(described)))


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        FINE_TUNING,
        "End-to-end fine-tuning",
        "classification",
        "section 4.2; layer-wise rates: Bao et al. 2022; from a fitted head: Kumar et al. 2022",
        "Top-1 accuracy of the whole tower, fine-tuned on the training part by AdamW with a cosine schedule from the "
        f"L-BFGS probe as its head, the rate of each block {LAYER_DECAY} of the next one's, at a resolution larger by "
        "a patch; and how much that is above the probe of the tower as it was.",
        fine_tuning,
        asks,
    ),
)
