"""The input: folder -> shuffled, augmented batches, a pure function of (seed, step).

Between image bytes and batch on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
The order is a stateless shuffle of indices, a new one each epoch, and augmentation is seeded by the position in the
run, so that a run which resumes at a step sees what the uninterrupted one would have seen, and stores no iterator.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from vit22b import image
from vit22b.config import Preprocess
from vit22b.folder import Folder

Batch = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Augment:
    """The paper's augmentation: an inception crop and a horizontal flip."""

    min_area: float = 0.05
    """Smallest share of the image that a random crop keeps; 1 for no crop."""
    flip: bool = True
    """Whether half of the images are mirrored; not good for digits or text."""

    def __post_init__(self) -> None:
        if not 0 < self.min_area <= 1:
            raise ValueError(f"--min_area is {self.min_area}; expected a share of the image in (0, 1]")


@dataclasses.dataclass(frozen=True)
class Order:
    """Which examples make up which step.

    Attributes:
        examples: how many there are.
        batch: how many a step takes; an epoch's end falls anywhere in a batch.
        seed: of the shuffle.
        start: steps that are behind already.
        steps: the run's length.
    """

    examples: int
    batch: int
    seed: int
    start: int
    steps: int

    def positions(self) -> tf.data.Dataset:
        """(position in the run, index of the example), int64, one after the other."""
        return tf.data.Dataset.range(self.start * self.batch, self.steps * self.batch).map(
            lambda position: (position, self._index(position))
        )

    def _index(self, position: tf.Tensor) -> tf.Tensor:
        epoch, place = position // self.examples, position % self.examples
        seed = tf.stack([tf.cast(self.seed, tf.int64), epoch])
        return tf.random.experimental.index_shuffle(place, seed=seed, max_index=self.examples - 1)


def multi_hot(folder: Folder, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Targets [B, Y] of some records: 1 where one has the label, in the order of folder.labels."""
    place = {label: i for i, label in enumerate(folder.labels)}
    targets = np.zeros((len(index), len(folder.labels)), np.float32)
    for row, i in zip(targets, index, strict=True):
        row[[place[label] for label in folder.records[i].labels]] = 1
    return targets


def training_batches(folder: Folder, preprocess: Preprocess, augment: Augment, order: Order) -> Iterator[Batch]:
    """Batches from order.start on: pixels uint8 [B, R, R, 3], targets float32 [B, Y].

    Raises:
        ValueError: an image that cannot be read or decoded comes up; the message names it.
    """
    files = tf.constant([str(record.path) for record in folder.records])

    def load(position: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        decoded = image.decode(tf.io.read_file(files[index]), preprocess.max_pixels)
        seed = tf.stack([tf.cast(order.seed, tf.int64), position])
        return index, image.random_crop(decoded, preprocess, seed, augment.min_area, augment.flip)

    batches = _batches(
        order.positions().map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True), order.batch
    )
    for step in range(order.start, order.steps):
        try:
            index, pixels = next(batches)
        except tf.errors.OpError as error:
            (index,) = index_batches(dataclasses.replace(order, start=step, steps=step + 1))
            raise ValueError(image.what_is_bad([folder.records[i].path for i in index], preprocess)) from error
        yield {"pixels": pixels, "targets": multi_hot(folder, index)}


def index_batches(order: Order) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of indices alone [B], for examples that are in memory."""
    return _batches(order.positions().map(lambda _, index: index), order.batch)


def _batches(dataset: tf.data.Dataset, batch: int) -> Iterator[Any]:
    return dataset.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
