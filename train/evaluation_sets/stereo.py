"""The set `stereo`: pieces of a photograph with depth in metres, of one of Middlebury's stereo pairs.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The picture falls into
upright strips, and train is cut out of every other one, test out of those between: disjoint, and both with what is near
and what is far. Left half and right half of the scene have other depths, which nobody who saw one of them can know. It
is one scene, so that no more is claimed than that the protocol works.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from train.evaluation_sets.debian import Debian
from train.evaluation_sets.maker import Maker
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.views import SIDE, generator
from train.evaluation_sets.writing import PartWriter

VERSION = 2
STRIPS = 6
PIECES = {"train": 64, "test": 24}

# The calibration of the pair, reduced four times, as scikit-image's stereo_motorcycle documents it.
FOCAL = 994.978  # pixels
BASELINE = 0.193001  # metres
OFFSET = 31.086  # pixels, between the principal points


def depth(disparity: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Metres along the optical axis: FOCAL BASELINE / (disparity + OFFSET), Scharstein et al. 2014.

    Args:
        disparity: in pixels, of any shape; not finite where there is none.

    Returns:
        float32, 0 where there is none.
    """
    with np.errstate(invalid="ignore"):
        metres = FOCAL * BASELINE / (disparity.astype(np.float64) + OFFSET)
    return np.where(np.isfinite(disparity), metres, 0.0).astype(np.float32)


def _make(folder: Path, _: Debian) -> EvaluationSet:
    from skimage import data  # of the group `eval`, which reading sets does not need

    picture, _right, disparity = data.stereo_motorcycle()
    metres = depth(disparity)
    height, width = metres.shape
    edges = [width * strip // STRIPS for strip in range(STRIPS + 1)]
    for odd, (part, count) in enumerate(PIECES.items()):
        rng = generator("stereo", part)
        with PartWriter(folder / part) as writer:
            for number in range(count):
                top = int(rng.integers(height - SIDE + 1))
                strip = 2 * int(rng.integers(STRIPS // 2)) + odd
                left = int(rng.integers(edges[strip], edges[strip + 1] - SIDE + 1))
                piece = np.s_[top : top + SIDE, left : left + SIDE]
                stored = writer.save_array(f"{number:02d}_depth.npy", np.ascontiguousarray(metres[piece]))
                image = Image.fromarray(picture[piece])
                writer.add(f"{number:02d}.png", image, [], depth=stored, corner=[top, left])
    return EvaluationSet(
        folder,
        "stereo",
        "depth",
        origin="the pair `motorcycle` of the Middlebury stereo data 2014 (Scharstein et al.), reduced four times, in "
        "scikit-image; one scene, train and test out of alternate strips of it",
        synthetic=False,
        makers=VERSION,
        details={"unit": "m", "depth": f"{FOCAL} px * {BASELINE} m / (disparity + {OFFSET} px)"},
    )


MAKER = Maker("stereo", VERSION, ("skimage",), _make)
