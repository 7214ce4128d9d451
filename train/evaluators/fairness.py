"""Fairness between subgroups: parity of decisions, accuracy of each, and what parity costs after debiasing.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client: scores and groups in,
numbers out. Dehghani et al. 2023 (section 4.5) debias a classifier by what comes behind it (Alabdulmohsin & Lucic
2021); here that is fairlearn's ThresholdOptimizer (Hardt et al. 2016), under the same constraint.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from fairlearn.metrics import MetricFrame, count, mean_prediction
from fairlearn.postprocessing import ThresholdOptimizer
from sklearn.base import BaseEstimator, ClassifierMixin

from train.evaluators.intervals import Interval, percentiles, resampled

Doubles = npt.NDArray[np.float64]
LEVELS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
GRID = 1000  # rates of positive decisions that are tried lie a thousandth apart


def by_group(values: npt.ArrayLike, groups: Sequence[str]) -> dict[str, tuple[float, int]]:
    """The mean of a value, and the number of images, of each subgroup, sorted by name.

    Args:
        values: [n], 1 where a decision is right for the accuracy, where it is positive for the rate of those.
        groups: n names of subgroups.

    Raises:
        ValueError: shapes that do not belong together, or a single subgroup, which there is nothing to compare with.
    """
    given, names = _checked(values, groups)
    frame = MetricFrame(
        metrics={"mean": mean_prediction, "count": count},
        y_true=given,
        y_pred=given,
        sensitive_features=names,
    ).by_group
    return {str(name): (float(row["mean"]), int(row["count"])) for name, row in frame.sort_index().iterrows()}


def gap(values: npt.ArrayLike, groups: Sequence[str]) -> float:
    """The difference between the subgroups with the highest and the lowest mean.

    Of right decisions it is the gap of accuracies; of positive ones (0 and 1, or their probabilities) the difference
    in demographic parity: 0 where all subgroups are accepted at one rate, 1 where one always is and another never.
    """
    means = [mean for mean, _ in by_group(values, groups).values()]
    return max(means) - min(means)


def gap_interval(values: npt.ArrayLike, groups: Sequence[str], seed: int = 0) -> Interval:
    """95% of the gap over bootstrap samples of the images, drawn in each subgroup apart.

    A gap is a greatest difference, which chance can only raise: with small subgroups the interval lies above the gap
    of a classifier that treats all alike.
    """
    given, names = _checked(values, groups)
    inside = [given[names == name] for name in np.unique(names)]
    gaps = []
    for counts in resampled([len(each) for each in inside], seed):
        means = [drawn @ each / len(each) for drawn, each in zip(counts, inside, strict=True)]
        gaps.append(np.max(means, axis=0) - np.min(means, axis=0))
    return percentiles(np.concatenate(gaps))


@dataclasses.dataclass(frozen=True)
class Debiased:
    """Decisions by a threshold, or a lottery between two, for each subgroup.

    Attributes:
        level: the greatest difference of the subgroups' rates of positive decisions on what it was fitted on.
        rules: by subgroup, fairlearn's: with probability p0 operation0 decides, with p1 operation1.
    """

    level: float
    rules: Mapping[str, Any]

    def decide(self, scores: npt.ArrayLike, groups: Sequence[str]) -> Doubles:
        """The probability of a positive decision, [n]: 0 or 1 but where a lottery decides.

        Raises:
            ValueError: a subgroup that it was not fitted on.
        """
        given, names = _checked(scores, groups, single=True)
        if unknown := sorted(set(names) - set(self.rules)):
            raise ValueError(f"no threshold was fitted for {', '.join(unknown)}; there are {', '.join(self.rules)}")
        found = np.zeros(len(given))
        for name, rule in self.rules.items():
            inside = given[names == name]
            found[names == name] = rule.p0 * rule.operation0(inside) + rule.p1 * rule.operation1(inside)
        return found


def fit_debiased(scores: npt.ArrayLike, positive: npt.ArrayLike, groups: Sequence[str], level: float) -> Debiased:
    """The thresholds with the highest accuracy among those that keep demographic parity to within a level.

    Args:
        scores: [n], higher for what is rather positive; of images that what gives the scores was not trained on.
        positive: [n] of bool, what is right.
        groups: n names of subgroups, which the thresholds may depend on.
        level: the greatest difference between subgroups in the rate of positive decisions, 0 for parity.

    Raises:
        ValueError: a level below 0, or a subgroup that does not have both outcomes.
    """
    given, names = _checked(scores, groups)
    truth = np.asarray(positive, bool)
    if level < 0 or truth.shape != given.shape:
        raise ValueError(f"level {level} and outcomes {truth.shape}; expected 0 or more, and {given.shape} outcomes")
    for name in np.unique(names):
        right = truth[names == name]
        if right.all() or not right.any():
            raise ValueError(
                f"all {len(right)} images of the subgroup {str(name)!r} are {'positive' if right[0] else 'negative'}; "
                "thresholds are fitted on images of both outcomes in every subgroup"
            )
    optimizer = ThresholdOptimizer(
        estimator=_Given(), constraints="demographic_parity", objective="accuracy_score", grid_size=GRID, prefit=True,
        predict_method="decision_function", tol=level,
    )  # fmt: skip
    optimizer.fit(given[:, None], truth.astype(int), sensitive_features=names)
    return Debiased(level, optimizer.interpolated_thresholder_.interpolation_dict)


def correctness(decisions: npt.ArrayLike, positive: npt.ArrayLike) -> Doubles:
    """The probability that each decision is right, [n], of probabilities of a positive one and of what is right."""
    given, truth = np.asarray(decisions, np.float64), np.asarray(positive, bool)
    return np.where(truth, given, 1 - given)


class _Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier for fairlearn whose features are its scores."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, *_: object) -> Self:
        return self

    def decision_function(self, features: Doubles) -> Doubles:
        return features[:, 0]


def _checked(
    values: npt.ArrayLike, groups: Sequence[str], single: bool = False
) -> tuple[Doubles, npt.NDArray[np.str_]]:
    given, names = np.asarray(values, np.float64), np.asarray(groups, np.str_)
    if given.ndim != 1 or given.shape != names.shape or not len(given):
        raise ValueError(f"values {given.shape} and subgroups {names.shape}; expected [n] of both, 1 or more")
    if not np.isfinite(given).all():
        raise ValueError("a value is not finite; the classifier that gave it has gone wrong")
    if not single and len(set(names)) < 2:
        raise ValueError(f"all images are of the subgroup {names[0]!r}; expected two subgroups or more")
    return given, names
