"""Out-of-distribution detection: which images are of none of the classes, by a score of each (Hendrycks & Gimpel 2017).

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client: logits or features in,
numbers out. Everywhere the images of the known classes ("inside") are the positives, and a higher score says inside.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from train.evaluators.features import Standard
from train.evaluators.intervals import Interval, percentiles, resampled

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
KEPT = 0.95  # of the images inside, where false positives are counted


@dataclasses.dataclass(frozen=True)
class Gaussians:
    """One normal distribution a class, all with one covariance, of features (Lee et al. 2018, section 2.1).

    Attributes:
        whiten: [D, D]; features times it have the identity as their covariance within a class.
        means: [k, D], of the whitened features.
        shrinkage: how far the correlations are drawn to 0, from 0 to 1, as Ledoit & Wolf (2004) choose it; variances
            of the features are not shrunk.
    """

    whiten: Doubles
    means: Doubles
    shrinkage: float

    def score(self, features: npt.ArrayLike) -> Doubles:
        """Minus the squared Mahalanobis distance to the nearest class, [n]."""
        given = np.asarray(features, np.float64)
        if given.ndim != 2 or given.shape[1] != len(self.whiten):
            raise ValueError(f"features of shape {given.shape}; expected [n, {len(self.whiten)}], as those of the fit")
        return -cdist(given @ self.whiten, self.means, "sqeuclidean").min(1)


def fit_gaussians(features: npt.ArrayLike, targets: npt.ArrayLike) -> Gaussians:
    """Means of the classes and the covariance around them, of training features [n, D] and classes [n].

    Raises:
        ValueError: fewer than two images that share a class: nothing to take a covariance of.
    """
    given, right = np.asarray(features, np.float64), np.asarray(targets)
    classes, places = np.unique(right, return_inverse=True)
    if given.ndim != 2 or right.shape != given.shape[:1] or len(classes) >= len(given):
        raise ValueError(
            f"features {given.shape} and {len(classes)} classes; expected [n, D] and a class with two images or more"
        )
    means = np.stack([given[places == place].mean(0) for place in range(len(classes))])
    around = given - means[places]
    if not around.any():
        raise ValueError("all images of a class have one feature vector; Mahalanobis distances need some that differ")
    # In units of their deviations, since the rule draws all variances to one.
    scale = Standard.of(around).scale
    correlations, shrinkage = ledoit_wolf(around / scale, assume_centered=True)
    inverse = cho_solve(cho_factor(correlations), np.eye(len(correlations)))
    whiten = np.linalg.cholesky((inverse + inverse.T) / 2) / scale[:, None]
    return Gaussians(whiten, means @ whiten, float(shrinkage))


def max_softmax(logits: npt.ArrayLike) -> Doubles:
    """The probability of the best class, [n] (MSP), as the logarithm of its odds.

    The order is that of the probabilities, which is all that is asked of a score; and images whose probability rounds
    to 1 still differ, where ties would be broken by the rounding of the features.
    """
    values = np.array(logits, np.float64)
    places = np.arange(len(values)), values.argmax(axis=1)
    best = values[places]
    values[places] = -np.inf
    return best - logsumexp(values, axis=1)


def auroc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """The probability that an image inside has the higher score, equal ones counting half; 0.5 says nothing."""
    scores, truth = _joined(inside, outside)
    return float(roc_auc_score(truth, scores))


def fpr95(inside: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """The share of the images outside that is taken for inside where 95% of those inside are.

    The threshold is the highest that at least 95% of the scores inside reach; a score that reaches it counts as inside.
    One who draws scores by lot gets 0.95, one who gives all images the same score gets 1.
    """
    _joined(inside, outside)
    given, other = np.sort(np.asarray(inside, np.float64)), np.sort(np.asarray(outside, np.float64))
    once = np.ones((1, len(given)), np.int64), np.ones((1, len(other)), np.int64)
    return float(_rates(given, other, *once)[0])


def intervals(inside: npt.ArrayLike, outside: npt.ArrayLike, seed: int = 0) -> dict[str, Interval]:
    """95% of "auroc" and "fpr95" over bootstrap samples of the images, those inside and those outside drawn apart."""
    _joined(inside, outside)
    sorted_inside, sorted_outside = np.sort(np.asarray(inside, np.float64)), np.sort(np.asarray(outside, np.float64))
    less, most = (np.searchsorted(sorted_outside, sorted_inside, side=side) for side in ("left", "right"))
    areas, rates = [], []
    for counts, others in resampled([len(sorted_inside), len(sorted_outside)], seed):
        below = np.pad(np.cumsum(others, axis=1), ((0, 0), (1, 0)))  # of those outside, how many have a lower place
        pairs = ((below[:, less] + below[:, most]) / 2 * counts).sum(axis=1)
        areas.append(pairs / (len(sorted_inside) * len(sorted_outside)))
        rates.append(_rates(sorted_inside, sorted_outside, counts, others))
    return {"auroc": percentiles(np.concatenate(areas)), "fpr95": percentiles(np.concatenate(rates))}


def _rates(inside: Doubles, outside: Doubles, counts: Counts, others: Counts) -> Doubles:
    """FPR95 of samples [b] in which the scores, in ascending order, come as often as counts and others [b, .] say."""
    from_top = np.cumsum(counts[:, ::-1], axis=1)
    reached = from_top * 100 >= round(KEPT * 100) * from_top[:, -1:]
    thresholds = inside[::-1][reached.argmax(axis=1)]
    taken = np.pad(np.cumsum(others[:, ::-1], axis=1), ((0, 0), (1, 0)))
    places = len(outside) - np.searchsorted(outside, thresholds, side="left")
    return taken[np.arange(len(places)), places] / others.sum(axis=1)


def _joined(inside: npt.ArrayLike, outside: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    given, other = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if given.ndim != 1 or other.ndim != 1 or not len(given) or not len(other):
        raise ValueError(f"scores inside {given.shape} and outside {other.shape}; expected [n] and [m], 1 or more each")
    scores = np.concatenate([given, other])
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite; the features or logits that it was made of have gone wrong")
    return scores, np.repeat([1.0, 0.0], [len(given), len(other)])
