"""Held-out images: the loss and the top-1 accuracy of the classification head on a folder.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from train.feed import local_rows, place
from train.input import multi_hot
from vit22b.folder import read_folder
from vit22b.image import image_batches
from vit22b.preprocess import Preprocess
from vit22b.sharding import batch_sharding
from vit22b.tree import Params

Score = Callable[[Params, Mapping[str, jax.Array]], dict[str, jax.Array]]
Flatten = Callable[[Iterable[str]], tuple[str, ...]]


class HeldOut:
    """Means over a folder of labelled images: `top1`, the share whose best class is a label, and `loss`."""

    def __init__(
        self,
        path: Path,
        labels: tuple[str, ...],
        preprocess: Preprocess,
        score: Score,
        batch: int,
        mesh: Mesh,
        flatten: Flatten = tuple,
    ) -> None:
        """Reads the folder, and decodes its images once to see that all can be; every evaluation decodes them anew.

        Args:
            path: folder of images with labels, as vit22b/folder.py reads it.
            labels: of the head's classes, in order.
            preprocess: of the images.
            score: each image's metrics, [B], of parameters and of a batch as training has them.
            batch: images at once, rounded up to what the mesh divides, along both of its axes.
            mesh: batches are split over it.
            flatten: gives the classes that an image's labels stand for, as training has them.

        Raises:
            ValueError: images without labels, or with labels that the head does not have, or that cannot be decoded.
        """
        folder = read_folder(path)
        unknown = sorted(set(folder.labels) - set(labels))
        if not folder.labels or unknown:
            found = f"the labels {', '.join(unknown)}, which are not trained" if unknown else "no labels"
            raise ValueError(f"--eval_data {path} has {found}; give images of the classes that are trained on")
        self._records, self._labels, self._flatten = folder.records, labels, flatten
        self._preprocess, self._batch = preprocess, -(-batch // mesh.size) * mesh.size
        self._place = batch_sharding(mesh)
        for _ in self._pixels():
            pass
        self._sums = jax.jit(
            lambda params, batch: {
                name: jnp.where(batch["real"], each, 0.0).sum() for name, each in score(params, batch).items()
            }
        )

    def __call__(self, params: Params) -> dict[str, float]:
        """Decodes the images and scores them; see Evaluator."""
        sums: dict[str, float] = {}
        start = 0
        for pixels in self._pixels():
            found = self._sums(params, place(self._padded(pixels, start), self._place, self._batch))
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in found.items()}
            start += len(pixels)
        return {name: value / len(self._records) for name, value in sums.items()}

    def _pixels(self) -> Iterator[npt.NDArray[np.uint8]]:
        return image_batches([record.path for record in self._records], self._preprocess, self._batch)

    def _padded(self, pixels: npt.NDArray[np.uint8], start: int) -> dict[str, npt.NDArray[Any]]:
        """The batch from record `start` on, filled up so that all have one shape; `real` says which rows count.

        Every host decodes all the images, and keeps the rows that its devices hold.
        """
        records = self._records[start : start + len(pixels)]
        targets = multi_hot([self._flatten(record.labels) for record in records], self._labels)
        batch = {"pixels": pixels, "targets": targets, "real": np.ones(len(pixels), bool)}
        fill = self._batch - len(pixels)
        rows = local_rows(self._place, self._batch)
        return {name: np.pad(each, [(0, fill)] + [(0, 0)] * (each.ndim - 1))[rows] for name, each in batch.items()}
