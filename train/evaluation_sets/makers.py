"""The makers of the evaluation's own sets, in the order in which they are made.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from train.evaluation_sets import (
    captions,
    cues,
    cut_outs,
    digits,
    drawings,
    fashion,
    motion,
    people,
    photos,
    stereo,
)
from train.evaluation_sets.maker import Maker

MAKERS: tuple[Maker, ...] = (
    digits.MAKER,
    drawings.MAKER,
    captions.MAKER,
    people.MAKER,
    cues.MAKER,
    stereo.MAKER,
    motion.MAKER,
    cut_outs.MAKER,
    fashion.MAKER,
    photos.MAKER,
)
