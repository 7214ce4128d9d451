"""Frozen features as linear classifiers take them: standardised, with a part held back to choose settings by.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Arrays in, arrays out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Sources = Sequence[str | None]  # of what each image is a view, None for one that is the only one

# A feature that varies less than this part of the root mean square deviation of all is scaled as if it varied so much:
# dividing by less would make a signal of the rounding of a dead feature.
LEAST_DEVIATION = 1e-2
HELD_BACK = 5  # one image of so many is held back, and at least one of a class with two


@dataclasses.dataclass(frozen=True)
class Standard:
    """What makes features of mean 0 and deviation 1.

    Attributes:
        mean: float64 [D].
        scale: float64 [D], positive.
    """

    mean: Doubles
    scale: Doubles

    @classmethod
    def of(cls, features: npt.ArrayLike) -> Self:
        """That of features [n, D], each dimension for itself."""
        values = np.asarray(features, np.float64)
        deviation = values.std(axis=0)
        least = LEAST_DEVIATION * np.sqrt(np.mean(deviation**2))
        return cls(values.mean(axis=0), np.maximum(deviation, least) if least > 0 else np.ones_like(deviation))

    def __call__(self, features: npt.ArrayLike) -> Doubles:
        """Standardised, float64 [n, D]."""
        return (np.asarray(features, np.float64) - self.mean) / self.scale


def check_training(features: npt.ArrayLike, targets: npt.ArrayLike, classes: int) -> tuple[Doubles, Indices]:
    """Features and classes of a training split, checked.

    Args:
        features: [n, D].
        targets: int [n], from 0 up to `classes`.
        classes: k.

    Returns:
        They as float64 [n, D] and int64 [n].

    Raises:
        ValueError: other shapes, features that are not finite, fewer than two classes, or a class without an image.
    """
    values, found = np.asarray(features, np.float64), np.asarray(targets, np.int64)
    if values.ndim != 2 or found.shape != (len(values),):
        raise ValueError(f"features and targets have the shapes {values.shape} and {found.shape}; expected [n, D], [n]")
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} feature values are not finite; the tower has diverged")
    if classes < 2:
        raise ValueError(f"there are {classes} classes; a classifier needs two or more")
    if len(found) and not 0 <= found.min() <= found.max() < classes:
        raise ValueError(f"targets go from {found.min()} to {found.max()}; expected 0 to {classes - 1}")
    missing = np.flatnonzero(np.bincount(found, minlength=classes) == 0)
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {classes} classes have no training image, the first is number {missing[0]}; add images "
            "of it, or take it out of the set's classes"
        )
    return values, found


def held_back(targets: npt.ArrayLike, sources: Sources | None = None) -> Indices:
    """Which images of a training split are its validation split: a fifth of each class, drawn with a fixed seed.

    Of m images of a class m // 5 are held back, but one where m is 2 to 4, and none where m is 1: each class keeps
    an image to be learnt from. Images of one class and one source go the same way: views of a photograph that is
    learnt from would say that what has learnt it by heart knows the class. Then fewer may be held back, or more where
    the first source that is drawn has more.

    Args:
        targets: int [n].
        sources: n names of what images are views of, None for an image that is the only one of its own.

    Returns:
        int64 [v], ascending.

    Raises:
        ValueError: no class has two images, of two sources, so that nothing can be held back.
    """
    found = np.asarray(targets, np.int64)
    generator = np.random.default_rng(0)
    chosen: list[int] = []
    for label in np.unique(found):
        places = generator.permutation(np.flatnonzero(found == label)).tolist()
        of_source: dict[int | str, list[int]] = {}
        for place in places:
            source = sources[place] if sources is not None else None
            of_source.setdefault(place if source is None else source, []).append(place)
        held: list[int] = []
        for group in list(of_source.values())[:-1]:
            if not held or len(held) + len(group) <= len(places) // HELD_BACK:
                held.extend(group)
        chosen.extend(held)
    if not chosen:
        raise ValueError(
            "no class has two training images of two sources, so that none can be held back to choose settings by"
        )
    return np.asarray(sorted(chosen), np.int64)


def unit(vectors: npt.ArrayLike) -> Doubles:
    """Vectors [n, D] at length 1, float64.

    Raises:
        ValueError: another shape, or a vector of length 0 or not finite.
    """
    values = np.asarray(vectors, np.float64)
    if values.ndim != 2:
        raise ValueError(f"the vectors have the shape {values.shape}; expected [n, D]")
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("a vector has the length 0 or is not finite, so that it points nowhere")
    return values / lengths
