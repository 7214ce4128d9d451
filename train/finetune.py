"""Fine-tuning: a checkpoint and labelled images in, a classifier of them out, all of its weights moved.

    .venv/bin/python train/finetune.py --checkpoint build/pretrain --data my/images --workdir build/finetune ...

The head is the checkpoint's where the data have its labels, else a new one; --resolution resizes the position embedding
in 2D, and the checkpoints hold it in its new size. Learning rates may fall with depth (--layer_decay), parts may stand
still (--freeze), and where the weights are averaged (--ema) it is the average that is evaluated and exported. The same
command continues a run that was interrupted.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from train import classifier
from train.classifier import Kind, Learning, Start, Supervised, first_bias, mean_loss, require_labels, scores
from train.hosts import joined
from train.layer_rates import frozen, scaled
from train.loop import train
from train.mixture import Mixture, open_mixture
from train.optimizer import Optimizer, advice, make
from train.task import Task
from vit22b import model, program
from vit22b.checkpoint import load
from vit22b.config import ModelConfig
from vit22b.description import FOLDER, Description, find_step, git_revision, read_description
from vit22b.sharding import param_shardings
from vit22b.tree import Params, divided, merged, parameter_count

MOVED = ("image", "head")  # what of a checkpoint is fine-tuned; its text tower no longer fits images that move


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Supervised):
    """Fine-tune a trained image tower on labelled images."""

    checkpoint: Path
    """Trained image tower: its work directory (the latest step), or one step in it."""
    loss: Kind = "softmax"
    """softmax: one label an image, or several that share alike; sigmoid: the paper's, for any number of labels."""
    resolution: int | None = None
    """Side of the images in pixels; the checkpoint's own if not given."""
    head: Literal["auto", "new"] = "auto"
    """auto: the checkpoint's where the data have its labels, in any order; new: in any case a new one."""
    head_bias: float | None = None
    """First value of a new head's bias, whose kernel begins at 0; if not given 0 for softmax, -10 for sigmoid."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each block to the one before it, such as 0.75; 1 for the same rate in all."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that stand still, such as 'image/blocks/*' 'image/patch_projection/*'."""
    steps: int = 20_000
    batch: int = 512
    optimizer: Optimizer = dataclasses.field(
        default_factory=lambda: Optimizer(schedule="cosine", peak=1e-4, warmup=500, body_decay=0.0, head_decay=0.0)
    )


def finetune(settings: Settings) -> None:
    """Runs fine-tuning as the settings say; see train.loop.train for what it raises."""
    with joined(settings.hosts):
        mixture = open_mixture(settings.data)
        require_labels(mixture, settings.data)
        mesh = settings.compute.make_mesh()
        task = make_task(settings, mixture, mesh)
        assert task.description.source is not None  # see describe
        source = read_description(task.description.source["checkpoint"])
        kept = "the checkpoint's head" if _head_order(settings, source, mixture.labels) is not None else "a new head"
        print(
            f"{settings.checkpoint}: {parameter_count(task.target.params):,} parameters are trained and "
            f"{parameter_count(task.locked):,} stand still, with {kept} of {len(mixture.labels)} classes, on "
            f"{len(mixture):,} images of {task.description.preprocess.resolution} px"
        )
        if source.config.text is not None:
            print("note: the checkpoint's text tower is left out: it was tuned to an image tower that now moves")
        if note := advice(settings.optimizer, settings.steps):
            print(note)
        if not settings.compute.shows_sharding(merged(task.locked, task.target.params), mesh):
            train(task, settings, mesh)


