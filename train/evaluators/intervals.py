"""How sure a number is: intervals of shares and of means, and of the difference of two models on the same examples.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Arrays in, numbers out.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

Interval = tuple[float, float]

DRAWS = 2000
CHUNK = 2**22  # counts of examples that are held at once


def wilson(successes: int, examples: int, level: float = 0.95) -> Interval:
    """The interval of a share (Wilson 1927).

    It stays within 0 and 1, and has a width where the share is exactly 0 or 1.

    Args:
        successes: how many of them.
        examples: of how many, 1 or more.
        level: the share of such intervals that hold the true one.

    Raises:
        ValueError: no examples, or more successes than those.
    """
    if examples < 1 or not 0 <= successes <= examples:
        raise ValueError(f"{successes} of {examples} is no share; expected 1 example or more, and successes among them")
    z = float(norm.ppf(0.5 + level / 2))
    share, weight = successes / examples, z * z / examples
    centre = (share + weight / 2) / (1 + weight)
    half = z * float(np.sqrt(share * (1 - share) / examples + weight / (4 * examples))) / (1 + weight)
    # Exactly 0 and 1 where the formula means them; it may round to beside them.
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == examples else centre + half)


def bootstrap(scores: npt.ArrayLike, seed: int = 0, draws: int = DRAWS, level: float = 0.95) -> Interval:
    """The percentile interval of a mean over examples (Efron 1979).

    Args:
        scores: [n], one for each example.
        seed: of the resamples; the same seed gives the same interval.
        draws: how many resamples.
        level: the share of the resampled means that lies within.

    Raises:
        ValueError: no scores, or another shape.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"scores have the shape {values.shape}; expected [n], with one example or more")
    means = [counts @ values / len(values) for (counts,) in resampled([len(values)], seed, draws)]
    return percentiles(np.concatenate(means), level)


def paired_bootstrap(
    first: npt.ArrayLike, second: npt.ArrayLike, seed: int = 0, draws: int = DRAWS, level: float = 0.95
) -> tuple[float, float, float]:
    """mean(first) - mean(second) over the same examples, resampled together, and its percentile interval.

    Args:
        first, second: [n], of one example each at the same place.
        seed, draws, level: as of bootstrap.

    Returns:
        The difference, and from where to where its interval goes.

    Raises:
        ValueError: other shapes, or lengths that differ.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape:
        raise ValueError(
            f"the scores have the shapes {one.shape} and {other.shape}; expected the same examples in both"
        )
    return float((one - other).mean()), *bootstrap(one - other, seed, draws, level)


def with_spread(value: float, interval: Interval, seeded: Sequence[tuple[float, int]], level: float = 0.95) -> Interval:
    """An interval over examples, widened by what other seeds would give.

    A mean over s seeds has the variance deviation^2 / s. Those of all means add up, with the degrees of freedom of
    Welch and Satterthwaite, since few seeds tell a deviation badly: by Student's t of them it becomes a half-width,
    which adds to the interval's by squares (Zou & Donner 2008). Seeds count as independent of each other; where models
    share them, as few shots do, the interval is rather too wide.

    Args:
        value: that the interval is of, a sum or a difference of means.
        interval: of it over the examples.
        seeded: for each mean its deviation over seeds, the unbiased estimate, and how many they are, 2 or more.
        level: the share of such intervals that hold the true value.
    """
    variances = [deviation**2 / seeds for deviation, seeds in seeded]
    total = sum(variances)
    if not total:
        return interval
    freedom = total**2 / sum(each**2 / (seeds - 1) for each, (_, seeds) in zip(variances, seeded, strict=True))
    half = float(t.ppf(0.5 + level / 2, freedom)) * total**0.5
    low, high = interval
    return value - float(np.hypot(value - low, half)), value + float(np.hypot(high - value, half))


def bootstrap_of(
    statistic: Callable[[npt.NDArray[np.int64]], float],
    examples: int,
    seed: int = 0,
    draws: int = 500,
    level: float = 0.95,
) -> Interval:
    """The percentile interval of any statistic over examples, for those that are no mean.

    Args:
        statistic: of places int64 [n], drawn with replacement. One that is not finite, as where a resample lacks a
            class, is left out.
        examples: n.
        seed, draws, level: as of bootstrap.

    Raises:
        ValueError: no examples, or no resample has a finite statistic.
    """
    if examples < 1:
        raise ValueError(f"there are {examples} examples; expected 1 or more")
    generator = np.random.default_rng(seed)
    drawn = [statistic(generator.integers(0, examples, examples)) for _ in range(draws)]
    finite = np.asarray(drawn)[np.isfinite(drawn)]
    if not len(finite):
        raise ValueError("the statistic is finite on no resample; it needs more examples")
    return percentiles(finite, level)


def resampled(sizes: Sequence[int], seed: int = 0, draws: int = DRAWS) -> Iterator[list[npt.NDArray[np.int64]]]:
    """How often each example comes in bootstrap samples, for statistics that are sums over the examples.

    Args:
        sizes: how many examples there are; of several sets of examples each is drawn from by itself.
        seed: the same one gives the same samples, however many are held at once.
        draws: how many samples.

    Yields:
        Some of the samples, [b, size] for every set; so many that they fit into memory.
    """
    generators = [np.random.default_rng([seed, place] if place else seed) for place in range(len(sizes))]
    step = max(CHUNK // max(sizes), 1)
    for start in range(0, draws, step):
        many = min(step, draws - start)
        yield [
            generator.multinomial(size, np.full(size, 1 / size), size=many)
            for generator, size in zip(generators, sizes, strict=True)
        ]


def percentiles(values: npt.NDArray[np.float64], level: float = 0.95) -> Interval:
    """What lies in the middle of a statistic's values on bootstrap samples, [draws]; `level` is its share."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
