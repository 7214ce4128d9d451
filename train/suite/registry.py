"""All protocols, in the order of the report.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. docs/evaluation.md has
the same table for people; a test compares the two.
"""

from train.suite import (
    classification,
    cues,
    depth,
    distillation,
    fine_tuning,
    people,
    reliability,
    segmentation,
    shifted,
    video,
)
from train.suite.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = (
    *classification.PROTOCOLS,
    *shifted.PROTOCOLS,
    *segmentation.PROTOCOLS,
    *depth.PROTOCOLS,
    *video.PROTOCOLS,
    *reliability.PROTOCOLS,
    *people.PROTOCOLS,
    *cues.PROTOCOLS,
    *fine_tuning.PROTOCOLS,
    *distillation.PROTOCOLS,
)
