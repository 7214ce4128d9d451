"""The probe that several protocols share: L-BFGS logistic regression on the pooled features of a set's training part.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. It is fitted once for a
tower and a set; calibration, fairness, shape bias and shifts all judge the very same classifier.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy.typing as npt

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators.features import Doubles, Indices
from train.evaluators.linear_probe import Chosen, fit_logistic
from train.suite.context import Context
from train.suite.outcome import CannotRun
from train.suite.parts import training_part


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A probe of a set's classes, and what a validation split says of one with the same penalty.

    Attributes:
        classes: k names, the set's.
        validation_logits: float64 [v, k], of a probe that has not seen those images; for temperature scaling.
        validation_targets: int64 [v].
        validation_indices: int64 [v], places in the training part.
        settings: how it was fitted.
    """

    classes: tuple[str, ...]
    validation_logits: Doubles
    validation_targets: Indices
    validation_indices: Indices
    settings: Mapping[str, Any]
    _chosen: Chosen

    def logits(self, features: npt.ArrayLike) -> Doubles:
        """float64 [n, k] of pooled features [n, D]."""
        return self._chosen.probe.logits(features)


_FITTED: WeakKeyDictionary[Context, dict[Path, Fitted]] = WeakKeyDictionary()


def fitted(context: Context, described: EvaluationSet) -> Fitted:
    """The probe of a classification set; fitted the first time, and the same object from then on.

    Raises:
        CannotRun: the set has no training part, or one that no classifier can be learnt from.
        ValueError: the part is broken.
    """
    known = _FITTED.setdefault(context, {})
    folder = described.folder.resolve()  # another set may have named it, as ../emoji
    if folder not in known:
        known[folder] = _fit(context, described)
    return known[folder]


def _fit(context: Context, described: EvaluationSet) -> Fitted:
    part = training_part(described)
    targets, features = part.targets, context.pooled(part.files)
    try:
        chosen = fit_logistic(features, targets, len(described.classes), sources=part.sources)
    except ValueError as error:
        raise CannotRun(f"no probe can be fitted to {part.folder}: {error}") from error
    held = chosen.held.logits(features[chosen.validation])
    return Fitted(described.classes, held, targets[chosen.validation], chosen.validation, chosen.probe.settings, chosen)
