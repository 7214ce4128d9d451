"""The input: sources -> shuffled, augmented batches, a pure function of (seed, step).

Between image bytes and batch on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
The order is a stateless shuffle of indices, a new one each epoch, and augmentation is seeded by the position in the
run, so that a run which resumes at a step sees what the uninterrupted one would have seen, and stores no iterator.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from train.feed import ahead
from train.mixture import Indices, Mixture, shuffled
from train.sources.example import Example
from vit22b import image
from vit22b.preprocess import Preprocess

Batch = dict[str, npt.NDArray[Any]]

READERS = 16  # threads that wait for bytes
DECODING = 2  # batches at a time: where one has fewer images left than there are cores, the next begins
ATTEMPTS = 16  # records tried for one place in a batch

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Augment:
    """The paper's augmentation: an inception crop and a horizontal flip."""

    min_area: float = 0.05
    """Smallest share of the image that a random crop keeps; 1 for no crop."""
    flip: bool = True
    """Mirror half of the images; not good for digits or text."""

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

    def positions(self, step: int) -> Indices:
        """The places in the run [B] that a step takes, counting steps from 0."""
        return np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)


def index_batches(order: Order) -> Iterator[Indices]:
    """Batches of indices alone [B], for examples that are in memory."""
    return (shuffled(order.positions(step), order.examples, order.seed) for step in range(order.start, order.steps))


class BadRecords:
    """Counts and logs the records that were skipped, and ends the run when there are too many.

    Each process judges the records that it has read itself since it started.

    Attributes:
        count: how often a record was skipped; one comes up again each epoch.
        names: the different ones, in the order in which they came up, with what is wrong with them.
    """

    def __init__(self, max_rate: float = 0.01, least: int = 10) -> None:
        """Sets the limit.

        Args:
            max_rate: share of the records read that may be bad, in [0, 1]; 0 for none at all.
            least: at this count and below the rate is not looked at, unless it is 0.
        """
        if not 0 <= max_rate <= 1:
            raise ValueError(f"--max_bad_rate is {max_rate}; expected a share of the records in [0, 1]")
        self._max_rate, self._least = max_rate, least if max_rate else 0
        self._read = 0
        self.count = 0
        self.names: dict[str, str] = {}

    def add(self, bad: Sequence[tuple[str, str]], read: int) -> None:
        """Takes in what came up in a batch: (name, reason) of the bad ones, and how many records were read.

        Raises:
            ValueError: there are too many.
        """
        self._read += read
        self.count += len(bad)
        for name, reason in bad:
            if name not in self.names:
                _log.warning("skipped %s: %s", name, reason)
            self.names[name] = reason
        if self.count > max(self._least, self._max_rate * self._read):
            some = "\n".join(f"  {name}: {reason}" for name, reason in list(self.names.items())[:5])
            raise ValueError(
                f"{self.count} of {self._read} records could not be used, more than --max_bad_rate {self._max_rate} "
                f"allows; mend them or take them out:\n{some}"
            )