def make_task(settings: Settings, mixture: Mixture, mesh: Mesh) -> Task:
    """What is trained: the checkpoint's image tower under a head of the mixture's classes.

    Raises:
        ValueError: the settings do not go together, or something that they name cannot be used.
    """
    workdir, step = find_step(settings.checkpoint)
    checkpoint = workdir / FOLDER / str(step)  # its training may save another one meanwhile
    source = read_description(checkpoint)
    settings.compute.check_model(source.config)
    found = load(checkpoint, mesh, rules=settings.compute.rules)
    description = describe(settings, source, mixture.labels, checkpoint, found.space_id)
    graph, shapes = model.abstract(description.config)
    still = frozen(settings.freeze, shapes)
    optimizer = scaled(make(settings.optimizer, settings.steps), settings.layer_decay, description.config.image.depth)
    order = _head_order(settings, source, mixture.labels)
    bias = first_bias(settings.loss, settings.head_bias)

    def begin(key: jax.Array, given: Params) -> Params:
        del key  # a new head is no random one
        return begun(given, description.config, order, bias)

    def init(key: jax.Array, given: Params) -> Params:
        return divided(begin(key, given), still)[1]

    def moved(params: Params) -> Params:
        return {name: params[name] for name in MOVED if name in params}

    locked: Params = {}
    if settings.freeze:
        places = divided(param_shardings(shapes, mesh, settings.compute.rules), still)[0]
        locked = jax.jit(lambda given: divided(begin(jax.random.key(0), given), still)[0], out_shardings=places)(
            moved(found.params)
        )
    del found  # else it would lie beside the state of a run that is continued, which has no use for it

    def read() -> Sequence[Params]:
        return (moved(load(checkpoint, mesh, rules=settings.compute.rules).params),)

    given = moved(model.abstract(source.config)[1])
    score = scores(graph, description.preprocess, settings.compute.execution(mesh), settings.loss)
    learning = Learning(optimizer, mean_loss(score), score, locked=locked, changeable=("checkpoint",))
    return classifier.make_task(settings, mixture, mesh, description, Start(init, (given,), read), learning)


def describe(
    settings: Settings, source: Description, labels: tuple[str, ...], checkpoint: Path, space: str
) -> Description:
    """What the checkpoints will say of the model: the tower at its new resolution, the new classes, the source.

    Args:
        settings: of the run.
        source: what the checkpoint that it begins with says of itself.
        labels: of the new head.
        checkpoint: folder of its step.
        space: its space_id.

    Raises:
        ValueError: the patches do not divide the resolution.
    """
    resolution = settings.resolution or source.preprocess.resolution
    image = dataclasses.replace(source.config.image, resolution=resolution)
    return Description(
        config=ModelConfig(image, classes=len(labels)),
        preprocess=dataclasses.replace(source.preprocess, resolution=resolution),
        labels=labels,
        source={"checkpoint": str(checkpoint), "space_id": space},
        git_revision=git_revision(),
    )


def begun(params: Mapping[str, Any], config: ModelConfig, head_order: Sequence[int] | None, head_bias: float) -> Params:
    """The parameters that a fine-tuning begins at.

    Args:
        params: `image` of the checkpoint, and `head` where it has one.
        config: of the model that is fine-tuned: its resolution may be another, and its classes.
        head_order: for each class its place among the checkpoint's; None for a new head, whose kernel is 0.
        head_bias: of a new head.
    """
    image = dict(params["image"])
    table, own = jnp.asarray(image["position_embedding"]), config.image.class_position
    grid = model.resize_positions(table[own:], config.image.tokens)
    image["position_embedding"] = jnp.concatenate([table[:own], grid])
    if head_order is None:
        kernel = jnp.zeros((config.image.width, config.classes))
        return {"image": image, "head": {"kernel": kernel, "bias": jnp.full(config.classes, head_bias, jnp.float32)}}
    columns = jnp.asarray(head_order)
    return {"image": image, "head": {name: leaf[..., columns] for name, leaf in params["head"].items()}}


def _head_order(settings: Settings, source: Description, labels: tuple[str, ...]) -> list[int] | None:
    """For each class its place in the checkpoint's head; None where the head is a new one."""
    if settings.head == "new" or sorted(source.labels) != sorted(labels):
        return None
    return [source.labels.index(label) for label in labels]


if __name__ == "__main__":
    program.run(finetune, Settings, __doc__, failures=(FloatingPointError,))
