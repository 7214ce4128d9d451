"""Distillation: images and a better model in, a smaller model out that answers as the better one does.

    .venv/bin/python train/distill.py --teacher checkpoint:build/finetune --data my/images --workdir build/student ...

The teacher is a checkpoint or a served model (grpc://HOST:PORT/MODEL), whose classes become the student's. It sees what
the student sees, the same crop of the same image mixed with the same other one, and the student learns KL(teacher ||
student) over a long schedule (Beyer et al. 2022). With --views each image has a fixed number of crops, and what the
teacher says of them is asked once and kept. The same command continues a run that was interrupted.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from train import classifier, mixup
from train.architecture import Architecture
from train.checkpoint_tower import CheckpointTower
from train.classifier import (
    Batches,
    Kind,
    Learning,
    Start,
    Supervised,
    first_bias,
    require_labels,
    scores,
)
from train.divergence import TEACHER, Aim, Answer, distillation
from train.feed import local_rows
from train.hosts import joined
from train.input import BadRecords, Order
from train.kept import Kept
from train.loop import train
from train.mixture import Mixture, open_mixture
from train.optimizer import Optimizer, advice, make
from train.task import Task
from train.teaching import Lessons, answers_to_views, asker, identity, in_step
from train.tower import Tower
from train.tower_opening import open_tower
from train.views import StoredViews, view_batches
from vit22b import model, program
from vit22b.config import ModelConfig
from vit22b.description import Description, git_revision
from vit22b.errors import VitError
from vit22b.execution import Execution
from vit22b.preprocess import Preprocess
from vit22b.sharding import batch_sharding
from vit22b.tree import Params, parameter_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Supervised, Architecture):
    """Train a student on what a teacher says of images."""

    teacher: str
    """checkpoint:DIR, or grpc://HOST:PORT/MODEL[/VERSION]; a model with a head."""
    classes: Literal["teacher", "data"] = "teacher"
    """Of the student: all of the teacher's, or those of them that the data have as labels."""
    loss: Kind = "softmax"
    """As the teacher's head was trained: softmax, or sigmoid for the paper's pretraining."""
    temperature: float = 1.0
    """By which the logits of both are divided."""
    label_weight: float = 0.0
    """Share of the loss that the labels have, the teacher has the rest; at 1 it is not asked, for a comparison."""
    mixup: float | None = None
    """Images are mixed in shares of Beta(mixup, mixup), 0 for none; if not given 1, and 0 with --views."""
    views: int = 0
    """Stored views of each image, the teacher's answers to which are kept; 0 for a new view each time."""
    answers: Path | None = None
    """Folder of the kept answers, which runs may share; answers in the work directory if not given."""
    head_bias: float | None = None
    """First value of the head's bias; if not given 0 for softmax, -10 for sigmoid."""
    steps: int = 375_000
    batch: int = 4096
    optimizer: Optimizer = dataclasses.field(
        default_factory=lambda: Optimizer(schedule="cosine", peak=1e-3, head_decay=0.03)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"--temperature is {self.temperature}; expected a number above 0")
        if not 0 <= self.label_weight <= 1:
            raise ValueError(f"--label_weight is {self.label_weight}; expected a share of the loss in [0, 1]")
        if self.views < 0 or (self.mixup or 0) < 0:
            raise ValueError(f"--views is {self.views}, --mixup is {self.mixup}; expected 0 or more")
        if self.views and self.mixup:
            raise ValueError(
                f"--mixup {self.mixup} with --views {self.views}: a teacher's answer to a mixture of two images is no "
                "mixture of its answers to each; leave out one of the two"
            )

    @property
    def mixing(self) -> float:
        """The parameter of mixup, 0 for none."""
        return (0.0 if self.views else 1.0) if self.mixup is None else self.mixup


def distill(settings: Settings) -> None:
    """Runs distillation as the settings say; see train.loop.train for what it raises."""
    with joined(settings.hosts), open_tower(settings.teacher) as teacher:
        mixture = open_mixture(settings.data)
        mesh = settings.compute.make_mesh()
        task = make_task(settings, mixture, teacher, mesh)
        print(
            f"{settings.size}: {parameter_count(task.target.params):,} parameters, {len(mixture):,} images, "
            f"{len(task.description.labels)} classes of {settings.teacher}, mesh "
            f"{'x'.join(map(str, mesh.devices.shape))}"
        )
        if note := advice(settings.optimizer, settings.steps):
            print(note)
        if not settings.compute.shows_sharding(task.target.params, mesh):
            train(task, settings, mesh)


