"""Few-shot classification: least squares in closed form on a few images of each class (Zhai et al. 2022).

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The form is that of
big_vision, the code base of the paper's authors: features whitened, each dimension for itself, by the mean and the
deviation of the few images; targets of +1 for the image's class and -1 for the others; a penalty of 2^10 on the squared
weights beside the sum of the squared errors, not swept, since a few images leave none to choose by; a bias without it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from train.evaluators.accuracy import ranks, within
from train.evaluators.features import Doubles, Indices, Standard, check_training
from train.evaluators.least_squares import least_squares, signed
from train.evaluators.linear_probe import Probe

SHOTS = (1, 5, 10, 25)
PENALTY = 2.0**10


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Accuracy by the number of shots, over seeds that choose them.

    Attributes:
        shots: s numbers of images of each class.
        right: float64 [s, seeds, n], 1 where a test image was classified right.
    """

    shots: tuple[int, ...]
    right: Doubles

    @property
    def mean(self) -> Doubles:
        """float64 [s], over seeds and images."""
        return self.right.mean(axis=(1, 2))

    @property
    def deviation(self) -> Doubles:
        """float64 [s], of the accuracies of the seeds (the unbiased estimate); not a number for one seed."""
        by_seed = self.right.mean(axis=2)
        return by_seed.std(axis=1, ddof=1) if by_seed.shape[1] > 1 else np.full(len(self.shots), np.nan)


def evaluate(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    tests: npt.ArrayLike,
    test_targets: npt.ArrayLike,
    classes: int,
    shots: Sequence[int] = SHOTS,
    seeds: int = 3,
) -> FewShot:
    """Learns from some shots of each class and tests, with seeds 0, 1, ... choosing the shots.

    Args:
        features, targets: [n, D] and int [n], that the shots are drawn from.
        tests, test_targets: [m, D] and int [m].
        classes: k.
        shots: numbers of images of each class; those that the smallest class does not have are left out.
        seeds: how many draws.

    Raises:
        ValueError: see features.check_training and accuracy.ranks; or no number of shots is left.
    """
    values, found = check_training(features, targets, classes)
    smallest = int(np.bincount(found, minlength=classes).min())
    able = tuple(number for number in shots if number <= smallest)
    if not able:
        raise ValueError(f"the smallest class has {smallest} training images; expected {min(shots)} or more")
    wanted = np.asarray(test_targets, np.int64)
    right = np.zeros((len(able), seeds, len(wanted)))
    for row, number in enumerate(able):
        for seed in range(seeds):
            places = draw(found, number, seed)
            probe = fit(values[places], found[places], classes)
            right[row, seed] = within(ranks(probe.logits(tests), wanted), 1)
    return FewShot(able, right)


def draw(targets: npt.ArrayLike, shots: int, seed: int) -> Indices:
    """Places of some images of each class, ascending; with one seed, fewer shots are among more.

    Args:
        targets: int [n]; each class has so many images.
        shots: images of each class.
        seed: of the choice.
    """
    found = np.asarray(targets)
    generator = np.random.default_rng(seed)
    chosen = [generator.permutation(np.flatnonzero(found == label))[:shots] for label in np.unique(found)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def fit(features: npt.ArrayLike, targets: npt.ArrayLike, classes: int, penalty: float = PENALTY) -> Probe:
    """The classifier of a few images, features [n, D] and classes int [n]; errors are features.check_training's."""
    values, found = check_training(features, targets, classes)
    standard = Standard.of(values)
    weights, bias = least_squares(standard(values), signed(found, classes), [penalty])
    return Probe(standard, weights[0], bias, {"penalty": penalty})
