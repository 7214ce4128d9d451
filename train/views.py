"""Stored views: a fixed number of crops of every image, so that what a teacher says of each is asked once and kept.

Between image bytes and batch on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Only the answers are stored: a view is cut out anew whenever it is needed, the same every time.
"""

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from train.feed import ahead
from train.input import DECODING, READERS, Augment, Batch, Order, crops, multi_hot
from train.kept import Kept
from train.mixture import Indices, Mixture
from train.sources.example import Example
from train.tower import Floats
from vit22b.preprocess import Preprocess

CHUNK = 512  # answers that are kept together

Ask = Callable[[npt.NDArray[np.uint8]], Floats]


class StoredViews:
    """The views of a mixture's images; view v of image i of the n has the number v * n + i."""

    def __init__(self, mixture: Mixture, augment: Augment, seed: int, views: int) -> None:
        """Takes what the views are a function of.

        Args:
            mixture: n images.
            augment: how a view differs from its image.
            seed: of the views.
            views: of each image.
        """
        self._mixture, self._augment, self._seed = mixture, augment, seed
        self._begins = np.cumsum([0, *(len(source) for source in mixture.sources)])
        self.views = views

    def __len__(self) -> int:
        return self.views * len(self._mixture)

    def numbers(self, positions: Indices, seed: int) -> Indices:
        """The views at some places in a run: its images in their order, each time round their next view."""
        sources, examples = self._mixture.pick(positions, seed)
        images = len(self._mixture)
        return positions // images % self.views * images + self._begins[sources] + examples

    def examples(self, numbers: Indices) -> list[Example]:
        """The examples that the views are of.

        Raises:
            ValueError: one cannot be read.
        """
        images = (numbers % len(self._mixture)).tolist()
        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(self._read, images))

    def pixels(self, numbers: Indices, examples: list[Example], preprocess: Preprocess) -> npt.NDArray[np.uint8]:
        """The views themselves, uint8 [n, R, R, 3].

        Raises:
            ValueError: an image cannot be decoded; it is named.
        """
        seeds = np.stack([np.full_like(numbers, self._seed), -1 - numbers], axis=1)  # no position of a run is negative
        image_bytes = tf.constant([example.image_bytes for example in examples], tf.string)
        pixels, ok = crops(preprocess, self._augment)(image_bytes, tf.constant(seeds))
        if not ok.numpy().all():
            bad = examples[int(np.flatnonzero(~ok.numpy())[0])]
            raise ValueError(f"{bad.name} cannot be decoded, and --views needs every image; mend it, or take it out")
        return pixels.numpy()

    def _read(self, image: int) -> Example:
        source = int(np.searchsorted(self._begins, image, side="right")) - 1
        index = image - int(self._begins[source])
        try:
            return self._mixture.sources[source][index]
        except (OSError, ValueError) as error:
            name = self._mixture.sources[source].name(index)
            raise ValueError(f"{name} cannot be read, and --views needs every image: {error}") from error

    def key(self, numbers: Indices, examples: list[Example], preprocess: Preprocess) -> str:
        """Names everything that the pixels of some views are a function of, the images byte by byte."""
        digest = hashlib.sha256(repr((preprocess, self._augment, self._seed, numbers.tolist())).encode())
        for example in examples:
            digest.update(hashlib.sha256(example.image_bytes).digest())
        return digest.hexdigest()


def stored_answers(views: StoredViews, preprocess: Preprocess, ask: Ask, kept: Kept, teacher: str) -> Iterator[Floats]:
    """What a teacher says of all views, in the order of their numbers, chunk by chunk; asked where it is not kept.

    Args:
        views: of the images.
        preprocess: the teacher's.
        ask: pixels uint8 [n, R, R, 3] to logits float32 [n, Y].
        kept: where the answers lie.
        teacher: names everything that decides its answers.

    Yields:
        float32 [n, Y].
    """
    for begin in range(0, len(views), CHUNK):
        numbers = np.arange(begin, min(begin + CHUNK, len(views)), dtype=np.int64)
        examples = views.examples(numbers)

        def make(numbers: Indices = numbers, examples: list[Example] = examples) -> Floats:
            return ask(views.pixels(numbers, examples, preprocess))

        yield kept.array(f"answers of {teacher} to {views.key(numbers, examples, preprocess)}", make)


def view_batches(
    views: StoredViews,
    answers: Floats | None,
    preprocess: Preprocess,
    classes: tuple[str, ...],
    order: Order,
    rows: Indices,
) -> Generator[Batch, None, None]:
    """Batches from order.start on: pixels uint8 [b, R, R, 3], targets float32 [b, Y], and answers float32 [b, K].

    Args:
        views: of the images.
        answers: to every view by its number, float32 [views, K]; None for batches without.
        preprocess: the student's.
        classes: Y names; labels that are none of them are passed over.
        order: which step takes what.
        rows: of each batch that this host reads.
    """

    def load(positions: Indices) -> Batch:
        numbers = views.numbers(positions, order.seed)
        examples = views.examples(numbers)
        labels = [[label for label in example.labels if label in classes] for example in examples]
        pixels = views.pixels(numbers, examples, preprocess)
        batch = {"pixels": pixels, "targets": multi_hot(labels, classes)}
        return batch if answers is None else {**batch, "answers": answers[numbers]}

    steps = (order.positions(step)[rows] for step in range(order.start, order.steps))
    with contextlib.closing(ahead(load, steps, DECODING, DECODING)) as loaded:
        yield from loaded
