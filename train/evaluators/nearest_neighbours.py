"""Nearest neighbours by cosine, with votes weighted as DINO weights them (Caron et al. 2021; Wu et al. 2018).

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A neighbour votes for its
class with exp(cosine / 0.07), and 20 of them vote. Nothing is trained or chosen.
"""

import numpy as np
import numpy.typing as npt

from train.evaluators.features import Doubles, check_training, unit

NEIGHBOURS = 20
TEMPERATURE = 0.07
CHUNK = 2**24  # cosines that are held at once


def votes(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    tests: npt.ArrayLike,
    classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Doubles:
    """The votes for each class; the greatest, of equals the first, is what an image is taken for.

    Args:
        features, targets: [n, D] and int [n], of the images that vote.
        tests: [m, D].
        classes: k.
        neighbours: how many vote, or all where there are not so many; of equally near ones those that come first.
        temperature: of the weights.

    Returns:
        float64 [m, k], the share of the votes: rows sum to 1.

    Raises:
        ValueError: see features.check_training; or a feature vector has the length 0.
    """
    values, found = check_training(features, targets, classes)
    bank, rows = unit(values), unit(tests)
    number = min(neighbours, len(bank))
    step = max(CHUNK // len(bank), 1)
    shares = np.zeros((len(rows), classes))
    for start in range(0, len(rows), step):
        cosines = rows[start : start + step] @ bank.T
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :number]
        close = np.take_along_axis(cosines, nearest, axis=1)
        weights = np.exp((close - close[:, :1]) / temperature)  # the nearest has 1: the share is the same
        places = np.arange(start, start + len(cosines))[:, None]
        np.add.at(shares, (places, found[nearest]), weights / weights.sum(axis=1, keepdims=True))
    return shares
