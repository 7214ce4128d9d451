"""How much better one kind of training is than another, over several seeds of each.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Arrays in, numbers out.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from train.evaluators.intervals import Interval, bootstrap, with_spread


@dataclasses.dataclass(frozen=True)
class Gain:
    """A difference of means.

    Attributes:
        value: mean of the first less mean of the second.
        interval: 95% of it, over images, and where there are several seeds widened by the deviation over them.
        deviation: of the difference over seeds; None for one seed.
    """

    value: float
    interval: Interval
    deviation: float | None


def gain(first: npt.ArrayLike, second: npt.ArrayLike, seed: int = 0) -> Gain:
    """How much more often the first kind is right.

    Seeds are pairs: the first of one kind and the first of the other see the same images in the same order.

    Args:
        first, second: [s, n], 1 where the training of a seed got an image right.
        seed: of the resamples.

    Raises:
        ValueError: other shapes, or shapes that differ.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.ndim != 2 or one.shape != other.shape or not one.size:
        raise ValueError(f"the shapes are {one.shape} and {other.shape}; expected [seeds, images], the same of both")
    apart = one - other
    value, interval, seeds = float(apart.mean()), bootstrap(apart.mean(axis=0), seed=seed), len(apart)
    if seeds == 1:
        return Gain(value, interval, None)
    deviation = float(apart.mean(axis=1).std(ddof=1))
    return Gain(value, with_spread(value, interval, [(deviation, seeds)]), deviation)
