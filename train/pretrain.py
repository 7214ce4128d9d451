"""Pretraining: a folder of labelled images in, checkpoints out.

    .venv/bin/python train/pretrain.py --data build/digits/train --workdir build/pretrain --size mu --steps 600 ...

Multi-label sigmoid cross-entropy over all the classes, with the paper's head start values, schedule and optimizer
(Dehghani et al. 2023, section 3): the defaults are the paper's, and every one is a flag. The same command continues a
run that was interrupted. In the work directory: checkpoints/<step>/, metrics.jsonl, tensorboard/, profile/.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
from pathlib import Path

import jax
from jax.sharding import Mesh

from train import classifier
from train.architecture import Architecture
from train.classifier import Learning, Start, Supervised, mean_loss, require_labels, scores
from train.hierarchy import Hierarchy, read_hierarchy
from train.hosts import joined
from train.loop import train
from train.mixture import Mixture, open_mixture
from train.optimizer import advice, make
from train.task import Task
from vit22b import model, program
from vit22b.config import ModelConfig
from vit22b.description import Description, git_revision
from vit22b.preprocess import Preprocess
from vit22b.tree import Params, parameter_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Supervised, Architecture):
    """Pretrain an image tower on labelled images."""

    head_bias: float = model.HEAD_BIAS
    """First value of the head's bias; -log(classes - 1) is the prior of one label an image."""
    hierarchy: Path | None = None
    """Table of the classes above classes (train/hierarchy.py): a label stands for all that is above it too, in training
    and in --eval_data, and top-1 is of the classes that are above none. A .json of {"class": ["class above it"]}, or a
    .tsv with a class and one above it on a line."""
    steps: int = 177_000
    batch: int = 65_536


def pretrain(settings: Settings) -> None:
    """Runs pretraining as the settings say; see train.loop.train for what it raises."""
    with joined(settings.hosts):
        mixture = open_mixture(settings.data)
        require_labels(mixture, settings.data)
        hierarchy = None if settings.hierarchy is None else read_hierarchy(settings.hierarchy)
        mixture = mixture if hierarchy is None else hierarchy.over(mixture)
        mesh = settings.compute.make_mesh()
        task = make_task(settings, mixture, mesh, hierarchy)
        print(
            f"{settings.size}: {parameter_count(task.target.params):,} parameters, {len(mixture):,} images, "
            f"{len(mixture.labels)} classes, mesh {'x'.join(map(str, mesh.devices.shape))}"
        )
        if note := advice(settings.optimizer, settings.steps):
            print(note)
        if not settings.compute.shows_sharding(task.target.params, mesh):
            train(task, settings, mesh)


def make_task(settings: Settings, mixture: Mixture, mesh: Mesh, hierarchy: Hierarchy | None = None) -> Task:
    """What is trained: the model that the settings describe, on the images of a mixture.

    Args:
        settings: of the run.
        mixture: its images; their labels are flattened already, where there is a hierarchy.
        mesh: that it is computed on.
        hierarchy: of the classes, or None.

    Raises:
        ValueError: the settings do not go together, or something that they name cannot be used.
    """
    description = describe(settings, mixture.labels)
    graph, _ = model.abstract(description.config)
    among = None if hierarchy is None else hierarchy.lowest(description.labels)
    score = scores(graph, description.preprocess, settings.compute.execution(mesh), among=among)

    def init(key: jax.Array) -> Params:
        return model.init(description.config, key, settings.head_bias)

    learning = Learning(
        make(settings.optimizer, settings.steps),
        mean_loss(score),
        score,
        recipe={} if hierarchy is None else {"hierarchy": hierarchy.digest},
        changeable=("hierarchy",),  # where the table lies; what is in it may not change
        flatten=tuple if hierarchy is None else hierarchy.flattened,
    )
    return classifier.make_task(settings, mixture, mesh, description, Start(init), learning)


def describe(settings: Settings, labels: tuple[str, ...]) -> Description:
    """What the checkpoints will say of the model."""
    image = settings.image
    return Description(
        config=ModelConfig(image, classes=len(labels)),
        preprocess=Preprocess(resolution=image.resolution),
        labels=labels,
        git_revision=git_revision(),
    )


if __name__ == "__main__":
    program.run(pretrain, Settings, __doc__, failures=(FloatingPointError,))
