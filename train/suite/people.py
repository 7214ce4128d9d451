"""Fairness: a classifier's accuracy and decisions by subgroup, on sets whose images belong to some.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. What the numbers mean is
in train/evaluators/fairness.py.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators import fairness
from train.evaluators.accuracy import guessed
from train.evaluators.features import Doubles
from train.suite.classifiers import Classifier, classifiers
from train.suite.context import Context
from train.suite.outcome import CannotRun, Outcome, Row
from train.suite.parts import test_part, training_part
from train.suite.protocol import Protocol
from train.suite.rows import Rows

FAIRNESS = "fairness/1"
POSITIVE = "positive"  # the detail that names the classes for which parity is asked
WITHIN = "bootstrap over images, in each subgroup"

Bools = npt.NDArray[np.bool_]


def treated(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """Accuracy by subgroup and its gap; parity of the decision for `positive` classes, and what debiasing makes of it.

    Raises:
        CannotRun: after the accuracies, where set.json does not say which classes are positive.
    """
    groups = _groups(described, "test")
    found = list(classifiers(context, described))
    for classifier in found:
        yield from _accuracies(described, classifier, groups)
    positive = _positive(described)
    for classifier in found:
        wanted, scores = positive[classifier.targets], _scores(classifier.logits, positive)
        decisions = (scores > 0).astype(np.float64)
        yield _parity(described, decisions, groups, {**classifier.settings, "debiased": "no"})
        yield _accuracy(described, decisions, wanted, {**classifier.settings, "debiased": "no"})
    for classifier in found:
        if classifier.probe is not None:
            yield from _debiased(described, classifier, positive, groups)


def _accuracies(described: EvaluationSet, classifier: Classifier, groups: tuple[str, ...]) -> Iterator[Outcome]:
    right = (classifier.logits.argmax(1) == classifier.targets).astype(np.float64)
    named, rows, found = np.asarray(groups), Rows(FAIRNESS, described), {}
    yield _gap(described, "gap", right, groups, {**classifier.settings, "subgroups": described.groups})
    for name in fairness.by_group(right, groups):
        inside = named == name
        chance = guessed(classifier.targets[inside])
        found[name] = rows.row("accuracy", right[inside], chance, **classifier.settings, subgroup=name)
    yield from found.values()
    values, intervals = [row.value for row in found.values()], [row.interval for row in found.values()]
    title = f"Accuracy of the {classifier.name} by {described.groups}"
    yield rows.plot("bars", title, names=list(found), values=values, intervals=intervals, label="accuracy")


def _debiased(
    described: EvaluationSet, classifier: Classifier, positive: Bools, groups: tuple[str, ...]
) -> Iterator[Outcome]:
    """The thresholds are fitted on the probe's validation split, and judged on the test part."""
    probe = classifier.probe
    assert probe is not None
    held = np.asarray(_groups(described, "train"))[probe.validation_indices]
    fitted_on = _scores(probe.validation_logits, positive), positive[probe.validation_targets], held
    wanted, scores = positive[classifier.targets], _scores(classifier.logits, positive)
    curves: dict[str, list[float]] = {"accuracy": [], "difference of parity": []}
    for level in fairness.LEVELS:
        try:
            decisions = fairness.fit_debiased(*fitted_on, level).decide(scores, groups)
        except ValueError as error:
            raise CannotRun(f"the validation split of {described.name} cannot be debiased: {error}") from error
        settings = {**classifier.settings, "debiased": "thresholds by subgroup", "level": level}
        rows = _accuracy(described, decisions, wanted, settings), _parity(described, decisions, groups, settings)
        yield from rows
        for curve, row in zip(curves.values(), rows, strict=True):
            curve.append(row.value)
    yield Rows(FAIRNESS, described).plot(
        "curve",
        f"After debiasing, by {described.groups}",
        x=list(fairness.LEVELS),
        x_label="greatest difference of parity that is allowed",
        series=curves,
        deviations=None,
        y_label="on the test part",
        log_x=False,
    )


def _accuracy(described: EvaluationSet, decisions: Doubles, wanted: Bools, settings: dict[str, Any]) -> Row:
    """Of the binary decision; in the mean over the lotteries, where there are any."""
    scores = fairness.correctness(decisions, wanted)
    return Rows(FAIRNESS, described).mean("binary_accuracy", scores, guessed(wanted.astype(np.int64)), **settings)


def _parity(described: EvaluationSet, decisions: Doubles, groups: tuple[str, ...], settings: dict[str, Any]) -> Row:
    return _gap(described, "demographic_parity", decisions, groups, settings)


def _gap(
    described: EvaluationSet, metric: str, values: Doubles, groups: tuple[str, ...], settings: dict[str, Any]
) -> Row:
    value, interval = fairness.gap(values, groups), fairness.gap_interval(values, groups)
    return Rows(FAIRNESS, described).number(metric, value, "less", len(values), None, interval, WITHIN, **settings)


def _scores(logits: Doubles, positive: Bools) -> Doubles:
    """The logarithm of the odds of the positive classes, [n]; it does not saturate, as probabilities do."""
    return logsumexp(logits[:, positive], axis=1) - logsumexp(logits[:, ~positive], axis=1)


def _positive(described: EvaluationSet) -> Bools:
    """Which classes count as positive, [k].

    Raises:
        CannotRun: set.json does not say, or names none, all, or one that there is not.
        ValueError: it names them by other values than texts.
    """
    named = list(described.named(POSITIVE))
    unknown = [name for name in named if name not in described.classes]
    if unknown or not 0 < len(set(named)) < len(described.classes):
        raise CannotRun(
            f"details.{POSITIVE} of the set {described.name} is {named}; demographic parity needs the names of some "
            f"of its classes, those that an image is accepted for: {', '.join(described.classes)}"
        )
    return np.isin(np.asarray(described.classes), named)


def _groups(described: EvaluationSet, part: str) -> tuple[str, ...]:
    """The subgroup of each image of a part.

    Raises:
        CannotRun: there are not two or more.
        ValueError: an image has none.
    """
    read = test_part(described) if part == "test" else training_part(described)
    found = tuple(str(group) for group in read.column("group"))
    if len(set(found)) < 2:
        raise CannotRun(f"{read.folder} has the subgroups {sorted(set(found))}; a comparison needs two or more")
    return found


PROTOCOLS = (
    Protocol(
        FAIRNESS,
        "Fairness",
        "classification",
        "section 4.5; Alabdulmohsin & Lucic 2021, Hardt et al. 2016",
        "Accuracy of each subgroup and the gap between the best and the worst; for the binary decision whether an "
        "image is of a positive class (the probability of those above one half) the demographic parity difference, the "
        "greatest difference between subgroups in the rate of positive decisions; and accuracy and difference on the "
        "test part of the best thresholds by subgroup that keep the difference on the validation split to a level.",
        treated,
        asks=lambda described: described.groups is not None,
    ),
)
