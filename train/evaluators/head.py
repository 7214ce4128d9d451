"""A model's own head on a set whose classes are among its labels, without any training.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Restricted, only the
classes of the set compete; unrestricted, all labels do, as when the model is used.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from train.evaluators.accuracy import ranks, within
from train.evaluators.features import Doubles
from train.evaluators.label_maps import places


def restricted(logits: npt.ArrayLike, labels: Sequence[str], classes: Sequence[str]) -> Doubles:
    """The logits of a set's classes.

    Args:
        logits: [n, Y] of the head.
        labels: Y names.
        classes: k names; equal but for case, blanks and underscores is equal.

    Returns:
        float64 [n, k].

    Raises:
        ValueError: a class is no label; the message has the nearest. Or another number of logits than labels.
    """
    return _checked(logits, labels)[:, places(classes, labels, "the head's labels")]


def unrestricted(
    logits: npt.ArrayLike, labels: Sequence[str], classes: Sequence[str], targets: npt.ArrayLike
) -> Doubles:
    """1 for each image whose class has the greatest logit of all labels, else 0.

    Args:
        logits, labels, classes: as of restricted.
        targets: int [n], places in `classes`.

    Returns:
        float64 [n].

    Raises:
        ValueError: see restricted and accuracy.ranks.
    """
    among = places(classes, labels, "the head's labels")
    return within(ranks(_checked(logits, labels), among[np.asarray(targets)]), 1)


def _checked(logits: npt.ArrayLike, labels: Sequence[str]) -> Doubles:
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or values.shape[1] != len(labels):
        raise ValueError(f"the logits have the shape {values.shape}; expected [n, {len(labels)}], one for each label")
    return values