def make_task(settings: Settings, mixture: Mixture, teacher: Tower, mesh: Mesh) -> Task:
    """What is trained: a student of the settings' size, on the images of a mixture, by a teacher.

    Raises:
        ValueError: the settings do not go together, or something that they name cannot be used.
    """
    labels = classes(settings, mixture, teacher)
    columns = [teacher.labels.index(label) for label in labels]
    execution = settings.compute.execution(mesh)
    beside: Params = {}
    answer: Answer | None = None
    if settings.label_weight < 1 and isinstance(teacher, CheckpointTower) and not settings.views:
        # Before anything else asks for its weights, which would then be read onto one device.
        beside, answer = _at_home(settings, teacher, columns, mesh, execution)
    description = describe(settings, teacher, labels)
    graph, _ = model.abstract(description.config)
    aim = Aim(settings.loss, settings.temperature, settings.label_weight, labelled=bool(mixture.labels))
    learning = Learning(
        make(settings.optimizer, settings.steps),
        distillation(aim, graph, description.preprocess, execution, answer),
        scores(graph, description.preprocess, execution, settings.loss),
        batches=_batches(settings, mixture, teacher, description, columns, mesh),
        beside=beside,
        recipe={TEACHER: identity(teacher), "mixup": settings.mixing},
        changeable=(TEACHER, "answers"),
    )
    bias = first_bias(settings.loss, settings.head_bias)
    start = Start(lambda key: model.init(description.config, key, bias))
    return classifier.make_task(settings, mixture, mesh, description, start, learning)


def classes(settings: Settings, mixture: Mixture, teacher: Tower) -> tuple[str, ...]:
    """The student's classes.

    Raises:
        ValueError: the teacher has no head, or lacks a class that it shall teach or that is trained on.
    """
    if not teacher.config.classes:
        raise ValueError(f"{settings.teacher} has no head to teach with; train one with train/finetune.py")
    if settings.classes == "data" or settings.label_weight:
        require_labels(mixture, settings.data)
        if missing := [label for label in mixture.labels if label not in teacher.labels]:
            raise ValueError(
                f"{settings.teacher} does not know {len(missing)} of the {len(mixture.labels)} labels in "
                f"{', '.join(settings.data)}, such as {missing[0]!r}; fine-tune it on them first, or leave out "
                "--classes and --label_weight"
            )
    return mixture.labels if settings.classes == "data" else teacher.labels


def describe(settings: Settings, teacher: Tower, labels: tuple[str, ...]) -> Description:
    """What the checkpoints will say of the student, and of whom it has learnt."""
    image = settings.image
    return Description(
        config=ModelConfig(image, classes=len(labels)),
        preprocess=Preprocess(resolution=image.resolution),
        labels=labels,
        source={TEACHER: str(teacher.checkpoint or teacher.source), "space_id": teacher.space_id},
        git_revision=git_revision(),
    )


def _at_home(
    settings: Settings, teacher: CheckpointTower, columns: Sequence[int], mesh: Mesh, execution: Execution
) -> tuple[Params, Answer]:
    """A checkpoint's weights on the student's mesh, and how they answer there."""
    settings.compute.check_model(teacher.config)
    params = teacher.placed(mesh, settings.compute.rules)
    # Its text tower, if it has one, takes no part.
    config = dataclasses.replace(teacher.config, text=None)
    answer = in_step(config, teacher.preprocess, columns, execution)
    return {TEACHER: {name: params[name] for name in ("image", "head")}}, answer


def _batches(
    settings: Settings, mixture: Mixture, teacher: Tower, description: Description, columns: Sequence[int], mesh: Mesh
) -> Batches:
    """Where a run's batches come from.

    Raises:
        ValueError: the hosts cannot share the work so.
    """
    rows = local_rows(batch_sharding(mesh), settings.batch)
    views = StoredViews(mixture, settings.augment, settings.seed, settings.views)
    asked = settings.label_weight < 1
    lessons = Lessons(
        mixture=mixture,
        augment=settings.augment,
        student=description.preprocess,
        teacher=teacher.preprocess if asked else description.preprocess,
        classes=description.labels,
        mixup=settings.mixing,
        rows=rows,
    )
    if settings.mixing:
        mixup.check_rows(rows, settings.batch)
    if not settings.views:
        ask = asker(teacher, columns) if asked and teacher.checkpoint is None else None
        return lambda order, bad: lessons.batches(order, bad, ask)
    if jax.process_count() > 1:
        raise ValueError(f"--views {settings.views} is of one process, there are {jax.process_count()}; leave it out")

    def stored(order: Order, _: BadRecords) -> Generator[dict[str, Any], None, None]:
        kept = Kept(settings.answers or settings.workdir / "answers")
        answers = answers_to_views(views, lessons, teacher, columns, kept, settings.stop_code) if asked else None
        return view_batches(views, answers, lessons.student, lessons.classes, order, rows)

    return stored


if __name__ == "__main__":
    program.run(distill, Settings, __doc__, failures=(FloatingPointError, VitError))
