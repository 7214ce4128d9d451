"""Retrieval: how often an image's caption, and a caption's image, is among the nearest (Karpathy and Fei-Fei 2015).

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. An image may have several
captions, and a caption may be said of several images: whatever is equal to a right caption is right.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from train.evaluators.features import Doubles, Indices

TOPS = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Where the first right answer of each query stands.

    Attributes:
        first: int64 [q], 0 for the nearest.
        right: int64 [q], how many of the answers are right.
        answers: how many there are.
    """

    first: Indices
    right: Indices
    answers: int

    def recall(self, top: int) -> Doubles:
        """1 for each query with a right answer among the nearest `top`, else 0: float64 [q]."""
        return (self.first < top).astype(np.float64)

    def chance(self, top: int) -> float:
        """The recall that a random order is expected to have: of m right among n, 1 - C(n - m, top) / C(n, top)."""
        if top >= self.answers:
            return 1.0
        wrong = self.answers - self.right
        missed = np.where(wrong >= top, np.exp(_choices(np.maximum(wrong, top), top) - _choices(self.answers, top)), 0)
        return float(np.mean(1 - missed))


def matches(captions: Sequence[str], owners: Sequence[int], images: int) -> npt.NDArray[np.bool_]:
    """Which captions are right for which images.

    Args:
        captions: m texts; equal but for case and blanks is equal.
        owners: m places, of the image that each was written for.
        images: n.

    Returns:
        bool [n, m].

    Raises:
        ValueError: lengths that differ, an owner that is no image, or an image without a caption.
    """
    if len(captions) != len(owners):
        raise ValueError(f"there are {len(captions)} captions and {len(owners)} owners; expected one for each")
    known: dict[str, int] = {}
    texts = np.asarray([known.setdefault(" ".join(text.casefold().split()), len(known)) for text in captions], np.int64)
    places = np.asarray(owners, np.int64)
    if len(places) and not 0 <= places.min() <= places.max() < images:
        raise ValueError(f"owners go from {places.min()} to {places.max()}; expected 0 to {images - 1}")
    said = np.zeros((images, len(known)), bool)
    said[places, texts] = True
    if not said.any(axis=1).all():
        raise ValueError(
            f"{(~said.any(axis=1)).sum()} of {images} images have no caption; expected one or more of each"
        )
    return said[:, texts]


def ranked(similarities: npt.ArrayLike, right: npt.NDArray[np.bool_]) -> Ranked:
    """Where each query, a row, has its first right answer; of equally near ones those that come first are first.

    Args:
        similarities: [q, a], of queries and answers.
        right: bool [q, a], each row with one or more.

    Raises:
        ValueError: shapes that differ, or a query without a right answer.
    """
    values = np.asarray(similarities)
    if values.shape != right.shape or values.ndim != 2:
        raise ValueError(f"similarities and matches have the shapes {values.shape} and {right.shape}; expected one")
    if not right.any(axis=1).all():
        raise ValueError(f"{(~right.any(axis=1)).sum()} queries have no right answer")
    order = np.argsort(-values, axis=1, kind="stable")
    first = np.take_along_axis(right, order, axis=1).argmax(axis=1)
    return Ranked(first, right.sum(axis=1), values.shape[1])


def _choices(things: npt.ArrayLike, taken: int) -> Doubles:
    """The logarithm of how many ways there are to take some of the things."""
    number = np.asarray(things, np.float64)
    return gammaln(number + 1) - gammaln(number - taken + 1) - gammaln(taken + 1)
