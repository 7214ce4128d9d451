"""Pretraining: a folder of labelled images in, checkpoints out.

    .venv/bin/python train/pretrain.py --data build/digits/train --workdir build/pretrain --size mu --steps 600 ...

Multi-label sigmoid cross-entropy over all the classes, with the paper's head start values, schedule and optimizer
(Dehghani et al. 2023, section 3): the defaults are the paper's, and every one is a flag. The same command continues a
run that was interrupted. In the work directory: checkpoints/<step>/, metrics.jsonl, tensorboard/, profile/.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from train.compute import Compute
from train.evaluators.heldout import HeldOut, Score
from train.feed import local_rows
from train.hosts import Hosts, joined
from train.input import Augment, BadRecords, Order, training_batches
from train.loop import train
from train.mixture import Mixture, open_mixture
from train.optimizer import Optimizer, advice, make, schedule
from train.resume import identity, recipe
from train.run import Run
from train.state import Batch, Loss, Metrics, abstract_state, in_parts, init_state, make_step
from train.task import Probe, Task, Work
from vit22b import flops, model, program
from vit22b.config import ModelConfig, vit
from vit22b.description import Description, git_revision
from vit22b.execution import Execution
from vit22b.preprocess import Preprocess
from vit22b.sharding import batch_sharding, replicated
from vit22b.tree import Params, parameter_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Run):
    """Pretrain an image tower on labelled images."""

    data: tuple[str, ...]
    """Labelled images: a folder (a sub-folder for each class, or a metadata.jsonl with "labels"), tfds:NAME/SPLIT,
    arrayrecord:FILES or tar:FILES; several with weights, as 0.7*photos 0.3*tar:shards/*.tar."""
    max_bad_rate: float = 0.01
    """Share of the records that may be skipped because they cannot be read or decoded."""
    size: str = "B"
    """Name of the size: mu, Ti, S, M, B, L, So400m, H, g, G, e, 22b."""
    resolution: int | None = None
    """Side of the images in pixels; the size's own (224, mu: 28) if not given."""
    patch: int | None = None
    """Side of the patches in pixels; the size's own (16, of mu 4, from So400m on 14) if not given."""
    pooling: Literal["map", "mean"] = "map"
    """map: the paper's attention pooling; mean: the mean of the tokens."""
    head_bias: float = model.HEAD_BIAS
    """First value of the head's bias; -log(classes - 1) is the prior of one label an image."""
    steps: int = 177_000
    batch: int = 65_536
    eval_data: Path | None = None
    """Folder of held-out images with labels; their top-1 accuracy is logged as eval/top1."""
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    augment: Augment = dataclasses.field(default_factory=Augment)
    compute: Compute = dataclasses.field(default_factory=Compute)
    hosts: Hosts = dataclasses.field(default_factory=Hosts)


def scores(graph: nnx.GraphDef[model.Model], preprocess: Preprocess, execution: Execution = Execution()) -> Score:
    """Of each image, [B]: the sigmoid cross-entropy summed over all classes, and whether the best class is a label."""

    def score(params: Params, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        network = nnx.merge(graph, params)
        images = model.normalise(batch["pixels"], preprocess, execution.dtype)
        logits = network.embed_image(images, execution=execution)["logits"]
        targets = batch["targets"]
        best = jnp.take_along_axis(targets, logits.argmax(axis=-1, keepdims=True), axis=-1)
        return {"loss": optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1), "top1": best[:, 0]}

    return score


def sigmoid_loss(graph: nnx.GraphDef[model.Model], preprocess: Preprocess, execution: Execution = Execution()) -> Loss:
    """The means over images of `scores`: the loss, and the share of top-1 hits."""
    score = scores(graph, preprocess, execution)

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, Metrics]:
        found = score(params, batch)
        return found["loss"].mean(), {"train_top1": found["top1"].mean()}

    return loss


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


def pretrain(settings: Settings) -> None:
    """Runs pretraining as the settings say; see train.loop.train for what it raises."""
    with joined(settings.hosts):
        mixture = open_mixture(settings.data)
        if not mixture.labels:
            raise ValueError(
                f"the images in {', '.join(settings.data)} have no labels to train on; expected {mixture.where_labels}"
            )
        mesh = settings.compute.make_mesh()
        task = make_task(settings, mixture, mesh)
        print(
            f"{settings.size}: {parameter_count(task.target.params):,} parameters, {len(mixture):,} images, "
            f"{len(mixture.labels)} classes, mesh {'x'.join(map(str, mesh.devices.shape))}"
        )
        if note := advice(settings.optimizer, settings.steps):
            print(note)
        if not settings.compute.shows_sharding(task.target.params, mesh):
            train(task, settings, mesh)


def make_task(settings: Settings, mixture: Mixture, mesh: Mesh) -> Task:
    """What is trained: the model that the settings describe, on the images of a mixture.

    Raises:
        ValueError: the settings do not go together, or something that they name cannot be used.
    """
    settings.compute.check_batch(settings.batch, mesh)
    description = describe(settings, mixture.labels)
    image, preprocess = description.config.image, description.preprocess
    execution = settings.compute.execution(mesh)
    optimizer = make(settings.optimizer, settings.steps)
    graph, _ = model.abstract(description.config)
    bad = BadRecords(settings.max_bad_rate)
    rows = local_rows(batch_sharding(mesh), settings.batch)

    def init(key: jax.Array) -> Params:
        return model.init(description.config, key, settings.head_bias)

    def names(step: int) -> list[str]:
        order = Order(len(mixture), settings.batch, settings.seed, start=0, steps=settings.steps)
        return mixture.names(order.positions(step - 1), settings.seed)

    target = abstract_state(init, optimizer, mesh, settings.optimizer.ema > 0, settings.compute.rules)
    loss = sigmoid_loss(graph, preprocess, execution)
    return Task(
        description=description,
        target=target,
        locked={},
        init=lambda: init_state(init, optimizer, target, settings.seed),
        step=make_step(loss, optimizer, target, settings.compute.accumulate, settings.optimizer.ema),
        examples=len(mixture),
        batches=lambda order: training_batches(mixture, preprocess, settings.augment, order, rows=rows, bad=bad),
        names=names,
        recipe={
            **recipe(settings),
            "sources": [identity(source) for source in mixture.sources],
            "shares": mixture.shares,
            "dtype": jnp.dtype(execution.dtype).name,
        },
        learning_rate=schedule(settings.optimizer, settings.steps),
        work=Work(image.sequence, flops.train(image, image.sequence)),
        probe=probe(graph, preprocess, execution, settings.compute.accumulate),
        evaluators=evaluators(settings, description, scores(graph, preprocess, execution), mesh),
        counts=lambda: {"bad_records": bad.count},
        best="eval/top1" if settings.eval_data else None,
    )


def evaluators(settings: Settings, description: Description, score: Score, mesh: Mesh) -> dict[str, HeldOut]:
    """What the run is evaluated by, opened before its first step."""
    if settings.eval_data is None:
        return {}
    batch = min(settings.batch, 1024)
    return {"eval": HeldOut(settings.eval_data, description.labels, description.preprocess, score, batch, mesh)}


def describe(settings: Settings, labels: tuple[str, ...]) -> Description:
    """What the checkpoints will say of the model."""
    changes: dict[str, Any] = {"pooling": settings.pooling}
    for name in ("resolution", "patch"):
        if (value := getattr(settings, name)) is not None:
            changes[name] = value
    image = vit(settings.size, **changes)
    return Description(
        config=ModelConfig(image, classes=len(labels)),
        preprocess=Preprocess(resolution=image.resolution),
        labels=labels,
        git_revision=git_revision(),
    )


if __name__ == "__main__":
    program.run(pretrain, Settings, __doc__, failures=(FloatingPointError,))
