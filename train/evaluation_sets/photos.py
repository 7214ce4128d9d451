"""The set `photos`: photographs of animals, food and things, cut out on white, with the captions they came with.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Nothing that is tested,
not even another photograph with the same caption, is trained on.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from train.evaluation_sets.debian import Debian
from train.evaluation_sets.maker import Maker
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.stamps import CLASSES, ORIGIN, PACKAGE, divided, read_stamps
from train.evaluation_sets.views import SIDE, generator, laid, turned
from train.evaluation_sets.writing import PartWriter

VERSION = 2
VIEWS = {"train": 4, "test": 1}  # of every photograph


def _view(cut_out: Image.Image, rng: np.random.Generator, number: int) -> Image.Image:
    """The photograph on white: in the middle at first, then mirrored, smaller and elsewhere."""
    white = Image.new("RGB", (SIDE, SIDE), "white")
    shown = ImageOps.mirror(cut_out) if number % 2 else cut_out
    placed = turned(shown, SIDE * (0.95 if number == 0 else rng.uniform(0.6, 0.95)), 0.0)
    free = [SIDE - edge for edge in placed.size]
    left, top = (edge // 2 if number == 0 else int(rng.integers(edge + 1)) for edge in free)
    return laid(white, placed, left, top)


def _make(folder: Path, debian: Debian) -> EvaluationSet:
    parts = divided(read_stamps(debian.package(PACKAGE)))
    for part, stamps in parts.items():
        with PartWriter(folder / part) as writer:
            for place, stamp in enumerate(stamps):
                cut_out = stamp.cut_out()
                for number in range(VIEWS[part]):
                    image = _view(cut_out, generator("photos", part, place, number), number)
                    writer.add(
                        f"{place:03d}_{stamp.path.stem}_{number}.png",
                        image,
                        [stamp.kind],
                        stamp.caption,
                        source=stamp.caption,
                    )
    return EvaluationSet(
        folder,
        "photos",
        "classification",
        origin=ORIGIN,
        synthetic=False,
        classes=tuple(CLASSES),
        templates=("a photo of a {}.", "a {}."),
        retrieval=True,
        makers=VERSION,
        details={"train": "four views of each photograph"},
    )


MAKER = Maker("photos", VERSION, (), _make)
