"""How often a classifier is right: top-k, recall averaged over classes, and what guessing reaches.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Arrays in, arrays out.
"""

import numpy as np
import numpy.typing as npt

from train.evaluators.features import Doubles, Indices


def ranks(scores: npt.ArrayLike, targets: npt.ArrayLike) -> Indices:
    """How many classes come before the right one; of equal scores, the class with the smaller number comes first.

    Args:
        scores: [n, k], more for likelier classes: logits, probabilities or cosines.
        targets: int [n].

    Returns:
        int64 [n], 0 where the best class is the right one.

    Raises:
        ValueError: other shapes, scores that are not finite, or a target that is no class.
    """
    values, found = np.asarray(scores), np.asarray(targets, np.int64)
    if values.ndim != 2 or found.shape != (len(values),) or not len(found):
        raise ValueError(f"scores and targets have the shapes {values.shape} and {found.shape}; expected [n, k], [n]")
    if not np.isfinite(values).all():
        raise ValueError("some scores are not finite; the model has diverged")
    if not 0 <= found.min() <= found.max() < values.shape[1]:
        raise ValueError(f"targets go from {found.min()} to {found.max()}; expected 0 to {values.shape[1] - 1}")
    own = values[np.arange(len(found)), found][:, None]
    before = (values == own) & (np.arange(values.shape[1]) < found[:, None])
    return ((values > own) | before).sum(axis=1)


def within(found: Indices, top: int) -> Doubles:
    """1 for each image whose right class is among the best `top`, else 0; float64 [n] of ranks [n]."""
    return (found < top).astype(np.float64)


def balanced(right: npt.ArrayLike, targets: npt.ArrayLike) -> Doubles:
    """One number for each image whose mean is the mean per-class recall: each class that occurs weighs the same.

    Args:
        right: [n], 1 where an image was classified right.
        targets: int [n].
    """
    _, places, counts = np.unique(np.asarray(targets), return_inverse=True, return_counts=True)
    return np.asarray(right, np.float64) * (len(places) / len(counts) / counts)[places]


def guessed(targets: npt.ArrayLike, top: int = 1) -> float:
    """What the best constant answer reaches: the share of the `top` most frequent classes of targets int [n]."""
    counts = np.unique(np.asarray(targets), return_counts=True)[1]
    return float(np.sort(counts)[-top:].sum() / counts.sum())
