"""Calibration: whether a classifier that is sure to 80% is right in 80% of the cases (Guo et al. 2017).

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client: logits and targets in,
numbers out. Logits are float64 [n, k], targets int [n]; logarithms are natural.
"""

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from train.evaluators.intervals import Interval, percentiles, resampled

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Binning = Literal["width", "mass"]
BINS = 15
COLDEST, HOTTEST = 1 / 32, 32.0  # a validation split that is classified without a mistake has no best temperature


@dataclasses.dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in one range.

    Attributes:
        low, high: ends of the range; of bins of equal mass the least and the greatest confidence in it.
        confidence: mean; of an empty bin the middle of its range.
        accuracy: share that is right; of an empty bin 0.
        count: images.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    count: int


def log_probabilities(logits: npt.ArrayLike, temperature: float = 1.0) -> Doubles:
    """The logarithm of softmax(logits / temperature), float64 [n, k]."""
    return log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)


def confidences(logits: npt.ArrayLike, targets: npt.ArrayLike, temperature: float = 1.0) -> tuple[Doubles, Doubles]:
    """The probability of each image's best class, [n], and whether it is the right one, [n] of 0 and 1.

    Raises:
        ValueError: nothing to judge, or shapes that do not belong together.
    """
    given, right = _checked(logits, targets)
    found = log_probabilities(given, temperature)
    best = found.argmax(1)
    return np.exp(found[np.arange(len(found)), best]), (best == right).astype(np.float64)


def nll_each(logits: npt.ArrayLike, targets: npt.ArrayLike, temperature: float = 1.0) -> Doubles:
    """The negative logarithm of the right class's probability, [n], in nats."""
    given, right = _checked(logits, targets)
    return -log_probabilities(given, temperature)[np.arange(len(right)), right]


def brier_each(logits: npt.ArrayLike, targets: npt.ArrayLike, temperature: float = 1.0) -> Doubles:
    """Brier's score of each image, [n]: squared errors of the probabilities, summed over the classes (Brier 1950).

    It reaches from 0 to 2; of two classes it is twice the score that is often given for these, that of one of them.
    """
    given, right = _checked(logits, targets)
    return ((np.exp(log_probabilities(given, temperature)) - np.eye(given.shape[1])[right]) ** 2).sum(1)


def constant_scores(targets: npt.ArrayLike) -> tuple[float, float]:
    """NLL and Brier score of one who gives every image the shares that the classes have among the targets.

    No constant answer has a lower one: these are the entropy and the Gini impurity of the shares.
    """
    _, counts = np.unique(np.asarray(targets), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum()), float(1 - (shares**2).sum())


def assign(confidence: npt.ArrayLike, binning: Binning, bins: int = BINS) -> Integers:
    """The bin of each image, [n], from 0.

    Args:
        confidence: [n], from 0 to 1.
        binning: "width": ranges (low, high] of equal width, a confidence of 0 in the first. "mass": the images sorted
            by confidence and cut into runs whose lengths differ by one at most; images that are equally sure are never
            parted: all go where the first of them goes.
        bins: how many, some of which may be empty.

    Raises:
        ValueError: a confidence that is none.
    """
    given = np.asarray(confidence, np.float64)
    if given.ndim != 1 or not len(given) or not ((given >= 0) & (given <= 1)).all():
        raise ValueError(
            f"confidences of shape {given.shape} are not all within 0 and 1; expected [n] of probabilities"
        )
    if binning == "width":
        return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], given, side="left").astype(np.int64)
    first = np.searchsorted(np.sort(given), given, side="left")  # the rank of the first that is equally sure
    return (first * bins // len(given)).astype(np.int64)


def bins_of(confidence: Doubles, correct: Doubles, binning: Binning = "width", bins: int = BINS) -> tuple[Bin, ...]:
    """What a reliability diagram is drawn of: all bins, the empty ones too; of equal mass these reach from 0 to 0."""
    places, edges = assign(confidence, binning, bins), np.linspace(0, 1, bins + 1)
    found = []
    for place in range(bins):
        inside = places == place
        sure, right = confidence[inside], correct[inside]
        low, high = (edges[place], edges[place + 1]) if binning == "width" else (_end(sure, np.min), _end(sure, np.max))
        mean = float(sure.mean()) if len(sure) else float((low + high) / 2)
        found.append(Bin(float(low), float(high), mean, float(right.mean()) if len(right) else 0.0, len(sure)))
    return tuple(found)


def ece(confidence: Doubles, correct: Doubles, binning: Binning = "width", bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015): |confidence - accuracy| of each bin, weighted by its images."""
    sums = _gaps(confidence, correct, binning, bins)
    return float(np.abs(sums.sum(0)).sum() / len(sums))


def ece_interval(
    confidence: Doubles, correct: Doubles, seed: int = 0, binning: Binning = "width", bins: int = BINS
) -> Interval:
    """95% of the ECE over bootstrap samples of the images; the bins stay where the whole sample puts them.

    An ECE is a mean of absolute values, which noise raises: the samples' lie above it, and so may the interval.
    """
    sums = _gaps(confidence, correct, binning, bins)
    found = [np.abs(counts @ sums).sum(1) / len(sums) for (counts,) in resampled([len(sums)], seed)]
    return percentiles(np.concatenate(found))


def fit_temperature(logits: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """The temperature, from 1/32 to 32, that logits are divided by for the least NLL (Guo et al. 2017, section 4.2).

    Args:
        logits, targets: of images that what gives the logits was not trained on.
    """
    given, right = _checked(logits, targets)

    def loss(exponent: float) -> float:
        return float(nll_each(given, right, float(np.exp(exponent))).mean())

    ends = (np.log(COLDEST), np.log(HOTTEST))
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-10, "maxiter": 1000})
    # Where no image is wrong the loss falls to the coldest end, in the last steps by less than its rounding.
    best = min((*ends, found.x), key=lambda exponent: (loss(exponent) - 1e-12 * (exponent in ends), exponent))
    return float(np.exp(best))


def _gaps(confidence: Doubles, correct: Doubles, binning: Binning, bins: int) -> Doubles:
    """Confidence minus correctness of each image in the column of its bin, [n, bins]."""
    found = np.zeros((len(confidence), bins))
    found[np.arange(len(confidence)), assign(confidence, binning, bins)] = confidence - correct
    return found


def _end(values: Doubles, of: np.ufunc) -> float:
    return float(of(values)) if len(values) else 0.0


def _checked(logits: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Doubles, Integers]:
    given, right = np.asarray(logits, np.float64), np.asarray(targets)
    if given.ndim != 2 or right.shape != given.shape[:1] or not given.size:
        raise ValueError(
            f"logits {given.shape} and targets {right.shape}; expected [n, k] and [n], with n of 1 or more"
        )
    if not np.isfinite(given).all():
        raise ValueError("a logit is not finite; the tower or the classifier that gave it has gone wrong")
    if right.min() < 0 or right.max() >= given.shape[1]:
        raise ValueError(f"targets reach from {right.min()} to {right.max()}, and there are {given.shape[1]} classes")
    return given, right.astype(np.int64)
