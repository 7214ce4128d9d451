"""Depth from one image, measured: squared and relative errors and the shares within a factor (Eigen et al. 2014).

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Each measure is a
mean over the valid pixels of an image, whose depth is finite and above 0, and then over the images.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Depths = npt.NDArray[np.floating]
Align = Literal["none", "median"]
THRESHOLDS = {"delta < 1.1": 1.1, "delta < 1.25": 1.25, "delta < 1.25^2": 1.25**2}
MORE_IS_BETTER = {"MSE": False, "RMSE": False, "AbsRel": False, **dict.fromkeys(THRESHOLDS, True)}


def valid(depths: Depths) -> npt.NDArray[np.bool_]:
    """Which pixels have a depth."""
    return np.isfinite(depths) & (depths > 0)


def errors(predicted: Depths, true: Depths, align: Align = "none") -> dict[str, float]:
    """All measures of one image.

    Args:
        predicted: [h, w], above 0, in the unit of `true`.
        true: [h, w]; what is not finite or not above 0 is no depth.
        align: "median" multiplies the prediction by what makes its median over the valid pixels that of the truth, so
            that the scale, which one image does not tell, is left out of the errors.

    Returns:
        MSE, in the squared unit of the depths, and its root; AbsRel, the mean of |p - t| / t; and for each threshold
        the share of pixels with max(p / t, t / p) below it.

    Raises:
        ValueError: the shapes differ, no pixel is valid, or a prediction is not above 0.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"a prediction of {predicted.shape} for depths of {true.shape}; resize it to these")
    counted = valid(true)
    if not counted.any():
        raise ValueError("no pixel has a depth; at least one has to be finite and above 0")
    p, t = predicted[counted].astype(np.float64), true[counted].astype(np.float64)
    if not (np.isfinite(p) & (p > 0)).all():
        raise ValueError("a predicted depth is not finite or not above 0; predict its logarithm")
    if align == "median":
        p = p * (np.median(t) / np.median(p))
    squared, ratio = np.square(p - t).mean(), np.maximum(p / t, t / p)
    shares = {name: float((ratio < threshold).mean()) for name, threshold in THRESHOLDS.items()}
    return {"MSE": float(squared), "RMSE": float(np.sqrt(squared)), "AbsRel": float((abs(p - t) / t).mean()), **shares}


def table(images: Iterable[tuple[Depths, Depths]]) -> dict[Align, dict[str, npt.NDArray[np.float64]]]:
    """Each measure of n images, which are asked for one by one: a large set's maps do not fit into memory.

    Args:
        images: of each the prediction and the truth.

    Returns:
        float64 [n] by alignment and name; the mean of an array is the measure of the set.
    """
    aligns: tuple[Align, ...] = get_args(Align)
    each = [{align: errors(predicted, true, align) for align in aligns} for predicted, true in images]
    return {
        align: {name: np.asarray([found[align][name] for found in each]) for name in MORE_IS_BETTER} for align in aligns
    }


def constant(train: Sequence[Depths]) -> float:
    """The median of all valid depths: what one says who does not look at the image, the chance level."""
    return float(np.median(np.concatenate([depths[valid(depths)] for depths in train])))
