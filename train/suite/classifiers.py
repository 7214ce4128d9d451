"""Who decides of the images of a set: the probe that is fitted on it, and the model's own head where that knows them.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators import head
from train.evaluators.features import Doubles, Indices
from train.suite.context import Context
from train.suite.parts import test_part
from train.suite.probes import Fitted, fitted
from train.tower import Image


@dataclasses.dataclass(frozen=True)
class Classifier:
    """What a classifier says of the test part of a set.

    Attributes:
        name: "probe" or "own head".
        logits: float64 [n, k], of the set's classes.
        targets: int64 [n].
        probe: of the probe, what is known of its validation split; None for the head, which has none: it may have been
            trained on any image of the training part.
    """

    name: str
    logits: Doubles
    targets: Indices
    probe: Fitted | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Which it is, for a row."""
        return {"classifier": self.name}


def classifiers(context: Context, described: EvaluationSet) -> Iterator[Classifier]:
    """The probe, and the head if all classes of the set are among its labels, which are restricted to those.

    Raises:
        CannotRun: no probe can be fitted to the set.
        ValueError: a part is broken.
    """
    part = test_part(described)
    targets, probe = part.targets, fitted(context, described)
    yield Classifier("probe", probe.logits(context.pooled(part.files)), targets, probe)
    if head_knows(context, described):
        yield Classifier("own head", head_logits(context, described, part.files), targets)


def head_knows(context: Context, described: EvaluationSet) -> bool:
    """Whether all classes of a set are among the labels of the model's own head."""
    labels = context.tower.labels
    try:
        head.restricted(np.zeros((0, len(labels))), labels, described.classes)
    except ValueError:  # the protocol head/1 says which is missing
        return False
    return True


def head_logits(context: Context, described: EvaluationSet, images: Sequence[Image]) -> Doubles:
    """Those of the set's classes by the model's own head, float64 [n, k]."""
    return head.restricted(context.logits(images), context.tower.labels, described.classes)
