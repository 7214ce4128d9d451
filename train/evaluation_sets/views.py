"""Views of a drawing or a cut-out: turned, scaled and laid on a background, the same at every run.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import hashlib
from typing import Any

import numpy as np
from PIL import Image

from train.evaluation_sets.textures import Half, colour, plain, surface

SIDE = 112  # pixels, of all the sets that are made of drawings
TURN = 15.0  # degrees to either side
SCALE = (0.7, 1.0)  # of the longer edge, of the image's side


def generator(*names: Any) -> np.random.Generator:
    """Random numbers of what they are for, so that no image depends on how many were made before it."""
    digest = hashlib.sha256(" / ".join(map(str, names)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32).tolist())


def turned(cut_out: Image.Image, longer: float, angle: float) -> Image.Image:
    """A cut-out, turned against the clock by degrees and then scaled so that its longer edge has `longer` pixels."""
    rotated = cut_out.rotate(angle, Image.Resampling.BICUBIC, expand=True) if angle else cut_out
    box = rotated.getchannel("A").getbbox()
    assert box is not None  # drawings and stamps that are empty are refused where they are read
    rotated = rotated.crop(box)
    factor = longer / max(rotated.size)
    size = tuple(max(1, round(edge * factor)) for edge in rotated.size)
    return rotated.resize((size[0], size[1]), Image.Resampling.BOX if factor < 0.5 else Image.Resampling.BICUBIC)


def laid(background: Image.Image, cut_out: Image.Image, left: int, top: int) -> Image.Image:
    """The background, RGB, with a cut-out, RGBA, on it; what leads out of it is cut off."""
    layer = Image.new("RGBA", background.size, (0, 0, 0, 0))
    layer.paste(cut_out, (left, top))
    return Image.alpha_composite(background.convert("RGBA"), layer).convert("RGB")


def background(rng: np.random.Generator, half: Half, side: int = SIDE) -> Image.Image:
    """A plain colour as often as a pale surface."""
    return plain(rng, side) if rng.uniform() < 0.5 else surface(rng, side, half, contrast=0.5)


def paper(rng: np.random.Generator, side: int = SIDE) -> Image.Image:
    """Nearly white, for line drawings."""
    return Image.new("RGB", (side, side), colour(rng, (0.0, 0.08), (0.93, 1.0)))


def view(cut_out: Image.Image, rng: np.random.Generator, ground: Image.Image) -> Image.Image:
    """A cut-out somewhere on a background, turned by at most TURN degrees and SCALE of its side large.

    Args:
        cut_out: RGBA.
        rng: decides on turn, size and place.
        ground: the background, RGB, square.

    Returns:
        RGB, of the background's size.
    """
    side = ground.width
    placed = turned(cut_out, side * rng.uniform(*SCALE), rng.uniform(-TURN, TURN))
    left, top = (int(rng.integers(side - edge + 1)) for edge in placed.size)
    return laid(ground, placed, left, top)
