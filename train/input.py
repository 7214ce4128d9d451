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


def multi_hot(folder: Folder) -> npt.NDArray[np.float32]:
    """Targets [n, Y]: 1 where a record has the label, in the order of folder.labels.

    Raises:
        ValueError: no record has a label.
    """
    if not folder.labels:
        raise ValueError(
            "the images have no labels to train on; expected one sub-folder for each class, or a metadata.jsonl with "
            '"labels" on its lines'
        )
    place = {label: i for i, label in enumerate(folder.labels)}
    targets = np.zeros((len(folder.records), len(folder.labels)), np.float32)
    for row, record in zip(targets, folder.records, strict=True):
        row[[place[label] for label in record.labels]] = 1
    return targets


def training_batches(
    folder: Folder, targets: npt.NDArray[np.float32], preprocess: Preprocess, augment: Augment, order: Order
) -> Iterator[Batch]:
    """Batches from order.start on: pixels uint8 [B, R, R, 3], targets float32 [B, Y]."""
    files = tf.constant([str(record.path) for record in folder.records])

    def load(position: tf.Tensor, index: tf.Tensor) -> dict[str, tf.Tensor]:
        decoded = image.decode(tf.io.read_file(files[index]), preprocess.max_pixels)
        seed = tf.stack([tf.cast(order.seed, tf.int64), position])
        pixels = image.random_crop(decoded, preprocess, seed, augment.min_area, augment.flip)
        return {"pixels": pixels, "targets": tf.gather(targets, index)}

    dataset = order.positions().map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _batches(dataset, order.batch)


def index_batches(order: Order) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of indices alone [B], for examples that are in memory."""
    return _batches(order.positions().map(lambda _, index: index), order.batch)


def _batches(dataset: tf.data.Dataset, batch: int) -> Iterator[Any]:
    return dataset.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
