"""Semantic segmentation, measured: mean intersection over union by its standard definition, from confusion matrices.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Pixels are counted
over the whole set before anything is divided (Everingham et al. 2010, section 4.2); a void pixel counts nowhere. The
mean is over the classes that occur in labels or predictions: one that occurs in neither has no IoU and is left out.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

VOID = 255  # what a mask has where a pixel counts nowhere
Counts = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a confusion matrix says.

    Attributes:
        mean_iou: the mean over classes of TP / (TP + FP + FN).
        pixel_accuracy: the share of pixels whose class is right.
        class_accuracy: the mean over the classes in the labels of the share of their pixels that is right.
        ious: float64 [k], NaN for classes that occur nowhere.
    """

    mean_iou: float
    pixel_accuracy: float
    class_accuracy: float
    ious: npt.NDArray[np.float64]


def confusion(labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], classes: int) -> Counts:
    """Pixels of one image by class of the label (row) and of the prediction (column): int64 [k, k].

    Args:
        labels: [h, w], a class or VOID.
        predicted: [h, w], a class.
        classes: k.

    Raises:
        ValueError: the shapes differ, or there is a value that is no class.
    """
    if labels.shape != predicted.shape:
        raise ValueError(
            f"a prediction of {predicted.shape} for labels of {labels.shape}; resize it to the labels' resolution"
        )
    counted = labels != VOID
    true, found = labels[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, values in (("label", true), ("prediction", found)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"a {name} has the class {values.max()} (or one below 0) of {classes}")
    return np.bincount(true * classes + found, minlength=classes**2).reshape(classes, classes)


def mean_iou(counts: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """The mean IoU of confusion matrices [..., k, k], each of a whole set: float64 [...]."""
    right = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(axis=-1) + counts.sum(axis=-2) - right
    ious = np.divide(right, union, out=np.zeros_like(right), where=union > 0)
    return np.asarray(ious.sum(axis=-1) / (union > 0).sum(axis=-1))


def scores(counts: Counts) -> Scores:
    """All measures of the confusion matrix [k, k] of a whole set.

    Raises:
        ValueError: no pixel was counted.
    """
    if not counts.sum():
        raise ValueError("every pixel is void; there is nothing to measure")
    right, true = np.diagonal(counts).astype(np.float64), counts.sum(axis=1)
    union = true + counts.sum(axis=0) - right
    ious = np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)
    recalls = right[true > 0] / true[true > 0]
    return Scores(float(mean_iou(counts)), float(right.sum() / counts.sum()), float(recalls.mean()), ious)


def constant(counts: Counts) -> Scores:
    """The scores of one who gives every pixel the same class, the best of them by each measure: the chance level.

    Args:
        counts: [k, k] of any predictions; what is used of it is how many pixels each class has.
    """
    true = counts.sum(axis=1)
    best = int(true.argmax())  # the most frequent class is the best constant by every measure
    constants = np.zeros_like(counts)
    constants[:, best] = true
    return scores(constants)
