"""Pictures of dense targets and predictions, for the eye: classes as colours over the image, depths as a colour map.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators.depth import valid
from train.evaluators.segmentation import VOID

Picture = npt.NDArray[np.uint8]
SHOWN = 3  # images of a plot
_OPACITY = 0.6


def palette(described: EvaluationSet) -> Picture:
    """A colour for every class, uint8 [k, 3]: the legend's, or where it has none one of matplotlib's tab20."""
    usual = mpl.colormaps["tab20"]
    colours = [
        described.legend.get(name, tuple(round(255 * channel) for channel in usual(index % 20)[:3]))
        for index, name in enumerate(described.classes)
    ]
    return np.asarray(colours, np.uint8)


def blended(picture: Picture, classes: npt.NDArray[np.integer], colours: Picture) -> Picture:
    """An image [h, w, 3] with its classes [h, w] over it; a void pixel is as the image has it."""
    counted = (classes != VOID)[..., None]
    over = colours[np.where(classes == VOID, 0, classes)]
    mixed = (1 - _OPACITY) * picture + _OPACITY * over
    return np.where(counted, np.rint(mixed), picture).astype(np.uint8)


def coloured(depths: npt.NDArray[np.floating], low: float, high: float) -> Picture:
    """Depths [h, w] in viridis, by their logarithm, dark for near: from `low` to `high`; black where there is none."""
    counted = valid(depths)
    logs = np.log(np.where(counted, depths, low))
    span = max(float(np.log(high / low)), 1e-6)
    colours = mpl.colormaps["viridis"](np.clip((logs - np.log(low)) / span, 0, 1))[..., :3]
    return np.where(counted[..., None], np.rint(255 * colours), 0).astype(np.uint8)


def spread(depths: npt.NDArray[np.floating]) -> tuple[float, float]:
    """The smallest and the largest depth of a map that has any."""
    there = depths[valid(depths)]
    return float(there.min()), float(there.max())


def places(count: int) -> Sequence[int]:
    """Which images of a part are shown: some that lie evenly, the first among them."""
    shown = min(SHOWN, count)
    return [index * count // shown for index in range(shown)]
