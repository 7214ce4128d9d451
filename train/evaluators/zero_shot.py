"""Zero-shot classification: an image is of the class whose vector its embedding is nearest to (Radford et al. 2021).

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The vectors are a class
bank's: names in templates, the mean of their unit vectors (vit22b.prompts).
"""

import dataclasses

import numpy.typing as npt

from train.evaluators.accuracy import balanced, ranks, within
from train.evaluators.features import Doubles, unit


@dataclasses.dataclass(frozen=True)
class Classified:
    """What became of n images; each measure is the mean of its numbers.

    Attributes:
        top1, top5: float64 [n], 1 where the right class is the best, among the best five.
        per_class: float64 [n], of the recall averaged over the classes that occur.
    """

    top1: Doubles
    top5: Doubles
    per_class: Doubles


def classify(embeddings: npt.ArrayLike, bank: npt.ArrayLike, targets: npt.ArrayLike) -> Classified:
    """Compares embeddings with a class bank.

    Args:
        embeddings: [n, E].
        bank: [k, E], a vector for each class.
        targets: int [n], places in the bank.

    Raises:
        ValueError: widths that differ, a vector of length 0, or see accuracy.ranks.
    """
    found = ranks(cosines(embeddings, bank), targets)
    return Classified(within(found, 1), within(found, 5), balanced(within(found, 1), targets))


def cosines(rows: npt.ArrayLike, columns: npt.ArrayLike) -> Doubles:
    """float64 [n, m] of vectors [n, E] and [m, E] of any length but 0.

    Raises:
        ValueError: widths that differ, or a vector of length 0 or not finite.
    """
    one, other = unit(rows), unit(columns)
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"vectors of the widths {one.shape[1]} and {other.shape[1]} cannot be compared")
    return one @ other.T