def multi_hot(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> npt.NDArray[np.float32]:
    """Targets [B, Y] of B records: 1 where one has the label, in the order of the classes."""
    place = {label: i for i, label in enumerate(classes)}
    targets = np.zeros((len(labels), len(classes)), np.float32)
    for row, names in zip(targets, labels, strict=True):
        row[[place[name] for name in names]] = 1
    return targets


def training_batches(
    mixture: Mixture,
    preprocess: Preprocess,
    augment: Augment,
    order: Order,
    *,
    rows: Indices | None = None,
    bad: BadRecords | None = None,
) -> Generator[Batch, None, None]:
    """Batches from order.start on: pixels uint8 [b, R, R, 3], targets float32 [b, Y].

    A record that cannot be read or decoded is replaced by another of its source, the same one in every run.

    Args:
        mixture: the data; order.examples is its length.
        preprocess: what the tower takes.
        augment: how training images are changed.
        order: which step takes what.
        rows: the rows of each batch that are read, on this host; all of them if not given.
        bad: counts the records that were skipped; one with the default limit if not given.

    Raises:
        ValueError: too many records are bad; the message names some.
    """
    bad = bad or BadRecords()
    rows = np.arange(order.batch) if rows is None else rows
    with ThreadPoolExecutor(READERS) as readers:
        loader = _Loader(mixture, preprocess, augment, order.seed, readers)
        steps = (order.positions(step)[rows] for step in range(order.start, order.steps))
        with contextlib.closing(ahead(loader.load, steps, DECODING, DECODING)) as loaded:
            for batch, skipped in loaded:
                bad.add(skipped, len(rows) + len(skipped))
                yield batch


class _Loader:
    """Makes batches of positions; several threads call `load` at the same time."""

    def __init__(
        self, mixture: Mixture, preprocess: Preprocess, augment: Augment, seed: int, readers: ThreadPoolExecutor
    ) -> None:
        self._mixture, self._preprocess, self._seed, self._readers = mixture, preprocess, seed, readers
        self._classes = mixture.labels
        self._crops = crops(preprocess, augment)

    def load(self, positions: Indices) -> tuple[Batch, list[tuple[str, str]]]:
        """The batch of some positions, and what was skipped on the way: (name, reason)."""
        sources, indices = self._mixture.pick(positions, self._seed)
        # A call for each thread, not for each record, which can take less time than the call does.
        parts = np.array_split(np.stack([sources, indices], axis=1), READERS)
        examples = [example for part in self._readers.map(self._read_all, parts) for example in part]
        pixels, ok = self._decode([example.image_bytes for example in examples], positions)
        skipped: list[tuple[str, str]] = []
        for row in np.flatnonzero(~ok):
            pixels[row], examples[row] = self._stand_in(int(positions[row]), int(sources[row]), indices[row], skipped)
        targets = multi_hot([example.labels for example in examples], self._classes)
        return {"pixels": pixels, "targets": targets}, skipped

    def _read_all(self, picked: Indices) -> list[Example]:
        return [self._read(source, index) for source, index in picked.tolist()]

    def _read(self, source: int, index: int) -> Example:
        try:
            return self._mixture.sources[source][index]
        except (OSError, ValueError):
            return Example(self._mixture.sources[source].name(index), b"")  # no image, so it will not decode

    def _decode(
        self, image_bytes: list[bytes], positions: Indices
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        seeds = np.stack([np.full_like(positions, self._seed), positions], axis=1)
        pixels, ok = self._crops(tf.constant(image_bytes, tf.string), tf.constant(seeds))
        return pixels.numpy(), ok.numpy()

    def _stand_in(
        self, position: int, source: int, index: int, skipped: list[tuple[str, str]]
    ) -> tuple[npt.NDArray[np.uint8], Example]:
        """Pixels and example for a position whose own could not be used; adds to `skipped` what is no good."""
        # Its own is tried again first: a read that fails once must not change the run.
        for attempt in range(ATTEMPTS):
            if attempt:
                index = self._mixture.instead(position, source, attempt, self._seed)
            try:
                example = self._mixture.sources[source][index]
                return self._crop(example.image_bytes, position), example
            except (OSError, ValueError) as error:
                skipped.append((self._mixture.sources[source].name(index), str(error)))
        tried = "\n".join(f"  {name}: {reason}" for name, reason in dict(skipped[-ATTEMPTS:]).items())
        raise ValueError(f"{ATTEMPTS} records in a row cannot be used; mend the data:\n{tried}")

    def _crop(self, image_bytes: bytes, position: int) -> npt.NDArray[np.uint8]:
        pixels, ok = self._decode([image_bytes], np.array([position]))
        if not ok[0]:
            # The reason is lost where failures are caught, in the graph; here one is free to fail.
            try:
                image.decode(image_bytes, self._preprocess.max_pixels)
            except tf.errors.OpError as error:
                raise ValueError(image.reason(error)) from error
            raise ValueError("it decodes, but no part of it could be cut out")
        return pixels[0]


@functools.cache  # tracing it takes seconds
def crops(preprocess: Preprocess, augment: Augment) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Bytes [b] and seeds [b, 2] to crops and whether they could be made, as image.random_crop_each."""

    def cut(image_bytes: tf.Tensor, seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return image.random_crop_each(image_bytes, seeds, preprocess, augment.min_area, augment.flip)

    signature = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 2], tf.int64)]
    return tf.function(cut, input_signature=signature).get_concrete_function()
