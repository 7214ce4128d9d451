"""Backgrounds for what is cut out: plain colours, and photographs of surfaces in scikit-image.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import colorsys
import functools
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

ORIGIN = "backgrounds: photographs of brick, grass and gravel in scikit-image (CC0, CC0Textures.com)"
SURFACES = ("brick", "grass", "gravel")
Half = Literal["left", "right"]


def colour(
    rng: np.random.Generator, saturation: tuple[float, float] = (0.1, 0.6), value: tuple[float, float] = (0.55, 1.0)
) -> tuple[int, int, int]:
    """A colour of any hue."""
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    return round(255 * red), round(255 * green), round(255 * blue)


def plain(rng: np.random.Generator, side: int) -> Image.Image:
    """One colour."""
    return Image.new("RGB", (side, side), colour(rng))


def surface(rng: np.random.Generator, side: int, half: Half, contrast: float = 1.0) -> Image.Image:
    """A piece of a photograph of a surface, in a colour.

    Args:
        rng: decides on the surface, the place and the colour.
        side: in pixels.
        half: of the photograph: what is cut out of one half is never seen in the other.
        contrast: of the surface, from 0, the plain colour, to 1.
    """
    photograph = _photograph(SURFACES[rng.integers(len(SURFACES))])
    height, width = photograph.shape
    top = rng.integers(height - side + 1)
    left = rng.integers(width // 2 - side + 1) + (width // 2 if half == "right" else 0)
    grey = photograph[top : top + side, left : left + side]
    grey = grey.mean() + contrast * (grey - grey.mean())
    tinted = np.clip(grey[..., None] * 1.3 * np.asarray(colour(rng, (0.0, 0.4), (0.7, 1.0))), 0, 255)
    return Image.fromarray(np.round(tinted).astype(np.uint8))


@functools.cache
def _photograph(name: str) -> npt.NDArray[np.float64]:
    """Shares of white [h, w]."""
    from skimage import data  # of the group `eval`, which reading sets does not need

    return np.asarray(getattr(data, name)(), np.float64) / 255
