"""Least squares with a penalty on the squared weights, in closed form: what linear probes and few shots solve.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Arrays in, arrays out.
"""

from collections.abc import Sequence

import numpy as np

from train.evaluators.features import Doubles, Indices


def least_squares(rows: Doubles, signs: Doubles, penalties: Sequence[float]) -> tuple[list[Doubles], Doubles]:
    """The weights with the least sum of squared errors and penalty times squared weights, one for each penalty.

    Args:
        rows: [n, D], of mean 0.
        signs: [n, k], what they are mapped to.
        penalties: greater than 0.

    Returns:
        Weights float64 [D, k] for each penalty, and the bias float64 [k], which is not penalised.
    """
    bias = signs.mean(axis=0)  # the best one, since the rows have mean 0
    # The smaller of the two Gram matrices: (R'R + c)^-1 R' = R' (RR' + c)^-1.
    wide = rows.shape[1] > len(rows)
    spectrum, basis = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    right = basis.T @ (signs - bias if wide else rows.T @ (signs - bias))
    solved = [basis @ (right / (spectrum + penalty)[:, None]) for penalty in penalties]
    return [rows.T @ each if wide else each for each in solved], bias


def signed(targets: Indices, classes: int) -> Doubles:
    """Classes int [n] as float64 [n, k], +1 for an image's own and -1 for the others."""
    return np.where(np.arange(classes) == targets[:, None], 1.0, -1.0)
