"""What a teacher says of training images, on its way into a student's batches or into its step.

Between input and train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
A teacher is any model of ours with a head, a checkpoint or a served one (train/tower.py). One whose weights lie here
answers inside the student's step, on its devices; a served one is asked while the step before is taken; and of stored
views each is asked once.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

from train import mixup
from train.divergence import ANSWERS, Answer
from train.input import Augment, BadRecords, Order, training_batches
from train.kept import Kept
from train.mixture import Indices, Mixture
from train.stop import StopSignal
from train.tower import Floats, Tower
from train.views import StoredViews, stored_answers
from vit22b import model
from vit22b.config import ModelConfig
from vit22b.execution import Execution
from vit22b.preprocess import Preprocess
from vit22b.program import Interrupted
from vit22b.tree import Params

ASKED = 256  # images at once
TEACHER_PIXELS = "teacher_pixels"
PROBE_TOLERANCE = 1e-3  # of the largest number in an answer: two computers differ by some 1e-6

Ask = Callable[[npt.NDArray[np.uint8]], Floats]


@dataclasses.dataclass(frozen=True)
class Lessons:
    """The images of a run as a student and its teacher see them.

    Attributes:
        mixture: the images.
        augment: what is cut out of them; the same for both.
        student: the student's preprocessing.
        teacher: the teacher's; the same part of an image is resized to each one's resolution, by each one's method.
        classes: the student's; labels that are none of them are passed over.
        mixup: of Beta(mixup, mixup), 0 for none.
        rows: of each batch that this host reads.
    """

    mixture: Mixture
    augment: Augment
    student: Preprocess
    teacher: Preprocess
    classes: tuple[str, ...]
    mixup: float
    rows: Indices

    @property
    def teacher_view(self) -> Preprocess:
        """By which a training image is cut for the teacher."""
        return dataclasses.replace(self.student, resolution=self.teacher.resolution, method=self.teacher.method)

    def batches(self, order: Order, bad: BadRecords, ask: Ask | None = None) -> Generator[dict[str, Any], None, None]:
        """Batches from order.start on.

        Args:
            order: which step takes what.
            bad: counts the records that were skipped.
            ask: gives a teacher's logits [b, K] of its pixels, which then stand in the batch in their place.

        Yields:
            pixels and targets; and answers, or else teacher_pixels where the teacher does not take the student's.
        """
        of_student = training_batches(self.mixture, self.student, self.augment, order, rows=self.rows, bad=bad)
        with contextlib.closing(of_student), contextlib.closing(self._of_teacher(order)) as of_teacher:
            for step, seen in enumerate(of_student, order.start):
                plain = {**seen, "targets": self._targets(seen["targets"]), **next(of_teacher)}
                batch = self._mixed(plain, order.positions(step)[self.rows], order.seed)
                if ask is not None:
                    batch[ANSWERS] = ask(batch.pop(TEACHER_PIXELS, batch["pixels"]))
                yield batch

    def _mixed(self, batch: dict[str, Any], positions: Indices, seed: int) -> dict[str, Any]:
        if not self.mixup:
            return batch
        return mixup.mixed(batch, ("pixels", TEACHER_PIXELS, "targets"), mixup.shares(positions, seed, self.mixup))

    def _of_teacher(self, order: Order) -> Generator[dict[str, Any], None, None]:
        """The same crops for the teacher; nothing where it takes the student's."""
        if self.teacher_view == self.student:
            while True:
                yield {}
        bad = BadRecords(1.0)  # the student's stream judges
        view = training_batches(self.mixture, self.teacher_view, self.augment, order, rows=self.rows, bad=bad)
        with contextlib.closing(view):
            for batch in view:
                yield {TEACHER_PIXELS: batch["pixels"]}

    def _targets(self, targets: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Targets in the order of the mixture's labels, in that of the student's classes."""
        found = np.zeros((len(targets), len(self.classes)), np.float32)
        place = {name: index for index, name in enumerate(self.classes)}
        for column, label in enumerate(self.mixture.labels):
            if label in place:
                found[:, place[label]] = targets[:, column]
        return found


def identity(teacher: Tower) -> str:
    """What decides a teacher's answers, as far as it is known: of a served one its space and its classes."""
    return teacher.fingerprint or f"{teacher.space_id} served, {len(teacher.labels)} classes"


def asker(teacher: Tower, columns: Sequence[int]) -> Ask:
    """Asks a teacher for the logits [n, K] of some of its classes, of pixels uint8 [n, R, R, 3], a few at once."""

    def ask(pixels: npt.NDArray[np.uint8]) -> Floats:
        found = []
        for begin in range(0, len(pixels), ASKED):
            part = pixels[begin : begin + ASKED]
            # One shape, so that a teacher that is compiled here is compiled once.
            filled = np.concatenate([part, np.zeros((-len(part) % min(ASKED, len(pixels)), *part.shape[1:]), np.uint8)])
            found.append(teacher.pixel_logits(filled)[: len(part)])
        return np.concatenate(found)[:, list(columns)]

    return ask


def in_step(config: ModelConfig, preprocess: Preprocess, columns: Sequence[int], execution: Execution) -> Answer:
    """The teacher as a part of the student's step: its parameters and a batch to logits [B, K]."""
    graph, _ = model.abstract(config)
    chosen = np.asarray(columns)

    def answer(params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        pixels = batch.get(TEACHER_PIXELS, batch["pixels"])
        images = model.normalise(pixels, preprocess, execution.dtype)
        logits = nnx.merge(graph, params).embed_image(images, execution=execution)["logits"]
        return jax.lax.stop_gradient(logits)[:, chosen]

    return answer


def answers_to_views(
    views: StoredViews, lessons: Lessons, teacher: Tower, columns: Sequence[int], kept: Kept, stop_code: int = 0
) -> Floats:
    """A teacher's answers to all the stored views, float32 [views, K], asked where they are not kept.

    Raises:
        ValueError: an image that cannot be used; or a served teacher does not answer as it did when answers were kept.
        Interrupted: on SIGTERM or SIGINT; what is there by then is kept.
    """
    ask, named = asker(teacher, columns), f"{identity(teacher)}, classes {list(columns)}"
    _confirm(teacher, ask, lessons.teacher, kept, named)
    found: list[Floats] = []
    with StopSignal() as stop:
        for part in stored_answers(views, lessons.teacher_view, ask, kept, named):
            found.append(part)
            if stop.now():
                count = sum(map(len, found))
                raise Interrupted(
                    f"stopped while the teacher was asked, {count:,} of {len(views):,} answers are kept; the same "
                    "command goes on from there",
                    stop_code,
                )
    return np.concatenate(found)


def _confirm(teacher: Tower, ask: Ask, preprocess: Preprocess, kept: Kept, named: str) -> None:
    """Compares a served teacher's answer with the one of its first time: its space does not tell of its head."""
    if teacher.fingerprint is not None:
        return
    side = preprocess.resolution
    pixels = np.random.default_rng(0).integers(256, size=(4, side, side, 3)).astype(np.uint8)
    now = ask(pixels)
    before = kept.array(f"probe of {named}", lambda: now)
    if now.shape != before.shape or np.abs(now - before).max() > PROBE_TOLERANCE * max(1.0, np.abs(before).max()):
        raise ValueError(
            f"{teacher.source} answers otherwise than the teacher of the same space whose answers {kept.folder} keeps; "
            "give another --answers"
        )
