"""Reliability: calibration of a set's classifiers, and whether they notice images of another set.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. What the numbers mean is
in train/evaluators/calibration.py and detection.py.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators import calibration, detection
from train.evaluators.accuracy import guessed
from train.evaluators.features import Doubles
from train.suite.classifiers import Classifier, classifiers, head_knows, head_logits
from train.suite.context import Context
from train.suite.outcome import CannotRun, Outcome
from train.suite.parts import neighbour, test_part, training_part
from train.suite.probes import fitted
from train.suite.protocol import Protocol
from train.suite.rows import BOOTSTRAP, Rows
from train.tower import Image
from vit22b.prompts import canonical

CALIBRATION, DETECTION = "calibration/1", "detection/1"
ELSEWHERE = "out_of_distribution"  # the detail that names sets of which no image is of one of the classes


def calibrated(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """Accuracy, and calibration before and after temperature scaling, of the probe and of the model's own head."""
    for classifier in classifiers(context, described):
        right = calibration.confidences(classifier.logits, classifier.targets)[1]
        yield Rows(CALIBRATION, described).row("top1", right, guessed(classifier.targets), **classifier.settings)
        yield from _judged(described, classifier, classifier.logits, {**classifier.settings, "scaled": "no"})
        temperatures, fitted_on = _temperatures(classifier)
        # Chosen for each model: what is set in `chosen` does not keep two models' rows from being compared.
        chosen = {"temperature": sorted(set(temperatures.tolist()))}
        told = {"scaled": f"by temperature, fitted on {fitted_on}", "chosen": chosen}
        logits = classifier.logits / temperatures[:, None]
        yield from _judged(described, classifier, logits, {**classifier.settings, **told})


def _temperatures(classifier: Classifier) -> tuple[Doubles, str]:
    """The temperature that each test image's logits are divided by, [n], and what it was fitted on.

    The probe's validation split is what a probe of the same penalty has not seen. The head may have seen all of the
    training part; so each half of the test part gets the temperature that is best for the other half.
    """
    n = len(classifier.targets)
    if classifier.probe is not None:
        held = classifier.probe
        best = calibration.fit_temperature(held.validation_logits, held.validation_targets)
        return np.full(n, best), "a validation split of train"
    found = np.ones(n)
    halves = np.array_split(np.random.default_rng(0).permutation(n), 2)
    for half, other in (halves, halves[::-1]):
        if len(half) and len(other):
            found[half] = calibration.fit_temperature(classifier.logits[other], classifier.targets[other])
    return found, "the other half of test"


def _judged(
    described: EvaluationSet, classifier: Classifier, logits: Doubles, settings: Mapping[str, Any]
) -> Iterator[Outcome]:
    targets, rows = classifier.targets, Rows(CALIBRATION, described)
    sure, right = calibration.confidences(logits, targets)
    for binning in get_args(calibration.Binning):
        error, interval = calibration.ece(sure, right, binning), calibration.ece_interval(sure, right, binning=binning)
        told = {**settings, "bins": f"{calibration.BINS} of equal {binning}"}
        yield rows.number("ece", error, "less", len(targets), None, interval, BOOTSTRAP, **told)
    each = {"nll": calibration.nll_each(logits, targets), "brier": calibration.brier_each(logits, targets)}
    for (metric, scores), chance in zip(each.items(), calibration.constant_scores(targets), strict=True):
        yield rows.mean(metric, scores, chance, "less", **settings)
    bins = [dataclasses.asdict(each) for each in calibration.bins_of(sure, right)]
    when = "as it is" if settings["scaled"] == "no" else "with temperature scaling"
    title = f"Reliability of the {classifier.name}, {when}"
    yield rows.plot("reliability", title, bins=bins, ece=calibration.ece(sure, right))


def detected(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """How well each score tells the set's test images from those of each other set that its details name."""
    rows = Rows(DETECTION, described)
    scores = _scorers(context, described)
    inside = {name: score(test_part(described).files) for name, score in scores.items()}
    for other in _elsewhere(described):
        files = test_part(other).files
        bars: dict[str, tuple[float, tuple[float, float]]] = {}
        for name, given in inside.items():
            away = scores[name](files)
            intervals, both = detection.intervals(given, away), len(given) + len(away)
            area, rate = detection.auroc(given, away), detection.fpr95(given, away)
            told = {"score": name, "outside": other.name, "positive": "inside"}
            yield rows.number("auroc", area, "more", both, 0.5, intervals["auroc"], BOOTSTRAP, **told)
            yield rows.number("fpr95", rate, "less", both, detection.KEPT, intervals["fpr95"], BOOTSTRAP, **told)
            bars[name] = area, intervals["auroc"]
        values, whiskers = zip(*bars.values(), strict=True)
        title = f"Told from {other.name}"
        yield rows.plot("bars", title, names=list(bars), values=list(values), intervals=list(whiskers), label="AUROC")


def _scorers(context: Context, described: EvaluationSet) -> dict[str, Callable[[Sequence[Image]], Doubles]]:
    """By name, what scores images: higher for those that are rather of one of the set's classes."""
    part, probe = training_part(described), fitted(context, described)
    gaussians = detection.fit_gaussians(context.pooled(part.files), part.targets)
    found: dict[str, Callable[[Sequence[Image]], Doubles]] = {
        "MSP, probe": lambda images: detection.max_softmax(probe.logits(context.pooled(images))),
        "Mahalanobis, features": lambda images: gaussians.score(context.pooled(images)),
    }
    if head_knows(context, described):
        found["MSP, own head"] = lambda images: detection.max_softmax(head_logits(context, described, images))
    return found


def _elsewhere(described: EvaluationSet) -> list[EvaluationSet]:
    """The other sets, none of whose classes is the set's.

    Raises:
        CannotRun: one is not there, or shares a class.
        ValueError: they are not named by texts, or one is broken.
    """
    found = [neighbour(described, ELSEWHERE, each) for each in described.named(ELSEWHERE)]
    for other in found:
        known = {canonical(name) for name in described.classes}
        if shared := [name for name in other.classes if canonical(name) in known]:
            raise CannotRun(
                f"{other.name} has the classes {', '.join(shared)} in common with {described.name}; images that are "
                f"outside must be of none of its classes: name another set in {ELSEWHERE}"
            )
    return found


PROTOCOLS = (
    Protocol(
        CALIBRATION,
        "Calibration",
        "classification",
        "section 4.5; Guo et al. 2017",
        "Expected calibration error in 15 bins of equal width and of equal mass, negative log-likelihood (nats) and "
        "Brier score (summed over the classes) of the L-BFGS probe and, where its labels have the set's classes, of "
        "the model's own head restricted to them; as they are, and with a temperature fitted to held-out images.",
        calibrated,
    ),
    Protocol(
        DETECTION,
        "Out-of-distribution detection",
        "classification",
        "section 4.5; Hendrycks & Gimpel 2017, Lee et al. 2018",
        "The set's test images (the positives) against another set's: AUROC, and the false positive rate where 95% of "
        "the positives are kept, of the greatest softmax probability (MSP) of the probe and of the own head, and of "
        "the Mahalanobis distance of pooled features to the nearest class, with one covariance, shrunk by Ledoit & "
        "Wolf's rule.",
        detected,
        asks=lambda described: ELSEWHERE in described.details,
    ),
)
