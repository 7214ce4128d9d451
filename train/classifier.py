"""What the programs that train a classifier share: their settings, their losses, and the task that is made of them.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
train/pretrain.py begins at random weights, train/finetune.py at those of a checkpoint, and train/distill.py learns from
what another model answers.
"""

import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from train.compute import Compute
from train.evaluators.heldout import Flatten, HeldOut, Score
from train.feed import local_rows
from train.hosts import Hosts
from train.input import Augment, BadRecords, Order, training_batches
from train.mixture import Mixture
from train.optimizer import Optimizer, schedule
from train.resume import identity, recipe
from train.run import Run
from train.state import Batch, Loss, Metrics, abstract_state, in_parts, init_state, make_step
from train.task import Probe, Task, Work
from train.training_compute import image_flops
from vit22b import model
from vit22b.description import Description
from vit22b.execution import Execution
from vit22b.preprocess import Preprocess
from vit22b.sharding import batch_sharding, replicated
from vit22b.tree import Params, leaves, merged

Kind = Literal["sigmoid", "softmax"]
Batches = Callable[[Order, BadRecords], Generator[Mapping[str, Any], None, None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Run):
    """The settings of a run on images, by which it is trained and evaluated."""

    data: tuple[str, ...]
    """Labelled images: a folder (a sub-folder for each class, or a metadata.jsonl with "labels"), tfds:NAME/SPLIT,
    arrayrecord:FILES or tar:FILES; several with weights, as 0.7*photos 0.3*tar:shards/*.tar."""
    max_bad_rate: float = 0.01
    """Share of the records that may be skipped because they cannot be read or decoded."""
    eval_data: Path | None = None
    """Folder of held-out images with labels; their top-1 accuracy is logged as eval/top1."""
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    augment: Augment = dataclasses.field(default_factory=Augment)
    compute: Compute = dataclasses.field(default_factory=Compute)
    hosts: Hosts = dataclasses.field(default_factory=Hosts)


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run begins at.

    Attributes:
        init: makes the parameters that are trained of a key, and of what is given.
        given: shapes of the trees that `init` takes behind the key.
        read: gives those trees; called when a run begins, and not when it is continued.
    """

    init: Callable[..., Params]
    given: Sequence[Any] = ()
    read: Callable[[], Sequence[Any]] = tuple


@dataclasses.dataclass(frozen=True)
class Learning:
    """How a model learns.

    Attributes:
        optimizer: makes updates of gradients.
        loss: of all the parameters and a batch.
        score: what held-out images are judged by.
        batches: of an order, counting the records that cannot be used; labelled images by default.
        locked: parameters of the model that no step changes.
        beside: what else the loss is given in one tree with the parameters, such as a teacher.
        recipe: what decides what is learnt, beyond the settings.
        changeable: settings that may change when a run is continued.
        flatten: gives the classes that the labels of a held-out image stand for, as the mixture's have them.
    """

    optimizer: optax.GradientTransformation
    loss: Loss
    score: Score
    batches: Batches | None = None
    locked: Params = dataclasses.field(default_factory=dict)
    beside: Params = dataclasses.field(default_factory=dict)
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    changeable: tuple[str, ...] = ()
    flatten: Flatten = tuple


def label_loss(kind: Kind, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """What an image's logits lose by its labels.

    Args:
        kind: sigmoid sums binary cross-entropy over all classes. softmax is cross-entropy with one distribution, in
            which several labels of an image share alike; an image without a label counts nothing.
        logits: [B, Y].
        targets: [B, Y], 1 where an image has a label, or its share in a mixture of images.

    Returns:
        [B].
    """
    if kind == "sigmoid":
        return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)
    shares = targets / jnp.maximum(targets.sum(axis=-1, keepdims=True), 1.0)
    return optax.safe_softmax_cross_entropy(logits, shares)


def hits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Of each image, [B]: the target of its best class, 1 where that is a label of it."""
    return jnp.take_along_axis(targets, logits.argmax(axis=-1, keepdims=True), axis=-1)[:, 0]


def scores(
    graph: nnx.GraphDef[model.Model],
    preprocess: Preprocess,
    execution: Execution = Execution(),
    kind: Kind = "sigmoid",
    among: Sequence[int] | None = None,
) -> Score:
    """Of each image, [B]: what it loses by its labels (see label_loss), and whether the best class is a label.

    Args:
        graph: of the model.
        preprocess: of its images.
        execution: how it runs.
        kind: of the loss.
        among: classes that the best one is looked for among; all if None. Where classes lie above others, those above
            are the likelier: one of them would be best of nearly every image, and right.
    """
    chosen = slice(None) if among is None else np.asarray(among)

    def score(params: Params, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        network = nnx.merge(graph, params)
        images = model.normalise(batch["pixels"], preprocess, execution.dtype)
        logits = network.embed_image(images, execution=execution)["logits"]
        targets = batch["targets"]
        return {"loss": label_loss(kind, logits, targets), "top1": hits(logits[:, chosen], targets[:, chosen])}

    return score


def mean_loss(score: Score) -> Loss:
    """The means over images of a score: the loss, and the share of top-1 hits."""

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, Metrics]:
        found = score(params, batch)
        return found["loss"].mean(), {"train_top1": found["top1"].mean()}

    return loss


def sigmoid_loss(graph: nnx.GraphDef[model.Model], preprocess: Preprocess, execution: Execution = Execution()) -> Loss:
    """The paper's: binary cross-entropy summed over all classes, its mean over images."""
    return mean_loss(scores(graph, preprocess, execution))


def probe(graph: nnx.GraphDef[model.Model], preprocess: Preprocess, execution: Execution, accumulate: int = 1) -> Probe:
    """The image tower's stability signals by layer, compiled; see vit22b.stack.observe.

    It looks at the first of the parts that a step computes a batch in: where a step fits, so does the probe.
    """
    mesh = execution.mesh

    @functools.partial(jax.jit, out_shardings=None if mesh is None else replicated(mesh))
    def observe(params: Params, pixels: jax.Array) -> Metrics:
        if mesh is not None:
            pixels = in_parts(pixels, accumulate, mesh)[0]
        images = model.normalise(pixels, preprocess, execution.dtype)
        return nnx.merge(graph, params).observe(images, execution)

    return lambda params, batch: observe(params, batch["pixels"])


def first_bias(kind: Kind, given: float | None) -> float:
    """The first value of a new head's bias: what is given, else 0 for a softmax, and for the sigmoid the paper's."""
    return given if given is not None else 0.0 if kind == "softmax" else model.HEAD_BIAS


def require_labels(mixture: Mixture, data: Sequence[str]) -> None:
    """Raises ValueError where no image has a label to train on."""
    if not mixture.labels:
        raise ValueError(f"the images in {', '.join(data)} have no labels to train on; expected {mixture.where_labels}")


def make_task(
    settings: Supervised, mixture: Mixture, mesh: Mesh, description: Description, start: Start, learning: Learning
) -> Task:
    """The task of training a described model on the images of a mixture.

    Raises:
        ValueError: the settings do not go together, or something that they name cannot be used.
    """
    settings.compute.check_batch(settings.batch, mesh)
    image, preprocess = description.config.image, description.preprocess
    execution = settings.compute.execution(mesh)
    graph, shapes = model.abstract(description.config)
    bad = BadRecords(settings.max_bad_rate)
    rows = local_rows(batch_sharding(mesh), settings.batch)
    optimizer, ema, accumulate = learning.optimizer, settings.optimizer.ema, settings.compute.accumulate

    def labelled(order: Order, bad: BadRecords) -> Generator[Mapping[str, Any], None, None]:
        return training_batches(mixture, preprocess, settings.augment, order, rows=rows, bad=bad)

    def names(step: int) -> list[str]:
        order = Order(len(mixture), settings.batch, settings.seed, start=0, steps=settings.steps)
        return mixture.names(order.positions(step - 1), settings.seed)

    target = abstract_state(start.init, optimizer, mesh, ema > 0, settings.compute.rules, start.given)
    beside = merged(learning.locked, learning.beside)
    batches = learning.batches or labelled
    return Task(
        description=description,
        target=target,
        locked=learning.locked,
        init=lambda: init_state(start.init, optimizer, target, settings.seed, start.read()),
        step=make_step(learning.loss, optimizer, target, accumulate, ema, beside),
        examples=len(mixture),
        batches=lambda order: batches(order, bad),
        names=names,
        recipe={
            **recipe(settings, learning.changeable),
            "sources": [identity(source) for source in mixture.sources],
            "shares": mixture.shares,
            "dtype": jnp.dtype(execution.dtype).name,
            **learning.recipe,
        },
        learning_rate=schedule(settings.optimizer, settings.steps),
        work=Work(image.sequence, image_flops(description.config, shapes, leaves(learning.locked).__contains__)),
        probe=probe(graph, preprocess, execution, accumulate),
        evaluators=evaluators(settings, description, learning, mesh),
        counts=lambda: {"bad_records": bad.count},
        best="eval/top1" if settings.eval_data else None,
    )


def evaluators(settings: Supervised, description: Description, learning: Learning, mesh: Mesh) -> dict[str, HeldOut]:
    """What the run is evaluated by, opened before its first step."""
    if settings.eval_data is None:
        return {}
    batch, labels, preprocess = min(settings.batch, 1024), description.labels, description.preprocess
    return {
        "eval": HeldOut(settings.eval_data, labels, preprocess, learning.score, batch, mesh, flatten=learning.flatten)
    }
