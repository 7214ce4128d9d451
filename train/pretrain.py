"""Pretraining: a folder of labelled images in, checkpoints out.

    .venv/bin/python train/pretrain.py --data build/digits/train --workdir build/pretrain --size mu --steps 600 ...

Multi-label sigmoid cross-entropy over all the classes, with the paper's head start values, schedule and optimizer
(Dehghani et al. 2023, section 3): the defaults are the paper's, and every one is a flag. The same command continues a
run that was interrupted. In the work directory: checkpoints/<step>/, metrics.jsonl, tensorboard/.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx

from train.input import Augment, training_batches
from train.loop import Run, Task, recipe, train
from train.optimizer import Optimizer, make, schedule
from train.state import Loss, abstract_state, init_state, make_step
from vit22b import model, program
from vit22b.checkpoint import Description, git_revision
from vit22b.config import ModelConfig, Pooling, Preprocess, vit
from vit22b.folder import read_folder
from vit22b.sharding import make_mesh


@dataclasses.dataclass(frozen=True)
class Settings:
    """Pretrain an image tower on labelled images."""

    data: Path
    """Folder of images: one sub-folder a class, or a metadata.jsonl with "labels"."""
    workdir: Path
    """Where checkpoints and metrics go; a run that is there is continued."""
    size: str = "B"
    """Name of the size: mu, Ti, S, M, B, L, So400m, H, g, G, e, 22b."""
    resolution: int | None = None
    """Side of the images in pixels; the size's own (224, mu: 28) if not given."""
    pooling: Pooling = "map"
    """map: the paper's attention pooling; mean: the mean of the tokens."""
    head_bias: float = model.HEAD_BIAS
    """First value of the head's bias; -log(classes - 1) is the prior of one label an image."""
    steps: int = 177_000
    """Length of the run."""
    batch: int = 65_536
    """Images a step."""
    seed: int = 0
    """Of the initial weights, the order and the augmentation."""
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    augment: Augment = dataclasses.field(default_factory=Augment)
    mesh_data: int = 1
    """Devices along the mesh axis data."""
    mesh_model: int = 1
    """Devices along the mesh axis model."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints to keep."""


def sigmoid_loss(graph: nnx.GraphDef[model.Model], preprocess: Preprocess) -> Loss:
    """The mean over images of the summed sigmoid cross-entropy of all classes, and the share of top-1 hits."""

    def loss(params: model.Params, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        network = nnx.merge(graph, params)
        logits = network.embed_image(model.normalise(batch["pixels"], preprocess))["logits"]
        targets = batch["targets"]
        value = optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1).mean()
        best = jax.numpy.take_along_axis(targets, logits.argmax(axis=-1, keepdims=True), axis=-1)
        return value, {"train_top1": best.mean()}

    return loss


def pretrain(settings: Settings) -> None:
    """Runs pretraining as the settings say; see train.loop.train for what it raises."""
    run = Run(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Run)})
    folder = read_folder(settings.data)
    if not folder.labels:
        raise ValueError(
            f"the images in {settings.data} have no labels to train on; expected one sub-folder for each class, or a "
            'metadata.jsonl with "labels" on its lines'
        )
    description = describe(settings, folder.labels)
    mesh = make_mesh(settings.mesh_data, settings.mesh_model)
    optimizer = make(settings.optimizer, settings.steps)
    graph, _ = model.abstract(description.config)

    def init(key: jax.Array) -> model.Params:
        return model.init(description.config, key, settings.head_bias)

    target = abstract_state(init, optimizer, mesh)
    print(
        f"{settings.size}: {model.parameter_count(target.params):,} parameters, {len(folder.records):,} images, "
        f"{len(folder.labels)} classes, mesh {settings.mesh_data}x{settings.mesh_model}"
    )
    task = Task(
        description=description,
        target=target,
        locked={},
        init=lambda: init_state(init, optimizer, target, run.seed),
        step=make_step(sigmoid_loss(graph, description.preprocess), optimizer, target),
        examples=len(folder.records),
        batches=lambda order: training_batches(folder, description.preprocess, settings.augment, order),
        recipe=recipe(settings),
        learning_rate=schedule(settings.optimizer, run.steps),
    )
    train(task, run, mesh)


def describe(settings: Settings, labels: tuple[str, ...]) -> Description:
    """What the checkpoints will say of the model."""
    changes: dict[str, Any] = {"pooling": settings.pooling}
    if settings.resolution is not None:
        changes["resolution"] = settings.resolution
    image = vit(settings.size, **changes)
    return Description(
        config=ModelConfig(image, classes=len(labels)),
        preprocess=Preprocess(resolution=image.resolution),
        labels=labels,
        git_revision=git_revision(),
    )


if __name__ == "__main__":
    program.run(pretrain, Settings, __doc__, failures=(FloatingPointError,))
